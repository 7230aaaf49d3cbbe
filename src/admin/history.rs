//! History of the gateway and of each limit: one sample a second for the last 15 minutes, in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::proxy::metrics::{LimitMetrics, Metrics};

/// Samples kept: 15 minutes, what the dashboard's graphs span. A sample of a limit is 48 bytes, so 100 limits take
/// 4.3 MB.
const MAX_SAMPLES: usize = 900;
/// Samples over which a present rate is averaged: few enough to follow what happens, and enough for a number that can
/// be read.
const RATE_SAMPLES: usize = 10;

/// The samples of the last 15 minutes.
#[derive(Default)]
pub(super) struct History(Mutex<Samples>);

/// Samples of the gateway and of all limits, oldest first.
#[derive(Default)]
pub(super) struct Samples {
    /// Time of the latest sample, in milliseconds since 1970 by the wall clock.
    pub(super) at: i64,
    /// Samples of the whole gateway.
    pub(super) gateway: VecDeque<GatewaySample>,
    /// Samples by name of the limit.
    pub(super) limits: BTreeMap<Arc<str>, VecDeque<LimitSample>>,
}

/// Counts of the whole gateway within one second.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct GatewaySample {
    /// Number of requests that ended.
    pub(super) requests: u64,
    /// Number of requests that a limit refused.
    pub(super) refused: u64,
    /// Number of requests that ended with a status of 500 or above.
    pub(super) errors: u64,
    /// Number of waiters at the end of the second.
    pub(super) waiting: usize,
}

/// Counts of one limit within one second.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(super) struct LimitSample {
    /// Number of permits granted.
    pub(super) permits: u64,
    /// Number of requests refused, for all reasons together.
    pub(super) refused: u64,
    /// Number of requests cancelled by their caller while they waited.
    pub(super) cancelled: u64,
    /// Number of waiters at the end of the second.
    pub(super) waiting: usize,
    /// Mean wait of the requests that were granted a permit, in milliseconds; 0 if there were none.
    pub(super) waited_ms: f64,
    /// Number of responses by which an origin asked for fewer requests.
    pub(super) pushbacks: u64,
}

/// Counters of the whole gateway since the start of the process.
#[derive(Clone, Copy, Default)]
pub(super) struct GatewayTotals {
    /// Number of requests that ended.
    pub(super) requests: u64,
    /// Number of requests that a limit refused.
    pub(super) refused: u64,
    /// Number of requests that ended with a status of 500 or above.
    pub(super) errors: u64,
}

/// Counters of a limit since the start of the process.
#[derive(Clone, Copy, Default)]
pub(super) struct LimitTotals {
    /// Number of permits granted.
    pub(super) permits: u64,
    /// Number of requests refused, for all reasons together.
    pub(super) refused: u64,
    /// Number of requests cancelled by their caller while they waited.
    pub(super) cancelled: u64,
    /// Sum of the waits of all permits, in milliseconds.
    pub(super) waited_ms: f64,
    /// Number of responses by which an origin asked for fewer requests.
    pub(super) pushbacks: u64,
}

/// Present rates of the gateway, per second.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(super) struct GatewayRates {
    /// Requests that ended.
    pub(super) requests: f64,
    /// Requests that a limit refused.
    pub(super) refused: f64,
    /// Requests that ended with a status of 500 or above.
    pub(super) errors: f64,
}

/// Present rates of a limit, over the last ten seconds.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(super) struct LimitRates {
    /// Permits per second.
    pub(super) permits: f64,
    /// Refusals per second.
    pub(super) refused: f64,
    /// True if requests waited at the end of one of these seconds.
    pub(super) has_waited: bool,
}

impl GatewayTotals {
    /// The present counters.
    pub(super) fn of(metrics: &Metrics) -> GatewayTotals {
        let limits = metrics.limits();
        let refused = limits.iter().flat_map(|(_, limit)| limit.refused().map(|(_, count)| count)).sum();
        let errors = metrics.requests().filter(|(digit, _)| *digit == 5).map(|(_, count)| count).sum();
        GatewayTotals { requests: metrics.requests().map(|(_, count)| count).sum(), refused, errors }
    }

    /// The difference to `before`; `waiting`: the present number of waiters.
    pub(super) fn since(self, before: GatewayTotals, waiting: usize) -> GatewaySample {
        GatewaySample {
            requests: self.requests - before.requests,
            refused: self.refused - before.refused,
            errors: self.errors - before.errors,
            waiting,
        }
    }
}

impl LimitTotals {
    /// The present counters of a limit.
    pub(super) fn of(tally: &LimitMetrics) -> LimitTotals {
        LimitTotals {
            permits: tally.permits.get(),
            refused: tally.refused().map(|(_, count)| count).sum(),
            cancelled: tally.left().count(),
            waited_ms: tally.waits().sum * 1e3,
            pushbacks: tally.pushbacks.get(),
        }
    }

    /// The difference to `before`; `waiting`: the present number of waiters.
    pub(super) fn since(self, before: LimitTotals, waiting: usize) -> LimitSample {
        let permits = self.permits - before.permits;
        let waited = self.waited_ms - before.waited_ms;
        LimitSample {
            permits,
            refused: self.refused - before.refused,
            cancelled: self.cancelled - before.cancelled,
            waiting,
            waited_ms: if permits > 0 { waited / permits as f64 } else { 0.0 },
            pushbacks: self.pushbacks - before.pushbacks,
        }
    }
}

impl History {
    /// All samples, locked.
    ///
    /// Hold it briefly: the sampler needs it each second.
    pub(super) fn samples(&self) -> MutexGuard<'_, Samples> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Samples {
    /// Appends a sample of the gateway.
    pub(super) fn push_gateway(&mut self, sample: GatewaySample) {
        push(&mut self.gateway, sample);
    }

    /// Appends a sample of a limit. The limit's history begins with its first sample.
    pub(super) fn push_limit(&mut self, limit: &Arc<str>, sample: LimitSample) {
        push(self.limits.entry(Arc::clone(limit)).or_default(), sample);
    }

    /// Present rates of the gateway: means of the last ten seconds, or of as many as there are.
    pub(super) fn gateway_rates(&self) -> GatewayRates {
        let mean = |of: fn(&GatewaySample) -> u64| mean(&self.gateway, of);
        GatewayRates {
            requests: mean(|sample| sample.requests),
            refused: mean(|sample| sample.refused),
            errors: mean(|sample| sample.errors),
        }
    }

    /// Present rates of a limit: as those of the gateway.
    pub(super) fn limit_rates(&self, limit: &str) -> LimitRates {
        let Some(samples) = self.limits.get(limit) else { return LimitRates::default() };
        LimitRates {
            permits: mean(samples, |sample| sample.permits),
            refused: mean(samples, |sample| sample.refused),
            has_waited: samples.iter().rev().take(RATE_SAMPLES).any(|sample| sample.waiting > 0),
        }
    }
}

/// Appends a sample, and drops the oldest one of a full history.
fn push<T>(samples: &mut VecDeque<T>, sample: T) {
    if samples.len() == MAX_SAMPLES {
        samples.pop_front();
    }
    samples.push_back(sample);
}

/// Mean of the latest samples, 0 if there is none.
fn mean<T>(samples: &VecDeque<T>, of: impl Fn(&T) -> u64) -> f64 {
    let latest = samples.iter().rev().take(RATE_SAMPLES);
    let (sum, count) = latest.fold((0, 0_u64), |(sum, count), sample| (sum + of(sample), count + 1));
    sum as f64 / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_mean_of_the_last_ten_seconds() {
        let mut samples = Samples::default();
        let limit: Arc<str> = "a".into();
        assert_eq!(samples.limit_rates("a"), LimitRates::default());
        for second in 0..30 {
            let waiting = usize::from(second == 25);
            samples.push_limit(&limit, LimitSample { permits: second, refused: 2, waiting, ..LimitSample::default() });
            samples.push_gateway(GatewaySample { requests: 3, ..GatewaySample::default() });
        }
        assert_eq!(samples.limit_rates("a"), LimitRates { permits: 24.5, refused: 2.0, has_waited: true });
        assert_eq!(samples.gateway_rates(), GatewayRates { requests: 3.0, ..GatewayRates::default() });
    }

    #[test]
    fn the_oldest_second_is_dropped_after_15_minutes() {
        let mut samples = Samples::default();
        for second in 0..1000 {
            samples.push_gateway(GatewaySample { requests: second, ..GatewaySample::default() });
        }
        assert_eq!((samples.gateway.len(), samples.gateway[0].requests), (900, 100));
    }
}

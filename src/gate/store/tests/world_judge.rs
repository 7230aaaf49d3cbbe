//! Judge of a simulated world: the origin's record of arrivals and flights, and the checks that no
//! limit was exceeded.

use crate::locker::{Kind, Limit, Rate};

/// Rate of a limit in the configuration of any gateway, with the time in which it may be in use.
struct RateInUse {
    from: u64,
    till: u64,
    requests: usize,
    span: u64,
    kind: Kind,
}

/// A request at the origin that has not ended: counted against `in_flight`.
struct OriginFlight {
    gateway: usize,
    ends: u64,
}

/// Pause of a limit: no request may arrive of a grant that was made after all gateways knew of it.
struct KnownPause {
    limit: usize,
    since: u64,
    until: u64,
}

/// The origin. Times are nanoseconds of the simulation.
pub(super) struct Origin {
    /// Arrival times, for each limit.
    pub(super) arrivals: Vec<Vec<u64>>,
    rates: Vec<Vec<RateInUse>>,
    flights: Vec<OriginFlight>,
    /// For each gateway: time until which the store counts its flights.
    counted: Vec<u64>,
    most_flights: usize,
    pauses: Vec<KnownPause>,
    /// Violations that were seen as they occurred.
    found: Option<String>,
}

impl Origin {
    pub(super) fn new(limits: &[Limit], gateways: usize) -> Origin {
        let mut origin = Origin {
            arrivals: vec![Vec::new(); limits.len()],
            rates: Vec::new(),
            flights: Vec::new(),
            counted: vec![0; gateways],
            most_flights: limits.iter().filter_map(|limit| limit.in_flight).min().unwrap_or(0) as usize,
            pauses: Vec::new(),
            found: None,
        };
        for (number, limit) in limits.iter().enumerate() {
            origin.rates.push(Vec::new());
            origin.add_rate(number, limit, 0);
        }
        origin
    }

    /// Notes a rate that is in use from now on.
    pub(super) fn add_rate(&mut self, limit: usize, of: &Limit, from: u64) {
        let Some(Rate { requests, per, kind, .. }) = &of.rate else { return };
        let (requests, span) = (*requests as usize, u64::try_from(per.as_nanos()).unwrap());
        self.rates[limit].push(RateInUse { from, till: u64::MAX, requests, span, kind: kind.clone() });
    }

    /// Notes that all rates but the last are in use no longer than until `till`.
    pub(super) fn end_former_rates(&mut self, limit: usize, till: u64) {
        let former = self.rates[limit].len() - 1;
        for rate in &mut self.rates[limit][..former] {
            rate.till = rate.till.min(till);
        }
    }

    pub(super) fn add_pause(&mut self, limit: usize, since: u64, until: u64) {
        self.pauses.push(KnownPause { limit, since, until });
    }

    /// Drops all pauses, as the store that knew them is gone.
    pub(super) fn forget_pauses(&mut self) {
        self.pauses.clear();
    }

    /// Records `cost` slots that arrive at `at`, of a grant made at `granted`.
    pub(super) fn arrive(&mut self, limit: usize, cost: u32, granted: u64, at: u64) {
        self.arrivals[limit].extend(vec![at; cost as usize]);
        let broken = |pause: &&KnownPause| pause.limit == limit && pause.since < granted && at < pause.until;
        if let Some(pause) = self.pauses.iter().find(broken) {
            let early = pause.until - at;
            self.found.get_or_insert_with(|| format!("limit {limit} is paused, request {early} ns early at {at}"));
        }
    }

    /// Records the begin of a flight. The store counts those of gateways that are present.
    pub(super) fn begin_flight(&mut self, gateway: usize, now: u64, ends: u64) {
        self.flights.retain(|flight| flight.ends > now && self.counted[flight.gateway] >= now);
        self.flights.push(OriginFlight { gateway, ends });
        if self.flights.len() > self.most_flights {
            let (count, most) = (self.flights.len(), self.most_flights);
            self.found.get_or_insert_with(|| format!("{count} flights at {now}, at most {most} may be"));
        }
    }

    /// The store has executed a report of this gateway, which is present until `till`.
    pub(super) fn on_report(&mut self, gateway: usize, now: u64, till: u64) {
        if self.counted[gateway] < now {
            // The store took the gateway for gone, and gave its flights to others.
            self.flights.retain(|flight| flight.gateway != gateway);
        }
        self.counted[gateway] = till;
    }

    /// The first violation: limit, time and size.
    pub(super) fn violation(&mut self) -> Option<String> {
        self.arrivals.iter_mut().for_each(|arrivals| arrivals.sort_unstable());
        let limits = 0..self.arrivals.len();
        self.found.clone().or_else(|| limits.clone().find_map(|limit| self.too_many(limit)))
    }

    /// The first request of a limit that is one too many in its span. Where rates differ, the
    /// loosest counts; a `fixed` window may have its number twice, across its boundary.
    fn too_many(&self, limit: usize) -> Option<String> {
        let (arrivals, rates) = (&self.arrivals[limit], &self.rates[limit]);
        let loosest = rates.iter().map(|rate| rate.requests).min()?;
        for first in 0..arrivals.len() {
            for last in first + loosest..arrivals.len() {
                let (from, to) = (arrivals[first], arrivals[last]);
                let in_use = || rates.iter().filter(move |rate| rate.from <= to && rate.till >= from);
                let span = in_use().map(|rate| rate.span).min()?;
                if to - from >= span {
                    break;
                }
                let allowed =
                    in_use().map(|rate| rate.requests * if rate.kind == Kind::Fixed { 2 } else { 1 }).max()?;
                if last - first >= allowed {
                    let count = last - first + 1;
                    return Some(format!("limit {limit}: {count} requests in {} of {span} ns at {to}", to - from));
                }
            }
        }
        None
    }

    /// The first request of a smooth limit that violates its interval and burst.
    pub(super) fn too_close(&self, limit: usize) -> Option<String> {
        let [RateInUse { requests, span, kind: Kind::Smooth { burst }, .. }] = &self.rates[limit][..] else {
            return None;
        };
        let distance = span / *requests as u64;
        let mut mark = 0;
        self.arrivals[limit].iter().find_map(|at| {
            let early = (mark + distance).saturating_sub(at + u64::from(*burst) * distance);
            mark = mark.max(*at) + distance;
            (early > 0).then(|| format!("limit {limit}: {early} ns early at {at}"))
        })
    }

    /// True if the limit had the same rate all the time.
    pub(super) fn has_one_rate(&self, limit: usize) -> bool {
        self.rates[limit].len() == 1
    }

    /// Requests of a limit from `start` to `end`, as a fraction of the possible number.
    pub(super) fn used(&self, limit: usize, start: u64, end: u64) -> f64 {
        let Some(rate) = self.rates[limit].last() else { return 1.0 };
        let went = self.arrivals[limit].iter().filter(|at| (start..end).contains(*at)).count();
        went as f64 * rate.span as f64 / rate.requests as f64 / (end - start) as f64
    }
}

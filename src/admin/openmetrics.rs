//! `/metrics`: what is counted, in the text format of OpenMetrics 1.0, which Prometheus reads.
//!
//! The values of labels come from the file and from lists in this program, never from requests.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::state::AdminState;
use crate::gate::View;
use crate::gate::journal::Health;
use crate::gate::store;
use crate::http_admin::problem;
use crate::proxy::tally::Tally;

const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The page that Prometheus asks for.
pub(super) async fn show(State(state): State<Arc<AdminState>>) -> Response {
    let mut registry = Registry::with_prefix("lockgate");
    registry.register_collector(Box::new(Scrape(state)));
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([("content-type", TEXT)], text).into_response(),
        // Writing to a String cannot fail.
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// One look at everything.
struct Scrape(Arc<AdminState>);

impl fmt::Debug for Scrape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Scrape")
    }
}

/// A metric, before its values.
struct Metric {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
}

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, unit: None, kind: MetricType::Counter }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, unit: None, kind: MetricType::Gauge }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_tallies(&mut encoder)?;
        self.encode_windows(&mut encoder)?;
        self.encode_process(&mut encoder)
    }
}

impl Scrape {
    /// What became of the requests of each limit.
    fn encode_tallies(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let limits = self.0.tallies.limits();
        let mut each = |metric: Metric, of: fn(&Tally) -> u64| {
            let values = limits.iter().map(|(name, tally)| ([("limit", &**name)], of(tally)));
            counters(encoder, &metric, values)
        };
        each(counter("permits", "Requests that a limit let go"), |tally| tally.permits.get())?;
        each(counter("cancelled_waiters", "Requests whose caller hung up while they waited"), |tally| {
            tally.left.get()
        })?;
        each(counter("origin_pushbacks", "Answers 429, or 503 with Retry-After, of an origin"), |tally| {
            tally.pushbacks.get()
        })?;
        each(counter("retries", "Requests that were sent again after such an answer"), |tally| tally.resent.get())?;
        let refused = limits.iter().flat_map(|(name, tally)| {
            tally.refused().map(|(why, count)| ([("limit", &**name), ("reason", why)], count))
        });
        counters(encoder, &counter("limit_refusals", "Requests that a limit refused, by reason"), refused)?;
        let metric = Metric {
            name: "wait",
            help: "How long requests waited for their permits",
            unit: Some(Unit::Seconds),
            kind: MetricType::Histogram,
        };
        let mut family = begin(encoder, &metric)?;
        for (name, tally) in &limits {
            let waits = tally.waits();
            let count = waits.buckets.iter().map(|(_, count)| count).sum();
            let labels = [("limit", &**name)];
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(waits.sum, count, &waits.buckets, None)?;
        }
        Ok(())
    }

    /// What the windows of each limit hold.
    fn encode_windows(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let views = self.0.gate.survey();
        let mut each = |metric: Metric, of: fn(&View) -> Option<u64>| {
            let values = views.iter().filter_map(|view| Some(([("limit", &*view.limit.name)], of(view)?)));
            gauges(encoder, &metric, values)
        };
        each(gauge("waiters", "Requests in line now"), |view| Some(view.held.waiting as u64))?;
        each(gauge("keys", "Keys that have a window now"), |view| Some(view.held.keys as u64))?;
        each(gauge("slots", "N of the limit"), |view| view.limit.rate.as_ref().map(|rate| rate.requests.into()))?;
        each(gauge("slots_used", "Slots that are taken now in the window that is fullest"), |view| {
            view.limit.rate.as_ref().map(|_| view.held.fullest.map_or(0, |(_, usage)| usage.taken.into()))
        })?;
        each(gauge("in_flight_slots", "Requests that may be under way at once"), |view| {
            view.limit.in_flight.map(u64::from)
        })?;
        each(gauge("in_flight", "Requests under way now, where that is limited"), |view| {
            view.limit.in_flight.map(|_| view.held.flying)
        })
    }

    /// What concerns no limit.
    fn encode_process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let state = &self.0;
        let classes = ["", "1xx", "2xx", "3xx", "4xx", "5xx"];
        let requests = state.tallies.requests().map(|(digit, count)| ([("code", classes[digit])], count));
        counters(encoder, &counter("requests", "Requests that have ended, by their status"), requests)?;
        let refused = state.tallies.refused().into_iter();
        let refused = refused.map(|((who, why), count)| ([("by", who), ("reason", why)], count));
        counters(encoder, &counter("refusals", "Requests that the gateway answered itself with an error"), refused)?;
        let listeners = state.drain.listeners();
        let named: Vec<_> = listeners.iter().map(|listener| (listener.address.to_string(), listener)).collect();
        let there = named.iter().map(|(address, listener)| ([("listener", &**address)], listener.active() as u64));
        gauges(encoder, &gauge("listener_connections", "Callers' connections now, by listener"), there)?;
        let came = named.iter().map(|(address, listener)| ([("listener", &**address)], listener.accepted()));
        counters(encoder, &counter("listener_accepted", "Callers' connections that came in, by listener"), came)?;
        let refused = named.iter().flat_map(|(address, listener)| {
            listener.rejected().map(|(why, count)| ([("listener", &**address), ("reason", why)], count))
        });
        let help = "Callers' connections that were closed at once, by listener and reason";
        counters(encoder, &counter("listener_refused", help), refused)?;
        let mut all = |metric: Metric, value: u64| counters(encoder, &metric, std::iter::once(([], value)));
        let full = "How often there were as many callers' connections as may be, and others waited to be accepted";
        all(counter("connections_full", full), state.connections.shortages())?;
        all(counter("origin_connections_opened", "Connections to origins that were opened"), state.tallies.dialled())?;
        let reused = "Requests that found a connection to their origin which was there";
        all(counter("origin_connections_reused", reused), state.tallies.reused())?;
        let kept = state.tallies.kept();
        let mut one = |metric: Metric, value: u64| {
            let mut metric = begin(encoder, &metric)?;
            metric.encode_gauge(&value)
        };
        one(gauge("connections", "Callers' connections now"), state.drain.connections() as u64)?;
        one(gauge("connections_max", "How many there may be"), state.connections.max_total() as u64)?;
        one(
            gauge("origin_connections_idle", "Connections to origins that are kept for the next request"),
            kept.idle as u64,
        )?;
        one(
            gauge("origin_connections_shared", "Connections to origins that many requests share (HTTP/2)"),
            kept.shared as u64,
        )?;
        one(gauge("requests_running", "Requests and tunnels now"), state.drain.running_requests() as u64)?;
        one(gauge("draining", "1 once the gateway takes no new callers"), state.drain.is_draining().into())?;
        let persistence = state.gate.journal_health();
        one(
            gauge("state_kept", "1 while what is counted is written to the state folder"),
            (persistence == Health::Whole).into(),
        )?;
        one(
            gauge("state_blind", "1 while the state folder cannot be written: a crash would close all windows"),
            matches!(persistence, Health::Blind | Health::Held).into(),
        )?;
        self.encode_store(encoder)?;
        let dropped = state.current.proxy().log().dropped();
        let log = counter("access_log_dropped_lines", "Lines of the access log that were lost");
        counters(encoder, &log, std::iter::once(([], dropped)))?;
        let traces = counter("trace_dropped_spans", "Requests of which no collector of traces could be told");
        counters(encoder, &traces, std::iter::once(([], state.current.proxy().traces_dropped())))?;
        let build = Metric { name: "build", help: "The version", unit: None, kind: MetricType::Info };
        begin(encoder, &build)?.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }
}

impl Scrape {
    /// How it stands with the store of shared limits, where there is one.
    fn encode_store(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(status) = self.0.gate.store_status() else { return Ok(()) };
        let (is, figures) = (status.health().0, status.figures());
        let states = [store::Health::Asked, store::Health::Lost, store::Health::Shared, store::Health::Alone];
        let states = states.iter().map(|state| ([("state", super::health::store_word(*state))], (is == *state).into()));
        gauges(encoder, &gauge("store_state", "1 for how it stands with the store of shared limits"), states)?;
        let mut count = |metric: Metric, value: u64| counters(encoder, &metric, std::iter::once(([], value)));
        count(counter("store_exchanges", "Answers of the store"), figures.exchanges)?;
        count(counter("store_losses", "How often the store could be asked no longer"), figures.losses)?;
        count(counter("store_clock_steps", "How often the store's clock was set"), figures.clock_steps)?;
        count(counter("late_permits", "Permits that came too late to be used"), figures.late_permits)?;
        let settings =
            "Answers of the store in which another gateway's [store] said something else of gateways that are cut off";
        count(counter("store_disagreements", settings), figures.settings_differ)?;
        let differences = status.differences();
        let differences = differences.iter().map(|(name, count)| ([("limit", &**name)], *count));
        let answers = "Answers of the store in which another gateway said something else of the limit";
        counters(encoder, &counter("limit_disagreements", answers), differences)?;
        let time = counter("store_exchange_microseconds", "How long the answers of the store took, together");
        counters(encoder, &time, std::iter::once(([], figures.exchange_micros)))
    }
}

fn begin<'e>(encoder: &'e mut DescriptorEncoder<'_>, metric: &'e Metric) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(metric.name, metric.help, metric.unit.as_ref(), metric.kind)
}

fn counters<'v, const L: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &Metric,
    values: impl Iterator<Item = ([(&'static str, &'v str); L], u64)>,
) -> fmt::Result {
    let mut family = begin(encoder, metric)?;
    for (labels, value) in values {
        match L {
            0 => family.encode_counter::<NoLabelSet, _, u64>(&value, None)?,
            _ => family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?,
        }
    }
    Ok(())
}

fn gauges<'v, const L: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &Metric,
    values: impl Iterator<Item = ([(&'static str, &'v str); L], u64)>,
) -> fmt::Result {
    let mut family = begin(encoder, metric)?;
    for (labels, value) in values {
        family.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

//! `/metrics`: counters and gauges in the OpenMetrics 1.0 text format, for Prometheus.
//!
//! Names follow the conventions of Prometheus: the prefix `lockgate_` (`process_` for what every
//! process has), base units (seconds), `_total` for counters, and state sets (one series for each state, 1 for the present one) for
//! states. Label values come from the configuration file, from the users file and from fixed lists, never from requests:
//! their number is bounded.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::health::{persistence_word, store_word};
use super::metric_family::{Metric, begin, counter, counters, gauge, gauges, histograms};
use super::process_metrics::ProcessCollector;
use super::state::AdminState;
use crate::gate::LimitView;
use crate::gate::journal::JournalHealth;
use crate::gate::store;
use crate::http_admin::problem;
use crate::proxy::histogram::HistogramValues;
use crate::proxy::metrics::LimitMetrics;

/// Media type of the exposition (OpenMetrics 1.0, "Overall Structure").
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Classes of statuses, by their first digit.
const CLASSES: [&str; 6] = ["", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Handles `GET /metrics`.
pub(super) async fn show(State(state): State<Arc<AdminState>>) -> Response {
    let clock = state.gate.clock();
    let mut registry = Registry::with_prefix("lockgate");
    registry.register_collector(Box::new(Scrape(state)));
    // Metrics of processes have the same names everywhere, without a prefix.
    let mut process = Registry::default();
    process.register_collector(Box::new(ProcessCollector(clock)));
    let mut text = String::new();
    let encoded = encode_registry(&mut text, &registry).and_then(|()| encode_registry(&mut text, &process));
    match encoded.and_then(|()| encode_eof(&mut text)) {
        Ok(()) => ([("content-type", CONTENT_TYPE)], text).into_response(),
        // Writing to a String cannot fail.
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// One scrape: reads everything when it is encoded.
struct Scrape(Arc<AdminState>);

impl fmt::Debug for Scrape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_tallies(&mut encoder)?;
        self.encode_windows(&mut encoder)?;
        self.encode_hosts(&mut encoder)?;
        self.encode_users(&mut encoder)?;
        self.encode_parents(&mut encoder)?;
        self.encode_process(&mut encoder)
    }
}

impl Scrape {
    /// Counters of the requests of each limit.
    ///
    /// Limits without a request so far have counters of 0.
    fn encode_tallies(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let limits = self.0.metrics.limits();
        let mut each = |metric: Metric, of: fn(&LimitMetrics) -> u64| {
            let values = limits.iter().map(|(name, tally)| ([("limit", &**name)], of(tally)));
            counters(encoder, &metric, values)
        };
        each(counter("permits", "Permits granted by a limit"), |tally| tally.permits.get())?;
        each(
            counter("cancelled_waiters", "Requests cancelled by their caller while they waited for a permit"),
            |tally| tally.left().count(),
        )?;
        each(counter("origin_pushbacks", "Responses 429, or 503 with Retry-After, of origins"), |tally| {
            tally.pushbacks.get()
        })?;
        each(counter("retries", "Requests sent again after a pushback of their origin"), |tally| tally.resent.get())?;
        let refused = limits.iter().flat_map(|(name, tally)| {
            tally.refused().map(|(why, count)| ([("limit", &**name), ("reason", why)], count))
        });
        counters(encoder, &counter("limit_refusals", "Requests refused by a limit, by reason"), refused)?;
        let mut each = |name, help, of: fn(&LimitMetrics) -> HistogramValues| {
            let metric = Metric { name, help, unit: Some(Unit::Seconds), kind: MetricType::Histogram };
            histograms(encoder, &metric, limits.iter().map(|(name, tally)| ([("limit", &**name)], of(tally))))
        };
        each("wait", "Time from a request's arrival to its permit", LimitMetrics::waits)?;
        each("cancelled_wait", "Time that requests had waited when their caller cancelled them", LimitMetrics::left)
    }

    /// Parent proxies, by their URLs of the configuration.
    fn encode_parents(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let parents = self.0.metrics.parents();
        let up = parents.iter().map(|(name, status)| ([("parent", &**name)], u64::from(!status.is_down())));
        gauges(
            encoder,
            &gauge("parent_up", "1 while a parent proxy works, 0 from a failure until its next success"),
            up,
        )?;
        let connections = parents.iter().flat_map(|(name, status)| {
            let counts = [("connected", &status.connected), ("refused", &status.refused), ("failed", &status.failed)];
            counts.map(|(result, count)| ([("parent", &**name), ("result", result)], count.get()))
        });
        let help = "Connections that were asked of a parent proxy, by result";
        counters(encoder, &counter("parent_connections", help), connections)
    }

    /// Requests by the host of their origin, as the configuration names it.
    fn encode_hosts(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let hosts = self.0.metrics.hosts();
        let requests = hosts.iter().flat_map(|(name, host)| {
            host.requests().map(|(digit, count)| ([("host", &**name), ("code", CLASSES[digit])], count))
        });
        let help = "Requests that have ended, by host of the configuration and class of status";
        counters(encoder, &counter("host_requests", help), requests)?;
        let metric = Metric {
            name: "request_duration",
            help: "Time from a request's head to the end of its response, with its wait; not for tunnels and upgrades",
            unit: Some(Unit::Seconds),
            kind: MetricType::Histogram,
        };
        histograms(encoder, &metric, hosts.iter().map(|(name, host)| ([("host", &**name)], host.durations())))
    }

    /// Requests by the user that made them, of those that the users file has now.
    fn encode_users(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let users = self.0.current.snapshot().accounts();
        let requests = users.iter().flat_map(|user| {
            user.requests().map(|(digit, count)| ([("user", &**user.name()), ("code", CLASSES[digit])], count))
        });
        let help = "Requests that have ended, by user of [access] users and class of status";
        counters(encoder, &counter("user_requests", help), requests)?;
        let refused = users
            .iter()
            .flat_map(|user| user.refused().map(|(party, count)| ([("user", &**user.name()), ("by", party)], count)));
        let help = "Requests of a user that the gateway answered with an error of its own, by the party that refused";
        counters(encoder, &counter("user_refusals", help), refused)?;
        let in_seconds = |name, help| Metric { unit: Some(Unit::Seconds), ..counter(name, help) };
        let waits = users.iter().map(|user| ([("user", &**user.name())], user.wait_sum().as_secs_f64()));
        counters(encoder, &in_seconds("user_wait", "Time that requests of a user were queued for a permit"), waits)?;
        let in_bytes = |name, help| Metric { unit: Some(Unit::Bytes), ..counter(name, help) };
        let help = "Bytes of the content of a user's requests, and from it in tunnels";
        let received = users.iter().map(|user| ([("user", &**user.name())], user.bytes().0));
        counters(encoder, &in_bytes("user_received", help), received)?;
        let help = "Bytes of the content of responses to a user, and to it in tunnels";
        let sent = users.iter().map(|user| ([("user", &**user.name())], user.bytes().1));
        counters(encoder, &in_bytes("user_sent", help), sent)
    }

    /// Gauges of the windows of each limit.
    fn encode_windows(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let views = self.0.gate.limit_stats();
        let mut each = |metric: Metric, of: fn(&LimitView) -> Option<u64>| {
            let values = views.iter().filter_map(|view| Some(([("limit", &*view.limit.name)], of(view)?)));
            gauges(encoder, &metric, values)
        };
        each(gauge("waiters", "Requests waiting for a permit"), |view| Some(view.held.waiting as u64))?;
        each(gauge("keys", "Keys with a window"), |view| Some(view.held.keys as u64))?;
        each(gauge("slots", "Requests that a limit allows per window"), |view| {
            view.limit.rate.as_ref().map(|rate| rate.requests.into())
        })?;
        each(gauge("slots_used", "Slots taken in the fullest window"), |view| {
            view.limit.rate.as_ref().map(|_| view.held.fullest.map_or(0, |(_, usage)| usage.taken.into()))
        })?;
        each(gauge("in_flight_slots", "Requests that a limit allows in flight at once"), |view| {
            view.limit.in_flight.map(u64::from)
        })?;
        each(gauge("in_flight", "Requests in flight, of limits with in_flight"), |view| {
            view.limit.in_flight.map(|_| view.held.flying)
        })
    }

    /// Metrics of the whole process.
    fn encode_process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let state = &self.0;
        let requests = state.metrics.requests().map(|(digit, count)| ([("code", CLASSES[digit])], count));
        counters(encoder, &counter("requests", "Requests that have ended, by class of status"), requests)?;
        let refused = state.metrics.refused().into_iter();
        let refused = refused.map(|((who, why), count)| ([("by", who), ("reason", why)], count));
        counters(
            encoder,
            &counter("refusals", "Requests that the gateway answered with an error of its own"),
            refused,
        )?;
        let mut one = |metric: Metric, value: u64| {
            let mut metric = begin(encoder, &metric)?;
            metric.encode_gauge(&value)
        };
        one(
            gauge("requests_running", "Requests and tunnels that have not ended"),
            state.drain.running_requests() as u64,
        )?;
        one(gauge("draining", "1 once the gateway accepts no new callers"), state.drain.is_draining().into())?;
        let step = Metric {
            name: "gate_longest_step",
            help: "Longest time since the last scrape that a decision took, with its wait for other decisions",
            unit: Some(Unit::Seconds),
            kind: MetricType::Gauge,
        };
        let longest = state.gate.take_longest_step().as_secs_f64();
        begin(encoder, &step)?.encode_gauge(&longest)?;
        self.encode_connections(encoder)?;
        self.encode_persistence(encoder)?;
        self.encode_store(encoder)?;
        let dropped = state.current.snapshot().log().dropped();
        let log =
            counter("access_log_dropped_lines", "Lines of the access log dropped because they were not read in time");
        counters(encoder, &log, std::iter::once(([], dropped)))?;
        let traces = counter("trace_dropped_spans", "Spans that the trace collector did not take");
        counters(encoder, &traces, std::iter::once(([], state.current.snapshot().traces_dropped())))?;
        let build = Metric { name: "build", help: "Version of the program", unit: None, kind: MetricType::Info };
        begin(encoder, &build)?.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }

    /// Connections of callers, in all and by listener, and connections to origins.
    fn encode_connections(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let state = &self.0;
        let listeners = state.drain.listeners();
        let named: Vec<_> = listeners.iter().map(|listener| (listener.address.to_string(), listener)).collect();
        let active = named.iter().map(|(address, listener)| ([("listener", &**address)], listener.active() as u64));
        gauges(encoder, &gauge("listener_connections", "Open connections of callers, by listener"), active)?;
        let accepted = named.iter().map(|(address, listener)| ([("listener", &**address)], listener.accepted()));
        counters(encoder, &counter("listener_accepted", "Connections of callers accepted, by listener"), accepted)?;
        let refused = named.iter().flat_map(|(address, listener)| {
            listener.rejected().map(|(why, count)| ([("listener", &**address), ("reason", why)], count))
        });
        let help = "Connections of callers closed right after accept, by listener and reason";
        counters(encoder, &counter("listener_refused", help), refused)?;
        let mut all = |metric: Metric, value: u64| counters(encoder, &metric, std::iter::once(([], value)));
        let full = "Times that connections_max was reached, so that further connections waited to be accepted";
        all(counter("connections_max_reached", full), state.connections.shortages())?;
        all(counter("origin_connections_opened", "Connections opened to origins"), state.metrics.dialled())?;
        all(counter("origin_connections_reused", "Requests sent on an open connection"), state.metrics.reused())?;
        let kept = state.metrics.kept();
        let mut one = |metric: Metric, value: u64| {
            let mut metric = begin(encoder, &metric)?;
            metric.encode_gauge(&value)
        };
        one(gauge("connections", "Open connections of callers"), state.drain.connections() as u64)?;
        one(
            gauge("connections_max", "Maximum number of connections of callers"),
            state.connections.max_total() as u64,
        )?;
        one(gauge("origin_connections_idle", "Open connections to origins without a request"), kept.idle as u64)?;
        let shared = "Open connections to origins that several requests share (HTTP/2)";
        one(gauge("origin_connections_shared", shared), kept.shared as u64)
    }

    /// State of the persistence of counters, as a state set: 1 for the present state, 0 for the
    /// others.
    fn encode_persistence(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let is = self.0.gate.journal_health();
        let states = [JournalHealth::Off, JournalHealth::Ok, JournalHealth::Degraded, JournalHealth::Blocked];
        let states = states.map(|one| ([("state", persistence_word(one))], u64::from(is == one)));
        let help =
            "1 for the state of the state folder; degraded: it cannot be written, and a crash would close all windows";
        gauges(encoder, &gauge("persistence_state", help), states.into_iter())
    }

    /// State and counters of the store of shared limits; nothing without `[store]`.
    fn encode_store(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(status) = self.0.gate.store_status() else { return Ok(()) };
        let (is, figures) = (status.health().0, status.figures());
        let states = [store::Health::Up, store::Health::Down, store::Health::Fraction, store::Health::Standalone];
        let states = states.map(|one| ([("state", store_word(one))], u64::from(is == one)));
        let help = "1 for the state of the store of shared limits";
        gauges(encoder, &gauge("store_state", help), states.into_iter())?;
        let mut count = |metric: Metric, value: u64| counters(encoder, &metric, std::iter::once(([], value)));
        count(counter("store_responses", "Responses of the store"), figures.responses)?;
        count(counter("store_outages", "Times that the store became unreachable"), figures.outages)?;
        count(counter("store_clock_steps", "Times that the store's clock was set"), figures.clock_steps)?;
        count(counter("late_permits", "Permits that arrived too late to be used"), figures.late_permits)?;
        let mismatches = "Responses of the store in which another gateway had other settings of [store] for outages";
        count(counter("store_config_mismatches", mismatches), figures.settings_mismatch)?;
        let differences = status.mismatches();
        let differences = differences.iter().map(|(name, count)| ([("limit", &**name)], *count));
        let mismatches = "Responses of the store in which another gateway had another configuration of the limit";
        counters(encoder, &counter("limit_config_mismatches", mismatches), differences)?;
        let time = Metric {
            name: "store_response",
            help: "Sum of the response times of the store",
            unit: Some(Unit::Seconds),
            kind: MetricType::Counter,
        };
        let seconds = Duration::from_micros(figures.response_micros).as_secs_f64();
        begin(encoder, &time)?.encode_counter::<NoLabelSet, f64, u64>(&seconds, None)
    }
}

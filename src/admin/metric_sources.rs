//! Metrics of the gateway: reads every counter and gauge of the moment into families.
//!
//! The one list of metrics: `/metrics` and the export to a collector both encode it. Names follow the conventions of
//! Prometheus: the prefix `lockgate_` (`process_` for what every process has), base units (seconds), and state sets (one
//! series for each state, 1 for the present one) for states. Label values come from the configuration file, from the users
//! file and from fixed lists, never from requests: their number is bounded.

use std::sync::Arc;
use std::time::Duration;

use super::metric_family::{Families, Family, FamilyKind, FamilyUnit, Metric, SeriesTimes, counter, durations, gauge};
use super::process_metrics;
use super::words::{persistence_word, store_word};
use crate::gate::clock::Clock;
use crate::gate::journal::JournalHealth;
use crate::gate::{Gate, LimitView, StepReader, store};
use crate::net::connection_limit::ConnectionLimit;
use crate::net::drain::Drain;
use crate::proxy::histogram::HistogramValues;
use crate::proxy::metrics::{LimitMetrics, Metrics};
use crate::proxy::{CurrentSnapshot, Shared};

/// Classes of statuses, by their first digit.
const CLASSES: [&str; 6] = ["", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Parts of the gateway that have metrics.
pub struct MetricSources {
    /// Limits, windows and waiters.
    gate: Arc<Gate>,
    /// Open connections and running requests.
    drain: Drain,
    /// Counters of requests.
    metrics: Arc<Metrics>,
    /// The connection limit.
    connections: ConnectionLimit,
    /// The configuration in force.
    current: Arc<CurrentSnapshot>,
    /// Unix time in nanoseconds at which all counters were zero. Read once, before the first request: the wall clock may be
    /// set later.
    start_unix_nanos: i128,
}

impl MetricSources {
    /// Sources of the gateway with these parts.
    pub fn new(shared: &Shared, current: &Arc<CurrentSnapshot>) -> MetricSources {
        MetricSources {
            start_unix_nanos: shared.gate.clock().wall_unix_nanos(),
            gate: Arc::clone(&shared.gate),
            drain: shared.drain.clone(),
            metrics: Arc::clone(&shared.metrics),
            connections: shared.connections.clone(),
            current: Arc::clone(current),
        }
    }

    /// Reads everything. `reader`: the one that is told the longest step since its last look.
    pub(super) fn families(&self, reader: StepReader) -> Vec<Family> {
        let mut families = Families::default();
        self.read_requests_of_limits(&mut families);
        self.read_windows(&mut families);
        self.read_hosts(&mut families);
        self.read_users(&mut families);
        self.read_parents(&mut families);
        self.read_gateway(&mut families, reader);
        process_metrics::read(&mut families, self.gate.clock());
        families.into_vec()
    }

    /// Clock of the gate.
    pub(super) fn clock(&self) -> Clock {
        self.gate.clock()
    }

    /// Identity of this process for collectors.
    pub(super) fn instance(&self) -> &str {
        self.metrics.instance.as_str()
    }

    /// Span of time from the start of the counters to now.
    pub(super) fn times(&self) -> SeriesTimes {
        SeriesTimes { start: self.start_unix_nanos, now: self.clock().wall_unix_nanos() }
    }

    /// Counters of the requests of each limit.
    ///
    /// Limits without a request so far have counters of 0.
    fn read_requests_of_limits(&self, families: &mut Families) {
        let limits = self.metrics.limits();
        let mut each = |metric: Metric, of: fn(&LimitMetrics) -> u64| {
            families.add(metric, limits.iter().map(|(name, tally)| ([("limit", &**name)], of(tally))));
        };
        each(counter("lockgate_permits", "Permits granted by a limit"), |tally| tally.permits.get());
        let cancelled = "Requests cancelled by their caller while they waited for a permit";
        each(counter("lockgate_cancelled_waiters", cancelled), |tally| tally.left().count());
        let pushbacks = "Responses 429, or 503 with Retry-After, of origins";
        each(counter("lockgate_origin_pushbacks", pushbacks), |tally| tally.pushbacks.get());
        let retries = "Requests sent again after a pushback of their origin";
        each(counter("lockgate_retries", retries), |tally| tally.resent.get());
        let refused = limits.iter().flat_map(|(name, tally)| {
            tally.refused().map(|(why, count)| ([("limit", &**name), ("reason", why)], count))
        });
        families.add(counter("lockgate_limit_refusals", "Requests refused by a limit, by reason"), refused);
        let mut each = |metric: Metric, of: fn(&LimitMetrics) -> HistogramValues| {
            families.add(metric, limits.iter().map(|(name, tally)| ([("limit", &**name)], of(tally))));
        };
        each(durations("lockgate_wait", "Time from a request's arrival to its permit"), LimitMetrics::waits);
        let cancelled = "Time that requests had waited when their caller cancelled them";
        each(durations("lockgate_cancelled_wait", cancelled), LimitMetrics::left);
    }

    /// Gauges of the windows of each limit.
    fn read_windows(&self, families: &mut Families) {
        let views = self.gate.limit_stats();
        let mut each = |metric: Metric, of: fn(&LimitView) -> Option<u64>| {
            let series = views.iter().filter_map(|view| Some(([("limit", &*view.limit.name)], of(view)?)));
            families.add(metric, series);
        };
        each(gauge("lockgate_waiters", "Requests waiting for a permit"), |view| Some(view.held.waiting as u64));
        each(gauge("lockgate_keys", "Keys with a window"), |view| Some(view.held.keys as u64));
        each(gauge("lockgate_slots", "Requests that a limit allows per window"), |view| {
            view.limit.rate.as_ref().map(|rate| rate.requests.into())
        });
        each(gauge("lockgate_slots_used", "Slots taken in the fullest window"), |view| {
            view.limit.rate.as_ref().map(|_| view.held.fullest.map_or(0, |(_, usage)| usage.taken.into()))
        });
        each(gauge("lockgate_in_flight_slots", "Requests that a limit allows in flight at once"), |view| {
            view.limit.in_flight.map(u64::from)
        });
        each(gauge("lockgate_in_flight", "Requests in flight, of limits with in_flight"), |view| {
            view.limit.in_flight.map(|_| view.held.flying)
        });
    }

    /// Requests by the host of their origin, as the configuration names it.
    fn read_hosts(&self, families: &mut Families) {
        let hosts = self.metrics.hosts();
        let requests = hosts.iter().flat_map(|(name, host)| {
            host.requests().map(|(digit, count)| ([("host", &**name), ("code", CLASSES[digit])], count))
        });
        let help = "Requests that have ended, by host of the configuration and class of status";
        families.add(counter("lockgate_host_requests", help), requests);
        let help = "Time from a request's head to the end of its response, with its wait; not for tunnels and upgrades";
        let series = hosts.iter().map(|(name, host)| ([("host", &**name)], host.durations()));
        families.add(durations("lockgate_request_duration", help), series);
    }

    /// Requests by the user that made them, of those that the users file has now.
    fn read_users(&self, families: &mut Families) {
        let users = self.current.snapshot().accounts();
        let requests = users.iter().flat_map(|user| {
            user.requests().map(|(digit, count)| ([("user", &**user.name()), ("code", CLASSES[digit])], count))
        });
        let help = "Requests that have ended, by user of [access] users and class of status";
        families.add(counter("lockgate_user_requests", help), requests);
        let refused = users
            .iter()
            .flat_map(|user| user.refused().map(|(party, count)| ([("user", &**user.name()), ("by", party)], count)));
        let help = "Requests of a user that the gateway answered with an error of its own, by the party that refused";
        families.add(counter("lockgate_user_refusals", help), refused);
        let waits = users.iter().map(|user| ([("user", &**user.name())], user.wait_sum().as_secs_f64()));
        let wait = counter("lockgate_user_wait", "Time that requests of a user were queued for a permit");
        families.add(wait.in_unit(FamilyUnit::Seconds), waits);
        let received = users.iter().map(|user| ([("user", &**user.name())], user.bytes().0));
        let help = "Bytes of the content of a user's requests, and from it in tunnels";
        families.add(counter("lockgate_user_received", help).in_unit(FamilyUnit::Bytes), received);
        let sent = users.iter().map(|user| ([("user", &**user.name())], user.bytes().1));
        let help = "Bytes of the content of responses to a user, and to it in tunnels";
        families.add(counter("lockgate_user_sent", help).in_unit(FamilyUnit::Bytes), sent);
    }

    /// Parent proxies, by their URLs of the configuration.
    fn read_parents(&self, families: &mut Families) {
        let parents = self.metrics.parents();
        let up = parents.iter().map(|(name, status)| ([("parent", &**name)], u64::from(!status.is_down())));
        let help = "1 while a parent proxy works, 0 from a failure until its next success";
        families.add(gauge("lockgate_parent_up", help), up);
        let connections = parents.iter().flat_map(|(name, status)| {
            let counts = [("connected", &status.connected), ("refused", &status.refused), ("failed", &status.failed)];
            counts.map(|(result, count)| ([("parent", &**name), ("result", result)], count.get()))
        });
        let help = "Connections that were asked of a parent proxy, by result";
        families.add(counter("lockgate_parent_connections", help), connections);
    }

    /// Metrics of the whole gateway.
    fn read_gateway(&self, families: &mut Families, reader: StepReader) {
        let requests = self.metrics.requests().map(|(digit, count)| ([("code", CLASSES[digit])], count));
        families.add(counter("lockgate_requests", "Requests that have ended, by class of status"), requests);
        let refused = self.metrics.refused();
        let refused = refused.iter().map(|((who, why), count)| ([("by", *who), ("reason", *why)], *count));
        let help = "Requests that the gateway answered with an error of its own";
        families.add(counter("lockgate_refusals", help), refused);
        let help = "Requests and tunnels that have not ended";
        families.add_one(gauge("lockgate_requests_running", help), self.drain.running_requests() as u64);
        let help = "1 once the gateway accepts no new callers";
        families.add_one(gauge("lockgate_draining", help), u64::from(self.drain.is_draining()));
        let help = "Longest time since the last look that a decision took, with its wait for other decisions";
        let step = gauge("lockgate_gate_longest_step", help).in_unit(FamilyUnit::Seconds);
        families.add_one(step, self.gate.take_longest_step(reader).as_secs_f64());
        self.read_connections(families);
        self.read_persistence(families);
        self.read_store(families);
        let snapshot = self.current.snapshot();
        let help = "Lines of the access log dropped because they were not read in time";
        families.add_one(counter("lockgate_access_log_dropped_lines", help), snapshot.log().dropped());
        let help = "Spans that the trace collector did not take";
        families.add_one(counter("lockgate_trace_dropped_spans", help), self.metrics.spans_dropped.get());
        let build =
            Metric { name: "lockgate_build", help: "Version of the program", unit: None, kind: FamilyKind::Info };
        families.add(build, std::iter::once(([("version", env!("CARGO_PKG_VERSION"))], 1_u64)));
    }

    /// Connections of callers, in all and by listener, and connections to origins.
    fn read_connections(&self, families: &mut Families) {
        let listeners = self.drain.listeners();
        let named: Vec<_> = listeners.iter().map(|listener| (listener.address.to_string(), listener)).collect();
        let active = named.iter().map(|(address, listener)| ([("listener", &**address)], listener.active() as u64));
        families.add(gauge("lockgate_listener_connections", "Open connections of callers, by listener"), active);
        let accepted = named.iter().map(|(address, listener)| ([("listener", &**address)], listener.accepted()));
        families.add(counter("lockgate_listener_accepted", "Connections of callers accepted, by listener"), accepted);
        let refused = named.iter().flat_map(|(address, listener)| {
            listener.rejected().map(|(why, count)| ([("listener", &**address), ("reason", why)], count))
        });
        let help = "Connections of callers closed right after accept, by listener and reason";
        families.add(counter("lockgate_listener_refused", help), refused);
        let help = "Times that connections_max was reached, so that further connections waited to be accepted";
        families.add_one(counter("lockgate_connections_max_reached", help), self.connections.shortages());
        let help = "Connections opened to origins";
        families.add_one(counter("lockgate_origin_connections_opened", help), self.metrics.dialled());
        let help = "Requests sent on an open connection";
        families.add_one(counter("lockgate_origin_connections_reused", help), self.metrics.reused());
        let help = "Open connections of callers";
        families.add_one(gauge("lockgate_connections", help), self.drain.connections() as u64);
        let help = "Maximum number of connections of callers";
        families.add_one(gauge("lockgate_connections_max", help), self.connections.max_total() as u64);
        let kept = self.metrics.kept();
        let help = "Open connections to origins without a request";
        families.add_one(gauge("lockgate_origin_connections_idle", help), kept.idle as u64);
        let help = "Open connections to origins that several requests share (HTTP/2)";
        families.add_one(gauge("lockgate_origin_connections_shared", help), kept.shared as u64);
    }

    /// State of the persistence of counters, as a state set: 1 for the present state, 0 for the
    /// others.
    fn read_persistence(&self, families: &mut Families) {
        let is = self.gate.journal_health();
        let states = [JournalHealth::Off, JournalHealth::Ok, JournalHealth::Degraded, JournalHealth::Blocked];
        let states = states.map(|one| ([("state", persistence_word(one))], u64::from(is == one)));
        let help =
            "1 for the state of the state folder; degraded: it cannot be written, and a crash would close all windows";
        families.add(gauge("lockgate_persistence_state", help), states.into_iter());
    }

    /// State and counters of the store of shared limits; nothing without `[store]`.
    fn read_store(&self, families: &mut Families) {
        let Some(status) = self.gate.store_status() else { return };
        let (is, figures) = (status.health().0, status.figures());
        let states = [store::Health::Up, store::Health::Down, store::Health::Fraction, store::Health::Standalone];
        let states = states.map(|one| ([("state", store_word(one))], u64::from(is == one)));
        let help = "1 for the state of the store of shared limits";
        families.add(gauge("lockgate_store_state", help), states.into_iter());
        for (name, help, value) in [
            ("lockgate_store_responses", "Responses of the store", figures.responses),
            ("lockgate_store_outages", "Times that the store became unreachable", figures.outages),
            ("lockgate_store_clock_steps", "Times that the store's clock was set", figures.clock_steps),
            ("lockgate_late_permits", "Permits that arrived too late to be used", figures.late_permits),
            (
                "lockgate_store_config_mismatches",
                "Responses of the store in which another gateway had other settings of [store] for outages",
                figures.settings_mismatch,
            ),
        ] {
            families.add_one(counter(name, help), value);
        }
        let differences = status.mismatches();
        let differences = differences.iter().map(|(name, count)| ([("limit", &**name)], *count));
        let help = "Responses of the store in which another gateway had another configuration of the limit";
        families.add(counter("lockgate_limit_config_mismatches", help), differences);
        let time = counter("lockgate_store_response", "Sum of the response times of the store");
        let seconds = Duration::from_micros(figures.response_micros).as_secs_f64();
        families.add_one(time.in_unit(FamilyUnit::Seconds), seconds);
    }
}

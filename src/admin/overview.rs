//! Present state of the gateway and of its limits, as JSON: an event of `/v1/events`, and the first state of the
//! dashboard.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::health::is_degraded;
use super::history::{GatewayTotals, LimitRates, LimitTotals};
use super::limit_json::{hang_ups, millis, rule};
use super::process_stats::age;
use super::state::AdminState;
use super::words::{persistence_word, store_word};
use crate::gate::{LimitView, store};

/// State of the gateway, without its limits.
///
/// `at`: milliseconds since 1970; `uptime_ms`: null if /proc cannot be read; `status`, `state` and
/// `store`: as in `/healthz`; `connections` and `running`: numbers of open connections and of running
/// requests; `waiting`: requests that wait for a permit; `requests`, `refused` and `errors`: counters,
/// each also as a rate per second (`…_per_s`); `configuration`: a number that changes with each
/// configuration.
pub(super) fn gateway(state: &AdminState) -> Value {
    let clock = state.gate.clock();
    let persistence = state.gate.journal_health();
    let store = state.gate.store_status().map_or(store::Health::Off, |status| status.health().0);
    let totals = GatewayTotals::of(&state.metrics);
    let rates = state.history.samples().gateway_rates();
    json!({
        "at": wall_clock_ms(state),
        "uptime_ms": state.started.map(|started| millis(age(started, clock)).floor()),
        "version": env!("CARGO_PKG_VERSION"),
        "status": if is_degraded(persistence, store) { "degraded" } else { "ok" },
        "state": persistence_word(persistence),
        "store": store_word(store),
        "draining": state.drain.is_draining() && !state.drain.entered_lame_duck(),
        "configuration": state.current.version(),
        "connections": state.drain.connections(),
        "running": state.drain.running_requests(),
        "waiting": state.gate.waiting(),
        "requests": totals.requests,
        "refused": totals.refused,
        "errors": totals.errors,
        "requests_per_s": rates.requests,
        "refused_per_s": rates.refused,
        "errors_per_s": rates.errors,
    })
}

/// Milliseconds since 1970 by the wall clock.
pub(super) fn wall_clock_ms(state: &AdminState) -> i64 {
    i64::try_from(state.gate.clock().wall_unix_nanos() / 1_000_000).unwrap_or(0)
}

/// Summaries of the limits. `hang_ups`: see [`hang_ups`].
pub(super) fn limits(state: &AdminState, views: &[LimitView]) -> Vec<Value> {
    let tallies: HashMap<Arc<str>, _> = state.metrics.limits().into_iter().collect();
    let samples = state.history.samples();
    let summaries = views.iter().map(|view| {
        let tally = tallies.get(&view.limit.name);
        let totals = tally.map(|tally| LimitTotals::of(tally)).unwrap_or_default();
        let mut summary = summary(view, totals, samples.limit_rates(&view.limit.name));
        summary["hang_ups"] = tally.map_or(Value::Null, |tally| hang_ups(state, view, tally));
        summary
    });
    summaries.collect()
}

/// Summary of a limit: rule, fullest window, counters and present rates.
///
/// `condition`: see [`condition`]; `taken` and `in_flight_taken`: slots and requests in flight of the fullest window,
/// bounded by `requests` and `in_flight`; `keys`: number of keys with a window; `waiting`: waiters of all keys;
/// `permits`, `refused`, `cancelled`, `pushbacks`: numbers of requests; `waited_ms`: sum of the waits of all permits.
fn summary(view: &LimitView, totals: LimitTotals, rates: LimitRates) -> Value {
    let mut summary = rule(view);
    let fullest = view.held.fullest.map(|(_, usage)| usage);
    for (key, value) in [
        ("condition", json!(condition(view, rates))),
        ("keys", json!(view.held.keys)),
        ("waiting", json!(view.held.waiting)),
        ("taken", json!(fullest.map_or(0, |fullest| fullest.taken))),
        ("in_flight_taken", json!(fullest.map_or(0, |fullest| fullest.flying))),
        ("permits", json!(totals.permits)),
        ("refused", json!(totals.refused)),
        ("cancelled", json!(totals.cancelled)),
        ("waited_ms", json!(totals.waited_ms)),
        ("pushbacks", json!(totals.pushbacks)),
        ("permits_per_s", json!(rates.permits)),
        ("refused_per_s", json!(rates.refused)),
    ] {
        summary[key] = value;
    }
    summary
}

/// Condition of a limit in a word.
///
/// `refusing`: it has refused requests in the last ten seconds; `waiting`: requests wait, or did in these; `full`: its
/// fullest window has no free slot; `ok`: requests pass; `idle`: none asked.
fn condition(view: &LimitView, rates: LimitRates) -> &'static str {
    let fullest = view.held.fullest.map(|(_, usage)| usage);
    let has_no_room = fullest.is_some_and(|usage| {
        let slots = view.limit.rate.as_ref().is_some_and(|rate| usage.taken >= rate.requests);
        slots || view.limit.in_flight.is_some_and(|most| usage.flying >= most)
    });
    if rates.refused > 0.0 {
        "refusing"
    } else if view.held.waiting > 0 || rates.has_waited {
        "waiting"
    } else if has_no_room {
        "full"
    } else if rates.permits > 0.0 {
        "ok"
    } else {
        "idle"
    }
}

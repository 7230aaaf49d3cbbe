//! `/v1/events` and `/v1/history`: a sampler that reads all limits once a second, its samples as
//! server-sent events, and the last 15 minutes of them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use serde_json::{Value, json};
use tokio::sync::watch::{Receiver, Sender};
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};

use super::history::{GatewaySample, GatewayTotals, LimitSample, LimitTotals};
use super::limit_json::millis;
use super::overview;
use super::state::AdminState;
use crate::gate::LimitView;

/// Time between two samples: the resolution of the dashboard's charts.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Takes a sample each second until the admin API shuts down: adds it to the history, and publishes
/// it by `samples`.
///
/// Counts from this call on; requests before the first tick are part of the first sample.
pub(super) fn sample_every_second(state: Arc<AdminState>, samples: Sender<Arc<str>>) -> impl Future<Output = ()> {
    let before = Totals::of(&state);
    run_sampler(state, samples, before)
}

/// Counters at the last sample.
struct Totals {
    /// Of the whole gateway.
    gateway: GatewayTotals,
    /// By name of the limit.
    limits: HashMap<Arc<str>, LimitTotals>,
}

impl Totals {
    fn of(state: &AdminState) -> Totals {
        let limits = state.metrics.limits().into_iter().map(|(name, tally)| (name, LimitTotals::of(&tally)));
        Totals { gateway: GatewayTotals::of(&state.metrics), limits: limits.collect() }
    }
}

/// The loop of [`sample_every_second`].
async fn run_sampler(state: Arc<AdminState>, samples: Sender<Arc<str>>, mut before: Totals) {
    let mut every_second = interval(SAMPLE_INTERVAL);
    every_second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every_second.tick() => {}
            // Dropping the sender ends the event streams.
            () = state.commands.closed() => return,
        }
        let views = state.gate.limit_stats();
        let totals = Totals::of(&state);
        take_sample(&state, &views, &before, &totals);
        before = totals;
        let mut now = overview::gateway(&state);
        // One receiver is that of the state itself; any other one is an event stream.
        let is_watched = samples.receiver_count() > 1;
        now["limits"] = if is_watched { overview::limits(&state, &views).into() } else { json!([]) };
        samples.send_replace(now.to_string().into());
    }
}

/// Adds to the history what has happened between these counters.
fn take_sample(state: &AdminState, views: &[LimitView], before: &Totals, now: &Totals) {
    let waiting = state.gate.waiting();
    let at = overview::wall_clock_ms(state);
    let mut samples = state.history.samples();
    samples.at = at;
    samples.push_gateway(now.gateway.since(before.gateway, waiting));
    for view in views {
        let name = &view.limit.name;
        let [now, before] = [now, before].map(|totals| totals.limits.get(name).copied().unwrap_or_default());
        samples.push_limit(name, now.since(before, view.held.waiting));
    }
    samples.limits.retain(|name, _| views.iter().any(|view| view.limit.name == *name));
}

/// Handles `GET /v1/events`: each sample as a server-sent event named `limits`, once a second.
///
/// Its data is JSON: the members of [`overview::gateway`], and `limits`, a list of the summaries of
/// [`overview::limits`].
pub(super) async fn stream(State(state): State<Arc<AdminState>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut samples: Receiver<Arc<str>> = state.latest.clone();
    // The last sample was taken without the limits if no stream was open. The next one is complete.
    samples.mark_unchanged();
    let events = WatchStream::from_changes(samples).map(|now| Ok(Event::default().event("limits").data(&*now)));
    Sse::new(events).keep_alive(KeepAlive::default())
}

/// Handles `GET /v1/history`: for the gateway and for each limit one list for each number, oldest second first.
///
/// The numbers are those of [`GatewaySample`] and [`LimitSample`]; the last ones were taken `at` so many milliseconds
/// since 1970. All lists of a limit have the same length, at most 900.
pub(super) async fn history(State(state): State<Arc<AdminState>>) -> Json<Value> {
    let samples = state.history.samples();
    let limits = samples.limits.iter().map(|(name, samples)| {
        let each = |of: fn(&LimitSample) -> Value| samples.iter().map(of).collect::<Vec<Value>>();
        let lists = json!({
            "permits": each(|sample| sample.permits.into()),
            "refused": each(|sample| sample.refused.into()),
            "cancelled": each(|sample| sample.cancelled.into()),
            "waiting": each(|sample| sample.waiting.into()),
            "waited_ms": each(|sample| sample.waited_ms.into()),
            "pushbacks": each(|sample| sample.pushbacks.into()),
        });
        (name.to_string(), lists)
    });
    let each = |of: fn(&GatewaySample) -> Value| samples.gateway.iter().map(of).collect::<Vec<Value>>();
    Json(json!({
        "interval_ms": millis(SAMPLE_INTERVAL),
        "at": samples.at,
        "gateway": {
            "requests": each(|sample| sample.requests.into()),
            "refused": each(|sample| sample.refused.into()),
            "errors": each(|sample| sample.errors.into()),
            "waiting": each(|sample| sample.waiting.into()),
        },
        "limits": limits.collect::<serde_json::Map<_, _>>(),
    }))
}

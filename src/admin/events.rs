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

use super::health;
use super::history::{LimitSample, LimitTotals};
use super::limit_json::{hang_ups, millis, summary};
use super::state::AdminState;
use crate::gate::store;

/// Time between two samples: the resolution of the dashboard's charts.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Takes a sample each second until the admin API shuts down: adds it to the history, and publishes
/// it by `samples`.
///
/// Counts from this call on; requests before the first tick are part of the first sample.
pub(super) fn sample_every_second(state: Arc<AdminState>, samples: Sender<Arc<str>>) -> impl Future<Output = ()> {
    let tallies = state.metrics.limits().into_iter();
    let before: HashMap<Arc<str>, LimitTotals> = tallies.map(|(name, tally)| (name, LimitTotals::of(&tally))).collect();
    run_sampler(state, samples, before)
}

/// The loop of [`sample_every_second`]. `before`: the counters of each limit at the last sample.
async fn run_sampler(state: Arc<AdminState>, samples: Sender<Arc<str>>, mut before: HashMap<Arc<str>, LimitTotals>) {
    let mut every_second = interval(SAMPLE_INTERVAL);
    every_second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every_second.tick() => {}
            // Dropping the sender ends the event streams.
            () = state.commands.closed() => return,
        }
        let views = state.gate.limit_stats();
        let tallies: HashMap<_, _> = state.metrics.limits().into_iter().collect();
        let mut summaries = Vec::with_capacity(views.len());
        for view in &views {
            let tally = tallies.get(&view.limit.name);
            let totals = tally.map(|tally| LimitTotals::of(tally)).unwrap_or_default();
            let last = before.insert(Arc::clone(&view.limit.name), totals).unwrap_or_default();
            state.history.push(&view.limit.name, totals.since(last, view.held.waiting));
            // One receiver is that of the state itself; any other one is an event stream.
            if samples.receiver_count() > 1 {
                let hang_ups = tally.map_or(Value::Null, |tally| hang_ups(&state, view, tally));
                summaries.push(summary(view, totals, hang_ups));
            }
        }
        state.history.samples().retain(|name, _| views.iter().any(|view| view.limit.name == *name));
        let now = json!({
            "at": wall_clock_ms(&state),
            "connections": state.drain.connections(),
            "running": state.drain.running_requests(),
            "draining": state.drain.is_draining(),
            // Changes with each configuration: the dashboard then fetches the warnings again.
            "configuration": state.current.version(),
            "state": health::persistence_word(state.gate.journal_health()),
            "store": health::store_word(state.gate.store_status().map_or(store::Health::Off, |status| status.health().0)),
            "limits": summaries,
        });
        samples.send_replace(now.to_string().into());
    }
}

/// Milliseconds since 1970 by the wall clock.
fn wall_clock_ms(state: &AdminState) -> i64 {
    i64::try_from(state.gate.clock().wall_unix_nanos() / 1_000_000).unwrap_or(0)
}

/// Handles `GET /v1/events`: each sample as a server-sent event named `limits`, once a second.
///
/// Its data is JSON: `at` (milliseconds since 1970), `connections` and `running` (numbers of open
/// connections and of running requests), `draining`, `configuration` (a number that changes with
/// each configuration), `state` and `store` (as in `/healthz`), and `limits`, a list of summaries.
pub(super) async fn stream(State(state): State<Arc<AdminState>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut samples: Receiver<Arc<str>> = state.latest.clone();
    // The last sample was taken without the limits if no stream was open. The next one is complete.
    samples.mark_unchanged();
    let events = WatchStream::from_changes(samples).map(|now| Ok(Event::default().event("limits").data(&*now)));
    Sse::new(events).keep_alive(KeepAlive::default())
}

/// Handles `GET /v1/history`: for each limit one list for each number, oldest second first.
///
/// The numbers are those of [`LimitSample`]. All lists of a limit have the same length, at most
/// 900.
pub(super) async fn history(State(state): State<Arc<AdminState>>) -> Json<Value> {
    let all = state.history.samples();
    let limits = all.iter().map(|(name, samples)| {
        let each = |of: fn(&LimitSample) -> Value| samples.iter().map(of).collect::<Vec<Value>>();
        let lists = json!({
            "permits": each(|sample| sample.permits.into()),
            "refused": each(|sample| sample.refused.into()),
            "waiting": each(|sample| sample.waiting.into()),
            "waited_ms": each(|sample| sample.waited_ms.into()),
            "pushbacks": each(|sample| sample.pushbacks.into()),
        });
        (name.to_string(), lists)
    });
    Json(json!({ "interval_ms": millis(SAMPLE_INTERVAL), "limits": limits.collect::<serde_json::Map<_, _>>() }))
}

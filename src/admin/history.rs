//! What the last quarter of an hour was like, second by second; and what is told each second to whoever listens.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use serde_json::{Value, json};
use tokio::sync::watch::{Receiver, Sender};
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};

use super::limits::{brief, millis};
use super::{House, health};
use crate::gate::store;
use crate::proxy::tally::Tally;

const SECOND: Duration = Duration::from_secs(1);
/// How many seconds are kept.
const KEPT: usize = 900;

/// The last seconds of each limit.
#[derive(Default)]
pub(super) struct History(Mutex<BTreeMap<Arc<str>, VecDeque<Second>>>);

/// What a limit did in a second.
#[derive(Clone, Copy, Default)]
struct Second {
    permits: u64,
    refused: u64,
    waiting: usize,
    /// The mean wait of those that went.
    waited_ms: f64,
    pushbacks: u64,
}

/// What a limit has counted since the start.
#[derive(Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) permits: u64,
    pub(super) refused: u64,
    pub(super) waited_ms: f64,
    pub(super) pushbacks: u64,
}

impl Totals {
    pub(super) fn of(tally: &Tally) -> Totals {
        Totals {
            permits: tally.permits.get(),
            refused: tally.refused().map(|(_, count)| count).sum(),
            waited_ms: tally.waits().sum * 1e3,
            pushbacks: tally.pushbacks.get(),
        }
    }

    fn since(self, before: Totals, waiting: usize) -> Second {
        let permits = self.permits - before.permits;
        let waited = self.waited_ms - before.waited_ms;
        Second {
            permits,
            refused: self.refused - before.refused,
            waiting,
            waited_ms: if permits > 0 { waited / permits as f64 } else { 0.0 },
            pushbacks: self.pushbacks - before.pushbacks,
        }
    }
}

impl History {
    fn seconds(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, VecDeque<Second>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, limit: &Arc<str>, second: Second) {
        let mut all = self.seconds();
        let seconds = all.entry(Arc::clone(limit)).or_default();
        if seconds.len() == KEPT {
            seconds.pop_front();
        }
        seconds.push_back(second);
    }
}

/// Looks once a second, as long as operators are received, and tells what it sees. What happens from this call on is
/// part of it, also what happens before the first look.
pub(super) fn watch(house: Arc<House>, tell: Sender<Arc<str>>) -> impl Future<Output = ()> {
    let tallies = house.tallies.limits().into_iter();
    let before: HashMap<Arc<str>, Totals> = tallies.map(|(name, tally)| (name, Totals::of(&tally))).collect();
    look(house, tell, before)
}

async fn look(house: Arc<House>, tell: Sender<Arc<str>>, mut before: HashMap<Arc<str>, Totals>) {
    let mut every_second = interval(SECOND);
    every_second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every_second.tick() => {}
            // Dropping the sender ends the streams of whoever listens.
            () = house.orders.closed() => return,
        }
        let views = house.gate.survey();
        let tallies: HashMap<_, _> = house.tallies.limits().into_iter().collect();
        let mut briefs = Vec::with_capacity(views.len());
        for view in &views {
            let totals = tallies.get(&view.limit.name).map(|tally| Totals::of(tally)).unwrap_or_default();
            let known = before.insert(Arc::clone(&view.limit.name), totals).unwrap_or_default();
            house.history.add(&view.limit.name, totals.since(known, view.held.waiting));
            // The house has a receiver of its own.
            if tell.receiver_count() > 1 {
                briefs.push(brief(view, totals));
            }
        }
        house.history.seconds().retain(|name, _| views.iter().any(|view| view.limit.name == *name));
        let now = json!({
            "at": millis_of_wall(&house),
            "connections": house.drain.connections(),
            "running": house.drain.running_requests(),
            "draining": house.drain.is_draining(),
            // Another number, another file: the page asks for its warnings again.
            "configuration": house.current.version(),
            "state": health::word(house.gate.journal_health()),
            "store": health::store_word(house.gate.store_status().map_or(store::Health::Off, |status| status.health().0)),
            "limits": briefs,
        });
        tell.send_replace(now.to_string().into());
    }
}

fn millis_of_wall(house: &House) -> i64 {
    i64::try_from(house.gate.clock().wall_unix_nanos() / 1_000_000).unwrap_or(0)
}

/// What is seen each second, as server-sent events.
pub(super) async fn events(State(house): State<Arc<House>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut seen: Receiver<Arc<str>> = house.latest.clone();
    // What was seen last may have been seen by nobody, and is not told in full.
    seen.mark_unchanged();
    let events = WatchStream::from_changes(seen).map(|now| Ok(Event::default().event("limits").data(&*now)));
    Sse::new(events).keep_alive(KeepAlive::default())
}

/// What was seen in the last quarter of an hour: for each limit a list for each number, oldest second first.
pub(super) async fn past(State(house): State<Arc<House>>) -> Json<Value> {
    let all = house.history.seconds();
    let limits = all.iter().map(|(name, seconds)| {
        let each = |of: fn(&Second) -> Value| seconds.iter().map(of).collect::<Vec<Value>>();
        let lists = json!({
            "permits": each(|second| second.permits.into()),
            "refused": each(|second| second.refused.into()),
            "waiting": each(|second| second.waiting.into()),
            "waited_ms": each(|second| second.waited_ms.into()),
            "pushbacks": each(|second| second.pushbacks.into()),
        });
        (name.to_string(), lists)
    });
    Json(json!({ "interval_ms": millis(SECOND), "limits": limits.collect::<serde_json::Map<_, _>>() }))
}

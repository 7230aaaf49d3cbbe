//! What the store is told and asked, and what it answers: plain values.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::locker::api::{Key, LimitId};
use crate::locker::window::{Algorithm, WindowRule};
use crate::time::Time;

/// What the store is told and asked at one time.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SyncRequest {
    /// The store must know this gateway by another name first, so that it forgets what it knows of limits that are shared
    /// no more.
    pub renew_id: bool,
    /// How long before its opening a slot may be granted.
    pub horizon: Duration,
    /// The windows it is about.
    pub windows: Vec<WindowReport>,
    /// What is asked for.
    pub slot_requests: Vec<SlotRequest>,
}

/// What the store is told of one window.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WindowReport {
    pub(crate) window: u32,
    pub(crate) generation: u32,
    /// Of which limit.
    pub limit: LimitId,
    /// Under which key.
    pub key: Key,
    /// How the store is to count it.
    pub params: WindowParams,
    /// The store does not know of it under this gateway's present name: `held` and `flying` are all that it has.
    pub is_new: bool,
    /// Slots taken and not settled, and requests under way; after all that is told here.
    pub held: u32,
    /// See `held`.
    pub flying: u32,
    /// How many slots those need who wait and have none granted.
    pub waiting: u64,
    /// Nothing is to open before.
    pub paused: Time,
    /// How many slots settled when, oldest first.
    pub settled: Vec<(Time, u32)>,
    /// Granted slots that were not used.
    pub returned: u32,
    /// Requests that have ended.
    pub landed: u32,
}

/// How a window is to be counted; durations in nanoseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WindowParams {
    /// What opens when.
    pub kind: SharedKind,
    /// `calendar`: the unit and the zone, such as "day Europe/Berlin".
    pub calendar: Option<Arc<str>>,
    /// N.
    pub requests: u32,
    /// T and guard.
    pub span: u64,
    /// `smooth`: the distance that is kept,
    pub interval: u64,
    /// and how many may go without it.
    pub burst: u32,
    /// How many requests may be under way; `None`: any number.
    pub in_flight: Option<u32>,
    /// How long after a gateway's death what it had sent may still be counted.
    pub linger: Duration,
}

/// The kinds of windows, as the store knows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SharedKind {
    /// Only requests under way are counted.
    Flights,
    /// Exact.
    Sliding,
    /// From the first request on.
    Fixed,
    /// Exact, and spaced.
    Smooth,
    /// By the wall clock: when the present window began, when it ends, and when the next one ends, in nanoseconds of Unix
    /// time.
    Calendar([i128; 3]),
}

/// What is asked for: the same for each of a number of requests, in all windows or in none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotRequest {
    pub(crate) group: Option<(u32, u32)>,
    /// For how many requests.
    pub requests: u32,
    /// Slots beyond those, if there are plenty; of one window only.
    pub prefetch: u32,
    /// For each window, by its place in the exchange, how many slots a request needs.
    pub windows: SmallVec<[(usize, u32); 2]>,
}

/// The store's answer to one take.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SlotGrant {
    /// In how long how many requests may go, soonest first.
    pub groups: Vec<(Duration, u32)>,
    /// How many slots were granted beyond.
    pub prefetch: u32,
    /// In how long more may open; `None`: all that was asked for was granted.
    pub next_in: Option<Duration>,
    /// Whether something opens then; if not, it is when to ask again.
    pub opens_then: bool,
    /// For how long each of the windows keeps the next request back.
    pub blocked_for: SmallVec<[Duration; 2]>,
}

impl WindowRule {
    /// How the store is to count its windows.
    pub(super) fn params(&self) -> WindowParams {
        let kind = match &self.algorithm {
            Algorithm::Uncounted => SharedKind::Flights,
            Algorithm::Sliding => SharedKind::Sliding,
            Algorithm::Fixed => SharedKind::Fixed,
            Algorithm::Smooth => SharedKind::Smooth,
            Algorithm::Calendar { .. } => SharedKind::Calendar(self.period_bounds()),
        };
        let linger = if self.answered { self.linger } else { Duration::ZERO };
        let in_flight = self.counts_flights().then_some(self.in_flight);
        let (interval, burst) = (self.interval, self.burst);
        let calendar = self.calendar.clone();
        WindowParams { kind, calendar, requests: self.requests, span: self.span, interval, burst, in_flight, linger }
    }
}

//! Store synchronisation messages: reports and slot requests to the store, and its grants. Plain values.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::locker::api::{Key, LimitId};
use crate::locker::window::{Algorithm, WindowRule};
use crate::time::Time;

/// Cause of a call to the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncTrigger {
    /// The heartbeat: a call is made even if there is nothing to report.
    Heartbeat,
    /// The locker's signal: reports or slot requests are due.
    Due,
}

/// One call to the store: reports of windows, and requests for slots.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SyncRequest {
    /// True if this gateway must take a new client id first, so that the store forgets the limits that are no longer
    /// shared.
    pub renew_id: bool,
    /// Time before its opening at which a slot may be granted.
    pub horizon: Duration,
    /// Reports of the windows, which the slot requests refer to by index.
    pub windows: Vec<WindowReport>,
    /// Requests for slots.
    pub slot_requests: Vec<SlotRequest>,
}

/// Report of one window: everything that changed since the last report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WindowReport {
    /// Index of the window in the window table.
    pub(crate) window: u32,
    /// Generation of the window, to recognise that it was dropped before the answer came.
    pub(crate) generation: u32,
    /// Limit of the window.
    pub limit: LimitId,
    /// Key of the window.
    pub key: Key,
    /// Parameters by which the store counts it.
    pub params: WindowParams,
    /// True if the store does not know the window under this gateway's present id: `held` and `flying` are complete.
    pub is_new: bool,
    /// Slots taken and not settled, after all changes in this report.
    pub held: u32,
    /// Flights, after all changes in this report.
    pub flying: u32,
    /// Number of slots that waiters need and that are not leased yet.
    pub waiting: u64,
    /// End of a pause: nothing may open before.
    pub paused: Time,
    /// Settle times and the number of slots that settled at each, oldest first.
    pub settled: Vec<(Time, u32)>,
    /// Number of leased slots returned unused.
    pub returned: u32,
    /// Number of flights that have ended.
    pub landed: u32,
}

/// Parameters of a window, compared between gateways; durations in nanoseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WindowParams {
    /// Window kind.
    pub kind: SharedKind,
    /// `calendar`: unit and IANA zone, such as "day Europe/Berlin".
    pub calendar: Option<Arc<str>>,
    /// N, the number of slots; `u32::MAX` if slots are not counted.
    pub requests: u32,
    /// T plus guard.
    pub span: u64,
    /// `smooth`: spacing between requests.
    pub interval: u64,
    /// `smooth`: number of slots that may go without spacing.
    pub burst: u32,
    /// M, the maximum of flights; `None` for no maximum.
    pub in_flight: Option<u32>,
    /// Time after a gateway's crash for which the origin may still count its requests.
    pub linger: Duration,
}

/// Window kinds of the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SharedKind {
    /// Counts flights only.
    Flights,
    /// Sliding window, exact.
    Sliding,
    /// Fixed window, starting with its first request.
    Fixed,
    /// Sliding window with GCRA spacing.
    Smooth,
    /// Calendar window: start and end of the present period and end of the next one, in nanoseconds of Unix time.
    Calendar([i128; 3]),
}

/// Request for the slots of a number of equal requests, each in all windows or in none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotRequest {
    /// Waiter group and its generation; `None` if no waiter needs the slots yet.
    pub(crate) group: Option<(u32, u32)>,
    /// Number of requests.
    pub requests: u32,
    /// Number of slots to lease beyond those if plenty are free; only with a single window.
    pub prefetch: u32,
    /// Index in [`SyncRequest::windows`] and number of slots per request, for each window.
    pub windows: SmallVec<[(usize, u32); 2]>,
}

/// Answer of the store to one slot request.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SlotGrant {
    /// Granted requests: time from now until they may go, and their number; soonest first.
    pub groups: Vec<(Duration, u32)>,
    /// Number of slots granted as `prefetch`.
    pub prefetch: u32,
    /// Time until more may open; `None` if everything was granted.
    pub next_in: Option<Duration>,
    /// True if slots open after `next_in`; false if that is only the time to ask again.
    pub opens_then: bool,
    /// Time for which each of the windows blocks the next request.
    pub blocked_for: SmallVec<[Duration; 2]>,
}

impl WindowRule {
    /// Parameters by which the store counts the limit's windows.
    pub(in crate::locker) fn params(&self) -> WindowParams {
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

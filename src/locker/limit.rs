//! A limit: how many, in what time, and what its waiters may expect.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

/// A rule from `proxy.toml`, as the locker needs it.
#[derive(Clone, PartialEq, Debug)]
pub struct Limit {
    /// The name in `proxy.toml`: a limit that keeps it keeps its windows when the file is read again.
    pub name: Arc<str>,
    /// What its windows are told apart by, in whatever words. When that changes, no window can be found under its old key.
    pub keyed_by: Arc<str>,
    /// How many requests in what time; `None` if only `in_flight` is capped.
    pub rate: Option<Rate>,
    /// How many requests may be between their permit and the end of their response.
    pub in_flight: Option<u32>,
    /// What becomes of a request that finds no free slot.
    pub when_full: WhenFull,
    /// The longest that a request may wait.
    pub max_wait: Duration,
    /// How many requests may wait at one window.
    pub max_waiting: usize,
    /// Who takes turns in the queue.
    pub share_by: ShareBy,
    /// What the urgency that a request states (RFC 9218) is compared with.
    pub priority: Priority,
    /// How many keys may have a window at one time.
    pub max_keys: usize,
    /// Decide and count, but let everything go.
    pub dry_run: bool,
    /// Counted together with all gateways of the same store; but not while it is a `dry_run`.
    pub shared: bool,
}

impl Limit {
    /// How long a failed attempt may still reach the origin, and so when its slots settle: a lost segment is sent again
    /// within 200 ms to 1 s on every common system.
    pub fn linger(&self) -> Duration {
        const LEAST: Duration = Duration::from_secs(1);
        self.rate.as_ref().map_or(LEAST, |rate| rate.guard.max(LEAST))
    }
}

/// How many requests a window lets through in what time, and how it counts them.
#[derive(Clone, PartialEq, Debug)]
pub struct Rate {
    /// N: how many slots a window has, 1 to 10 000 000.
    pub requests: u32,
    /// T: how long a settled slot stays taken, 1 ms to 366 d.
    pub per: Duration,
    /// How much longer than `per` a slot stays taken, to cover the network's jitter.
    pub guard: Duration,
    /// Which spans of time the promise speaks of.
    pub kind: Kind,
    /// The moment from which a slot's time runs.
    pub counts: Counts,
}

/// The window kinds of spec §3.
#[derive(Clone, PartialEq, Debug)]
pub enum Kind {
    /// Exact: never more than N in any span of T.
    Sliding,
    /// A window opens with the first request after the last one ended.
    Fixed,
    /// A window starts on each boundary of a wall-clock unit in a time zone.
    Calendar {
        /// Minute, hour or day.
        unit: Unit,
        /// Whose boundaries.
        zone: TimeZone,
    },
    /// T/N between requests, `burst` at once, and never more than N in any span of T.
    Smooth {
        /// How many slots may be used at once after a pause, at least 1.
        burst: u32,
    },
}

/// What a `calendar` window is as long as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// From a full minute to the next.
    Minute,
    /// From a full hour of the local clock to the next; an hour that the clock repeats is one window.
    Hour,
    /// From midnight of the local clock to the next.
    Day,
}

/// The moment from which a taken slot's time runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counts {
    /// When the request's head has been handed to an established connection.
    Sent,
    /// When the response head has come back.
    Answered,
}

/// What becomes of a request that finds no free slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenFull {
    /// It waits its turn.
    Wait,
    /// It is refused at once.
    Refuse,
}

/// Who takes turns in a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShareBy {
    /// Waiters of different callers take turns.
    Caller,
    /// First come, first served.
    Nobody,
}

/// What the urgency of a request (RFC 9218) is compared with in a queue.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Priority {
    /// That of its caller's other requests: the more urgent goes in the first of its caller's turns.
    #[default]
    WithinCaller,
    /// That of everybody's: the more urgent goes first, whoever asks.
    Strict,
    /// Nothing.
    None,
}

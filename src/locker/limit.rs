//! Limit definition: rate, window kind, and the rules of its queue.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

/// Most slots of a limit, far above what a configuration may name, and of a window's record. A window counts both
/// together without an overflow.
pub(crate) const MAX_SLOTS: u32 = u32::MAX / 2;

/// One limit of `proxy.toml`, in the form that the locker needs.
#[derive(Clone, PartialEq, Debug)]
pub struct Limit {
    /// Name in `proxy.toml`. A limit that keeps its name keeps its windows when the file is
    /// reloaded.
    pub name: Arc<str>,
    /// Description of what the windows are counted per. If it changes on a reload, no window is
    /// found under its old key.
    pub keyed_by: Arc<str>,
    /// Rate; `None` if only `in_flight` is capped.
    pub rate: Option<Rate>,
    /// M, the maximum of requests between their permit and the end of their response; `None` for no
    /// maximum.
    pub in_flight: Option<u32>,
    /// Behaviour if no slot is free.
    pub when_full: WhenFull,
    /// Maximum wait of a request.
    pub max_wait: Duration,
    /// Maximum number of waiters at one window.
    pub max_waiting: usize,
    /// Order of waiters of different callers.
    pub share_by: ShareBy,
    /// Scope in which the urgency of requests (RFC 9218) is compared.
    pub priority: Priority,
    /// Maximum number of keys that have a window at one time.
    pub max_keys: usize,
    /// Counts and decides, but refuses and delays nothing.
    pub dry_run: bool,
    /// Counted together with all gateways of the same store, except while it is a `dry_run`.
    pub shared: bool,
}

impl Limit {
    /// Time for which a failed attempt may still reach the origin, after which its slots settle:
    /// the guard, at least 1 s. A lost segment is retransmitted within 200 ms to 1 s on every
    /// common system.
    pub fn linger(&self) -> Duration {
        // Longest of the retransmission times above.
        const LEAST: Duration = Duration::from_secs(1);
        self.rate.as_ref().map_or(LEAST, |rate| rate.guard.max(LEAST))
    }
}

/// Number of requests per time, and the way in which they are counted.
#[derive(Clone, PartialEq, Debug)]
pub struct Rate {
    /// N: number of slots per window, 1 to 10 000 000.
    pub requests: u32,
    /// T: time for which a settled slot stays taken, 1 ms to 366 d.
    pub per: Duration,
    /// Time added to `per` for which a slot stays taken, to cover the network's jitter.
    pub guard: Duration,
    /// Window kind: the spans of time for which the rate is guaranteed.
    pub kind: Kind,
    /// Moment from which a slot's time runs.
    pub counts: Counts,
}

/// Window kind: which slots are free at a moment, given the uses before it.
#[derive(Clone, PartialEq, Debug)]
pub enum Kind {
    /// Sliding window: never more than N in any span of T, exactly.
    Sliding,
    /// Fixed window: starts with the first request after the last one ended.
    Fixed,
    /// Calendar window: starts on each boundary of a wall-clock unit in a time zone.
    Calendar {
        /// Minute, hour or day.
        unit: Unit,
        /// Time zone of the boundaries.
        zone: TimeZone,
    },
    /// GCRA: T/N between requests, `burst` at once, and never more than N in any span of T.
    Smooth {
        /// Number of slots that may be used at once after a pause, at least 1.
        burst: u32,
    },
}

/// Length of a `calendar` window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// From a full minute to the next.
    Minute,
    /// From a full hour of the local clock to the next; an hour that the clock repeats is one
    /// window.
    Hour,
    /// From midnight of the local clock to the next.
    Day,
}

/// Moment from which a taken slot's time runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counts {
    /// Departure: the request's head has been handed to an established connection.
    Sent,
    /// Answer: the response head has come back.
    Answered,
}

/// Behaviour of a limit without a free slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenFull {
    /// Queues the request.
    Wait,
    /// Refuses the request at once.
    Refuse,
}

/// Order of waiters of different callers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShareBy {
    /// Fair queueing: the callers take turns.
    Caller,
    /// First come, first served.
    Nobody,
}

/// Scope in which a queue compares the urgency of requests (RFC 9218).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Priority {
    /// Within a caller: the more urgent request goes in the first of its caller's turns.
    #[default]
    WithinCaller,
    /// Across all callers: the more urgent request goes first.
    Strict,
    /// None: urgency is ignored.
    None,
}

//! Request and response types of the limiter: asks, claims, verdicts, grants. Plain values without
//! behaviour.

use std::time::Duration;

use smallvec::SmallVec;

use crate::time::Time;

/// Limit identifier: the limit's index in [`crate::locker::Locker::limits`]. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LimitId(pub u32);

impl LimitId {
    /// The index as `usize`.
    pub(super) const fn at(self) -> usize {
        self.0 as usize
    }
}

/// Key of a window: a 128-bit keyed hash of the values that a limit is counted per, computed by the
/// layers above. Two keys with the same hash share one window, which delays more requests, never
/// fewer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(pub u128);

impl Key {
    /// Key of a limit that is counted as a whole.
    pub const WHOLE: Key = Key(0);
}

/// Claim: the slots that a request must be granted under one limit and key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The limit.
    pub limit: LimitId,
    /// The window's key.
    pub key: Key,
    /// Number of slots, at least 1.
    pub cost: u32,
}

/// Caller identifier for fair queueing: a hash of the caller's name or address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Caller(pub u64);

/// Request for a permit: all claims of one HTTP request, and its bounds on the wait.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// All claims of the request, in the order of the limits in the file. At most one claim per
    /// window. Callers take turns at the window of the first limit that most requests wait for, so
    /// the broadest limit is best put first.
    pub claims: &'a [Claim],
    /// The caller.
    pub caller: Caller,
    /// RFC 9218 urgency: 0 (first) to 7; 3 if the request states none.
    pub urgency: u8,
    /// The request's own bound on the wait; can only shorten that of the limits.
    pub max_wait: Option<Duration>,
    /// Time at which the request first arrived; `None` means now.
    pub arrived: Option<Time>,
    /// First request, retry, or asked again.
    pub kind: AskKind,
}

/// History of a request: whether it has asked before, and with which result.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum AskKind {
    /// First ask.
    #[default]
    New,
    /// Had a permit and needs another one. Its turn is the present one, before its caller's other
    /// requests.
    Retry,
    /// Was queued, and must ask again because the limits were reloaded or another process took
    /// over. Keeps its turn among its caller's requests, and is not refused for reasons that
    /// concern only new requests.
    Reask {
        /// True if it was queued for a retry.
        retry: bool,
    },
}

impl AskKind {
    /// True for a retry, including one that asks again.
    pub(super) fn is_retry(self) -> bool {
        matches!(self, AskKind::Retry | AskKind::Reask { retry: true })
    }

    /// True if the request was queued before.
    pub(crate) fn was_queued(self) -> bool {
        matches!(self, AskKind::Reask { .. })
    }

    /// The same kind, for a request that was queued.
    pub(super) fn as_reask(self) -> AskKind {
        AskKind::Reask { retry: self.is_retry() }
    }
}

/// Verdict: the answer to an ask.
#[derive(Debug)]
pub enum Verdict {
    /// Granted: all slots are taken.
    Go(Grant),
    /// Queued: `poll_verdict` will return this ticket. The time is a forecast of its turn (a lower
    /// bound), if known.
    Wait(Ticket, Option<Time>),
    /// Refused: the request may not go, and is not queued.
    Sorry(Sorry),
}

/// Refusal: its reason, and the time at which another ask makes sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sorry {
    /// Reason of the refusal.
    pub reason: RefusalReason,
    /// Limit that refused.
    pub limit: LimitId,
    /// Time at which another ask makes sense. Never `Time::NEVER`: if the opening is unknown, a
    /// best estimate of at least now + 1 ms.
    pub until: Time,
    /// True if `until` is exact unless other requests come first; false for a lower bound or an
    /// estimate.
    pub exact: bool,
}

/// Reason of a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusalReason {
    /// No slot is free, and the limit refuses instead of queueing.
    Full,
    /// The predicted wait is longer than the request may wait.
    TooLong,
    /// The queue holds its maximum of waiters.
    QueueFull,
    /// The request has waited for its maximum wait.
    TimedOut,
    /// The limit has its maximum of windows, and the request's key has none.
    TooManyKeys,
    /// The claim costs more slots than the limit has.
    CostTooHigh,
    /// The limit is shared with other gateways, and the store that counts it is unreachable.
    StoreLost,
    /// A slot is free, but must be written to the journal first, and the write fails.
    Unwritten,
}

/// Ticket of a waiter: its index and a generation by which stale tickets are recognised.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket {
    /// Index of the waiter in its slab.
    pub(crate) index: u32,
    /// Generation of that place: a ticket with another one is stale.
    pub(crate) generation: u32,
}

/// Slots that a grant holds in one window.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldSlots {
    /// Index of the window in the window table.
    pub(super) window: u32,
    /// Generation of the window, to recognise that it was dropped.
    pub(super) generation: u32,
    /// Limit of the window.
    pub(super) limit: LimitId,
    /// Number of slots.
    pub(super) cost: u32,
    /// True if the slots settle with the response head, false if with the departure of the
    /// request's head.
    pub(super) answered: bool,
    /// True after the slots have settled.
    pub(super) settled: bool,
    /// True while the flight counts against `in_flight`.
    pub(super) flying: bool,
}

/// The taken slots of one request. Its holder calls `settle` and then `finish`, or `give_back` alone
/// if nothing was sent.
#[derive(Debug)]
pub struct Grant {
    /// Slots by window.
    pub(super) held: SmallVec<[HeldSlots; 2]>,
    /// See [`Grant::dry_run_hit`].
    pub(super) dry_run_hit: Option<Box<(LimitId, Time)>>,
    /// See [`Grant::until`].
    pub(super) until: Time,
}

impl Default for Grant {
    fn default() -> Grant {
        Grant { held: SmallVec::new(), dry_run_hit: None, until: Time::NEVER }
    }
}

impl Grant {
    /// True if any claim settles only with the response head.
    pub fn awaits_answer(&self) -> bool {
        self.held.iter().any(|held| held.answered && !held.settled)
    }

    /// True if the locker must be told of the response's end (`in_flight`).
    pub fn holds_flight(&self) -> bool {
        self.held.iter().any(|held| held.flying)
    }

    /// Limits under which slots are held; for tests of the requests sent.
    #[cfg(test)]
    pub(crate) fn limits(&self) -> Vec<LimitId> {
        self.held.iter().map(|held| held.limit).collect()
    }

    /// Number of slots held under a limit.
    #[cfg(test)]
    pub(crate) fn cost_of(&self, limit: LimitId) -> u32 {
        self.held.iter().filter(|held| held.limit == limit).map(|held| held.cost).sum()
    }

    /// True if nothing is held (no claims), so that no further call to the locker is needed.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Time by which the request must have left: afterwards its slots belong to other gateways.
    pub fn until(&self) -> Time {
        self.until
    }

    /// First dry-run limit that would have delayed or refused the request, and the time until
    /// which.
    pub fn dry_run_hit(&self) -> Option<(LimitId, Time)> {
        self.dry_run_hit.as_deref().copied()
    }
}

/// Point in a request's life that a settle reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SettlePoint {
    /// The head was handed to an established connection: claims that count `sent` settle now.
    Sent,
    /// The final response head is back: all claims settle now.
    Answered,
    /// The attempt failed after bytes may have left: claims not yet settled settle at now + linger
    /// (max(guard, 1 s)).
    Failed,
}

/// Usage of a window at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Slots taken, settled or not; 0 if the key has no window.
    pub taken: u32,
    /// Flights, counted only if `in_flight` is capped.
    pub flying: u32,
    /// Waiters that need this window.
    pub waiting: usize,
    /// Time at which a request of cost 1 would go if no other came; `None` if that depends on a
    /// settle or finish.
    pub opens: Option<Time>,
}

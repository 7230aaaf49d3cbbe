//! What the locker is asked, and what it answers: plain values.

use std::time::Duration;

use smallvec::SmallVec;

use crate::time::Time;

/// A limit's place in the list the locker was made with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LimitId(pub u32);

impl LimitId {
    pub(super) const fn at(self) -> usize {
        self.0 as usize
    }
}

/// What a limit is counted per: a 128-bit keyed hash of the key's parts (made by the room that knows them).
/// Two keys with the same hash share one window, which holds back more, never less.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(pub u128);

impl Key {
    /// The key of a limit that is counted as a whole.
    pub const WHOLE: Key = Key(0);
}

/// One limit, one key, and how many slots of that window a request must be granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Which limit.
    pub limit: LimitId,
    /// Which of its windows.
    pub key: Key,
    /// How many slots, at least 1.
    pub cost: u32,
}

/// Who takes turns: a hash of the caller's name or address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Caller(pub u64);

/// Everything one request must be granted, and how patient it is.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// All claims of the request, in the order of the limits in the file. At most one claim per window.
    /// Turns are taken at the window of the first limit that most wait for, so the broadest limit is best put first.
    pub claims: &'a [Claim],
    /// Who asks.
    pub caller: Caller,
    /// RFC 9218 urgency: 0 (first) to 7; 3 unless the caller says.
    pub urgency: u8,
    /// A caller's own bound on the wait; can only shorten that of the limits.
    pub max_wait: Option<Duration>,
    /// When the request first arrived; `None`: now.
    pub arrived: Option<Time>,
    /// Whether it has asked before.
    pub kind: AskKind,
}

/// Whether a request has asked before, and what came of that.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum AskKind {
    /// It asks for the first time.
    #[default]
    New,
    /// It had a permit, and needs another one: its turn is the present one, before its caller's other requests.
    Retry,
    /// It was in line, and was sent back because the limits were read again or another process took over: it takes its turn
    /// among its caller's requests, and is not refused for what only newcomers are refused for.
    Reask {
        /// Whether it was in line for a retry.
        retry: bool,
    },
}

impl AskKind {
    pub(super) fn is_retry(self) -> bool {
        matches!(self, AskKind::Retry | AskKind::Reask { retry: true })
    }

    /// Whether it has been in line before.
    pub(crate) fn was_queued(self) -> bool {
        matches!(self, AskKind::Reask { .. })
    }

    /// As one that was in line.
    pub(super) fn as_reask(self) -> AskKind {
        AskKind::Reask { retry: self.is_retry() }
    }
}

/// The answer to an ask.
#[derive(Debug)]
pub enum Verdict {
    /// All slots are taken for it.
    Go(Grant),
    /// It is in line; `poll_verdict` will name the ticket. `until`: forecast of its turn (a lower bound), if known.
    Wait(Ticket, Option<Time>),
    /// It may not go, and does not wait.
    Sorry(Sorry),
}

/// Why a request may not go, and when asking again makes sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sorry {
    /// What stands in the way.
    pub reason: RefusalReason,
    /// The limit that refused.
    pub limit: LimitId,
    /// When asking again makes sense; `Time::NEVER` is never used here: an unknown opening gives a best
    /// estimate (at least now + 1 ms).
    pub until: Time,
    /// Whether `until` is exact if nobody else comes first (else a lower bound or an estimate).
    pub exact: bool,
}

/// The reasons for a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusalReason {
    /// No slot is free and the limit refuses instead of queueing.
    Full,
    /// The predicted wait is longer than the request may wait.
    TooLong,
    /// As many wait as may wait.
    QueueFull,
    /// It waited as long as it may.
    TimedOut,
    /// As many keys have a window as may have one.
    TooManyKeys,
    /// It costs more than the limit has slots.
    CostTooHigh,
    /// Its slots are counted together with other gateways, and the store where they are counted cannot be asked.
    StoreLost,
    /// There is room, but what it would take must be written down first, and cannot be.
    Unwritten,
}

/// A place in a queue. Stale tickets are recognised by their generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// The slots that a grant has in one window.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldSlots {
    pub(super) window: u32,
    pub(super) generation: u32,
    pub(super) limit: LimitId,
    pub(super) cost: u32,
    /// Settles when the response head is back, not when the request's head has left.
    pub(super) answered: bool,
    pub(super) settled: bool,
    pub(super) flying: bool,
}

/// The taken slots of one request. Whoever holds it owes the locker its settles, or `give_back`, and `finish`.
#[derive(Debug)]
pub struct Grant {
    pub(super) held: SmallVec<[HeldSlots; 2]>,
    pub(super) dry_run_hit: Option<Box<(LimitId, Time)>>,
    pub(super) until: Time,
}

impl Default for Grant {
    fn default() -> Grant {
        Grant { held: SmallVec::new(), dry_run_hit: None, until: Time::NEVER }
    }
}

impl Grant {
    /// Whether any claim settles only when the response head is back.
    pub fn awaits_answer(&self) -> bool {
        self.held.iter().any(|held| held.answered && !held.settled)
    }

    /// Whether the locker must be told of the response's end (`in_flight`).
    pub fn holds_flight(&self) -> bool {
        self.held.iter().any(|held| held.flying)
    }

    /// The limits whose slots are held, and how many of each; for tests that judge what is sent.
    #[cfg(test)]
    pub(crate) fn limits(&self) -> Vec<LimitId> {
        self.held.iter().map(|held| held.limit).collect()
    }

    #[cfg(test)]
    pub(crate) fn cost_of(&self, limit: LimitId) -> u32 {
        self.held.iter().filter(|held| held.limit == limit).map(|held| held.cost).sum()
    }

    /// Whether nothing is held (no claims): no call to the locker is owed.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What has not left by then may not leave: its slots are other gateways' by then.
    pub fn until(&self) -> Time {
        self.until
    }

    /// The first dry-run limit that would have held the request back, and until when.
    pub fn dry_run_hit(&self) -> Option<(LimitId, Time)> {
        self.dry_run_hit.as_deref().copied()
    }
}

/// Which moment of a request's way a settle reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SettlePoint {
    /// The head was handed to an established connection: claims that count `sent` settle now.
    Sent,
    /// The final response head is back: all claims settle now.
    Answered,
    /// The attempt failed after bytes may have left: all claims not yet settled settle at now + linger (max(guard, 1 s)).
    Failed,
}

/// What a window holds at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Slots taken (settled and not), 0 if the key has no window.
    pub taken: u32,
    /// Requests between permit and end; counted only where `in_flight` is capped.
    pub flying: u32,
    /// Requests in line that need this window.
    pub waiting: usize,
    /// When a request of cost 1 would go if nobody else came; `None`: depends on a settle or finish.
    pub opens: Option<Time>,
}

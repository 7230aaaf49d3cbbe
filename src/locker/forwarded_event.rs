//! Events that a process forwards to the one that took over its windows, and the grants that come
//! back: plain values.

use smallvec::SmallVec;

use super::api::{AskKind, Caller, Claim, Key, LimitId, Ticket};
use crate::time::Time;

/// One event of a request with windows in another process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A request asks.
    Ask {
        /// Names it in the verdict.
        ticket: Ticket,
        /// All that it must be granted.
        claims: SmallVec<[Claim; 2]>,
        /// The caller that takes turns.
        caller: Caller,
        /// RFC 9218 urgency.
        urgency: u8,
        /// Time of its arrival.
        arrived: Time,
        /// The caller's own bound on its wait; `Time::NEVER`: none.
        bound: Time,
        /// Says if it has asked before.
        kind: AskKind,
    },
    /// A request that asked has left.
    Leave(Ticket),
    /// Slots settle, at a time that may lie ahead.
    Settle {
        /// In which window,
        limit: LimitId,
        /// under which key,
        key: Key,
        /// how many,
        cost: u32,
        /// and at what time.
        at: Time,
    },
    /// Slots were not used.
    GiveBack {
        /// In which window,
        limit: LimitId,
        /// under which key,
        key: Key,
        /// and how many.
        cost: u32,
    },
    /// A request has ended (`in_flight`).
    Land {
        /// In which window,
        limit: LimitId,
        /// under which key.
        key: Key,
    },
    /// A pause: nothing opens in a window before `until`.
    Pause {
        /// In which window,
        limit: LimitId,
        /// under which key,
        key: Key,
        /// and its end.
        until: Time,
    },
}

impl Event {
    /// Returns true if all limits of the event are known, of which there are so many, and each
    /// claim takes slots. Any other event is none of a process before this one.
    pub(super) fn is_valid(&self, limits: usize) -> bool {
        let known = |limit: LimitId| limit.at() < limits;
        match self {
            Event::Ask { claims, .. } => claims.iter().all(|claim| known(claim.limit) && claim.cost > 0),
            Event::Leave(_) => true,
            Event::Settle { limit, .. }
            | Event::GiveBack { limit, .. }
            | Event::Land { limit, .. }
            | Event::Pause { limit, .. } => known(*limit),
        }
    }
}

/// Slots of one window that were granted by the other process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GrantedSlots {
    /// Their limit.
    pub limit: LimitId,
    /// Their key.
    pub key: Key,
    /// Number of slots.
    pub cost: u32,
    /// True if they settle with the answer.
    pub answered: bool,
    /// True if the end of the request must be told (`in_flight`).
    pub flying: bool,
    /// A request that has not left by then may not leave.
    pub until: Time,
}

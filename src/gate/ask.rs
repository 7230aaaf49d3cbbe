//! Options of a request for slots, and the reasons of a refusal.
//!
//! Claims and the caller are passed apart from these options: they say which slots are asked for,
//! and for which caller. The options say how long and in which order the request waits for them.

use std::time::Duration;

use crate::locker::{AskKind, Sorry};
use crate::time::Time;

/// Number of reloads that may have changed which limits a request must pass. Claims are valid only for the revision
/// that they were built from.
///
/// Starts at 0, and increases by one with each reload under `WaiterPolicy::Reask`. A reload under
/// `WaiterPolicy::Stay` leaves it as it is. It is local to the process and not persisted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Revision(pub(super) u64);

impl Revision {
    /// Revision after the next reload.
    pub(super) fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

/// Wait preferences of a request, and the revision of its claims.
///
/// Default: urgency 3, no bound besides that of the limits, arrival now, a new request of revision
/// 0.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// RFC 9218 urgency: 0 (first) to 7.
    /// 3 is the default of RFC 9218, section 4.1. Its effect depends on `priority` of the limit.
    pub urgency: u8,
    /// Longest wait that the caller accepts; it can only shorten `max_wait` of the limits.
    /// Counts from `arrived`; `None`: no bound of the caller.
    pub max_wait: Option<Duration>,
    /// Time of the request's first arrival, which decides its place in the queue; `None`: now.
    pub arrived: Option<Time>,
    /// Distinguishes a new request from a retry and from one that asks again after a reload; the latter two keep their
    /// place.
    pub kind: AskKind,
    /// Revision that its claims were built from; an outdated one is refused with [`Refused::Reask`].
    pub revision: Revision,
}

impl Default for Patience {
    /// Urgency as in RFC 9218, section 4.1. The revision is that of a gate before its first reload.
    fn default() -> Self {
        Patience { urgency: 3, max_wait: None, arrived: None, kind: AskKind::New, revision: Revision::default() }
    }
}

/// Reason of a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// A limit refused.
    Sorry(Sorry),
    /// The gateway shuts down, and the request cannot be granted before its end. Fault of the gateway.
    Closing {
        /// End of the shutdown grace.
        until: Time,
    },
    /// A reload may have changed which limits the request must pass. Its claims must be built anew, and it must ask
    /// again at once with its original arrival time.
    /// Nothing was counted for the request.
    Reask,
}

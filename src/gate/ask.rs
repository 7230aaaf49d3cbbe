//! Options of a request for slots, and why it may be refused.

use std::time::Duration;

use crate::locker::{AskKind, Sorry};
use crate::time::Time;

/// How often the limits were read so that a request may have to pass others than before. Claims are good for the revision
/// by whose rules they were found.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Revision(pub(super) u64);

impl Revision {
    pub(super) fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

/// How a request wants to be treated in line, and by which rules its claims were found.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// RFC 9218 urgency: 0 (first) to 7.
    pub urgency: u8,
    /// The caller's own bound on the wait; it can only shorten that of the limits.
    pub max_wait: Option<Duration>,
    /// When the request first arrived; `None`: now.
    pub arrived: Option<Time>,
    /// Whether it has asked before: what has keeps its place in line.
    pub kind: AskKind,
    /// By which rules its claims were found; with others than those in force it is refused with [`Refused::Reask`].
    pub revision: Revision,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { urgency: 3, max_wait: None, arrived: None, kind: AskKind::New, revision: Revision::default() }
    }
}

/// A refusal of the gate's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// A limit refused.
    Sorry(Sorry),
    /// The gateway shuts down, and this request could not have gone before its end.
    Closing {
        /// The end.
        until: Time,
    },
    /// The limits were read again, and it may have to pass others now: its claims must be found anew, and it must ask again
    /// at once, as one that arrived when it did.
    Reask,
}

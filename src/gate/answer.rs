//! Answer to a request for slots: a permit, a wait for one, or a refusal.
//!
//! The answer is bound to the gate: dropping any variant returns its slots, or leaves the queue.

use super::ask::Refused;
use super::permit::Permit;
use super::wait_slots::Waiting;

/// Immediate answer to a request for a permit.
pub enum Answer {
    /// Granted: the request may be sent now.
    /// The permit holds its slots until it departs or is dropped.
    Go(Permit),
    /// Queued: await this for the verdict.
    /// It is queued already, before the first poll.
    Wait(Waiting),
    /// Refused now.
    /// It has left no trace in the queue.
    Sorry(Refused),
}

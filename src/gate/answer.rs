//! Answer to a request for slots: a permit, a wait for one, or a refusal.

use super::ask::Refused;
use super::permit::Permit;
use super::wait_slots::Waiting;

/// Immediate answer to a request for a permit.
pub enum Answer {
    /// Granted: the request may be sent now.
    Go(Permit),
    /// Queued: await this for the verdict.
    Wait(Waiting),
    /// Refused now.
    Sorry(Refused),
}

//! Answer to a request for slots: a permit, a wait for one, or a refusal.

use super::ask::Refused;
use super::permit::Permit;
use super::wait_slots::Waiting;

/// The answer to an ask that was not delayed.
pub enum Answer {
    /// It may be sent now.
    Go(Permit),
    /// It is in line.
    Wait(Waiting),
    /// It is refused.
    Sorry(Refused),
}

//! Leases: permits that end by themselves, for holders that may never report their end.
//!
//! A permit is bound to a value in this process, and ends with its drop. A lease is bound to time
//! instead: a holder outside the process may crash and never return it. The gate's timer ends it,
//! even if no handle of it exists any more.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::permit::Held;
use super::{Gate, Permit, State};
use crate::locker::{Grant, SettlePoint};
use crate::time::Time;

/// Running leases, ordered by their end.
///
/// Invariant: both maps hold the same leases. Lives behind the gate's lock.
#[derive(Default)]
pub(super) struct Leases {
    /// Grants by end and number.
    ends: BTreeMap<(Time, u64), Grant>,
    /// End of each running lease, by number.
    running: HashMap<u64, Time>,
    /// Number of the newest lease.
    /// Numbers start at 1 and are never reused.
    last: u64,
}

impl Leases {
    /// End of the lease that ends first.
    ///
    /// `None` without leases. One of the times that the gate's timer is set to.
    pub(super) fn due(&self) -> Option<Time> {
        self.ends.first_key_value().map(|((end, _), _)| *end)
    }
}

/// Handle of a lease, which may have ended already. Dropping it does not end the lease.
#[derive(Clone)]
pub struct Lease {
    /// Gate that granted the permit.
    gate: Arc<Gate>,
    /// Number of the lease, unique in its gate.
    id: u64,
}

impl Permit {
    /// Turns the permit into a lease that ends `lifetime` after the grant, within the latency of the gate's timer. It
    /// settles now.
    ///
    /// The slots settle as if the response had arrived, so a limit of requests per time counts the
    /// lease from now on; `in_flight` slots stay taken until its end. A lifetime that has passed
    /// already gives a lease that the next firing of the timer ends.
    ///
    /// # Panics
    /// If no limit applies to the request: such a permit never ends.
    pub fn lease(mut self, lifetime: Duration) -> Lease {
        let granted_at = self.granted_at();
        let Held { gate, mut grant } = self.take_held().expect("a lease is of a limit that holds it");
        let now = gate.clock.now();
        let id = gate.step(now, |state| {
            state.locker.settle(&mut grant, SettlePoint::Answered, now);
            state.leases.last += 1;
            let id = state.leases.last;
            let end = granted_at + lifetime;
            state.leases.ends.insert((end, id), grant);
            state.leases.running.insert(id, end);
            id
        });
        Lease { gate, id }
    }
}

impl Lease {
    /// True until the lease ends.
    ///
    /// Compares the end with the clock, so the answer is exact even if the timer is late.
    pub fn is_running(&self) -> bool {
        let now = self.gate.clock.now();
        self.gate.lock().leases.running.get(&self.id).is_some_and(|end| *end > now)
    }

    /// Ends the lease. Returns `false` if it had ended already.
    ///
    /// Frees its `in_flight` slots at once, and so may grant them to waiters in the same step. Safe
    /// to call from several handles: only one call returns `true`.
    pub fn end(&self) -> bool {
        let now = self.gate.clock.now();
        self.gate.step(now, |state| match state.leases.running.get(&self.id) {
            Some(end) if *end > now => {
                let end = *end;
                state.end_lease(end, self.id, now);
                true
            }
            Some(_) | None => false,
        })
    }
}

impl State {
    /// Ends all leases that are due.
    ///
    /// Called by the timer driver. Leases that end at the same time end in the order of their
    /// numbers.
    pub(super) fn end_leases(&mut self, now: Time) {
        while let Some(end) = self.leases.due()
            && end <= now
            && let Some(((_, id), _)) = self.leases.ends.first_key_value()
        {
            self.end_lease(end, *id, now);
        }
    }

    /// Removes a lease and frees its slots.
    ///
    /// `end` and `id` together are its key in `Leases::ends`. No effect on a lease that has ended.
    fn end_lease(&mut self, end: Time, id: u64, now: Time) {
        self.leases.running.remove(&id);
        if let Some(grant) = self.leases.ends.remove(&(end, id)) {
            self.locker.finish(grant, now);
        }
    }
}

//! A permit that ends by itself: for holders who may never say that they are done.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::permit::Held;
use super::{Gate, Permit, State};
use crate::locker::{Grant, SettlePoint};
use crate::time::Time;

/// What runs, by when it ends.
#[derive(Default)]
pub(super) struct Leases {
    ends: BTreeMap<(Time, u64), Grant>,
    running: HashMap<u64, Time>,
    last: u64,
}

impl Leases {
    /// When the next one ends.
    pub(super) fn due(&self) -> Option<Time> {
        self.ends.first_key_value().map(|((end, _), _)| *end)
    }
}

/// A lease that may have ended. Dropping it ends nothing.
#[derive(Clone)]
pub struct Lease {
    gate: Arc<Gate>,
    id: u64,
}

impl Permit {
    /// From here on it ends by itself, so long after it was granted, within the time in which the gate wakes whoever waits.
    ///
    /// # Panics
    /// If no limit holds the request: such a permit never ends.
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
    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        let now = self.gate.clock.now();
        self.gate.lock().leases.running.get(&self.id).is_some_and(|end| *end > now)
    }

    /// Ends it; `false` if it had ended.
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
    /// Ends what has run long enough.
    pub(super) fn end_leases(&mut self, now: Time) {
        while let Some(end) = self.leases.due()
            && end <= now
            && let Some(((_, id), _)) = self.leases.ends.first_key_value()
        {
            self.end_lease(end, *id, now);
        }
    }

    fn end_lease(&mut self, end: Time, id: u64, now: Time) {
        self.leases.running.remove(&id);
        if let Some(grant) = self.leases.ends.remove(&(end, id)) {
            self.locker.finish(grant, now);
        }
    }
}

//! Requests of the old process, as the new one sees them: their asks, their ends, and the death of that process.

use super::wire_format::{TimeMappings, WireEvent};
use crate::gate::State;
use crate::locker::{Ask, Event};
use crate::time::Time;

impl State {
    /// Handles events of the old process. Returns `false` at the first that names an unknown limit.
    ///
    /// The events before it are handled, those after it are not. Before `Go` that ends the upgrade,
    /// later the connection.
    pub(super) fn handle_events(&mut self, events: Vec<WireEvent>, mappings: TimeMappings, now: Time) -> bool {
        events.into_iter().map(|event| event.event(mappings)).all(|event| {
            let understood = self.locker.knows_limits_of(&event);
            if understood {
                self.handle_event(event, now);
            }
            understood
        })
    }

    /// Handles one event of the old process.
    ///
    /// A verdict that is made at once is stored for the sender thread. A queued ask gets a ticket
    /// of this process.
    fn handle_event(&mut self, event: Event, now: Time) {
        match event {
            // A stopped process sends no more verdicts.
            Event::Ask { .. } if self.remote_waiters.is_stopped => {}
            Event::Ask { ticket, claims, caller, urgency, arrived, bound, kind } => {
                let max_wait = (bound < Time::NEVER).then(|| bound.since(arrived));
                let ask = Ask { claims: &claims, caller, urgency, max_wait, arrived: Some(arrived), kind };
                let verdict = self.locker.ask(&ask, now);
                self.remote_waiters.store_verdict(ticket, verdict, &mut self.locker);
            }
            Event::Leave(theirs) => {
                if let Some(ours) = self.remote_waiters.ours.remove(&theirs) {
                    self.remote_waiters.theirs.remove(&ours);
                    self.locker.leave(ours, now);
                }
            }
            Event::Settle { .. } | Event::GiveBack { .. } | Event::Land { .. } | Event::Pause { .. } => {
                self.locker.handle_remote(&event, now);
            }
        }
    }

    /// Removes the waiters of the old process after it has exited; its flights settle as failed.
    ///
    /// Verdicts that were not sent are discarded.
    pub(super) fn drop_remote_waiters(&mut self, now: Time) {
        let waiting: Vec<_> = self.remote_waiters.theirs.drain().map(|(ours, _)| ours).collect();
        self.remote_waiters.ours.clear();
        self.remote_waiters.verdicts.clear();
        waiting.into_iter().for_each(|ticket| self.locker.leave(ticket, now));
        mutant!("requests of a process that is gone go on", return);
        self.locker.remote_lost(now);
    }
}

//! `Permit` → `depart` → `Flight`: settling happens once, and dropping either gives back what is due.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Gate;
use super::clock::Clock;
use crate::locker::{Grant, LimitId, SettlePoint};
use crate::time::Time;

/// The right to send one request now. Dropping it gives every slot back.
#[must_use = "dropping it gives the slots back"]
pub struct Permit {
    clock: Clock,
    /// `None` if no limit holds the request.
    held: Option<Held>,
    granted_at: Time,
    overruled: Option<(LimitId, Duration)>,
}

pub(super) struct Held {
    pub(super) gate: Arc<Gate>,
    pub(super) grant: Grant,
}

impl Held {
    fn is_good(&self, granted_at: Time) -> bool {
        !self.gate.peer_lost.load(Ordering::Relaxed) && !self.is_late(granted_at)
    }

    /// Whether its slots are counted together with other gateways.
    fn is_shared(&self) -> bool {
        self.grant.until() < Time::NEVER
    }

    /// Whether its time is over by this machine's clock, or may be because that stood still in a suspend.
    fn is_late(&self, granted_at: Time) -> bool {
        self.is_shared() && (self.gate.clock.now() >= self.grant.until() || self.gate.has_slept_since(granted_at))
    }
}

impl Permit {
    /// A permit that no limit holds.
    pub(super) fn free(clock: Clock, granted_at: Time) -> Permit {
        Permit { clock, held: None, granted_at, overruled: None }
    }

    pub(super) fn granted(gate: Arc<Gate>, grant: Grant, granted_at: Time) -> Permit {
        let clock = gate.clock;
        let overruled = grant.dry_run_hit().map(|(limit, until)| (limit, until.since(granted_at)));
        let held = (!grant.is_empty()).then_some(Held { gate, grant });
        Permit { clock, held, granted_at, overruled }
    }

    /// Whether it still holds. It does not once the process is gone that granted it, in the place of this one; nor when
    /// it is late.
    pub fn is_good(&self) -> bool {
        self.held.as_ref().is_none_or(|held| held.is_good(self.granted_at))
    }

    /// Whether it came too late: its slots are other gateways' by now. Whoever has it must ask again.
    pub fn is_late(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.is_late(self.granted_at))
    }

    /// What it holds, for whoever sees to its end.
    pub(super) fn take_held(&mut self) -> Option<Held> {
        self.held.take()
    }

    /// When it was granted.
    pub fn granted_at(&self) -> Time {
        self.granted_at
    }

    /// From here on bytes may leave: what is not settled by a drop settles as failed.
    pub fn depart(mut self) -> Flight {
        let Permit { clock, granted_at, overruled, .. } = self;
        Flight { clock, held: self.held.take(), granted_at, overruled, sent_at: None, stage: Stage::Departed }
    }

    /// The dry-run limit that would have held the request back, and for how long.
    pub fn overruled(&self) -> Option<(LimitId, Duration)> {
        self.overruled
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(Held { gate, grant }) = self.held.take() {
            let now = self.clock.now();
            gate.step_in_drop(now, |state| state.locker.give_back(grant, now));
        }
    }
}

/// A request on its way. Dropping it ends it: `in_flight` ends, and what never settled settles as failed.
#[must_use = "dropping it ends the request"]
pub struct Flight {
    clock: Clock,
    held: Option<Held>,
    granted_at: Time,
    overruled: Option<(LimitId, Duration)>,
    sent_at: Option<Time>,
    stage: Stage,
}

/// How far the request has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Departed,
    Sent,
    Answered,
}

impl Flight {
    /// The head is written: claims that count `sent` settle, at the moment that is returned. To be called right after the
    /// write, because it reads the clock itself. A second call has no effect.
    pub fn sent(&mut self) -> Time {
        if let Some(sent_at) = self.sent_at {
            return sent_at;
        }
        let now = self.clock.now();
        self.sent_at = Some(now);
        if self.stage == Stage::Departed {
            self.stage = Stage::Sent;
            self.settle(SettlePoint::Sent, now);
        }
        now
    }

    /// The final response head is back: all that has not settled settles. A second call has no effect.
    pub fn answered(&mut self) {
        if self.is_settling() {
            self.settle(SettlePoint::Answered, self.clock.now());
        }
        self.stage = Stage::Answered;
    }

    /// The clock that its times are of.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Whether it may still leave, see [`Permit::is_good`].
    pub fn is_good(&self) -> bool {
        self.held.as_ref().is_none_or(|held| held.is_good(self.granted_at))
    }

    /// Not one byte left: the permit again, to be used on another connection.
    ///
    /// # Panics
    /// After [`Flight::sent`]: one permit would let two requests out.
    pub fn nothing_left(mut self) -> Permit {
        assert!(self.stage == Stage::Departed, "a request whose head was written has left");
        let Flight { clock, granted_at, overruled, .. } = self;
        Permit { clock, held: self.held.take(), granted_at, overruled }
    }

    /// Whether a claim has not settled yet.
    fn is_settling(&self) -> bool {
        match (self.stage, &self.held) {
            (Stage::Departed, Some(_)) => true,
            (Stage::Sent, Some(held)) => held.grant.awaits_answer(),
            (Stage::Answered, _) | (_, None) => false,
        }
    }

    fn settle(&mut self, moment: SettlePoint, now: Time) {
        if let Some(Held { gate, grant }) = &mut self.held {
            gate.step(now, |state| state.locker.settle(grant, moment, now));
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let is_settling = self.is_settling();
        let Some(Held { gate, grant }) = self.held.take() else {
            return;
        };
        if is_settling || grant.holds_flight() {
            let now = self.clock.now();
            gate.step_in_drop(now, |state| state.locker.finish(grant, now));
        }
    }
}

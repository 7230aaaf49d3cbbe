//! Permit and flight of a request: `Permit` → `depart` → `Flight`. Each settles once; dropping
//! either gives back what is due.
//!
//! Life of a request's slots:
//!
//! | step | type after it | effect of a drop |
//! |---|---|---|
//! | grant | `Permit` | gives every slot back |
//! | `depart` | `Flight` | settles all claims as failed |
//! | `sent` | `Flight` | settles the claims that wait for an answer as failed |
//! | `answered` | `Flight` | frees the `in_flight` slots |
//!
//! `nothing_left` leads back from a flight to its permit, for as long as no byte was sent. The
//! types are moved along this path, so one grant lets out one request.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Gate;
use super::clock::Clock;
use crate::locker::{Grant, LimitId, SettlePoint};
use crate::time::Time;

/// Right to send one request now. Dropping it gives every slot back.
#[must_use = "dropping it gives the slots back"]
pub struct Permit {
    /// Clock of the gate, also for a permit without slots.
    clock: Clock,
    /// Slots that the request holds; `None` if no limit applies to it.
    held: Option<Held>,
    /// Time of the grant.
    granted_at: Time,
    /// Dry-run limit that would have delayed the request, and for how long. The delay counts from
    /// the grant. `None`: no dry-run limit would have delayed it.
    overruled: Option<(LimitId, Duration)>,
}

/// Slots held by a permit or flight, and the gate to return them to.
pub(super) struct Held {
    /// Gate that granted them.
    pub(super) gate: Arc<Gate>,
    /// Slots, as the locker knows them.
    pub(super) grant: Grant,
}

impl Held {
    /// True while the slots may be used: the process that granted them lives, and they are not
    /// late.
    ///
    /// Reads the clock, and takes no lock. The answer holds for the present moment only.
    fn is_good(&self, granted_at: Time) -> bool {
        !self.gate.peer_lost.load(Ordering::Relaxed) && !self.is_late(granted_at)
    }

    /// True if the slots are of a limit shared with other gateways.
    ///
    /// Slots of this process's own limits never expire: their `until` is [`Time::NEVER`].
    fn is_shared(&self) -> bool {
        self.grant.until() < Time::NEVER
    }

    /// True if the slots have expired by this machine's clock, or may have while it was suspended.
    ///
    /// Always false for slots that are not shared.
    fn is_late(&self, granted_at: Time) -> bool {
        self.is_shared() && (self.gate.clock.now() >= self.grant.until() || self.gate.has_slept_since(granted_at))
    }
}

impl Permit {
    /// Permit for a request that no limit applies to.
    pub(super) fn free(clock: Clock, granted_at: Time) -> Permit {
        Permit { clock, held: None, granted_at, overruled: None }
    }

    /// Permit for the slots of `grant`.
    ///
    /// An empty grant holds nothing, so its permit needs no gate: dropping it takes no lock.
    pub(super) fn granted(gate: Arc<Gate>, grant: Grant, granted_at: Time) -> Permit {
        let clock = gate.clock;
        let overruled = grant.dry_run_hit().map(|(limit, until)| (limit, until.since(granted_at)));
        let held = (!grant.is_empty()).then_some(Held { gate, grant });
        Permit { clock, held, granted_at, overruled }
    }

    /// True while the permit may be used. False after the process that granted it has died (this
    /// one forwards to it), and when it is late.
    ///
    /// Check it just before the first byte is sent. Always true if no limit applies.
    pub fn is_good(&self) -> bool {
        self.held.as_ref().is_none_or(|held| held.is_good(self.granted_at))
    }

    /// True if it came too late: its slots may belong to other gateways by now. Its holder must ask
    /// again.
    pub fn is_late(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.is_late(self.granted_at))
    }

    /// Takes the slots out; the taker becomes responsible for returning them.
    ///
    /// `None` if no limit applies. The permit's drop then gives nothing back.
    pub(super) fn take_held(&mut self) -> Option<Held> {
        self.held.take()
    }

    /// Time of the grant.
    ///
    /// On the gate's clock. For a request that waited, the time of the decision, not of its
    /// pick-up.
    pub fn granted_at(&self) -> Time {
        self.granted_at
    }

    /// Starts the flight: from now on bytes may be sent, and a drop settles what has not settled as
    /// failed.
    pub fn depart(mut self) -> Flight {
        let Permit { clock, granted_at, overruled, .. } = self;
        Flight { clock, held: self.held.take(), granted_at, overruled, sent_at: None, stage: Stage::Departed }
    }

    /// Dry-run limit that would have delayed the request, and for how long.
    pub fn overruled(&self) -> Option<(LimitId, Duration)> {
        self.overruled
    }
}

impl Drop for Permit {
    /// Gives the slots back as if they had never been granted; waiters may get them in the same
    /// step.
    fn drop(&mut self) {
        if let Some(Held { gate, grant }) = self.held.take() {
            let now = self.clock.now();
            gate.step_in_drop(now, |state| state.locker.give_back(grant, now));
        }
    }
}

/// Request in flight. Dropping it ends the request: its `in_flight` slots are freed, and what has
/// not settled settles as failed.
#[must_use = "dropping it ends the request"]
pub struct Flight {
    clock: Clock,
    /// Slots that the request holds; `None` if no limit applies to it.
    held: Option<Held>,
    /// Time of the grant.
    granted_at: Time,
    /// Dry-run limit that would have delayed the request, and for how long.
    overruled: Option<(LimitId, Duration)>,
    /// Time at which the head was sent.
    sent_at: Option<Time>,
    /// Progress, which decides how a drop settles. Only moves forward.
    stage: Stage,
}

/// Progress of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// No byte is known to be sent.
    Departed,
    /// The request head is sent.
    Sent,
    /// The final response head is received.
    Answered,
}

impl Flight {
    /// Reports that the request head is written. Claims that count `sent` settle now; returns that
    /// time. Call it right after the write, because it reads the clock itself. A second call has no
    /// effect.
    ///
    /// After `answered` it only notes the time: an origin may respond before the head is written.
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

    /// Reports that the final response head is received: everything that has not settled settles
    /// now. A second call has no effect.
    ///
    /// Interim responses (1xx) do not count. The `in_flight` slots stay taken until the flight is
    /// dropped, after the end of the response body.
    pub fn answered(&mut self) {
        if self.is_settling() {
            self.settle(SettlePoint::Answered, self.clock.now());
        }
        self.stage = Stage::Answered;
    }

    /// Clock of the flight's times.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// True while the request may be sent, see [`Permit::is_good`].
    pub fn is_good(&self) -> bool {
        self.held.as_ref().is_none_or(|held| held.is_good(self.granted_at))
    }

    /// Turns the flight back into its permit, for another connection. Call it only if not one byte
    /// was sent.
    ///
    /// # Panics
    /// After [`Flight::sent`]: one permit would let two requests out.
    pub fn nothing_left(mut self) -> Permit {
        assert!(self.stage == Stage::Departed, "a request whose head was written has left");
        let Flight { clock, granted_at, overruled, .. } = self;
        Permit { clock, held: self.held.take(), granted_at, overruled }
    }

    /// True if a claim has not settled yet.
    ///
    /// A drop without open claims and without `in_flight` slots takes no lock.
    fn is_settling(&self) -> bool {
        match (self.stage, &self.held) {
            (Stage::Departed, Some(_)) => true,
            (Stage::Sent, Some(held)) => held.grant.awaits_answer(),
            (Stage::Answered, _) | (_, None) => false,
        }
    }

    /// Settles the claims that count this point.
    ///
    /// Takes the gate's lock once. No effect if no limit applies.
    fn settle(&mut self, point: SettlePoint, now: Time) {
        if let Some(Held { gate, grant }) = &mut self.held {
            gate.step_of_request(now, |state| state.locker.settle(grant, point, now));
        }
    }
}

impl Drop for Flight {
    /// Settles the open claims as failed, and frees the `in_flight` slots, in one step of the
    /// locker.
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

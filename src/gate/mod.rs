//! Async front end of the limiter: one lock, a clock, a timer and the waiters' wakers.
//!
//! The locker decides about slots and reads no clock. The gate adds the one lock around it, the clock, the timer and the
//! wakers, and by itself refuses only what is asked by outdated rules or after its end. It never holds the lock while it
//! logs, wakes or waits, and knows nothing of HTTP or of the meaning of keys.

mod answer;
mod ask;
pub mod clock;
mod clock_watch;
mod driver;
pub mod journal;
mod lease;
mod limiter;
mod longest_step;
mod open;
mod permit;
mod reload_gate;
mod step;
pub mod store;
mod sync;
pub mod takeover;
mod thread_signal;
mod timer;
mod wait_slots;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::task::Waker;
use std::time::Duration;

use smallvec::SmallVec;

use crate::locker::{Ask, Caller, Claim, Grant, Key, Limit, LimitId, Ticket, Verdict};
use crate::net::fd_socket::FdSocket;
use crate::time::Time;
pub use answer::Answer;
pub use ask::{Patience, Refused, Revision};
use clock::Clock;
use journal::Journal;
pub use lease::Lease;
use lease::Leases;
use limiter::Limiter;
use longest_step::LongestStep;
pub use longest_step::StepReader;
pub use permit::{Flight, Permit};
use reload_gate::ReaskBarrier;
pub use reload_gate::{LimitView, WaiterPolicy};
use store::Store;
use store::suspend::SuspendDetector;
use takeover::RemoteWaiters;
use thread_signal::{PendingSignals, ThreadSignals};
use timer::{Arming, Timer};
use wait_slots::WaitSlots;
pub use wait_slots::Waiting;

/// Settings of the gate, built by config.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Every limit, by its name.
    pub limits: Vec<Limit>,
    /// Persistence of the counts; `None`: a restart forgets them.
    pub state: Option<journal::Settings>,
    /// Store that counts the limits shared with other gateways; `None`: no limit is shared.
    pub store: Option<store::Settings>,
}

/// Rate limiter shared by all threads: the locker behind one lock, with the parts that wake waiters.
pub struct Gate {
    /// Clock of all its times; lock-free to read.
    clock: Clock,
    /// All limits by `LimitId`; a copy of the locker's, to be read without its lock.
    limits: RwLock<Arc<[Limit]>>,
    /// Timer that wakes the driver.
    timer: Timer,
    /// Copy of `State::revision`, for requests without claims: they take no lock.
    revision: AtomicU64,
    /// True from the first `calendar` limit on, also after it was removed: each step then reads the wall clock.
    follows_wall: AtomicBool,
    /// Seed of the hash of keys and callers.
    seed: [u8; 16],
    /// Persistence of the counts; empty without it.
    journal: OnceLock<Arc<Journal>>,
    /// Signals of the threads that work for the gate.
    signals: ThreadSignals,
    /// Session with the store of shared limits; empty without one.
    store: OnceLock<Arc<Store>>,
    /// Detects that the machine was suspended, which makes shared permits expire unnoticed.
    sleep: SuspendDetector,
    /// Socket to the old process after an upgrade. Shutting it down makes the old process refuse its remaining
    /// requests.
    old_process: OnceLock<FdSocket>,
    /// The old process itself, unless the system has no pidfd (pidfd_open(2)).
    old_pidfd: OnceLock<OwnedFd>,
    /// True after the new process died that this one forwards to: permits that it granted may be granted again by
    /// another process.
    peer_lost: AtomicBool,
    /// Longest time that a step took.
    longest_step: LongestStep,
    /// Everything behind the lock.
    state: CachePadded<Mutex<State>>,
}

/// Pads to 128 bytes (two cache lines, which are prefetched in pairs), so that taking the lock does not slow threads
/// that only read the clock.
#[repr(align(128))]
struct CachePadded<T>(T);

/// State behind the gate's lock.
struct State {
    /// Decides: the rate-limiting state machine, or after a hand-over the forwarder to the new process.
    locker: Limiter,
    /// Verdicts and wakers of the queued requests.
    wait_slots: WaitSlots,
    /// Time at which the timer fires next; [`Time::NEVER`] after it fired.
    armed: Time,
    /// Number of times that the timer was set.
    armings: u64,
    /// End of the shutdown grace; `None`: not shutting down.
    closing: Option<Time>,
    /// Revision of the limits that claims must be built from.
    revision: Revision,
    /// Holds grants back while the waiters ask again after a reload.
    reask_barrier: Option<ReaskBarrier>,
    /// Time of the next periodic look at the wall clock.
    wall_due: Time,
    /// Wakers of the waiters decided in this step, called after the lock is released.
    wakers: Wakers,
    /// Grants that end at a set time.
    leases: Leases,
    /// Waiters of the old process after an upgrade, and verdicts to send to it.
    remote_waiters: RemoteWaiters,
    /// Threads already notified that have not yet read their queue.
    pending_signals: PendingSignals,
}

/// Wakers to call after a step; most steps wake no waiter or one.
type Wakers = SmallVec<[Waker; 4]>;

impl Gate {
    /// Clock of all times that the gate takes and returns.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Decides on one request without waiting. Takes no lock if `claims` is empty.
    /// A refusal or a wait has used no slot. Never blocks on I/O.
    pub fn ask(self: &Arc<Self>, claims: &[Claim], caller: Caller, patience: Patience) -> Answer {
        // Read before the lock: a time that is too early can only delay a grant.
        let now = self.clock.now();
        if claims.is_empty() {
            if patience.revision.0 != self.revision.load(Ordering::Acquire) {
                return Answer::Sorry(Refused::Reask);
            }
            return Answer::Go(Permit::free(self.clock, now));
        }
        let Patience { urgency, max_wait, arrived, kind, revision } = patience;
        let ask = Ask { claims, caller, urgency, max_wait, arrived, kind };
        match self.step_of_request(now, |state| state.ask(&ask, revision, now)) {
            Decision::Go(grant) => Answer::Go(Permit::granted(Arc::clone(self), grant, now)),
            Decision::Wait(slot, forecast) => Answer::Wait(Waiting::at(Arc::clone(self), slot, forecast)),
            Decision::Sorry(refused) => Answer::Sorry(refused),
        }
    }

    /// Closes one window for `pause`, or for an hour if that is shorter (the locker limits it).
    /// Called with a pushback of the origin, e.g. `Retry-After`.
    pub fn pause(&self, limit: LimitId, key: Key, pause: Duration) {
        let now = self.clock.now();
        self.step(now, |state| state.locker.pause(limit, key, now + pause, now));
    }

    /// Starts the shutdown: from now on refuses every request, queued or new, with a forecast after `until`. The
    /// other waiters keep waiting, until `until` at the latest. A second call can only make the end earlier.
    pub fn close(&self, until: Time) {
        let now = self.clock.now();
        self.step(now, |state| {
            let until = state.closing.map_or(until, |before| before.min(until));
            state.closing = Some(until);
            let late = state.wait_slots.expected_after(Some(until));
            state.refuse_all(late, until, now);
            state.end_if_closed(now);
        });
    }
}

/// Verdict on one request, not yet bound to the gate.
enum Decision {
    /// Granted.
    Go(Grant),
    /// Index of its wait slot, and the expected time of its grant.
    Wait(usize, Option<Time>),
    /// Refused; it has no slot.
    Sorry(Refused),
}

/// Work left to do after the lock is released.
struct Effects {
    /// Wakers of the decided waiters.
    wakers: Wakers,
    /// New setting of the timer, if it must fire earlier.
    arming: Option<Arming>,
    /// Threads to notify.
    signals_due: PendingSignals,
}

impl State {
    /// Initial state, around this limiter.
    fn new(locker: Limiter) -> State {
        State {
            locker,
            wait_slots: WaitSlots::default(),
            armed: Time::NEVER,
            armings: 0,
            closing: None,
            revision: Revision::default(),
            reask_barrier: None,
            wall_due: Time::NEVER,
            wakers: Wakers::new(),
            leases: Leases::default(),
            remote_waiters: RemoteWaiters::default(),
            pending_signals: PendingSignals::default(),
        }
    }

    /// Decides on a request: refuses it if its claims are outdated or the shutdown has ended, else asks the locker.
    fn ask(&mut self, ask: &Ask<'_>, revision: Revision, now: Time) -> Decision {
        if revision != self.revision {
            return Decision::Sorry(Refused::Reask);
        }
        if let Some(until) = self.closing.filter(|until| now >= *until) {
            return Decision::Sorry(Refused::Closing { until });
        }
        let verdict = self.locker.ask(ask, now);
        let decision = self.decision(verdict, now);
        if ask.kind.was_queued() {
            self.on_reask(now);
        }
        decision
    }

    /// Turns a verdict into a decision. A queued request gets a wait slot, unless its forecast is after the end of the
    /// shutdown.
    fn decision(&mut self, verdict: Verdict, now: Time) -> Decision {
        match verdict {
            Verdict::Go(grant) => Decision::Go(grant),
            Verdict::Sorry(sorry) => Decision::Sorry(Refused::Sorry(sorry)),
            Verdict::Wait(ticket, forecast) => {
                let too_late = |until: &Time| forecast.is_some_and(|at| at > *until);
                if let Some(until) = self.closing.filter(too_late) {
                    self.locker.leave(ticket, now);
                    return Decision::Sorry(Refused::Closing { until });
                }
                Decision::Wait(self.wait_slots.enter(ticket, forecast), forecast)
            }
        }
    }

    /// Refuses these waiters because of the shutdown.
    fn refuse_all(&mut self, tickets: Vec<Ticket>, until: Time, now: Time) {
        self.decide_all(tickets, Refused::Closing { until }, now);
    }

    /// Decides all these waiters with one answer.
    fn decide_all(&mut self, tickets: Vec<Ticket>, answer: Refused, now: Time) {
        // All are decided before the first is removed from the queue: a slot that one frees must not be granted to
        // another that is refused too.
        for ticket in &tickets {
            let decided = self.wait_slots.decide(*ticket, Err(answer), now);
            self.wakers.extend(decided.ok().flatten());
        }
        for ticket in tickets {
            self.locker.leave(ticket, now);
        }
    }

    /// Refuses all waiters if the end of the shutdown has come.
    fn end_if_closed(&mut self, now: Time) {
        if let Some(until) = self.closing.filter(|until| now >= *until) {
            let rest = self.wait_slots.expected_after(None);
            self.refuse_all(rest, until, now);
        }
    }

    /// Stores the locker's verdicts in the wait slots, and returns the work left to do without the lock.
    fn conclude(&mut self, now: Time) -> Effects {
        while let Some((ticket, verdict)) = self.locker.poll_verdict() {
            let Some(verdict) = self.remote_waiters.keep(ticket, verdict, &mut self.locker) else { continue };
            let result = match verdict {
                Verdict::Go(grant) => Ok(grant),
                Verdict::Sorry(sorry) => Err(self.refusal(sorry)),
                Verdict::Wait(..) => unreachable!("the locker names decided waiters only"),
            };
            match self.wait_slots.decide(ticket, result, now) {
                Ok(waker) => self.wakers.extend(waker),
                // The locker decides no ticket that has left. If it did, its slot would be lost without this.
                Err(Ok(grant)) => self.locker.give_back(grant, now),
                Err(Err(_refused)) => {}
            }
        }
        Effects { wakers: std::mem::take(&mut self.wakers), arming: self.arm(), signals_due: self.signals_due() }
    }

    /// Threads to notify: those with new work that are not notified already.
    fn signals_due(&mut self) -> PendingSignals {
        let signals_due = PendingSignals {
            journal: !self.pending_signals.journal && self.locker.has_records(),
            new_process: !self.pending_signals.new_process && self.locker.has_events(),
            old_process: !self.pending_signals.old_process && self.remote_waiters.has_verdicts(),
            store: !self.pending_signals.store && self.locker.has_sync(),
        };
        self.pending_signals.journal |= signals_due.journal;
        self.pending_signals.new_process |= signals_due.new_process;
        self.pending_signals.old_process |= signals_due.old_process;
        self.pending_signals.store |= signals_due.store;
        signals_due
    }

    /// Returns a new setting of the timer if it must fire earlier than it is set to. A firing without work is cheaper
    /// than a system call for each request.
    fn arm(&mut self) -> Option<Arming> {
        let end = self.closing.filter(|_| !self.wait_slots.is_empty());
        let reask_end = self.reask_barrier.as_ref().map(ReaskBarrier::due);
        let openings = [self.locker.poll_timeout(), end, reask_end, self.leases.due()].into_iter().flatten();
        let due = openings.fold(self.wall_due, Time::min);
        if due >= self.armed {
            return None;
        }
        self.armed = due;
        self.armings += 1;
        Some(Arming { number: self.armings, at: due })
    }
}

#[cfg(test)]
mod tests;

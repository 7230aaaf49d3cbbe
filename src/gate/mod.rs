//! WAITS: the locker, awake.
//!
//! The locker decides and knows no time; the gate holds the one lock around it, the clock, the timer and the wakers,
//! and nothing else. It never decides by itself, never holds the lock while it logs, wakes or waits, and knows nothing
//! of HTTP or of keys' meaning.

mod answer;
mod ask;
pub mod clock;
mod clock_watch;
mod driver;
pub mod journal;
mod lease;
mod open;
mod permit;
mod reload_gate;
pub mod store;
pub mod takeover;
mod thread_signal;
mod wait_slots;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock};
use std::task::Waker;
use std::time::Duration;

use smallvec::SmallVec;

use crate::locker::{Ask, Caller, Claim, Grant, Key, Limit, LimitId, Locker, Ticket, Verdict};
use crate::net::fd_socket::FdSocket;
use crate::time::Time;
pub use answer::Answer;
pub use ask::{Patience, Refused, Revision};
use clock::Clock;
use driver::{Arming, Timer};
use journal::Journal;
pub use lease::Lease;
use lease::Leases;
pub use permit::{Flight, Permit};
use reload_gate::ReaskBarrier;
pub use reload_gate::{LimitView, WaiterPolicy};
use store::Store;
use store::suspend::SuspendDetector;
use takeover::RemoteWaiters;
use thread_signal::{PendingSignals, ThreadSignals};
use wait_slots::WaitSlots;
pub use wait_slots::Waiting;

/// What the room needs to run; made by config.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Every limit, by its name.
    pub limits: Vec<Limit>,
    /// What must outlive a restart; `None`: nothing.
    pub state: Option<journal::Settings>,
    /// Where limits are counted that are shared; `None`: none is.
    pub store: Option<store::Settings>,
}

/// The locker, shared by all threads.
pub struct Gate {
    clock: Clock,
    limits: RwLock<Arc<[Limit]>>,
    timer: Timer,
    /// As in the state, for requests that no limit holds: they touch no lock.
    revision: AtomicU64,
    /// Whether a limit depends, or did depend, on the wall clock.
    follows_wall: AtomicBool,
    /// What keys are hashed with.
    seed: [u8; 16],
    journal: OnceLock<Arc<Journal>>,
    signals: ThreadSignals,
    store: OnceLock<Arc<Store>>,
    sleep: SuspendDetector,
    /// The process that had the windows before this one, as long as it lives.
    before: OnceLock<FdSocket>,
    /// The process that has the windows now is gone: what it granted last may be granted again.
    peer_lost: AtomicBool,
    state: CachePadded<Mutex<State>>,
}

/// On cache lines of its own, so that taking the lock does not slow those who only read the clock.
#[repr(align(128))]
struct CachePadded<T>(T);

struct State {
    locker: Locker,
    line: WaitSlots,
    /// When the timer fires next.
    armed: Time,
    armings: u64,
    /// When the gateway ends.
    closing: Option<Time>,
    /// By which rules claims are to be found.
    revision: Revision,
    /// Those in line are asking again.
    reask_barrier: Option<ReaskBarrier>,
    /// When the wall clock is to be looked at again.
    wall_due: Time,
    /// Who is to be woken when the lock is released.
    wakers: Wakers,
    /// What ends by itself.
    leases: Leases,
    /// What the process is told that had the windows before.
    remote_waiters: RemoteWaiters,
    /// These are about to look what there is.
    pending_signals: PendingSignals,
}

/// Most steps wake nobody or one.
type Wakers = SmallVec<[Waker; 4]>;

impl Gate {
    /// The clock that all times of the gate are of.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// One decision, at once. Without claims it touches no lock.
    pub fn ask(self: &Arc<Self>, claims: &[Claim], caller: Caller, patience: Patience) -> Answer {
        // Before the lock is taken: an early `now` only holds back.
        let now = self.clock.now();
        if claims.is_empty() {
            if patience.revision.0 != self.revision.load(Ordering::Acquire) {
                return Answer::Sorry(Refused::Reask);
            }
            return Answer::Go(Permit::free(self.clock, now));
        }
        let Patience { urgency, max_wait, arrived, kind, revision } = patience;
        let ask = Ask { claims, caller, urgency, max_wait, arrived, kind };
        match self.step(now, |state| state.ask(&ask, revision, now)) {
            Decision::Go(grant) => Answer::Go(Permit::granted(Arc::clone(self), grant, now)),
            Decision::Wait(place, forecast) => Answer::Wait(Waiting::at(Arc::clone(self), place, forecast)),
            Decision::Sorry(refused) => Answer::Sorry(refused),
        }
    }

    /// Nothing opens in this window for so long, but no longer than an hour: the locker sees to that.
    pub fn pause(&self, limit: LimitId, key: Key, pause: Duration) {
        let now = self.clock.now();
        self.step(now, |state| state.locker.pause(limit, key, now + pause, now));
    }

    /// Shutting down: from here on those are refused that cannot go before `until`, in line or not. Who may still go by
    /// the forecast made on arrival waits on, until `until` at the latest. A second call can only make it earlier.
    pub fn close(&self, until: Time) {
        let now = self.clock.now();
        self.step(now, |state| {
            let until = state.closing.map_or(until, |before| before.min(until));
            state.closing = Some(until);
            let late = state.line.expected_after(Some(until));
            state.refuse_all(late, until, now);
            state.end_if_closed(now);
        });
    }

    /// One input to the locker, and all that follows from it: verdicts are laid down under the lock; who must be woken
    /// is woken, and the timer set, without it.
    fn step<R>(&self, now: Time, input: impl FnOnce(&mut State) -> R) -> R {
        let wall = self.wall_unix_nanos();
        self.step_locked(self.lock(), wall, now, input)
    }

    /// As [`Gate::step`], for `drop`, which must not panic: once the locker has panicked nothing more is granted, and
    /// nothing needs to be given back.
    fn step_in_drop<R>(&self, now: Time, input: impl FnOnce(&mut State) -> R) -> Option<R> {
        let wall = self.wall_unix_nanos();
        let state = self.state.0.lock().ok()?;
        Some(self.step_locked(state, wall, now, input))
    }

    /// `wall`: what the wall clock read just after `now`, if a limit follows it. Whatever is granted or settled counts in
    /// the period that it is in by then.
    fn step_locked<R>(
        &self,
        mut state: MutexGuard<'_, State>,
        wall: Option<i128>,
        now: Time,
        input: impl FnOnce(&mut State) -> R,
    ) -> R {
        let panic_guard = PanicGuard(&self.timer);
        if let Some(unix_nanos) = wall {
            self.follow_wall(&mut state, unix_nanos, now);
        }
        let result = input(&mut state);
        let after = state.conclude(now);
        std::mem::forget(panic_guard);
        drop(state);
        for waker in after.wakers {
            waker.wake();
        }
        if let Some(arming) = after.arming {
            self.timer.arm(arming, &self.clock);
        }
        self.signals.notify(after.signals_due);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // After a panic inside of it the locker may count too few; then rather nobody goes than too many.
        self.state.0.lock().expect("the locker does not panic")
    }
}

/// Dropped by a panic under the lock: the timer fires, so that [`Gate::drive`] meets the poisoned lock at once and ends,
/// which ends the process. Otherwise that would wait for the next opening, and requests would fail one by one until then.
struct PanicGuard<'t>(&'t Timer);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        self.0.fire_now();
    }
}

/// A verdict on an ask, before it is bound to the gate.
enum Decision {
    Go(Grant),
    /// Its place, and when its turn is expected.
    Wait(usize, Option<Time>),
    Sorry(Refused),
}

/// What is to be done when the lock is released.
struct Effects {
    wakers: Wakers,
    arming: Option<Arming>,
    signals_due: PendingSignals,
}

impl State {
    fn new(locker: Locker) -> State {
        State {
            locker,
            line: WaitSlots::default(),
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
                Decision::Wait(self.line.enter(ticket, forecast), forecast)
            }
        }
    }

    /// Refuses these waiters because of the end.
    fn refuse_all(&mut self, tickets: Vec<Ticket>, until: Time, now: Time) {
        self.decide_all(tickets, Refused::Closing { until }, now);
    }

    /// Gives these waiters one answer.
    fn decide_all(&mut self, tickets: Vec<Ticket>, answer: Refused, now: Time) {
        // Each is decided before any leaves: a slot that one leaves must not go to another that is refused as well.
        for ticket in &tickets {
            let decided = self.line.decide(*ticket, Err(answer), now);
            self.wakers.extend(decided.ok().flatten());
        }
        for ticket in tickets {
            self.locker.leave(ticket, now);
        }
    }

    fn end_if_closed(&mut self, now: Time) {
        if let Some(until) = self.closing.filter(|until| now >= *until) {
            let rest = self.line.expected_after(None);
            self.refuse_all(rest, until, now);
        }
    }

    /// Lays down what the locker has decided, and says what is left to do without the lock.
    fn conclude(&mut self, now: Time) -> Effects {
        while let Some((ticket, verdict)) = self.locker.poll_verdict() {
            let Some(verdict) = self.remote_waiters.keep(ticket, verdict, &mut self.locker) else { continue };
            let fate = match verdict {
                Verdict::Go(grant) => Ok(grant),
                Verdict::Sorry(sorry) => Err(Refused::Sorry(sorry)),
                Verdict::Wait(..) => unreachable!("the locker names those whose fate is decided"),
            };
            match self.line.decide(ticket, fate, now) {
                Ok(waker) => self.wakers.extend(waker),
                // The locker names nobody who has left. If it did, a slot would be lost for good without this.
                Err(Ok(grant)) => self.locker.give_back(grant, now),
                Err(Err(_refused)) => {}
            }
        }
        Effects { wakers: std::mem::take(&mut self.wakers), arming: self.arm(), signals_due: self.signals_due() }
    }

    /// Whom to wake for what there is to do.
    fn signals_due(&mut self) -> PendingSignals {
        let signals_due = PendingSignals {
            journal: !self.pending_signals.journal && self.locker.has_records(),
            next: !self.pending_signals.next && self.locker.has_events(),
            before: !self.pending_signals.before && self.remote_waiters.has_verdicts(),
            store: !self.pending_signals.store && self.locker.has_sync(),
        };
        self.pending_signals.journal |= signals_due.journal;
        self.pending_signals.next |= signals_due.next;
        self.pending_signals.before |= signals_due.before;
        self.pending_signals.store |= signals_due.store;
        signals_due
    }

    /// The timer is set only when it must fire earlier; a firing for nothing is cheaper than a call for each request.
    fn arm(&mut self) -> Option<Arming> {
        let end = self.closing.filter(|_| !self.line.is_empty());
        let reask_barrier = self.reask_barrier.map(|reask_barrier| reask_barrier.until);
        let openings = [self.locker.poll_timeout(), end, reask_barrier, self.leases.due()].into_iter().flatten();
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
impl Gate {
    /// A fault under the lock.
    pub(crate) fn poison_for_test(&self) {
        let fault = std::panic::AssertUnwindSafe(|| self.step(self.clock.now(), |_| panic!("a fault")));
        assert!(std::panic::catch_unwind(fault).is_err());
    }
}

#[cfg(test)]
mod tests;

//! Step of the gate: one input to the locker under the lock, and its effects once the lock is released.

use std::sync::MutexGuard;

use super::timer::Timer;
use super::{Gate, State};
use crate::time::Time;

impl Gate {
    /// Runs one input to the locker and its effects: stores verdicts under the lock; calls wakers and sets the timer
    /// after releasing it.
    pub(super) fn step<R>(&self, now: Time, input: impl FnOnce(&mut State) -> R) -> R {
        let wall = self.wall_unix_nanos();
        let result = self.step_locked(self.lock(), wall, now, input);
        self.longest_step.note(now, self.clock);
        result
    }

    /// As [`Gate::step`], for what each request does.
    pub(super) fn step_of_request<R>(&self, now: Time, input: impl FnOnce(&mut State) -> R) -> R {
        let wall = self.wall_unix_nanos();
        let result = self.step_locked(self.lock(), wall, now, input);
        self.longest_step.note_some(now, self.clock);
        result
    }

    /// As [`Gate::step_of_request`], for `drop`, which must not panic. Returns `None` after the locker has panicked:
    /// nothing more is granted then, so nothing has to be given back.
    pub(super) fn step_in_drop<R>(&self, now: Time, input: impl FnOnce(&mut State) -> R) -> Option<R> {
        let wall = self.wall_unix_nanos();
        let state = self.state.0.lock().ok()?;
        let result = self.step_locked(state, wall, now, input);
        self.longest_step.note_some(now, self.clock);
        Some(result)
    }

    /// Runs `input` with the lock held. `wall`: the wall clock in nanoseconds of Unix time, read just after `now`, if a
    /// limit follows it; grants and settles count in the calendar period of that reading.
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
        let effects = state.conclude(now);
        std::mem::forget(panic_guard);
        drop(state);
        for waker in effects.wakers {
            waker.wake();
        }
        if let Some(arming) = effects.arming {
            self.timer.arm(arming, &self.clock);
        }
        self.signals.notify(effects.signals_due);
        result
    }

    /// Locks the state.
    ///
    /// # Panics
    /// After a panic under the lock.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // After a panic under the lock the counts may be too low. Granting nothing is safer than granting too much.
        self.state.0.lock().expect("the locker does not panic")
    }
}

/// Drop guard for a panic under the lock. It fires the timer, so that [`Gate::drive`] finds the lock poisoned at once
/// and panics too, which ends the process. Without it requests would fail one by one until the next opening.
struct PanicGuard<'t>(&'t Timer);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        self.0.fire_now();
    }
}

//! Timer driver: wakes waiters when slots open. A timerfd, because tokio's own timer rounds to a millisecond.
//!
//! The timer is set by the thread that makes the next opening earlier, without a detour over the
//! driver's thread; the driver only waits for its firings. One timer serves all limits: it is set
//! to the earliest due time of the whole gate.
//!
//! Causes of a wake-up of the driver:
//!
//! - The timer has fired: a slot opens, a lease or the re-ask barrier ends, or the shutdown grace
//!   is over.
//! - The wall clock was set, or the machine resumed from suspend.
//! - The last handle of the gate was dropped, or a panic has poisoned its lock.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Gate;
use super::clock::Clock;
use super::clock_watch::ClockWatch;
use super::thread_signal::PendingSignals;
use crate::time::Time;

/// Setting of the timer. The one with the highest number holds, in whatever order several arrive: numbers are assigned
/// under the gate's lock, the timer is set without it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arming {
    /// Position in the order of settings, from 1.
    /// Counted by `State::armings`; `u64::MAX` stands for the final firing, which nothing undoes.
    pub(super) number: u64,
    /// Time at which the timer fires.
    /// A time in the past fires at once.
    pub(super) at: Time,
}

/// Timer of the gate. Any thread may set it: the one with the step that makes the next opening earlier.
#[derive(Default)]
pub(super) struct Timer {
    /// The timerfd; empty until it is prepared or the gate is driven.
    descriptor: OnceLock<Arc<OwnedFd>>,
    /// Number of the setting that holds.
    /// The lock is held over the system call, so that the order of numbers is that of the calls.
    latest: Mutex<u64>,
}

impl Timer {
    /// Sets the timer, unless a newer setting holds.
    ///
    /// Called after each step that needs an earlier firing, without the gate's lock. Without a
    /// timerfd only the number is noted: `Gate::drive` does all due work when it starts, and that
    /// step sets the timer again.
    pub(super) fn arm(&self, arming: Arming, clock: &Clock) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if arming.number > *latest {
            *latest = arming.number;
            self.set(clock.kernel_time(arming.at));
        }
    }

    /// Fires at once, and ignores every later setting.
    ///
    /// Called by the drop of the gate, and after a panic under its lock. The driver then finds that
    /// the gate is gone, or the poisoned lock.
    pub(super) fn fire_now(&self) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = u64::MAX;
        // A time of zero would disarm it.
        self.set(Timespec { tv_sec: 0, tv_nsec: 1 });
    }

    /// Arms the timerfd for an absolute time of CLOCK_MONOTONIC, if there is one. A failure is logged: waiters are then
    /// woken by other requests only.
    fn set(&self, at: Timespec) {
        let Some(descriptor) = self.descriptor.get() else {
            return;
        };
        let once = Itimerspec { it_interval: Timespec::default(), it_value: at };
        if let Err(error) = timerfd_settime(descriptor, TimerfdTimerFlags::ABSTIME, &once) {
            tracing::error!(%error, "cannot set the timer; waiters may wake late");
        }
    }

    /// Allocates the timer's file descriptor.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub(super) fn prepare(&self) -> io::Result<()> {
        self.descriptor().map(drop)
    }

    /// Returns the timerfd, created by the first call.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    fn descriptor(&self) -> io::Result<Arc<OwnedFd>> {
        if let Some(descriptor) = self.descriptor.get() {
            return Ok(Arc::clone(descriptor));
        }
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Arc::clone(self.descriptor.get_or_init(|| Arc::new(timer))))
    }
}

impl Gate {
    /// Runs the timer: wakes waiters as slots open, sweeps idle keys, follows the wall clock. Run it on one runtime,
    /// preferably on a mostly idle thread. Returns after all other handles of the gate are dropped.
    ///
    /// Order of its steps:
    ///
    /// 1. Lowers the timer slack of its thread from 50 µs to 1 ns. A failure is logged and ignored.
    /// 2. Registers the timerfd with the runtime's reactor.
    /// 3. Does the work that is due already.
    /// 4. Keeps only a weak handle, and waits for the timer or for a change of the wall clock.
    /// 5. Does the due work after each, as long as the gate exists.
    ///
    /// # Errors
    /// If the system provides no timer: out of file descriptors, or this runtime drives the gate already.
    ///
    /// # Panics
    /// After the locker has panicked, since its lock is poisoned then.
    ///
    /// # Cancel safety
    /// Dropping the future stops the timer. Waiters are then woken by other requests only, until the gate is driven
    /// again.
    pub async fn drive(self: Arc<Self>) -> io::Result<()> {
        // Without this, epoll's timeouts on this thread may be 50 µs late (prctl(2), PR_SET_TIMERSLACK).
        if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
            tracing::debug!(%error, "cannot lower the timer slack");
        }
        #[allow(
            deprecated,
            reason = "its successor is unsafe; an owned descriptor stays open, which is all that it asks for"
        )]
        let timer = AsyncFd::with_interest(self.timer.descriptor()?, Interest::READABLE)?;
        self.expire();
        let gate = Arc::downgrade(&self);
        drop(self);
        let watch = ClockWatch::new();
        loop {
            tokio::select! {
                ready = timer.readable() => {
                    let mut ready = ready?;
                    match rustix::io::read(timer.get_ref(), &mut [0; 8]) {
                        // Nothing to read: the timer was set anew after it had fired. The work that was due is still
                        // done now.
                        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                    // The timer is readable once for each firing.
                    ready.clear_ready();
                }
                () = watch.changed() => {}
            }
            let Some(gate) = gate.upgrade() else {
                return Ok(());
            };
            gate.expire();
        }
    }

    /// Does all work that is due now.
    ///
    /// Runs as one step of the locker, in this order: the ends of leases, the openings of windows,
    /// the end of the re-ask barrier, the end of the shutdown grace. A firing without due work
    /// changes nothing but the next setting of the timer.
    pub(super) fn expire(&self) {
        let follows_wall = self.follows_wall.load(Ordering::Relaxed);
        let now = self.clock.now();
        self.step(now, |state| {
            state.armed = Time::NEVER;
            if follows_wall {
                state.tick(now);
            }
            state.end_leases(now);
            state.locker.handle_timeout(now);
            state.end_reask_barrier(now);
            state.end_if_closed(now);
        });
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // The driver and the threads see that the gate is gone, and end.
        self.timer.fire_now();
        self.signals.notify(PendingSignals { journal: true, new_process: true, old_process: true, store: true });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::time::timerfd_gettime;

    use super::*;

    #[test]
    fn an_arming_that_arrives_late_does_not_undo_a_newer_one() {
        let (timer, clock) = (Timer::default(), Clock::start());
        let descriptor = timer.descriptor().unwrap();
        let hours = |hours: u64| clock.now() + Duration::from_secs(3600 * hours);
        let left = || timerfd_gettime(&descriptor).unwrap().it_value.tv_sec;
        timer.arm(Arming { number: 2, at: hours(5) }, &clock);
        timer.arm(Arming { number: 1, at: hours(1) }, &clock);
        assert!(left() > 3600 * 4, "{}", left());
        timer.arm(Arming { number: 3, at: hours(2) }, &clock);
        assert!((3600..=3600 * 2).contains(&left()), "{}", left());
    }

    #[test]
    fn the_timer_is_made_once() {
        let timer = Timer::default();
        assert!(Arc::ptr_eq(&timer.descriptor().unwrap(), &timer.descriptor().unwrap()));
    }
}

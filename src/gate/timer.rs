//! Timer of the gate: a timerfd that any thread sets, and the driver waits for.
//!
//! Settings are numbered under the gate's lock and made without it, so that a late one does not undo
//! a newer one.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::clock::Clock;
use super::sync::{Arc, Mutex, PoisonError};
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
    pub(super) fn descriptor(&self) -> io::Result<Arc<OwnedFd>> {
        if let Some(descriptor) = self.descriptor.get() {
            return Ok(Arc::clone(descriptor));
        }
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Arc::clone(self.descriptor.get_or_init(|| Arc::new(timer))))
    }
}

//! Wall clock watcher: `calendar` limits follow the clock's reading in every step of the locker; the kernel notifies of
//! a changed clock and of a resume from suspend.
//!
//! Three sources report a change of the wall clock, from the fastest to the surest:
//!
//! - Each step of the locker compares the clock with the expected reading, if a `calendar` limit
//!   exists.
//! - The kernel cancels a timerfd when the clock is set or the machine resumes. The driver then
//!   makes a step at once, without any request.
//! - A periodic step reads the clock once a second, for kernels without that notification.
//!
//! A gate that never had a `calendar` limit does not read the wall clock in its steps.

use std::future;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Gate, State};
use crate::locker::WallSample;
use crate::time::Time;

/// Interval of the periodic readings of the wall clock, for kernels that do not notify of a change. A period that the
/// clock was set into opens at most this much late.
const TICK: Duration = Duration::from_secs(1);

/// Expiry of the watch, which is never reached: the year 2255, in seconds of Unix time.
const NEVER_SECS: i64 = 9_000_000_000;

impl Gate {
    /// Wall clock in nanoseconds of Unix time; `None` if no limit follows it.
    ///
    /// Read before the lock is taken, so that the lock is not held over it.
    pub(super) fn wall_unix_nanos(&self) -> Option<i128> {
        self.follows_wall.load(Ordering::Relaxed).then(|| self.clock.wall_unix_nanos())
    }

    /// Reports a reading of the wall clock, taken just after `now`, to the locker. No effect while the clock runs as
    /// expected. If it seems to have jumped, it is sampled exactly first, since a preempted thread looks the same.
    ///
    /// Called first in each step, under the lock: the input of the step then counts in the right
    /// period. A jump that cannot be sampled exactly is left to the next step.
    pub(super) fn follow_wall(&self, state: &mut State, unix_nanos: i128, now: Time) {
        if !state.locker.expects_wall(unix_nanos, now)
            && let Some(wall) = self.clock.exact_wall()
        {
            state.locker.set_wall(wall, now);
        }
    }
}

impl State {
    /// Starts to follow the wall clock, from this sample on.
    ///
    /// Called by a start, an upgrade or a reload with a `calendar` limit. There is no way back:
    /// readings go on after the last such limit was removed.
    pub(super) fn begin_to_follow_wall(&mut self, wall: WallSample, now: Time) {
        self.locker.set_wall(wall, now);
        self.wall_due = now + TICK;
    }

    /// Schedules the next periodic reading.
    ///
    /// Called by the driver after each firing of the timer, not only after periodic ones.
    pub(super) fn tick(&mut self, now: Time) {
        self.wall_due = now + TICK;
    }
}

/// Notification of a changed wall clock or a resume from suspend; `None` if the system has none.
///
/// Owned by `Gate::drive`; its timerfd is closed when the gate is no longer driven.
pub(super) struct ClockWatch(Option<AsyncFd<OwnedFd>>);

impl ClockWatch {
    /// Creates the watch; without support of the system it logs that and never wakes.
    pub(super) fn new() -> ClockWatch {
        let watch = ClockWatch::timer().inspect_err(|error| {
            tracing::debug!(%error, "no notification of wall clock changes: the clock is read once a second instead");
        });
        ClockWatch(watch.ok())
    }

    /// Creates a timer that the kernel cancels when the wall clock jumps (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET).
    ///
    /// # Errors
    /// If the process is out of file descriptors, or the kernel or a sandbox does not support the
    /// flag.
    fn timer() -> io::Result<AsyncFd<OwnedFd>> {
        let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let never = Timespec { tv_sec: NEVER_SECS, tv_nsec: 0 };
        let once = Itimerspec { it_interval: Timespec::default(), it_value: never };
        timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &once)?;
        #[allow(
            deprecated,
            reason = "its successor is unsafe; an owned descriptor stays open, which is all that it asks for"
        )]
        AsyncFd::with_interest(timer, Interest::READABLE)
    }

    /// Waits until the wall clock has changed by anything but the passing of time.
    ///
    /// Never returns if the system has no notification, or after an error of the reactor.
    ///
    /// # Cancel safety
    /// Cancel safe: the next call returns a change that this one did not.
    pub(super) async fn changed(&self) {
        let Some(timer) = &self.0 else { return future::pending().await };
        loop {
            let Ok(mut ready) = timer.readable().await else { return future::pending().await };
            let read = rustix::io::read(timer.get_ref(), &mut [0; 8]);
            // The next change cancels the timer again.
            ready.clear_ready();
            if read == Err(Errno::CANCELED) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn the_kernel_watches_the_clock_and_says_nothing_as_long_as_it_goes_on() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let watch = ClockWatch(Some(ClockWatch::timer().expect("Linux has had it since 3.0")));
        let mut changed = std::pin::pin!(watch.changed());
        for _ in 0..3 {
            runtime.block_on(tokio::task::yield_now());
            assert_eq!(changed.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
        }
    }
}

//! Watch on the wall clock: calendar limits go by what it reads with every step of the locker, and hear from the kernel
//! when it was set or the machine woke up.

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

/// Interval of the looks at the wall clock if nothing else happens: not every kernel says when it was set.
const TICK: Duration = Duration::from_secs(1);

/// A moment of the wall clock that the watch never reaches: the year 2255.
const NEVER_SECS: i64 = 9_000_000_000;

impl Gate {
    /// The wall clock in nanoseconds of Unix time, if a limit follows it.
    pub(super) fn wall_unix_nanos(&self) -> Option<i128> {
        self.follows_wall.load(Ordering::Relaxed).then(|| self.clock.wall_unix_nanos())
    }

    /// Has the locker follow the wall clock, which read this just after `now`. As long as it goes on as it is known to,
    /// nothing happens; if it does not seem to, it is looked at with more care: the thread may have been held up.
    pub(super) fn follow_wall(&self, state: &mut State, unix_nanos: i128, now: Time) {
        if !state.locker.expects_wall(unix_nanos, now)
            && let Some(wall) = self.clock.exact_wall()
        {
            state.locker.set_wall(wall, now);
        }
    }
}

impl State {
    /// The wall clock reads this, and is followed from here on.
    pub(super) fn begin_to_follow_wall(&mut self, wall: WallSample, now: Time) {
        self.locker.set_wall(wall, now);
        self.wall_due = now + TICK;
    }

    /// The next tick is due a while after this one.
    pub(super) fn tick(&mut self, now: Time) {
        self.wall_due = now + TICK;
    }
}

/// Wakes when the wall clock has been set, or the machine has been suspended.
pub(super) struct ClockWatch(Option<AsyncFd<OwnedFd>>);

impl ClockWatch {
    pub(super) fn new() -> ClockWatch {
        let watch = ClockWatch::timer().inspect_err(|error| {
            tracing::debug!(%error, "the system does not tell when the wall clock is set: it is looked at each second");
        });
        ClockWatch(watch.ok())
    }

    /// A timer of the wall clock's that is cancelled when that does not go on by itself (timerfd_create(2),
    /// TFD_TIMER_CANCEL_ON_SET).
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
    /// # Cancel safety
    /// A change that was not heard of is heard of by the next call.
    pub(super) async fn changed(&self) {
        let Some(timer) = &self.0 else { return future::pending().await };
        loop {
            let Ok(mut ready) = timer.readable().await else { return future::pending().await };
            let read = rustix::io::read(timer.get_ref(), &mut [0; 8]);
            // A cancelled timer is cancelled again by the next change.
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

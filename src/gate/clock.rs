//! Clocks of the gateway: CLOCK_MONOTONIC for all decisions, the wall clock for `calendar` windows. No other file reads
//! a clock.
//!
//! Three kernel clocks take part, each for one purpose:
//!
//! | clock | runs during a suspend | purpose |
//! |---|---|---|
//! | CLOCK_MONOTONIC | no | gateway time: all decisions, timers |
//! | CLOCK_BOOTTIME | yes | times in the journal and between processes; detection of a suspend |
//! | CLOCK_REALTIME | yes, and can be set | periods of `calendar` limits; downtime of the machine |
//!
//! Tests use a manual clock that stands still until its hand moves it.
#![allow(
    clippy::disallowed_methods,
    reason = "this file is the one that may read clocks, so that every other is handed the time"
)]

use std::time::{Duration, Instant, SystemTime};

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::locker::WallSample;
use crate::time::Time;

/// By definition; `u64` holds about 584 years of nanoseconds.
const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// 2026-01-01T00:00:00Z in nanoseconds of Unix time, a date before the first release: a wall clock that reads less has
/// not been set since the machine booted.
const EARLIEST: i128 = 1_767_225_600_000_000_000;
/// Distance of [`Time::START`] before the start of the clock. Counts of an earlier process need times before the start:
/// up to two periods of the longest window (366 days).
const BEFORE: Duration = Duration::from_secs(2 * 366 * 86_400);
/// Stands for "never" where an [`Instant`] is needed: about thirty years.
const AGES: Duration = Duration::from_secs(30 * 365 * 86_400);
/// Largest duration of a read of several clocks that counts as simultaneous: far above an undisturbed read (a few vDSO
/// calls), far below the delay of a preempted thread.
const ONE_MOMENT: Duration = Duration::from_micros(100);

/// Longest time between two ticks of the kernel (100 Hz).
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// One moment on the clocks that survive the process, which allow a later process to convert times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BootMoment {
    /// CLOCK_BOOTTIME, which includes time suspended, in nanoseconds.
    /// Continuous over processes of one boot; starts again at each reboot.
    pub(super) since_boot: u64,
    /// The wall clock at the same moment, in nanoseconds of Unix time.
    /// Can be set at any time, so it alone proves nothing.
    pub(super) wall: i128,
    /// Gateway time just before these were read.
    /// The distance to `after` bounds the error of a conversion.
    pub(super) before: Time,
    /// Gateway time just after these were read.
    pub(super) after: Time,
}

/// Monotonic clock with its own zero point (CLOCK_MONOTONIC). Cheap to copy; all copies share one start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Instant of [`Time::START`] + [`BEFORE`].
    start: Instant,
    /// Start in nanoseconds of CLOCK_MONOTONIC, for the kernel's timers. Read just after `start`, so that a timer never
    /// fires before [`Clock::now`] has reached its time.
    kernel_start_nanos: u64,
    /// Control of a manual clock; `None`: the real one.
    #[cfg(test)]
    hand: Option<&'static Hand>,
}

impl Clock {
    /// Starts a clock.
    ///
    /// One clock a process: times of two clocks cannot be compared. It begins two years after
    /// [`Time::START`], so that times of an earlier process have room before it.
    pub fn start() -> Clock {
        let start = Instant::now();
        Clock {
            start,
            kernel_start_nanos: nanos_of(ClockId::Monotonic),
            #[cfg(test)]
            hand: None,
        }
    }

    /// Current time.
    ///
    /// Never goes back, and stands still while the machine is suspended. Takes no lock and no
    /// system call where the kernel provides the clock in user space (vDSO).
    pub fn now(&self) -> Time {
        #[cfg(test)]
        if let Some(hand) = self.hand {
            return hand.now();
        }
        Time::START + BEFORE + self.start.elapsed()
    }

    /// Time of the kernel's last tick, at most [`TICK`] before [`Clock::now`]: for deadlines of seconds, at a fraction of
    /// the price (CLOCK_MONOTONIC_COARSE, clock_gettime(2)).
    pub fn recent(&self) -> Time {
        #[cfg(test)]
        if let Some(hand) = self.hand {
            return hand.now();
        }
        let since_start = nanos_of(ClockId::MonotonicCoarse).saturating_sub(self.kernel_start_nanos);
        Time::START + BEFORE + Duration::from_nanos(since_start)
    }

    /// Nanoseconds that the machine has been suspended since it booted; gateway time stands still meanwhile. May be
    /// slightly too high, never too low.
    pub(super) fn asleep_nanos(&self) -> u64 {
        #[cfg(test)]
        if let Some(hand) = self.hand {
            return hand.asleep_nanos();
        }
        // CLOCK_MONOTONIC is read second, so a preempted thread makes the difference too small.
        nanos_of(ClockId::Boottime).saturating_sub(nanos_of(ClockId::Monotonic))
    }

    /// Reads all clocks at one moment, between two readings of gateway time: the thread may be preempted at any point.
    ///
    /// Conversions choose the bound that is safe for them: times written here use `before`, times
    /// read use `after`, so that no time becomes earlier.
    pub(super) fn boot_moment(&self) -> BootMoment {
        let before = self.now();
        #[cfg(test)]
        if let Some(hand) = self.hand {
            let (since_boot, wall) = (before.as_nanos() + hand.asleep_nanos(), self.wall_unix_nanos());
            return BootMoment { since_boot, wall, before, after: before };
        }
        let since_boot = nanos_of(ClockId::Boottime);
        let wall = self.wall_unix_nanos();
        BootMoment { since_boot, wall, before, after: self.now() }
    }

    /// CLOCK_BOOTTIME in nanoseconds: the time since the machine booted, suspends included. The kernel tells the start of
    /// a process by it.
    pub fn since_boot_nanos(&self) -> u64 {
        self.boot_moment().since_boot
    }

    /// Converts to an [`Instant`], for tokio's timers.
    ///
    /// A time before the start of the clock gives the start; a time too far ahead, as
    /// [`Time::NEVER`], gives an instant about thirty years ahead.
    pub fn instant(&self, at: Time) -> Instant {
        let since_start = at.since(Time::START + BEFORE);
        self.start.checked_add(since_start).unwrap_or(self.start + AGES)
    }

    /// Wall clock in nanoseconds of Unix time; negative before 1970.
    ///
    /// Read anew at each call. The system may set it forwards or back between two calls.
    pub fn wall_unix_nanos(&self) -> i128 {
        #[cfg(test)]
        if let Some(hand) = self.hand {
            return hand.wall_unix_nanos();
        }
        let nanos = |span: Duration| i128::try_from(span.as_nanos()).unwrap_or(i128::MAX);
        match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => nanos(since),
            Err(error) => -nanos(error.duration()),
        }
    }

    /// Samples the wall clock. If the thread was preempted during each of three attempts, the sample is off by up to
    /// that delay.
    ///
    /// For callers that need a sample in any case: a start or a reload with `calendar` limits.
    pub(super) fn wall(&self) -> WallSample {
        self.exact_wall().unwrap_or_else(|| self.sample_wall().0)
    }

    /// Samples the wall clock exactly. Returns `None` if the thread was preempted during each of three attempts.
    ///
    /// An exact sample was read within 100 µs. Used to tell a clock that was set from a thread that
    /// was preempted.
    pub(super) fn exact_wall(&self) -> Option<WallSample> {
        let samples = (0..3).map(|_| self.sample_wall());
        samples.into_iter().find_map(|(wall, took)| (took <= ONE_MOMENT).then_some(wall))
    }

    /// One sample of the wall clock, and the time that it took.
    ///
    /// The reading is extrapolated back to [`Time::START`]: samples of an undisturbed clock differ
    /// only by its drift and by the time that the read took.
    fn sample_wall(&self) -> (WallSample, Duration) {
        let before = self.now();
        let unix = self.wall_unix_nanos();
        let asleep = self.asleep_nanos();
        let wall = WallSample { at_start: unix - i128::from(before.as_nanos()), asleep, is_set: was_set(unix) };
        (wall, self.now().since(before))
    }

    /// Converts to an absolute time of CLOCK_MONOTONIC, for the kernel's timers.
    ///
    /// A time before the start of the clock gives the start, which has passed: a timer set to it
    /// fires at once.
    pub(super) fn kernel_time(&self, at: Time) -> Timespec {
        let since_start = u64::try_from(at.since(Time::START + BEFORE).as_nanos()).unwrap_or(u64::MAX);
        let nanos = self.kernel_start_nanos.saturating_add(since_start);
        Timespec {
            tv_sec: i64::try_from(nanos / NANOS_PER_SECOND).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(nanos % NANOS_PER_SECOND).unwrap_or(0),
        }
    }

    /// Converts to nanoseconds of CLOCK_MONOTONIC, which all processes of the machine share.
    pub fn monotonic_nanos(&self, at: Time) -> i64 {
        let kernel = self.kernel_time(at);
        kernel.tv_sec.saturating_mul(1_000_000_000).saturating_add(kernel.tv_nsec)
    }

    /// Test clock that stands still until it is moved by the returned hand.
    #[cfg(test)]
    pub(crate) fn manual() -> (Clock, &'static Hand) {
        let hand: &'static Hand = Box::leak(Box::default());
        let clock = Clock { hand: Some(hand), ..Clock::start() };
        (clock, hand)
    }
}

/// Reads a clock of the kernel, in nanoseconds. They count from a boot, so that none is negative.
fn nanos_of(clock: ClockId) -> u64 {
    let read = clock_gettime(clock);
    let seconds = u64::try_from(read.tv_sec).unwrap_or(0);
    seconds.saturating_mul(NANOS_PER_SECOND).saturating_add(u64::try_from(read.tv_nsec).unwrap_or(0))
}

/// Returns true if a wall clock with this reading (in nanoseconds of Unix time) has been set since the machine booted.
///
/// Machines without a clock battery boot with a time far in the past until NTP sets it.
pub(super) fn was_set(unix_nanos: i128) -> bool {
    unix_nanos >= EARLIEST
}

/// Control of a manual clock.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Hand {
    nanos: std::sync::atomic::AtomicU64,
    wall_at_start: std::sync::atomic::AtomicI64,
    asleep: std::sync::atomic::AtomicU64,
}

#[cfg(test)]
impl Default for Hand {
    /// Wall clock at 2026-06-01T00:00:00Z, gateway time at zero.
    fn default() -> Hand {
        let wall_at_start = i64::try_from(EARLIEST + 151 * 86_400_000_000_000).unwrap().into();
        Hand { nanos: 0.into(), wall_at_start, asleep: 0.into() }
    }
}

#[cfg(test)]
impl Hand {
    /// Advances the clock by `span`.
    pub(crate) fn pass(&self, span: Duration) {
        let nanos = u64::try_from(span.as_nanos()).unwrap();
        self.nanos.fetch_add(nanos, std::sync::atomic::Ordering::SeqCst);
    }

    /// Sets the wall clock ahead by `span`; gateway time does not change.
    pub(crate) fn set_wall_ahead(&self, span: Duration) {
        let nanos = i64::try_from(span.as_nanos()).unwrap();
        self.wall_at_start.fetch_add(nanos, std::sync::atomic::Ordering::SeqCst);
    }

    /// Suspends the machine for `span`: gateway time stands still, the wall clock and the suspended time go on.
    pub(crate) fn suspend(&self, span: Duration) {
        let nanos = u64::try_from(span.as_nanos()).unwrap();
        self.asleep.fetch_add(nanos, std::sync::atomic::Ordering::SeqCst);
        self.set_wall_ahead(span);
    }

    fn asleep_nanos(&self) -> u64 {
        self.asleep.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Sets the wall clock to this many nanoseconds of Unix time.
    pub(crate) fn set_wall(&self, unix: i128) {
        let at_start = i64::try_from(unix - i128::from(self.now().as_nanos())).unwrap();
        self.wall_at_start.store(at_start, std::sync::atomic::Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> Time {
        Time::from_nanos(self.nanos.load(std::sync::atomic::Ordering::SeqCst))
    }

    fn wall_unix_nanos(&self) -> i128 {
        let at_start = self.wall_at_start.load(std::sync::atomic::Ordering::SeqCst);
        i128::from(at_start) + i128::from(self.now().as_nanos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_and_every_copy_agrees() {
        let clock = Clock::start();
        let copy = clock;
        let first = clock.now();
        let second = copy.now();
        assert!(second >= first);
        assert!(clock.instant(first) <= copy.instant(second));
        assert_eq!(clock.instant(second) - clock.instant(first), second.since(first));
    }

    #[test]
    fn the_recent_time_is_never_ahead_and_follows() {
        let clock = Clock::start();
        let start = clock.now();
        // Bounded by the kernel's ticks, not by the speed of the machine.
        while clock.recent() <= start {
            assert!(clock.recent() <= clock.now());
        }
        assert!(clock.recent() <= clock.now());
    }

    #[test]
    fn never_is_an_instant_too() {
        let clock = Clock::start();
        assert!(clock.instant(Time::NEVER) > clock.instant(Time::START + Duration::from_secs(86_400)));
    }

    #[test]
    fn a_kernel_timer_is_never_set_before_its_moment() {
        for _ in 0..100 {
            let clock = Clock::start();
            let now = clock.now();
            let kernel = clock_gettime(ClockId::Monotonic);
            let due = clock.kernel_time(now);
            // `now` was read before the kernel's clock. If the two starts were read in the opposite order, `due` could
            // lie too early.
            assert!(due.tv_sec >= kernel.tv_sec - 1 && (0..1_000_000_000).contains(&due.tv_nsec));
            let start = clock.kernel_time(Time::START);
            assert!((start.tv_sec, start.tv_nsec) <= (kernel.tv_sec, kernel.tv_nsec));
            assert!((start.tv_sec, start.tv_nsec) <= (due.tv_sec, due.tv_nsec));
        }
    }

    #[test]
    fn the_wall_clock_is_that_of_the_system() {
        let clock = Clock::start();
        let ours = clock.wall_unix_nanos();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let theirs = i128::try_from(since.as_nanos()).unwrap();
        assert!(theirs >= ours && theirs - ours < 60_000_000_000, "{ours} {theirs}");
        let wall = clock.wall();
        let at_start = wall.at_start + i128::try_from(BEFORE.as_nanos()).unwrap();
        assert!(wall.is_set && (ours - at_start).abs() < 60_000_000_000, "{wall:?}");
    }

    #[test]
    fn a_manual_clock_stands_still_until_it_is_moved() {
        let (clock, hand) = Clock::manual();
        assert_eq!(clock.now(), Time::START);
        hand.pass(Duration::from_millis(5));
        assert_eq!(clock.now(), Time::START + Duration::from_millis(5));
        let wall = |at_start, asleep| WallSample { at_start, asleep, is_set: true };
        let june = EARLIEST + 151 * 86_400_000_000_000;
        assert_eq!(clock.exact_wall(), Some(wall(june, 0)));
        hand.set_wall_ahead(Duration::from_secs(1));
        assert_eq!(clock.exact_wall(), Some(wall(june + 1_000_000_000, 0)));
        hand.suspend(Duration::from_secs(2));
        assert_eq!(clock.exact_wall(), Some(wall(june + 3_000_000_000, 2_000_000_000)));
        hand.set_wall(0);
        assert!(!clock.wall().is_set, "1970");
    }
}

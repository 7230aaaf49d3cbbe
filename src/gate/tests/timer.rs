//! Timer: one descriptor, and the newest setting.

use rustix::time::timerfd_gettime;

use super::*;
use crate::gate::clock::Clock;

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

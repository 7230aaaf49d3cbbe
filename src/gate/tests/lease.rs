//! Leases: permits that end by themselves.

use super::*;

fn one_at_a_time() -> World {
    World::new(vec![Limit { rate: None, in_flight: Some(1), ..limit(1, ms(1)) }])
}

#[test]
fn a_lease_ends_at_its_time_and_lets_the_next_go() {
    let world = one_at_a_time();
    let lease = world.go().lease(ms(250));
    let mut next = world.wait(0);
    assert!(next.waits());
    world.pass(ms(249));
    assert!(next.waits() && lease.is_running());
    world.pass(ms(1));
    assert_eq!((lease.is_running(), lease.end(), next.wakes()), (false, false, 1));
    drop(next.go());
}

#[test]
fn a_lease_that_was_ended_early_is_not_ended_again() {
    let world = one_at_a_time();
    let lease = world.go().lease(ms(250));
    let next = world.wait(0);
    assert_eq!((lease.end(), lease.is_running(), lease.end()), (true, false, false));
    let second = next.go().lease(ms(1000));
    world.pass(ms(300));
    assert!(second.is_running(), "the end of the first is not the second's");
}

#[test]
fn a_lease_runs_from_its_grant_however_late_it_was_picked_up() {
    let world = one_at_a_time();
    let first = world.go().lease(ms(100));
    let waiting = world.wait(0);
    world.pass(ms(100));
    assert!(!first.is_running());
    world.pass(ms(60));
    let second = waiting.go().lease(ms(100));
    world.pass(ms(40));
    assert!(!second.is_running());
}

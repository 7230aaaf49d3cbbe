//! Permit and flight: each settles once, and each drop gives back what is due.

use super::*;
use crate::locker::{SlotGrant, SyncTrigger};

#[test]
fn a_request_without_claims_touches_no_lock() {
    let world = World::new(vec![limit(1, ms(100))]);
    let held = world.gate.lock();
    let gate = Arc::clone(&world.gate);
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let Answer::Go(permit) = gate.ask(&[], CALLER, Patience::default()) else { return };
        let mut flight = permit.depart().nothing_left().depart();
        flight.sent();
        flight.answered();
        drop(flight);
        done.send(()).ok();
    });
    assert!(ended.recv_timeout(AGES).is_ok(), "it waits for the lock");
    drop(held);
}

#[test]
fn a_flight_that_fails_before_its_head_is_known_to_be_written_may_still_count() {
    let world = World::new(vec![limit(1, ms(100))]);
    drop(world.go().depart());
    let mut waiter = world.wait(0);
    // One second of linger, then the `per` of the limit.
    world.pass(ms(1099));
    assert!(waiter.waits());
    world.pass(ms(1));
    drop(waiter.go());
}

#[test]
fn a_flight_settles_once_when_its_head_is_written() {
    let world = World::new(vec![limit(1, ms(100))]);
    let mut flight = world.go().depart();
    world.hand.pass(ms(10));
    assert_eq!(flight.sent(), at(10));
    world.hand.pass(ms(50));
    assert_eq!(flight.sent(), at(10));
    flight.answered();
    drop(flight);
    let mut waiter = world.wait(0);
    world.pass(ms(49));
    assert!(waiter.waits());
    world.pass(ms(1));
    drop(waiter.go());
}

/// Permit for a slot that a store has granted.
fn shared_permit(world: &World) -> Permit {
    world.gate.step(world.hand.now(), |state| state.locker.open_sharing(at(0)));
    let waiter = world.wait(0);
    let exchange = world.gate.step(at(0), |state| state.locker.take_sync(SyncTrigger::Heartbeat, at(0)));
    let taken = SlotGrant { groups: vec![(Duration::ZERO, 1)], ..SlotGrant::default() };
    world.gate.step(at(0), |state| state.locker.sync_answered(&exchange, &[taken], at(0), at(0), at(0)));
    waiter.go()
}

#[test]
fn what_a_store_has_granted_is_not_sent_after_a_suspend() {
    let world = World::new(vec![Limit { shared: true, ..limit(1, ms(100)) }]);
    let flight = shared_permit(&world).depart();
    assert!(flight.is_good());
    world.hand.suspend(ms(60_000));
    assert!(!flight.is_good(), "the slot is another gateway's by now");
    assert!(flight.nothing_left().is_late());
    // A limit that is counted locally stands still with this machine.
    let world = World::new(vec![limit(1, ms(100))]);
    let flight = world.go().depart();
    world.hand.suspend(ms(60_000));
    assert!(flight.is_good());
}

#[test]
fn what_counts_answered_settles_with_the_answer_and_after_a_failure_with_the_linger() {
    for (answered, opens) in [(true, 160), (false, 1160)] {
        let mut rule = limit(1, ms(100));
        rule.rate.as_mut().unwrap().counts = Counts::Answered;
        let world = World::new(vec![rule]);
        let mut flight = world.go().depart();
        flight.sent();
        world.hand.pass(ms(60));
        if answered {
            flight.answered();
        }
        drop(flight);
        let mut waiter = world.wait(0);
        world.pass(ms(opens - 61));
        assert!(waiter.waits(), "{answered}");
        world.pass(ms(1));
        drop(waiter.go());
    }
}

#[test]
fn an_answer_settles_what_was_never_said_to_be_sent() {
    let world = World::new(vec![limit(1, ms(100))]);
    let mut flight = world.go().depart();
    flight.answered();
    flight.sent();
    drop(flight);
    world.hand.pass(ms(100));
    drop(world.go());
}

#[test]
fn in_flight_ends_with_the_flight_and_with_a_permit_that_is_dropped() {
    let rule = Limit { rate: None, in_flight: Some(1), ..limit(1, ms(100)) };
    let world = World::new(vec![rule]);
    let mut flight = world.go().depart();
    flight.sent();
    flight.answered();
    let (mut first, mut second) = (world.wait(0), world.wait(0));
    assert!(first.waits() && second.waits());
    assert_eq!(world.usage().flying, 1);
    drop(flight);
    assert_eq!((first.wakes(), second.wakes()), (1, 0));
    drop(first.go());
    assert_eq!(second.wakes(), 1);
    drop(second);
    assert_eq!(world.usage().flying, 0);
}

#[test]
fn nothing_left_is_the_same_permit_again() {
    let world = World::new(vec![limit(1, ms(100))]);
    world.hand.pass(ms(5));
    let flight = world.go().depart();
    world.hand.pass(ms(5));
    let again = flight.nothing_left();
    assert_eq!(again.granted_at(), at(5));
    assert_eq!(world.usage().taken, 1);
    drop(again);
    assert_eq!(world.usage().taken, 0);
}

#[test]
#[should_panic = "has left"]
fn a_request_that_was_sent_cannot_say_that_nothing_left() {
    let mut flight = World::new(vec![limit(1, ms(100))]).go().depart();
    flight.sent();
    let _again = flight.nothing_left();
}

#[test]
fn a_dry_run_lets_go_and_tells_how_long_the_wait_would_have_been() {
    let world = World::new(vec![Limit { dry_run: true, ..limit(1, ms(100)) }]);
    let first = world.go();
    assert_eq!(first.overruled(), None);
    first.depart().sent();
    world.hand.pass(ms(40));
    assert_eq!(world.go().overruled(), Some((LimitId(0), ms(60))));
}

//! Wait slots: grants, wake-ups, and the traces of a dropped waiter.

use super::*;

#[test]
fn a_free_slot_is_granted_at_once_and_a_taken_one_when_it_opens() {
    let world = World::new(vec![limit(1, ms(100))]);
    world.hand.pass(ms(3));
    let permit = world.go();
    assert_eq!(permit.granted_at(), at(3));
    permit.depart().sent();
    let mut waiter = world.wait(0);
    assert!(waiter.waits());
    world.pass(ms(99));
    assert!(waiter.waits());
    world.pass(ms(1));
    assert_eq!(waiter.wakes(), 1);
    assert_eq!(waiter.go().granted_at(), at(103));
}

#[test]
fn an_opening_wakes_only_the_one_that_may_go() {
    let world = World::closed_for_100_ms();
    let mut waiters: Vec<Waiter> = (0..10).map(|_| world.wait(0)).collect();
    assert!(waiters.iter_mut().all(Waiter::waits));
    world.pass(ms(100));
    let wakes: Vec<usize> = waiters.iter().map(Waiter::wakes).collect();
    assert_eq!(wakes, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn the_waker_of_the_last_poll_is_the_one_that_is_woken() {
    let world = World::closed_for_100_ms();
    let mut waiter = world.wait(0);
    assert!(waiter.waits());
    let before = std::mem::take(&mut waiter.waker);
    assert!(waiter.waits());
    world.pass(ms(100));
    assert_eq!((before.0.load(Ordering::SeqCst), waiter.wakes()), (0, 1));
}

#[test]
fn a_waiter_dropped_before_its_turn_gives_it_to_the_next() {
    for polled in [false, true] {
        let world = World::closed_for_100_ms();
        let (mut first, second) = (world.wait(0), world.wait(0));
        assert!(!polled || first.waits());
        drop(first);
        assert_eq!(world.usage().waiting, 1);
        world.pass(ms(100));
        assert_eq!(second.go().granted_at(), at(100), "polled: {polled}");
    }
}

#[test]
fn a_permit_that_was_granted_but_not_picked_up_goes_to_the_next_at_once() {
    for polled in [false, true] {
        let world = World::closed_for_100_ms();
        let (mut first, mut second) = (world.wait(0), world.wait(0));
        assert!(!polled || first.waits());
        assert!(second.waits());
        world.pass(ms(100));
        world.hand.pass(ms(7));
        assert_eq!((first.wakes(), second.wakes()), (usize::from(polled), 0));
        drop(first);
        assert_eq!(second.wakes(), 1, "polled: {polled}");
        assert_eq!(second.go().granted_at(), at(107));
        assert_eq!(world.usage().taken, 0, "the second permit was dropped too");
    }
}

#[test]
fn a_permit_that_is_dropped_gives_its_slot_to_the_next_at_once() {
    let world = World::closed_for_100_ms();
    let (first, mut second) = (world.wait(0), world.wait(0));
    assert!(second.waits());
    world.pass(ms(100));
    let permit = first.go();
    assert_eq!(second.wakes(), 0);
    drop(permit);
    assert_eq!(second.wakes(), 1);
}

#[test]
fn a_limits_refusal_reaches_the_caller_at_once_or_in_line() {
    let refusing = Limit { when_full: WhenFull::Refuse, ..limit(1, ms(100)) };
    let world = World::new(vec![refusing]);
    world.go().depart().sent();
    let Refused::Sorry(sorry) = world.refused() else { panic!("it is not closing") };
    assert_eq!((sorry.reason, sorry.until), (RefusalReason::Full, at(100)));

    let world = World::new(vec![Limit { max_wait: ms(150), ..limit(1, ms(100)) }]);
    let permit = world.go();
    let waiter = world.wait(0);
    world.pass(ms(150));
    let Refused::Sorry(sorry) = waiter.refused() else { panic!("it is not closing") };
    assert_eq!(sorry.reason, RefusalReason::TimedOut);
    drop(permit);
}

#[test]
fn a_pause_holds_back_but_for_no_longer_than_an_hour() {
    let world = World::new(vec![limit(1, ms(100))]);
    world.gate.pause(LimitId(0), Key::WHOLE, Duration::from_secs(5 * 3600));
    let mut waiter = world.wait(0);
    world.pass(Duration::from_secs(3600) - ms(1));
    assert!(waiter.waits());
    world.pass(ms(1));
    drop(waiter.go());
}

#[test]
fn a_place_is_used_again_only_when_its_verdict_was_picked_up() {
    let world = World::closed_for_100_ms();
    let mut granted: Vec<Waiter> = Vec::new();
    for _ in 0..5 {
        let waiter = world.wait(0);
        world.pass(ms(100));
        granted.push(waiter);
        // Not polled yet: the locker has forgotten the ticket, the verdict is still in its slot.
        assert_eq!(world.usage().taken, 1);
        let mut next = world.wait(0);
        assert!(next.waits());
        drop(next);
        granted.pop().unwrap().go().depart().sent();
    }
    assert!(world.gate.lock().wait_slots.is_empty());
}

#[test]
fn an_ask_that_finds_an_opening_before_the_timer_does_leaves_the_first_in_line_its_turn() {
    let world = World::closed_for_100_ms();
    let mut first = world.wait(0);
    assert!(first.waits());
    world.hand.pass(ms(100));
    // In one step the locker may grant the first, and reuse its ticket's number for the second.
    let mut second = world.wait(0);
    assert!(second.waits());
    assert_eq!((first.wakes(), second.wakes()), (1, 0));
    first.go().depart().sent();
    world.pass(ms(100));
    second.go().depart().sent();
}

/// Waker data that records whether the gate's lock was free when it was last dropped.
struct Dropped {
    gate: Arc<Gate>,
    was_free: Arc<AtomicUsize>,
}

impl Wake for Dropped {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.was_free.store(1 + usize::from(self.gate.state.0.try_lock().is_ok()), Ordering::SeqCst);
    }
}

#[test]
fn the_waker_of_a_waiter_that_leaves_is_dropped_without_the_lock() {
    let world = World::closed_for_100_ms();
    let mut waiter = world.wait(0);
    let was_free = Arc::new(AtomicUsize::new(0));
    let dropped = Dropped { gate: Arc::clone(&world.gate), was_free: Arc::clone(&was_free) };
    let waker = Arc::new(dropped).into();
    assert!(pin!(&mut waiter.waiting).poll(&mut Context::from_waker(&waker)).is_pending());
    drop(waker);
    assert_eq!(was_free.load(Ordering::SeqCst), 0, "the slot has it");
    drop(waiter);
    assert_eq!(was_free.load(Ordering::SeqCst), 2, "dropping it may run anything, also what asks the gate");
}

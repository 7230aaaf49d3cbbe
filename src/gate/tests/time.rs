//! Timer settings, and the effect of a changed wall clock.

use super::*;

#[test]
fn the_timer_is_set_only_when_it_must_fire_earlier() {
    let world = World::new(vec![limit(1, ms(10)), limit(1, ms(1))]);
    world.go().depart().sent();
    let Answer::Go(permit) = world.ask(1) else { panic!("it is free") };
    permit.depart().sent();
    let armed = || {
        let state = world.gate.lock();
        (state.armed, state.armings)
    };
    let _late = world.wait(0);
    let (first, armings) = armed();
    assert_eq!(first, at(10));
    let early = world.wait(1);
    let (second, more) = armed();
    assert_eq!(second, at(1));
    assert_eq!(more, armings + 1);
    let same = (world.wait(0), world.wait(1));
    assert_eq!(armed(), (second, more));
    drop((early, same));
    assert_eq!(armed(), (second, more), "a later opening is not worth a call");
}

fn minutely(requests: u32) -> Limit {
    let mut rule = limit(requests, ms(60_000));
    rule.rate.as_mut().unwrap().kind = Kind::Calendar { unit: Unit::Minute, zone: jiff::tz::TimeZone::UTC };
    rule
}

#[test]
fn a_calendar_window_opens_when_its_minute_is_over_by_the_clock_before_a_step_and_by_the_one_after_it() {
    // Ten seconds past the full minute. After a minute the next period has begun in any case.
    for (step, opens) in [(30_000, 60_000), (-20_000, 70_000)] {
        let world = World::new(vec![minutely(1)]);
        world.pass(ms(10_000));
        world.go().depart().sent();
        let mut waiter = world.wait(0);
        world.hand.set_wall(world.gate.clock().wall_unix_nanos() + i128::from(step) * 1_000_000);
        assert!(world.gate.lock().armed <= at(11_000), "the wall clock is not looked at");
        world.pass(ms(1_000));
        world.pass(ms(opens - 11_001));
        assert!(waiter.waits(), "a step of {step} ms");
        world.pass(ms(1));
        drop(waiter.go());
    }
}

#[test]
fn what_goes_right_after_a_suspend_counts_in_the_minute_that_has_begun_meanwhile() {
    let world = World::new(vec![minutely(2)]);
    world.hand.suspend(ms(60_000));
    // Before the timer fires.
    world.go().depart().sent();
    world.go().depart().sent();
    world.pass(ms(1_000));
    assert!(matches!(world.ask(0), Answer::Wait(_)), "a third of two in a minute");
}

#[test]
fn what_is_sent_right_after_a_suspend_counts_in_the_minute_in_which_it_is_sent() {
    let world = World::new(vec![minutely(1)]);
    let permit = world.go();
    world.hand.suspend(ms(60_000));
    permit.depart().sent();
    world.pass(ms(1_000));
    assert!(matches!(world.ask(0), Answer::Wait(_)), "a second of one in a minute");
}

#[test]
fn a_waiter_goes_when_anything_happens_after_a_suspend_over_the_end_of_its_minute() {
    let world = World::new(vec![minutely(1), limit(1, ms(100))]);
    world.go().depart().sent();
    let mut waiter = world.wait(0);
    world.pass(ms(1));
    world.hand.suspend(ms(60_000));
    let Answer::Go(_permit) = world.ask(1) else { panic!("it is free") };
    assert!(waiter.poll().is_ready());
}

#[test]
fn a_gate_without_calendar_windows_does_not_look_at_the_wall() {
    let world = World::new(vec![limit(1, ms(100))]);
    world.gate.expire();
    assert_eq!(world.gate.lock().wall_due, Time::NEVER);
}

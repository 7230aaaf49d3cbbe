//! Shutdown: waiters that can still be granted before the end, and the refusal of the others.

use super::*;

#[test]
fn closing_refuses_at_once_who_cannot_go_before_the_end() {
    let world = World::closed_for_100_ms();
    let (mut first, mut second, mut third) = (world.wait(0), world.wait(0), world.wait(0));
    assert!(first.waits() && second.waits() && third.waits());
    let end = Refused::Closing { until: at(250) };
    world.gate.close(at(250));
    assert_eq!((first.wakes(), second.wakes(), third.wakes()), (0, 0, 1));
    assert_eq!(third.refused(), end);
    assert_eq!(world.refused(), end, "its turn would be the third");
    world.pass(ms(100));
    first.go().depart().sent();
    world.pass(ms(100));
    second.go().depart().sent();
    assert_eq!(world.usage().waiting, 0);
}

#[test]
fn at_the_end_the_rest_is_refused_and_takes_no_slot() {
    let world = World::closed_for_100_ms();
    let (first, second) = (world.wait(0), world.wait(0));
    world.gate.close(at(250));
    world.pass(ms(100));
    let flight = first.go().depart();
    world.pass(ms(149));
    let mut second = second;
    assert!(second.waits(), "the first has not settled, so its turn is unknown");
    assert!(world.gate.lock().armed <= at(250), "nothing would wake it");
    world.pass(ms(1));
    assert_eq!(second.refused(), Refused::Closing { until: at(250) });
    drop(flight.nothing_left());
    assert_eq!(world.usage().taken, 0);
    assert_eq!(world.refused(), Refused::Closing { until: at(250) }, "though a slot is free");
    assert!(matches!(world.gate.ask(&[], CALLER, Patience::default()), Answer::Go(_)));
}

#[test]
fn when_all_are_turned_away_no_slot_goes_to_one_of_them() {
    let rule = Limit { rate: None, in_flight: Some(2), ..limit(1, ms(100)) };
    let world = World::new(vec![rule]);
    let held = world.go();
    let two = Claim { cost: 2, ..claim(0) };
    let cost_two = world.gate.ask(&[two], CALLER, Patience::default());
    let waiters: Vec<Answer> = std::iter::once(cost_two).chain((0..3).map(|_| world.ask(0))).collect();
    let flying = world.usage().flying;
    world.gate.close(at(0));
    for answer in waiters {
        let Answer::Wait(waiting) = answer else {
            continue;
        };
        assert_eq!(Waiter { waiting, waker: Arc::default() }.refused(), Refused::Closing { until: at(0) });
    }
    drop(held);
    assert!(world.usage().flying < flying.max(1), "{:?}", world.usage());
    assert_eq!(world.usage().waiting, 0);
}

#[test]
fn a_second_close_can_only_be_earlier() {
    let world = World::closed_for_100_ms();
    world.gate.close(at(50));
    world.gate.close(at(500));
    assert_eq!(world.refused(), Refused::Closing { until: at(50) });
}

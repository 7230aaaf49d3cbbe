//! Reload: waiters stay, or ask again without losing their place.

use super::*;
use crate::locker::{AskKind, ReloadSummary};

fn one_per(millis: u64) -> Limit {
    limit(1, ms(millis))
}

fn reload(world: &World, limits: Vec<Limit>, waiters: WaiterPolicy) -> ReloadSummary {
    world.gate.reload(limits, ms(1000), waiters, |_, _| {})
}

#[test]
fn waiters_stay_and_the_first_goes_when_there_is_room() {
    let world = World::closed_for_100_ms();
    let (mut first, mut second) = (world.wait(0), world.wait(0));
    assert!(first.waits() && second.waits());
    assert_eq!(reload(&world, vec![limit(2, ms(100))], WaiterPolicy::Stay).ids, [LimitId(0)]);
    assert_eq!((first.wakes(), second.wakes()), (1, 0));
    drop(first.go());
    assert_eq!(world.gate.limits()[0].rate.as_ref().unwrap().requests, 2);
}

#[test]
fn who_asks_anew_goes_in_the_order_of_arrival_and_not_of_coming_back() {
    let world = World::closed_for_100_ms();
    let waiters: Vec<(Waiter, Time)> = (0..3)
        .map(|_| {
            world.pass(ms(1));
            (world.wait(0), world.hand.now())
        })
        .collect();
    let mut published = false;
    world.gate.reload(vec![limit(3, ms(100))], ms(1000), WaiterPolicy::Reask, |_, _| published = true);
    assert!(published);
    let mut arrivals: Vec<Time> = Vec::new();
    for (waiter, arrived) in waiters {
        assert_eq!(waiter.refused(), Refused::Reask);
        arrivals.push(arrived);
    }
    let again = |arrived: Time| {
        let kind = AskKind::Reask { retry: false };
        let patience = Patience { arrived: Some(arrived), kind, ..world.patience() };
        match world.gate.ask(&[claim(0)], CALLER, patience) {
            Answer::Wait(waiting) => Waiter { waiting, waker: Arc::default() },
            Answer::Go(_) => panic!("it went before its elders were there"),
            Answer::Sorry(refused) => panic!("{refused:?}"),
        }
    };
    let mut last = again(arrivals[2]);
    let mut newcomer = world.wait(0);
    let mut middle = again(arrivals[1]);
    assert!(last.waits() && newcomer.waits() && middle.waits());
    // The last one completes the queue. Two slots are free, and go to the earliest arrivals.
    let mut first = again(arrivals[0]);
    assert!(last.waits() && newcomer.waits());
    assert!(first.poll().is_ready() && middle.poll().is_ready());
}

#[test]
fn who_does_not_come_back_is_not_waited_for() {
    let world = World::closed_for_100_ms();
    let waiter = world.wait(0);
    reload(&world, vec![limit(2, ms(100))], WaiterPolicy::Reask);
    drop(waiter);
    let mut newcomer = world.wait(0);
    assert!(newcomer.waits());
    world.pass(ms(20));
    assert!(newcomer.poll().is_ready());
}

#[test]
fn a_calendar_limit_that_comes_later_follows_the_wall_clock() {
    let world = World::new(vec![one_per(100)]);
    world.hand.set_wall_ahead(Duration::from_secs(59));
    let mut minutely = limit(1, Duration::from_secs(60));
    minutely.name = "minutely".into();
    minutely.rate.as_mut().unwrap().kind = Kind::Calendar { unit: Unit::Minute, zone: jiff::tz::TimeZone::UTC };
    let ids = reload(&world, vec![one_per(100), minutely], WaiterPolicy::Stay).ids;
    assert_eq!(ids, [LimitId(0), LimitId(1)]);
    let Answer::Go(permit) = world.ask(1) else { panic!("nothing was counted") };
    permit.depart().sent();
    let mut next = world.wait(1);
    assert!(next.waits());
    world.pass(ms(1000));
    assert!(next.poll().is_ready(), "a new minute has begun");
}

/// Asks again for a waiter that was sent back by a reload.
fn sent_back(world: &World, caller: u64, arrived: Time) -> Result<Waiter, Refused> {
    let kind = AskKind::Reask { retry: false };
    let patience = Patience { arrived: Some(arrived), kind, ..world.patience() };
    match world.gate.ask(&[claim(0)], Caller(caller), patience) {
        Answer::Wait(waiting) => Ok(Waiter { waiting, waker: Arc::default() }),
        Answer::Go(_) => panic!("it went before its elders were there"),
        Answer::Sorry(refused) => Err(refused),
    }
}

fn waiters(world: &World, caller: u64) -> Waiter {
    let Answer::Wait(waiting) = world.gate.ask(&[claim(0)], Caller(caller), world.patience()) else {
        panic!("it should wait")
    };
    Waiter { waiting, waker: Arc::default() }
}

#[test]
fn callers_that_are_sent_back_take_turns_as_before() {
    let shared = |requests| Limit { share_by: ShareBy::Caller, ..limit(requests, ms(100)) };
    let world = World::new(vec![shared(1)]);
    world.go().depart().sent();
    let callers = [1, 1, 1, 1, 1, 1, 2, 2];
    let before: Vec<(u64, Waiter, Time)> = callers
        .iter()
        .map(|caller| {
            world.pass(ms(1));
            (*caller, waiters(&world, *caller), world.hand.now())
        })
        .collect();
    reload(&world, vec![Limit { max_waiting: 500, ..shared(1) }], WaiterPolicy::Reask);
    let arrivals: Vec<(u64, Time)> = before
        .into_iter()
        .map(|(caller, waiter, arrived)| {
            assert_eq!(waiter.refused(), Refused::Reask);
            (caller, arrived)
        })
        .collect();
    let mut again: Vec<(u64, Waiter)> = arrivals
        .into_iter()
        .map(|(caller, arrived)| (caller, sent_back(&world, caller, arrived).expect("it was in line")))
        .collect();
    let mut order = Vec::new();
    for _ in 0..callers.len() {
        world.pass(ms(100));
        let goes = |(at, (_, waiter)): (usize, &mut (u64, Waiter))| match waiter.poll() {
            Poll::Ready(Ok(permit)) => Some((at, permit)),
            Poll::Ready(Err(_)) | Poll::Pending => None,
        };
        let (at, permit) = again.iter_mut().enumerate().find_map(goes).expect("one goes each 100 ms");
        permit.depart().sent();
        order.push(again.remove(at).0);
    }
    assert_eq!(order, [1, 2, 1, 2, 1, 1, 1, 1]);
}

#[test]
fn those_in_line_are_not_refused_for_newcomers_that_took_their_places_meanwhile() {
    let narrow = |requests| Limit { max_waiting: 1, ..limit(requests, ms(100)) };
    let world = World::new(vec![narrow(1)]);
    world.go().depart().sent();
    let elder = waiters(&world, 1);
    let arrived = world.hand.now();
    reload(&world, vec![Limit { max_wait: ms(60_000), ..narrow(1) }], WaiterPolicy::Reask);
    assert_eq!(elder.refused(), Refused::Reask);
    world.hand.pass(ms(1));
    let mut newcomer = waiters(&world, 2);
    let mut elder = sent_back(&world, 1, arrived).expect("it was in line before");
    world.pass(ms(100));
    assert!(newcomer.waits());
    assert!(elder.poll().is_ready(), "it came first");
}

#[test]
fn a_retry_is_none_of_those_that_are_waited_for_after_a_reload() {
    let world = World::closed_for_100_ms();
    let waiter = world.wait(0);
    let arrived = world.hand.now();
    reload(&world, vec![limit(2, ms(100))], WaiterPolicy::Reask);
    assert_eq!(waiter.refused(), Refused::Reask);
    let retry = Patience { arrived: Some(arrived), kind: AskKind::Retry, ..world.patience() };
    let Answer::Wait(mut retry) = world.gate.ask(&[claim(0)], CALLER, retry) else { panic!("one is missing") };
    let noop = std::task::Waker::noop();
    assert!(pin!(&mut retry).poll(&mut Context::from_waker(noop)).is_pending());
    let mut elder = sent_back(&world, CALLER.0, arrived).expect("it was in line before");
    assert!(elder.poll().is_ready() || pin!(&mut retry).poll(&mut Context::from_waker(noop)).is_ready());
}

#[test]
fn a_request_whose_claims_were_found_before_a_reload_must_find_them_anew() {
    let world = World::new(vec![one_per(100)]);
    let before = world.patience();
    let other = Limit { name: "other".into(), ..limit(1, Duration::from_secs(60)) };
    let mut published = None;
    reload(&world, vec![limit(2, ms(100))], WaiterPolicy::Stay);
    assert_eq!(world.patience().revision, before.revision, "it has to pass the same limits");
    world.gate.reload(vec![limit(2, ms(100)), other], ms(1000), WaiterPolicy::Reask, |_, revision| {
        published = Some(revision)
    });
    for claims in [&[claim(0)][..], &[]] {
        let Answer::Sorry(refused) = world.gate.ask(claims, CALLER, before) else { panic!("it escapes the other") };
        assert_eq!(refused, Refused::Reask);
    }
    let after = Patience { revision: published.expect("it was called"), ..before };
    assert!(matches!(world.gate.ask(&[claim(0), claim(1)], CALLER, after), Answer::Go(_)));
}

#[test]
fn two_reloads_in_a_row_wait_for_all_whom_either_sent_back() {
    let world = World::new(vec![one_per(100)]);
    world.go().depart().sent();
    let (first, second) = (waiters(&world, 1), waiters(&world, 2));
    let arrived = world.hand.now();
    reload(&world, vec![limit(2, ms(100))], WaiterPolicy::Reask);
    assert_eq!((first.refused(), second.refused()), (Refused::Reask, Refused::Reask));
    let first = sent_back(&world, 1, arrived).expect("it was in line");
    // The second has built its claims, and asks after the next reload.
    let stale = Patience { arrived: Some(arrived), kind: AskKind::Reask { retry: false }, ..world.patience() };
    reload(&world, vec![limit(3, ms(100))], WaiterPolicy::Reask);
    assert_eq!(first.refused(), Refused::Reask);
    assert!(matches!(world.gate.ask(&[claim(0)], Caller(2), stale), Answer::Sorry(Refused::Reask)));
    let mut first = sent_back(&world, 1, arrived).expect("it was in line");
    assert!(first.waits(), "the second is still missing");
    let mut second = sent_back(&world, 2, arrived).expect("it was in line");
    assert!(first.poll().is_ready() && second.poll().is_ready());
}

#[test]
fn a_callers_requests_keep_their_order_whatever_the_order_in_which_they_come_back() {
    let shared = |requests| Limit { share_by: ShareBy::Caller, ..limit(requests, ms(100)) };
    let world = World::new(vec![shared(1)]);
    world.go().depart().sent();
    let before: Vec<(Waiter, Time)> = (0..4)
        .map(|_| {
            world.pass(ms(1));
            (waiters(&world, 1), world.hand.now())
        })
        .collect();
    reload(&world, vec![Limit { max_waiting: 500, ..shared(1) }], WaiterPolicy::Reask);
    let arrivals = before.into_iter().map(|(waiter, arrived)| {
        assert_eq!(waiter.refused(), Refused::Reask);
        arrived
    });
    let arrivals: Vec<Time> = arrivals.collect();
    let mut again: Vec<(Time, Waiter)> = arrivals
        .iter()
        .rev()
        .map(|arrived| (*arrived, sent_back(&world, 1, *arrived).expect("it was in line")))
        .collect();
    let mut order = Vec::new();
    for _ in 0..4 {
        world.pass(ms(100));
        let goes = |(at, (_, waiter)): (usize, &mut (Time, Waiter))| match waiter.poll() {
            Poll::Ready(Ok(permit)) => Some((at, permit)),
            Poll::Ready(Err(_)) | Poll::Pending => None,
        };
        let (at, permit) = again.iter_mut().enumerate().find_map(goes).expect("one goes each 100 ms");
        permit.depart().sent();
        order.push(again.remove(at).0);
    }
    assert_eq!(order, arrivals);
}

//! Tests of forecasts: a waiter goes when its verdict predicted.

use std::collections::HashMap;

use proptest::prelude::*;

use super::generators::SeededRng;
use super::order::wait;
use super::*;

/// Fills a window at random moments and queues waiters. Returns the forecast and the grant time of each waiter.
fn forecasts_and_grants(seed: u64, kind: Kind, most: u64, urgencies: u64) -> Vec<(Option<Time>, Time)> {
    let mut rng = SeededRng::new(seed);
    let requests = rng.range(most, 12) as u32;
    let mut locker = Locker::new(vec![limit(requests, rng.range(5, 500), kind)]);
    let mut now = ms(rng.range(0, 1000));
    let mut forecasts = HashMap::new();
    let mut grants = Vec::new();
    for _ in 0..rng.range(1, 60) {
        now = now + Duration::from_micros(rng.range(0, 40_000));
        let claims = [claim(0, 0, rng.range(1, most + 1) as u32)];
        drain_verdicts(&mut locker, &forecasts, &mut grants, now);
        let caller = if urgencies > 1 { rng.range(1, 4) } else { 1 };
        let ask = Ask { urgency: rng.range(0, urgencies) as u8, ..ask(&claims, caller) };
        match locker.ask(&ask, now) {
            Verdict::Go(mut grant) => locker.settle(&mut grant, SettlePoint::Sent, now),
            Verdict::Wait(ticket, until) => _ = forecasts.insert(ticket, until),
            Verdict::Sorry(sorry) => assert_eq!(sorry.reason, RefusalReason::TooLong, "seed {seed}"),
        }
    }
    drain_verdicts(&mut locker, &forecasts, &mut grants, now + Duration::from_secs(100));
    assert_eq!(grants.len(), forecasts.len(), "seed {seed}");
    grants
}

fn drain_verdicts(
    locker: &mut Locker,
    forecasts: &HashMap<Ticket, Option<Time>>,
    grants: &mut Vec<(Option<Time>, Time)>,
    end: Time,
) {
    while let Some(at) = locker.poll_timeout().filter(|at| *at <= end) {
        locker.handle_timeout(at);
        while let Some((ticket, Verdict::Go(mut grant))) = locker.poll_verdict() {
            locker.settle(&mut grant, SettlePoint::Sent, at);
            grants.push((forecasts[&ticket], at));
        }
    }
}

proptest! {
    #![proptest_config(super::generators::cases())]

    #[test]
    fn a_waiter_goes_exactly_when_it_was_told(seed: u64) {
        for kind in [Kind::Sliding, Kind::Fixed] {
            for (forecast, granted) in forecasts_and_grants(seed, kind.clone(), 1, 1) {
                assert_eq!(forecast, Some(granted), "seed {seed} {kind:?}");
            }
        }
    }

    #[test]
    fn a_waiter_never_goes_before_it_was_told_whatever_the_costs_and_urgencies(seed: u64) {
        for kind in [Kind::Sliding, Kind::Fixed, Kind::Smooth { burst: 2 }] {
            for urgencies in [1, 8] {
                for (forecast, granted) in forecasts_and_grants(seed, kind.clone(), 3, urgencies) {
                    assert!(forecast.is_none_or(|at| at <= granted), "seed {seed} {kind:?}: {forecast:?} {granted:?}");
                }
            }
        }
    }

    #[test]
    fn whoever_is_refused_may_go_when_it_was_told_and_not_before(seed: u64) {
        let mut rng = SeededRng::new(seed);
        for kind in [Kind::Sliding, Kind::Fixed, Kind::Smooth { burst: 3 }] {
            let mut rule = limit(rng.range(1, 8) as u32, rng.range(2, 200), kind.clone());
            rule.when_full = WhenFull::Refuse;
            let mut locker = Locker::new(vec![rule]);
            let claims = [claim(0, 0, 1)];
            let (mut now, mut exact, mut refused) = (Time::START, 0, 0);
            for _ in 0..30 {
                now = now + Duration::from_micros(rng.range(0, 50_000));
                if let Err(verdict) = send(&mut locker, &ask(&claims, 1), now) {
                    let Verdict::Sorry(sorry) = verdict else { panic!("{verdict:?}") };
                    refused += 1;
                    assert!(sorry.until > now, "seed {seed} {kind:?}: {sorry:?}");
                    let before = sorry.until - Duration::from_nanos(1);
                    // Others were told the openings before one that is not exact.
                    if sorry.exact {
                        exact += 1;
                        assert!(send(&mut locker, &ask(&claims, 1), before).is_err(), "seed {seed} {kind:?}");
                    }
                    assert!(send(&mut locker, &ask(&claims, 1), sorry.until).is_ok(), "seed {seed} {kind:?}");
                    now = sorry.until;
                }
            }
            assert!(exact > 0 || refused == 0, "seed {seed} {kind:?}: the first is told an exact time");
        }
    }
}

#[test]
fn the_last_in_a_long_line_is_told_by_its_rank() {
    let mut rule = limit(10, 1000, Kind::Sliding);
    rule.max_waiting = 10_000;
    let mut locker = Locker::new(vec![rule]);
    let claims = [claim(0, 0, 1)];
    for _ in 0..10 {
        assert!(send(&mut locker, &ask(&claims, 1), ms(0)).is_ok());
    }
    for waiter in 0..600u64 {
        let verdict = locker.ask(&ask(&claims, 1), ms(0));
        let Verdict::Wait(_, until) = verdict else { panic!("{waiter}: {verdict:?}") };
        assert_eq!(until, Some(ms(1000 * (waiter / 10 + 1))));
    }
    let Verdict::Sorry(sorry) = locker.ask(&ask(&claims, 1), ms(0)) else { panic!() };
    assert_eq!(sorry, Sorry { reason: RefusalReason::TooLong, limit: LimitId(0), until: ms(61_000), exact: true });
}

/// The time that a request is told which would not wait at 10 ms, in milliseconds; true if it is exact. The slots
/// of the first limit are used at the start; the waiters came a microsecond apart.
fn told(limits: Vec<Limit>, waiters: &[Ask<'_>], newcomer: Ask<'_>) -> (u64, bool) {
    let first = limits[0].rate.as_ref().map_or(0, |rate| rate.requests);
    let mut locker = Locker::new(limits);
    assert!(send(&mut locker, &ask(&[claim(0, 0, first)], 9), ms(0)).is_ok());
    for (waiter, at) in waiters.iter().zip(1..) {
        wait(&mut locker, waiter, Time::from_nanos(at * 1000));
    }
    let verdict = locker.ask(&Ask { max_wait: Some(Duration::ZERO), ..newcomer }, ms(10));
    let Verdict::Sorry(sorry) = verdict else { panic!("{verdict:?}") };
    (sorry.until.as_nanos() / 1_000_000, sorry.exact)
}

const ONE: &[Claim] = &[Claim { limit: LimitId(0), key: Key(0), cost: 1 }];
const TWO: &[Claim] = &[Claim { limit: LimitId(0), key: Key(0), cost: 2 }];

#[test]
fn a_time_is_exact_only_in_a_line_of_one_flow() {
    let rule = |share_by, priority| vec![Limit { share_by, priority, ..limit(1, 100, Kind::Sliding) }];
    let urgent = |caller| Ask { urgency: 1, ..ask(ONE, caller) };
    let one_flow = [ask(ONE, 1), ask(ONE, 1)];
    for priority in [Priority::WithinCaller, Priority::Strict, Priority::None] {
        let turns = || rule(ShareBy::Caller, priority);
        assert_eq!(told(turns(), &one_flow, ask(ONE, 1)), (300, true), "{priority:?}");
        assert_eq!(told(turns(), &one_flow, ask(ONE, 2)), (200, false), "another caller takes its turn: {priority:?}");
        assert_eq!(told(turns(), &[ask(ONE, 1), ask(ONE, 2)], ask(ONE, 1)), (300, false), "{priority:?}");
        assert_eq!(told(rule(ShareBy::Nobody, priority), &one_flow, ask(ONE, 2)), (300, true), "{priority:?}");
    }
    let is_exact = |priority, waiters: &[Ask<'_>], newcomer| told(rule(ShareBy::Caller, priority), waiters, newcomer).1;
    assert!(!is_exact(Priority::WithinCaller, &[urgent(1), ask(ONE, 1)], ask(ONE, 1)));
    assert!(!is_exact(Priority::Strict, &[urgent(1), ask(ONE, 1)], ask(ONE, 1)));
    assert!(!is_exact(Priority::Strict, &[ask(ONE, 1), ask(ONE, 1)], urgent(1)));
    assert!(is_exact(Priority::None, &[urgent(1), ask(ONE, 1)], ask(ONE, 1)), "urgency is of no account");
}

#[test]
fn a_time_is_not_exact_where_requests_of_other_limits_are_in_the_line() {
    let limits = || vec![limit(1, 100, Kind::Sliding), limit(10, 100, Kind::Sliding)];
    let both = [claim(0, 0, 1), claim(1, 0, 1)];
    assert_eq!(told(limits(), &[ask(ONE, 1)], ask(ONE, 1)), (200, true));
    assert!(!told(limits(), &[ask(&both, 1)], ask(ONE, 1)).1);
    assert!(!told(limits(), &[], ask(&both, 1)).1);
}

#[test]
fn one_that_was_in_line_before_is_told_a_time_by_its_arrival() {
    let rule = Limit { share_by: ShareBy::Nobody, priority: Priority::None, ..limit(1, 100, Kind::Sliding) };
    let back = Ask { arrived: Some(Time::from_nanos(1_500_000)), kind: AskKind::Reask { retry: false }, ..ask(ONE, 2) };
    let waiters = [ask(ONE, 1), ask(ONE, 1), ask(ONE, 1)];
    let mut locker = Locker::new(vec![rule]);
    assert!(send(&mut locker, &ask(ONE, 9), ms(0)).is_ok());
    for (waiter, at) in waiters.iter().zip(1..) {
        wait(&mut locker, waiter, ms(at));
    }
    let Verdict::Wait(_, until) = locker.ask(&back, ms(10)) else { panic!() };
    assert_eq!(until, Some(ms(200)), "behind the first of three");
}

#[test]
fn a_caller_before_a_long_line_of_another_is_told_that_it_is_next() {
    let rule = Limit { max_wait: Duration::from_secs(600), ..limit(1, 100, Kind::Sliding) };
    let waiters = vec![ask(ONE, 1); 200];
    assert_eq!(told(vec![rule], &waiters, ask(ONE, 2)), (200, false));
}

#[test]
fn where_costs_differ_the_turns_before_a_request_are_added_up() {
    let turns = || vec![limit(2, 100, Kind::Sliding)];
    let waiters = [ask(TWO, 1), ask(ONE, 1), ask(ONE, 2)];
    assert_eq!(told(turns(), &waiters, ask(ONE, 3)), (100, false), "of a new caller nothing is known to be before");
    assert_eq!(told(turns(), &waiters, ask(ONE, 2)), (200, false), "one slot of each caller");
    assert_eq!(told(turns(), &waiters, ask(ONE, 1)), (300, false), "three of its own, and one");
    let nobody = Limit { share_by: ShareBy::Nobody, ..limit(2, 100, Kind::Sliding) };
    assert_eq!(told(vec![nobody], &waiters, ask(ONE, 3)), (200, false), "three requests, of at least a slot each");
}

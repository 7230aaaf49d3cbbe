//! Tests of forecasts: a waiter goes when its verdict predicted.

use std::collections::HashMap;

use proptest::prelude::*;

use super::generators::SeededRng;
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

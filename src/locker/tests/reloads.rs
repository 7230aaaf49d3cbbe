//! Tests of reloads: limits are matched by name and replaced at once, and removed ones keep counting.

use super::*;

fn named(name: &str, requests: u32, per: u64) -> Limit {
    Limit { name: name.into(), when_full: WhenFull::Refuse, ..limit(requests, per, Kind::Sliding) }
}

fn waiting(name: &str, requests: u32, per: u64) -> Limit {
    Limit { name: name.into(), ..limit(requests, per, Kind::Sliding) }
}

fn goes(locker: &mut Locker, claims: &[Claim], now: Time) -> bool {
    send(locker, &ask(claims, 1), now).is_ok()
}

#[test]
fn limits_are_known_by_their_names_wherever_they_stand() {
    let mut locker = Locker::new(vec![named("a", 1, 1000), named("b", 2, 1000)]);
    let [a, b] = [0, 1].map(LimitId);
    assert!(goes(&mut locker, &[claim(0, 0, 1)], ms(0)) && goes(&mut locker, &[claim(1, 0, 1)], ms(0)));
    let reload =
        locker.reload(vec![named("c", 1, 1000), named("b", 2, 1000), named("a", 2, 1000)], Duration::ZERO, ms(1));
    assert_eq!(reload.ids, [LimitId(2), b, a]);
    assert_eq!((reload.added, reload.changed, reload.removed), (vec![LimitId(2)], vec![a], vec![]));
    for limit in [0, 1] {
        assert!(goes(&mut locker, &[claim(limit, 0, 1)], ms(1)), "one of two is left");
        assert!(!goes(&mut locker, &[claim(limit, 0, 1)], ms(1)));
    }
}

#[test]
fn nothing_happens_when_the_same_limits_are_read_again() {
    let mut locker = Locker::new(vec![named("a", 1, 1000)]);
    let reload = locker.reload(vec![named("a", 1, 1000)], Duration::ZERO, ms(0));
    assert!(!reload.is_change());
    assert_eq!(reload.ids, [LimitId(0)]);
}

#[test]
fn a_limit_that_is_gone_lets_its_waiters_go_and_remembers_what_it_counted_when_it_returns() {
    let mut locker = Locker::new(vec![waiting("a", 1, 1000)]);
    assert!(goes(&mut locker, &[claim(0, 0, 1)], ms(0)));
    let Err(Verdict::Wait(ticket, _)) = send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(0)) else {
        panic!("it is full")
    };
    let reload = locker.reload(vec![waiting("b", 1, 1000)], Duration::ZERO, ms(1));
    assert_eq!((reload.removed, reload.added), (vec![LimitId(0)], vec![LimitId(1)]));
    assert!(!locker.is_in_force(LimitId(0)) && locker.is_in_force(LimitId(1)));
    let verdicts = drain(&mut locker);
    assert!(matches!(&verdicts[..], [(got, Verdict::Go(_))] if *got == ticket), "{verdicts:?}");
    let reload = locker.reload(vec![named("a", 1, 1000)], Duration::ZERO, ms(2));
    assert_eq!((reload.ids, reload.returned, reload.added), (vec![LimitId(0)], vec![LimitId(0)], vec![]));
    assert!(!goes(&mut locker, &[claim(0, 0, 1)], ms(999)));
    assert!(goes(&mut locker, &[claim(0, 0, 1)], ms(1000)));
}

#[test]
fn two_limits_that_change_at_once_let_nobody_through_between_them() {
    // Each configuration lets one request go; the wider halves of both together would let a hundred go.
    let mut locker = Locker::new(vec![waiting("a", 1, 1000), waiting("b", 100, 1000)]);
    let both = [claim(0, 0, 1), claim(1, 0, 1)];
    assert!(goes(&mut locker, &both, ms(0)));
    for _ in 0..50 {
        assert!(!goes(&mut locker, &both, ms(0)));
    }
    for now in 1..20 {
        let (a, b) = if now % 2 == 0 { (1, 100) } else { (100, 1) };
        locker.reload(vec![waiting("a", a, 1000), waiting("b", b, 1000)], Duration::ZERO, ms(now));
        assert_eq!(drain(&mut locker).len(), 0, "at {now} ms");
    }
    assert_eq!(locker.waiting(), 50);
}

#[test]
fn a_limit_that_is_keyed_anew_is_full_until_what_it_let_go_no_longer_counts() {
    let by = |key: &str| Limit { keyed_by: key.into(), ..named("a", 2, 1000) };
    let mut locker = Locker::new(vec![by("host")]);
    assert!(goes(&mut locker, &[claim(0, 7, 1)], ms(0)));
    let reload = locker.reload(vec![by("caller")], Duration::from_millis(50), ms(10));
    assert_eq!((reload.rekeyed, reload.changed), (vec![LimitId(0)], vec![LimitId(0)]));
    let go = |locker: &mut Locker, now| [7, 8].map(|key| goes(locker, &[claim(0, key, 1)], ms(now)));
    assert_eq!(go(&mut locker, 1059), [false; 2], "what was under way at 10 ms settled by 60 ms");
    assert_eq!(go(&mut locker, 1060), [true; 2]);
}

#[test]
fn a_limit_that_has_counted_nothing_can_be_keyed_anew_at_once() {
    let by = |key: &str| Limit { keyed_by: key.into(), ..named("a", 1, 1000) };
    let mut locker = Locker::new(vec![by("host")]);
    assert_eq!(locker.reload(vec![by("caller")], Duration::from_secs(60), ms(0)).rekeyed, []);
    assert!(goes(&mut locker, &[claim(0, 7, 1)], ms(0)));
}

#[test]
fn a_slot_more_lets_the_first_in_line_go_however_many_wait() {
    for waiters in 1..6 {
        let patient = |requests| Limit {
            max_wait: Duration::from_secs(100_000),
            share_by: ShareBy::Nobody,
            ..waiting("a", requests, 1_000_000)
        };
        let mut locker = Locker::new(vec![patient(1)]);
        assert!(goes(&mut locker, &[claim(0, 0, 1)], ms(0)));
        let tickets: Vec<Ticket> = (1..=waiters)
            .map(|now| {
                let verdict = locker.ask(&ask(&[claim(0, 0, 1)], 1), ms(now));
                let Verdict::Wait(ticket, _) = verdict else { panic!("{verdict:?}") };
                ticket
            })
            .collect();
        locker.reload(vec![patient(2)], Duration::ZERO, ms(10));
        let verdicts = drain(&mut locker);
        assert!(matches!(&verdicts[..], [(got, Verdict::Go(_))] if *got == tickets[0]), "{waiters} wait: {verdicts:?}");
    }
}

#[test]
fn a_higher_n_opens_its_slots_at_once_in_every_kind_of_window() {
    let calendar = Kind::Calendar { unit: Unit::Minute, zone: jiff::tz::TimeZone::UTC };
    for kind in [Kind::Sliding, Kind::Fixed, Kind::Smooth { burst: 3 }, calendar] {
        let mut locker = Locker::new(vec![limit(2, 60_000, kind.clone())]);
        locker.set_wall(WALL, ms(0));
        assert!(goes(&mut locker, &[claim(0, 0, 1)], ms(200_000)));
        change(&mut locker, LimitId(0), limit(3, 60_000, kind.clone()), ms(201_000));
        assert_eq!(locker.usage(LimitId(0), Key(0), ms(201_000)).taken, 1, "{kind:?}");
        assert_eq!(locker.usage(LimitId(0), Key(9), ms(201_000)).taken, 0, "{kind:?}");
    }
}

#[test]
fn a_rate_that_is_new_counts_from_then_on() {
    let flights = Limit { rate: None, in_flight: Some(3), ..limit(2, 1000, Kind::Sliding) };
    let mut locker = Locker::new(vec![flights]);
    assert!(goes(&mut locker, &[claim(0, 0, 1)], ms(5000)));
    change(&mut locker, LimitId(0), Limit { in_flight: Some(3), ..limit(2, 1000, Kind::Sliding) }, ms(5001));
    assert_eq!(locker.usage(LimitId(0), Key(0), ms(5001)).taken, 0);
}

#[test]
fn a_longer_calendar_unit_is_full_until_its_end_if_earlier_units_were_forgotten() {
    let by = |unit| limit(2, 3_600_000, Kind::Calendar { unit, zone: jiff::tz::TimeZone::UTC });
    let mut locker = Locker::new(vec![by(Unit::Minute)]);
    locker.set_wall(WALL, ms(0));
    let minute = |minutes: u64| ms(minutes * 60_000);
    assert!(goes(&mut locker, &[claim(0, 0, 1)], minute(61)));
    change(&mut locker, LimitId(0), by(Unit::Hour), minute(65));
    assert_eq!(
        locker.usage(LimitId(0), Key(0), minute(119)).taken,
        2,
        "any minute since the first hour may have had two"
    );
    assert_eq!(locker.usage(LimitId(0), Key(0), minute(120)).taken, 0);
    change(&mut locker, LimitId(0), by(Unit::Minute), minute(121));
    assert_eq!(locker.usage(LimitId(0), Key(0), minute(121)).taken, 0, "the present minute is known");
}

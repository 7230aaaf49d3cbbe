//! Steps: what concerns many waiters or windows is done in pieces, and none of them is seen from outside.

use super::step_budget::{StepBudget, UNITS};
use super::*;

/// A locker with steps of so many units.
fn with_steps(units: u32, limits: Vec<Limit>) -> Locker {
    let mut locker = Locker::new(limits);
    locker.queue.budget = StepBudget::new(units);
    locker
}

fn named(name: &str, requests: u32) -> Limit {
    Limit { name: name.into(), ..limit(requests, 1000, Kind::Sliding) }
}

fn waits(locker: &mut Locker, claims: &[Claim], now: Time) -> Ticket {
    let verdict = locker.ask(&ask(claims, 1), now);
    let Verdict::Wait(ticket, _) = verdict else { panic!("{verdict:?}") };
    ticket
}

/// Takes all slots of a window.
fn fill(locker: &mut Locker, claims: &[Claim], requests: u32) {
    (0..requests).for_each(|_| assert!(send(locker, &ask(claims, 9), ms(0)).is_ok()));
}

/// Verdicts of all steps up to the last one.
fn finish(locker: &mut Locker, now: Time) -> Vec<(Ticket, Verdict)> {
    let mut verdicts = drain(locker);
    for _ in 0..1_000_000 {
        if locker.poll_timeout().is_none_or(|at| at > now) {
            return verdicts;
        }
        locker.handle_timeout(now);
        verdicts.extend(drain(locker));
    }
    panic!("the steps have no end");
}

/// Tickets of the verdicts, all of which must be grants.
fn granted(verdicts: &[(Ticket, Verdict)]) -> Vec<Ticket> {
    assert!(verdicts.iter().all(|(_, verdict)| matches!(verdict, Verdict::Go(_))), "{verdicts:?}");
    verdicts.iter().map(|(ticket, _)| *ticket).collect()
}

#[test]
pub(super) fn a_newcomer_waits_behind_those_whose_turn_has_come_and_who_have_not_been_looked_at() {
    for units in 1..8 {
        for steps in 0..12 {
            let mut locker = with_steps(units, vec![named("a", 4), named("b", 100)]);
            fill(&mut locker, &[claim(0, 0, 1)], 4);
            let olds: Vec<Ticket> = (1..=4).map(|now| waits(&mut locker, &[claim(0, 0, 1)], ms(now))).collect();
            let mut verdicts = Vec::new();
            for _ in 0..steps {
                locker.handle_timeout(ms(1000));
                verdicts.extend(drain(&mut locker));
            }
            waits(&mut locker, &[claim(0, 0, 1), claim(1, 0, 1)], ms(1000));
            verdicts.extend(finish(&mut locker, ms(1000)));
            assert_eq!(granted(&verdicts), olds, "{units} units, {steps} steps");
        }
    }
}

#[test]
fn a_waiter_whose_slot_opens_at_its_deadline_goes_however_short_the_steps_are() {
    for units in 1..8 {
        let patient = Limit { max_wait: Duration::from_millis(1000), ..named("a", 6) };
        let mut locker = with_steps(units, vec![patient]);
        fill(&mut locker, &[claim(0, 0, 1)], 6);
        let olds: Vec<Ticket> = (0..6).map(|_| waits(&mut locker, &[claim(0, 0, 1)], ms(0))).collect();
        let verdicts = finish(&mut locker, ms(1000));
        assert_eq!(granted(&verdicts), olds, "{units} units");
    }
}

#[test]
fn one_that_would_not_wait_goes_if_its_turn_comes_within_the_steps_of_the_moment() {
    for units in 1..8 {
        let mut locker = with_steps(units, vec![named("a", 4), named("b", 1)]);
        fill(&mut locker, &[claim(0, 0, 1)], 4);
        let both = [claim(0, 0, 1), claim(1, 0, 1)];
        (0..3).for_each(|_| _ = waits(&mut locker, &[claim(0, 0, 1)], ms(1)));
        let verdict = locker.ask(&Ask { max_wait: Some(Duration::ZERO), ..ask(&both, 2) }, ms(1000));
        let mut verdicts = finish(&mut locker, ms(1000));
        let last = match verdict {
            Verdict::Wait(ticket, _) => verdicts.extract_if(.., |(other, _)| *other == ticket).next().unwrap().1,
            verdict @ (Verdict::Go(_) | Verdict::Sorry(_)) => verdict,
        };
        assert!(matches!(last, Verdict::Go(_)), "{units} units: {last:?}");
        assert_eq!(granted(&verdicts).len(), 3);
    }
}

#[test]
pub(super) fn a_waiter_whose_slot_opens_while_its_window_is_half_looked_at_goes() {
    for units in 1..3 {
        for keys in 1..8 {
            let mut locker = with_steps(units, vec![named("a", 1)]);
            // The others open first, and more wake-ups come at once than a step sees to.
            for key in 0..=keys {
                let now = if key == keys { 1 } else { 0 };
                assert!(send(&mut locker, &ask(&[claim(0, key, 1)], 9), ms(now)).is_ok());
            }
            let mut olds: Vec<Ticket> = (0..=keys).map(|key| waits(&mut locker, &[claim(0, key, 1)], ms(2))).collect();
            assert!(finish(&mut locker, ms(2)).is_empty());
            // A short pause changes nothing for the last one, but has its window looked at.
            locker.pause(LimitId(0), Key(keys), ms(500), ms(3));
            locker.handle_timeout(ms(1001));
            let mut verdicts = drain(&mut locker);
            // Calls of the same moment go on with the looks; they wake no waiter.
            for moment in 0..5 {
                locker.pause(LimitId(0), Key(100 + moment), ms(1002), ms(1001));
                verdicts.extend(drain(&mut locker));
            }
            verdicts.extend(finish(&mut locker, ms(1001)));
            let mut went = granted(&verdicts);
            went.sort_by_key(|ticket| ticket.index);
            olds.sort_by_key(|ticket| ticket.index);
            assert_eq!(went, olds, "{units} units, {keys} others");
        }
    }
}

#[test]
fn one_that_would_not_wait_is_not_refused_before_all_have_been_woken_whose_slots_have_opened() {
    for units in 1..12 {
        for steps in 0..40 {
            let keys = 12;
            let mut locker = with_steps(units, vec![named("a", 2)]);
            (0..keys).for_each(|key| fill(&mut locker, &[claim(0, key, 1)], 2));
            (0..keys).for_each(|key| _ = waits(&mut locker, &[claim(0, key, 1)], ms(1)));
            assert!(finish(&mut locker, ms(1)).is_empty());
            locker.handle_timeout(ms(1000));
            let mut verdicts = drain(&mut locker);
            for moment in 0..steps {
                locker.pause(LimitId(0), Key(100 + moment), ms(1001), ms(1000));
                verdicts.extend(drain(&mut locker));
            }
            let claims = [claim(0, keys - 1, 1)];
            let verdict = locker.ask(&Ask { max_wait: Some(Duration::ZERO), ..ask(&claims, 2) }, ms(1000));
            verdicts.extend(finish(&mut locker, ms(1000)));
            assert!(!matches!(verdict, Verdict::Sorry(_)), "{units} units, {steps} steps: {verdict:?}");
            let at_once = usize::from(matches!(verdict, Verdict::Go(_)));
            assert_eq!(granted(&verdicts).len() + at_once, keys as usize + 1, "{units} units, {steps} steps");
        }
    }
}

#[test]
pub(super) fn a_newcomer_joins_those_that_are_being_requeued() {
    for units in 1..6 {
        for steps in 0..30 {
            let mut locker = with_steps(units, vec![named("a", 4)]);
            let keys = [1, 1, 1, 1, 0];
            [0, 1].into_iter().for_each(|key| fill(&mut locker, &[claim(0, key, 1)], 4));
            let olds = keys.map(|key| waits(&mut locker, &[claim(0, key, 1)], ms(1)));
            let wider = Limit { share_by: ShareBy::Nobody, ..named("a", 5) };
            locker.reload(vec![wider], Duration::ZERO, ms(10));
            let mut verdicts = drain(&mut locker);
            for _ in 0..steps {
                locker.handle_timeout(ms(10));
                verdicts.extend(drain(&mut locker));
            }
            let newcomer = locker.ask(&ask(&[claim(0, 0, 1)], 1), ms(11));
            assert!(matches!(newcomer, Verdict::Wait(..)), "{units} units, {steps} steps: {newcomer:?}");
            verdicts.extend(finish(&mut locker, ms(11)));
            assert_eq!(granted(&verdicts), [olds[0], olds[4]], "{units} units, {steps} steps");
            assert_eq!(locker.waiting(), 4);
        }
    }
}

#[test]
fn those_that_join_a_requeue_make_no_queue_longer_than_its_bound() {
    for units in 1..6 {
        for steps in 0..30 {
            let bounded = |share_by| Limit { max_waiting: 5, share_by, ..named("a", 2) };
            let mut locker = with_steps(units, vec![bounded(ShareBy::Caller)]);
            fill(&mut locker, &[claim(0, 0, 1)], 2);
            (0..3).for_each(|_| _ = waits(&mut locker, &[claim(0, 0, 1)], ms(1)));
            locker.reload(vec![bounded(ShareBy::Nobody)], Duration::ZERO, ms(10));
            (0..steps).for_each(|_| locker.handle_timeout(ms(10)));
            let joined: Vec<Verdict> = (0..7).map(|_| locker.ask(&ask(&[claim(0, 0, 1)], 1), ms(11))).collect();
            let refused_later = finish(&mut locker, ms(11));
            let at_once = joined.iter().filter(|verdict| matches!(verdict, Verdict::Sorry(_)));
            let later = refused_later.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Sorry(_)));
            let sorries: Vec<&Verdict> = at_once.chain(later.map(|(_, verdict)| verdict)).collect();
            assert_eq!((locker.waiting(), sorries.len()), (5, 5), "{units} units, {steps} steps");
            for verdict in sorries {
                let Verdict::Sorry(sorry) = verdict else { unreachable!("filtered") };
                assert_eq!(sorry.reason, RefusalReason::QueueFull, "{units} units, {steps} steps");
            }
        }
    }
}

#[test]
pub(super) fn a_reload_of_the_order_in_the_queue_holds_for_those_that_wait_already() {
    let by = |share_by| Limit { share_by, ..named("a", 1) };
    let mut locker = Locker::new(vec![by(ShareBy::Caller)]);
    fill(&mut locker, &[claim(0, 0, 1)], 1);
    let mut wait = |caller, now| {
        let verdict = locker.ask(&ask(&[claim(0, 0, 1)], caller), ms(now));
        let Verdict::Wait(ticket, _) = verdict else { panic!("{verdict:?}") };
        ticket
    };
    let arrived = [wait(1, 1), wait(1, 2), wait(2, 3)];
    locker.reload(vec![by(ShareBy::Nobody)], Duration::ZERO, ms(10));
    assert!(finish(&mut locker, ms(10)).is_empty());
    let mut went = Vec::new();
    for second in 1..=3 {
        for (ticket, verdict) in finish(&mut locker, ms(1000 * second)) {
            let Verdict::Go(mut grant) = verdict else { panic!("{verdict:?}") };
            locker.settle(&mut grant, SettlePoint::Sent, ms(1000 * second));
            went.push(ticket);
        }
    }
    assert_eq!(went, arrived);
}

#[test]
fn one_that_is_being_requeued_can_leave() {
    for units in 1..4 {
        for steps in 0..20 {
            let mut locker = with_steps(units, vec![named("a", 1)]);
            fill(&mut locker, &[claim(0, 0, 1)], 1);
            let olds: Vec<Ticket> = (1..=3).map(|now| waits(&mut locker, &[claim(0, 0, 1)], ms(now))).collect();
            locker.reload(vec![Limit { max_wait: Duration::from_secs(9), ..named("a", 1) }], Duration::ZERO, ms(10));
            (0..steps).for_each(|_| locker.handle_timeout(ms(10)));
            locker.leave(olds[1], ms(10));
            assert!(finish(&mut locker, ms(10)).is_empty());
            assert_eq!(locker.waiting(), 2);
            assert_eq!(granted(&finish(&mut locker, ms(1000))), [olds[0]], "{units} units, {steps} steps");
        }
    }
}

#[test]
fn a_second_reload_in_the_midst_of_a_requeue_loses_and_doubles_no_waiter() {
    for steps in 0..30 {
        let mut locker = with_steps(1, vec![named("a", 1), named("b", 1)]);
        fill(&mut locker, &[claim(0, 0, 1), claim(1, 0, 1)], 1);
        let mut olds = Vec::new();
        for now in 1..=4 {
            olds.push(waits(&mut locker, &[claim((now % 2) as u32, 0, 1)], ms(now)));
        }
        let brief = |name: &str, seconds| Limit { max_wait: Duration::from_secs(seconds), ..named(name, 1) };
        locker.reload(vec![brief("a", 9), brief("b", 60)], Duration::ZERO, ms(10));
        (0..steps).for_each(|_| locker.handle_timeout(ms(10)));
        locker.reload(vec![brief("a", 9), brief("b", 9)], Duration::ZERO, ms(11));
        assert!(finish(&mut locker, ms(11)).is_empty());
        let mut went = granted(&finish(&mut locker, ms(1000)));
        went.sort_by_key(|ticket| olds.iter().position(|old| old == ticket));
        assert_eq!(went, olds[..2], "{steps} steps");
        assert_eq!(locker.waiting(), 2);
    }
}

#[test]
pub(super) fn windows_follow_a_reload_when_they_are_touched_and_the_others_by_and_by() {
    let by = |key: &str| Limit { keyed_by: key.into(), ..named("a", 2) };
    for steps in [0, 1, 100] {
        let mut locker = Locker::new(vec![by("host")]);
        fill(&mut locker, &[claim(0, 7, 1)], 1);
        locker.reload(vec![by("caller")], Duration::from_millis(50), ms(10));
        (0..steps).for_each(|_| locker.handle_timeout(ms(10)));
        let taken = |locker: &mut Locker, now| locker.usage(LimitId(0), Key(7), ms(now)).taken;
        assert_eq!(taken(&mut locker, 1059), 2, "{steps} steps: what was under way at 10 ms settled by 60 ms");
        assert_eq!(taken(&mut locker, 1060), 0, "{steps} steps");
    }
}

#[test]
fn a_window_that_has_missed_several_reloads_follows_them_in_their_order() {
    let kinds = [Kind::Sliding, Kind::Fixed, Kind::Smooth { burst: 2 }];
    for (first, second) in kinds.iter().flat_map(|first| kinds.iter().map(move |second| (first, second))) {
        let [mut late, mut early] = [0, 1].map(|_| Locker::new(vec![limit(6, 1000, Kind::Sliding)]));
        for locker in [&mut late, &mut early] {
            fill(locker, &[claim(0, 0, 1)], 2);
        }
        for (kind, requests, now) in [(first, 3, 100), (second, 5, 200), (first, 4, 300)] {
            for locker in [&mut late, &mut early] {
                change(locker, LimitId(0), limit(requests, 1000, kind.clone()), ms(now));
            }
            finish(&mut early, ms(now));
            assert!(!early.counters.table.changes.is_pending());
        }
        assert!(late.counters.table.changes.is_pending());
        for now in (300..1400).step_by(50) {
            let [one, other] = [&mut late, &mut early].map(|locker| locker.usage(LimitId(0), Key(0), ms(now)));
            assert_eq!(one, other, "{first:?}, then {second:?}, at {now} ms");
        }
    }
}

#[test]
fn no_step_looks_at_more_windows_or_grants_more_waiters_than_its_budget_allows_for() {
    let keys = 5000;
    let wide = |requests| Limit { max_waiting: 100_000, max_wait: Duration::from_secs(1000), ..named("a", requests) };
    let mut locker = Locker::new(vec![wide(1)]);
    for key in 0..keys {
        fill(&mut locker, &[claim(0, key, 1)], 1);
        waits(&mut locker, &[claim(0, key, 1)], ms(1));
    }
    let places = |locker: &Locker| locker.counters.table.look_count.take();
    let most = 12 * UNITS as usize;
    for (what, now) in [("a reload", 10), ("an opening", 1010)] {
        places(&locker);
        match what {
            "a reload" => _ = locker.reload(vec![wide(2)], Duration::ZERO, ms(now)),
            _ => locker.handle_timeout(ms(now)),
        }
        let mut went = 0;
        for _ in 0..10_000 {
            assert!(places(&locker) <= most, "{what}");
            let verdicts = drain(&mut locker);
            assert!(verdicts.len() <= UNITS as usize, "{what}: {}", verdicts.len());
            for (_, verdict) in verdicts {
                let Verdict::Go(mut grant) = verdict else { panic!("{what}: {verdict:?}") };
                locker.settle(&mut grant, SettlePoint::Sent, ms(now));
                went += 1;
            }
            if locker.poll_timeout().is_none_or(|at| at > ms(now)) {
                break;
            }
            places(&locker);
            locker.handle_timeout(ms(now));
        }
        let expected = if what == "a reload" { keys as usize } else { 0 };
        assert_eq!(went, expected, "{what}");
    }
}

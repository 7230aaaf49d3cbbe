//! Tests of the queue's order: turns between callers, urgency, requests that need several windows.

use std::collections::HashMap;

use super::generators::SeededRng;
use super::*;

/// Runs a locker until `end`; requests settle as soon as they go. Calls `went` with each ticket and its grant time.
pub(super) fn drive(locker: &mut Locker, end: Time, mut went: impl FnMut(&mut Locker, Ticket, Time)) {
    while let Some(at) = locker.poll_timeout().filter(|at| *at <= end) {
        locker.handle_timeout(at);
        while let Some((ticket, verdict)) = locker.poll_verdict() {
            let Verdict::Go(mut grant) = verdict else { panic!("{verdict:?} at {at:?}") };
            locker.settle(&mut grant, SettlePoint::Answered, at);
            locker.finish(grant, at);
            went(locker, ticket, at);
        }
    }
}

pub(super) fn wait(locker: &mut Locker, ask: &Ask<'_>, now: Time) -> Ticket {
    let verdict = locker.ask(ask, now);
    let Verdict::Wait(ticket, _) = verdict else { panic!("{verdict:?}") };
    ticket
}

#[test]
pub(super) fn two_backlogged_callers_never_differ_by_more_than_one_largest_cost() {
    for seed in 0..200 {
        let mut rng = SeededRng::new(seed);
        let mut locker = Locker::new(vec![limit(5, 100, Kind::Sliding)]);
        assert!(send(&mut locker, &ask(&[claim(0, 0, 5)], 9), ms(0)).is_ok());
        let mut costs = HashMap::new();
        let mut left = [0u64; 2];
        for _ in 0..60 {
            let (caller, cost) = (rng.range(0, 2), rng.range(1, 5));
            let ticket = wait(&mut locker, &ask(&[claim(0, 0, cost as u32)], caller), ms(0));
            costs.insert(ticket, (caller as usize, cost));
            left[caller as usize] += 1;
        }
        let mut had = [0u64; 2];
        drive(&mut locker, ms(1_000_000), |_, ticket, _| {
            let (caller, cost) = costs[&ticket];
            let backlogged = left[0] > 0 && left[1] > 0;
            had[caller] += cost;
            left[caller] -= 1;
            assert!(!backlogged || had[0].abs_diff(had[1]) <= 4, "seed {seed}: {had:?}");
        });
        assert_eq!(left, [0, 0], "seed {seed}");
    }
}

#[test]
fn first_come_is_first_served_where_nobody_takes_turns() {
    let mut rule = limit(1, 100, Kind::Sliding);
    rule.share_by = ShareBy::Nobody;
    let mut locker = Locker::new(vec![rule]);
    let claims = [claim(0, 0, 1)];
    assert!(send(&mut locker, &ask(&claims, 0), ms(0)).is_ok());
    let tickets: Vec<_> = (0..30).map(|at| wait(&mut locker, &ask(&claims, at % 3), ms(at))).collect();
    let mut order = Vec::new();
    drive(&mut locker, ms(10_000), |_, ticket, _| order.push(ticket));
    assert_eq!(order, tickets);
}

#[test]
fn a_newcomer_of_another_caller_is_next_and_not_last() {
    let mut locker = Locker::new(vec![limit(1, 100, Kind::Sliding)]);
    let claims = [claim(0, 0, 1)];
    assert!(send(&mut locker, &ask(&claims, 1), ms(0)).is_ok());
    for _ in 0..100 {
        wait(&mut locker, &ask(&claims, 1), ms(1));
    }
    drive(&mut locker, ms(5_000), |_, _, _| {});
    let newcomer = wait(&mut locker, &ask(&claims, 2), ms(5_001));
    let mut turn = None;
    let mut count = 0;
    drive(&mut locker, ms(9_000), |_, ticket, _| {
        count += 1;
        if ticket == newcomer {
            turn = Some(count);
        }
    });
    assert!(turn.is_some_and(|turn| turn <= 2), "{turn:?}");
}

#[test]
fn who_counts_under_a_key_of_its_own_besides_takes_turns_all_the_same() {
    for (own_first, own_is_older) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut locker = Locker::new(vec![limit(2, 100, Kind::Sliding)]);
        let shared = claim(0, 0, 1);
        if own_is_older {
            (1..=50).for_each(|own| assert!(send(&mut locker, &ask(&[claim(0, own, 1)], 1), ms(0)).is_ok()));
        }
        assert!(send(&mut locker, &ask(&[claim(0, 0, 2)], 9), ms(0)).is_ok());
        for number in 1..=50 {
            let own = claim(0, number, 1);
            let claims = if own_first { [own, shared] } else { [shared, own] };
            wait(&mut locker, &ask(&claims, 1), ms(1));
        }
        let other = wait(&mut locker, &ask(&[shared], 2), ms(2));
        let (mut count, mut turn) = (0, None);
        drive(&mut locker, ms(60_000), |_, ticket, _| {
            count += 1;
            turn = turn.or((ticket == other).then_some(count));
        });
        assert_eq!(count, 51);
        assert!(
            turn.is_some_and(|turn| turn <= 3),
            "own key first: {own_first}, its window older: {own_is_older}, turn {turn:?}"
        );
    }
}

/// The queues of two keys change in length between two requests that name both: they share a group all the same.
#[test]
fn those_that_count_under_the_same_keys_go_in_the_order_in_which_they_came() {
    let mut locker = Locker::new(vec![limit(1, 1500, Kind::Sliding), limit(3, 1000, Kind::Sliding)]);
    let both = |cost| [claim(1, 0, cost), claim(1, 1, cost)];
    assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(0)).is_ok());
    assert!(send(&mut locker, &ask(&[claim(1, 1, 3)], 1), ms(0)).is_ok());
    let holder = wait(&mut locker, &ask(&[claim(0, 0, 1), claim(1, 0, 1)], 2), ms(1));
    // The first would delay the reservation's holder, the second would not.
    let first = wait(&mut locker, &ask(&both(3), 3), ms(2));
    let others: Vec<_> = (4..8).map(|caller| wait(&mut locker, &ask(&[claim(1, 1, 1)], caller), ms(3))).collect();
    let [one, other] = both(1);
    let second = wait(&mut locker, &ask(&[other, one], 3), ms(4));
    for other in others {
        locker.leave(other, ms(5));
    }
    let mut went = Vec::new();
    drive(&mut locker, ms(10_000), |_, ticket, _| went.push(ticket));
    assert_eq!(went, [holder, first, second]);
}

/// Two waiters are deferred behind a reservation. When its holder leaves, another window blocks the first of them.
#[test]
fn one_held_back_behind_another_that_waits_elsewhere_now_goes_when_the_elder_leaves() {
    let mut locker = Locker::new(vec![limit(1, 100, Kind::Sliding), limit(1, 1000, Kind::Sliding)]);
    assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(0)).is_ok());
    let older = wait(&mut locker, &ask(&[claim(0, 0, 1), claim(1, 0, 1)], 2), ms(1));
    wait(&mut locker, &ask(&[claim(1, 0, 1), claim(1, 1, 1)], 3), ms(2));
    let held = wait(&mut locker, &ask(&[claim(1, 0, 1)], 4), ms(3));
    assert!(send(&mut locker, &ask(&[claim(1, 1, 1)], 5), ms(4)).is_ok(), "no waiter needs this window more");
    locker.leave(older, ms(5));
    let verdicts = drain(&mut locker);
    assert!(matches!(&verdicts[..], [(ticket, Verdict::Go(_))] if *ticket == held), "{verdicts:?}");
}

#[test]
fn where_priority_is_strict_the_more_urgent_goes_first_but_the_least_urgent_goes_within_its_patience() {
    let mut rule = limit(1, 100, Kind::Sliding);
    rule.max_wait = Duration::from_secs(10);
    (rule.share_by, rule.priority) = (ShareBy::Nobody, Priority::Strict);
    let mut locker = Locker::new(vec![rule]);
    let claims = [claim(0, 0, 1)];
    assert!(send(&mut locker, &ask(&claims, 1), ms(0)).is_ok());
    let slow = wait(&mut locker, &Ask { urgency: 7, ..ask(&claims, 1) }, ms(0));
    let urgent = |locker: &mut Locker, at| wait(locker, &Ask { urgency: 0, ..ask(&claims, 1) }, at);
    let first = urgent(&mut locker, ms(1));
    urgent(&mut locker, ms(2));
    let mut order = Vec::new();
    drive(&mut locker, ms(20_000), |locker, ticket, at| {
        order.push((ticket, at));
        if at < ms(12_000) {
            // An urgent request arrives for each that goes, so that one always waits.
            urgent(locker, at);
        }
    });
    assert_eq!(order.first().map(|(ticket, _)| *ticket), Some(first));
    let went = order.iter().find(|(ticket, _)| *ticket == slow).map(|(_, at)| *at);
    assert!(went.is_some_and(|at| at > ms(5_000) && at <= ms(9_500)), "{went:?}");
}

#[test]
fn a_retry_keeps_its_place_in_line() {
    for callers in [[1, 2, 1, 2], [2, 1, 2, 1]] {
        let mut locker = Locker::new(vec![limit(1, 100, Kind::Sliding)]);
        let claims = [claim(0, 0, 1)];
        assert!(send(&mut locker, &ask(&claims, 1), ms(50)).is_ok());
        for caller in callers {
            wait(&mut locker, &ask(&claims, caller), ms(60));
        }
        let again = wait(&mut locker, &Ask { arrived: Some(ms(10)), kind: AskKind::Retry, ..ask(&claims, 1) }, ms(70));
        let mut order = Vec::new();
        drive(&mut locker, ms(10_000), |_, ticket, _| order.push(ticket));
        assert_eq!((order[0], order.len()), (again, 5), "{callers:?}");
    }
}

/// Two windows of one slot per two seconds that never open together, each with its own waiters, and one request that
/// needs both.
#[test]
fn a_request_that_needs_windows_that_never_open_together_goes_all_the_same() {
    let mut locker = Locker::new(vec![limit(1, 2000, Kind::Sliding), limit(1, 2000, Kind::Sliding)]);
    assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(0)).is_ok());
    assert!(send(&mut locker, &ask(&[claim(1, 0, 1)], 2), ms(1000)).is_ok());
    for _ in 0..10 {
        wait(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(1100));
        wait(&mut locker, &ask(&[claim(1, 0, 1)], 2), ms(1100));
    }
    let both = wait(&mut locker, &ask(&[claim(0, 0, 1), claim(1, 0, 1)], 3), ms(1200));
    for _ in 0..10 {
        wait(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(1300));
        wait(&mut locker, &ask(&[claim(1, 0, 1)], 2), ms(1300));
    }
    let mut when = None;
    let mut others = 0;
    drive(&mut locker, ms(50_000), |_, ticket, at| {
        if ticket == both {
            when = Some(at);
        } else {
            others += 1;
        }
    });
    // Ten waiters of each window go first: 20 s. Then at most one slot of each window stays unused for the request.
    assert!(when.is_some_and(|at| at <= ms(25_000)), "{when:?}");
    assert_eq!(others, 40);
}

#[test]
fn younger_ones_go_ahead_of_a_claimant_whose_other_window_is_closed_for_hours() {
    let mut locker = Locker::new(vec![limit(1, 3_600_000, Kind::Sliding), limit(2, 1000, Kind::Sliding)]);
    for rule in [0, 1] {
        let mut patient = locker.limits()[rule].clone();
        patient.max_wait = Duration::from_secs(7200);
        change(&mut locker, LimitId(rule as u32), patient, ms(0));
    }
    assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(0)).is_ok());
    let holder = wait(&mut locker, &ask(&[claim(0, 0, 1), claim(1, 0, 1)], 1), ms(1));
    for second in 1..3500 {
        for _ in 0..2 {
            assert!(send(&mut locker, &ask(&[claim(1, 0, 1)], 2), ms(second * 1000)).is_ok(), "{second}");
        }
    }
    let mut when = None;
    drive(&mut locker, ms(3_700_000), |_, ticket, at| when = (ticket == holder).then_some(at));
    assert_eq!(when, Some(ms(3_600_000)));
}

#[test]
fn one_that_takes_all_slots_of_a_window_goes_ahead_of_a_claimant_for_which_they_open_again_in_time() {
    for kind in [Kind::Sliding, Kind::Fixed, Kind::Smooth { burst: 1 }] {
        let mut locker = Locker::new(vec![limit(1, 5000, Kind::Sliding), limit(1, 1000, kind.clone())]);
        assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(0)).is_ok());
        let holder = wait(&mut locker, &ask(&[claim(0, 0, 1), claim(1, 0, 1)], 1), ms(1));
        for at in [1000, 2000, 3000, 4000] {
            assert!(send(&mut locker, &ask(&[claim(1, 0, 1)], 2), ms(at)).is_ok(), "{kind:?}, at {at} ms");
        }
        let younger = wait(&mut locker, &ask(&[claim(1, 0, 1)], 2), ms(4999));
        let mut went = Vec::new();
        drive(&mut locker, ms(9000), |_, ticket, at| went.push((ticket, at)));
        assert_eq!(went, [(holder, ms(5000)), (younger, ms(6000))], "{kind:?}");
    }
}

#[test]
fn a_claimant_keeps_slots_once_it_has_waited_long_for_what_nobody_can_foretell() {
    let mut locker = Locker::new(vec![limit(1, 100, Kind::Sliding), limit(1, 100, Kind::Sliding)]);
    let Verdict::Go(stalled) = locker.ask(&ask(&[claim(0, 0, 1)], 1), ms(0)) else { panic!() };
    let holder = wait(&mut locker, &ask(&[claim(0, 0, 1), claim(1, 0, 1)], 1), ms(1));
    assert!(send(&mut locker, &ask(&[claim(1, 0, 1)], 2), ms(50)).is_ok(), "it has not waited for long");
    let held = wait(&mut locker, &ask(&[claim(1, 0, 1)], 2), ms(500));
    locker.give_back(stalled, ms(600));
    let Some((first, Verdict::Go(mut grant))) = locker.poll_verdict() else { panic!() };
    assert_eq!(first, holder);
    locker.settle(&mut grant, SettlePoint::Sent, ms(600));
    let mut order = Vec::new();
    drive(&mut locker, ms(1000), |_, ticket, at| order.push((ticket, at)));
    assert_eq!(order, [(held, ms(700))]);
}

#[test]
fn thousands_of_lanes_at_one_window_are_served_in_turn() {
    let callers = 3000;
    let mut locker = Locker::new(vec![limit(50, 100, Kind::Sliding), limit(1, 1000, Kind::Sliding)]);
    for rule in [0, 1] {
        let mut wide = locker.limits()[rule].clone();
        wide.max_waiting = 100_000;
        change(&mut locker, LimitId(rule as u32), wide, ms(0));
    }
    assert!(send(&mut locker, &ask(&[claim(0, 0, 50)], 0), ms(0)).is_ok());
    for round in 0..2 {
        for caller in 1..=callers {
            wait(&mut locker, &ask(&[claim(0, 0, 1), claim(1, u128::from(caller), 1)], caller), ms(round + 1));
        }
    }
    let mut times = Vec::new();
    drive(&mut locker, ms(60_000), |_, _, at| times.push(at));
    assert_eq!(times.len() as u64, 2 * callers);
    assert_eq!(times.last(), Some(&ms(100 * 2 * callers / 50)), "the window stands idle for nobody");
}

#[test]
fn one_that_waited_for_one_limit_is_refused_by_another_that_lets_nobody_wait() {
    let refuses = Limit { when_full: WhenFull::Refuse, ..limit(1, 5000, Kind::Sliding) };
    let mut locker = Locker::new(vec![limit(1, 1000, Kind::Sliding), refuses]);
    assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(0)).is_ok());
    let both = wait(&mut locker, &ask(&[claim(0, 0, 1), claim(1, 0, 1)], 1), ms(1));
    locker.pause(LimitId(1), Key(0), ms(3000), ms(500));
    locker.handle_timeout(ms(1000));
    let verdicts = drain(&mut locker);
    assert!(
        matches!(
            verdicts[..],
            [(got, Verdict::Sorry(Sorry { reason: RefusalReason::Full, limit: LimitId(1), .. }))] if got == both
        ),
        "{verdicts:?}"
    );
    assert_eq!(locker.waiting(), 0);
}

#[test]
fn one_that_waited_for_one_limit_is_refused_by_another_whose_slot_is_kept_for_an_elder() {
    let refuses = Limit { when_full: WhenFull::Refuse, ..limit(1, 500, Kind::Sliding) };
    let mut locker = Locker::new(vec![limit(1, 1000, Kind::Sliding), limit(1, 900, Kind::Sliding), refuses]);
    for first in [0, 1] {
        assert!(send(&mut locker, &ask(&[claim(first, 0, 1)], 1), ms(0)).is_ok());
    }
    let older = wait(&mut locker, &ask(&[claim(0, 0, 1), claim(2, 0, 1)], 1), ms(1));
    let younger = wait(&mut locker, &ask(&[claim(1, 0, 1), claim(2, 0, 1)], 2), ms(2));
    locker.handle_timeout(ms(900));
    let verdicts = drain(&mut locker);
    assert!(
        matches!(verdicts[..], [(got, Verdict::Sorry(Sorry { reason: RefusalReason::Full, .. }))] if got == younger),
        "{verdicts:?}: no waiter is there"
    );
    locker.handle_timeout(ms(1000));
    let verdicts = drain(&mut locker);
    assert!(matches!(verdicts[..], [(got, Verdict::Go(_))] if got == older), "{verdicts:?}");
}

#[test]
fn callers_take_turns_at_the_limit_that_they_share_though_each_needs_another_one_too() {
    let mut locker = Locker::new(vec![limit(1, 100, Kind::Sliding), limit(5, 100, Kind::Sliding)]);
    assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 9), ms(0)).is_ok());
    let mut callers = HashMap::new();
    for (at, caller) in [1, 1, 1, 1, 1, 2, 2].into_iter().enumerate() {
        let claims = [claim(0, 0, 1), claim(1, u128::from(caller), 1)];
        callers.insert(wait(&mut locker, &ask(&claims, caller), ms(1 + at as u64)), caller);
    }
    let mut order = Vec::new();
    drive(&mut locker, ms(10_000), |_, ticket, _| order.push(callers[&ticket]));
    assert_eq!(order, [1, 2, 1, 2, 1, 1, 1]);
}

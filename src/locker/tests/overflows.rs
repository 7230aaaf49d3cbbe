//! Tests of full queues: the waiter to drop is chosen so that no caller keeps others out.

use super::order::{drive, wait};
use super::*;

/// One slot per second, the first of which is used at the start; at most `max_waiting` waiters.
fn narrow(max_waiting: usize) -> Limit {
    Limit { max_waiting, ..limit(1, 1000, Kind::Sliding) }
}

fn full(rules: Vec<Limit>) -> Locker {
    let mut locker = Locker::new(rules);
    for id in 0..locker.limits().len() as u32 {
        assert!(send(&mut locker, &ask(&[claim(id, 0, 1)], 9), ms(0)).is_ok());
    }
    locker
}

const CLAIMS: &[Claim] = &[Claim { limit: LimitId(0), key: Key(0), cost: 1 }];

fn refused(locker: &mut Locker, ask: &Ask<'_>, now: Time) -> RefusalReason {
    let verdict = locker.ask(ask, now);
    let Verdict::Sorry(sorry) = verdict else { panic!("{verdict:?}") };
    sorry.reason
}

/// The only verdict that is ready: the ticket and refusal of a dropped waiter.
fn dropped_waiter(locker: &mut Locker) -> (Ticket, Sorry) {
    let mut verdicts = drain(locker);
    let Some((ticket, Verdict::Sorry(sorry))) = verdicts.pop() else { panic!("no waiter is dropped") };
    assert!(verdicts.is_empty(), "{verdicts:?}");
    (ticket, sorry)
}

#[test]
fn a_caller_that_fills_the_line_gives_its_last_place_to_another_caller() {
    let mut locker = full(vec![narrow(5)]);
    let backlog: Vec<Ticket> = (1..6).map(|at| wait(&mut locker, &ask(CLAIMS, 1), ms(at))).collect();
    assert_eq!(refused(&mut locker, &ask(CLAIMS, 1), ms(6)), RefusalReason::QueueFull);
    let other = wait(&mut locker, &ask(CLAIMS, 2), ms(7));
    let (dropped, sorry) = dropped_waiter(&mut locker);
    assert_eq!((dropped, sorry.reason, sorry.limit), (backlog[4], RefusalReason::QueueFull, LimitId(0)));
    assert_eq!(locker.waiting(), 5);
    let mut order = Vec::new();
    drive(&mut locker, ms(60_000), |_, ticket, _| order.push(ticket));
    assert_eq!(order, [backlog[0], other, backlog[1], backlog[2], backlog[3]]);
}

#[test]
fn callers_share_the_places_in_line_evenly_and_no_further() {
    let mut locker = full(vec![narrow(5)]);
    for at in 1..6 {
        wait(&mut locker, &ask(CLAIMS, 1), ms(at));
    }
    for at in 6..8 {
        wait(&mut locker, &ask(CLAIMS, 2), ms(at));
        dropped_waiter(&mut locker);
    }
    // Three and two: a third waiter of the second caller would come after the third of the first.
    assert_eq!(refused(&mut locker, &ask(CLAIMS, 2), ms(8)), RefusalReason::QueueFull);
    assert_eq!(refused(&mut locker, &ask(CLAIMS, 1), ms(8)), RefusalReason::QueueFull);
    wait(&mut locker, &ask(CLAIMS, 3), ms(9));
    dropped_waiter(&mut locker);
    assert_eq!(locker.waiting(), 5);
}

#[test]
fn who_does_not_take_turns_keeps_its_place_in_a_full_line() {
    let mut locker = full(vec![Limit { share_by: ShareBy::Nobody, ..narrow(2) }]);
    for at in 1..3 {
        wait(&mut locker, &ask(CLAIMS, 1), ms(at));
    }
    assert_eq!(refused(&mut locker, &ask(CLAIMS, 2), ms(3)), RefusalReason::QueueFull);
}

#[test]
fn a_more_urgent_request_takes_the_place_of_its_own_callers_least_urgent() {
    let mut locker = full(vec![narrow(3)]);
    let urgency = |urgency| Ask { urgency, ..ask(CLAIMS, 1) };
    wait(&mut locker, &urgency(7), ms(1));
    let last = wait(&mut locker, &urgency(7), ms(2));
    wait(&mut locker, &urgency(1), ms(3));
    assert_eq!(refused(&mut locker, &urgency(7), ms(4)), RefusalReason::QueueFull);
    let urgent = wait(&mut locker, &urgency(0), ms(5));
    assert_eq!(dropped_waiter(&mut locker).0, last);
    let mut first = None;
    drive(&mut locker, ms(1000), |_, ticket, _| first = Some(ticket));
    assert_eq!(first, Some(urgent));
}

#[test]
fn nobody_is_dropped_for_one_that_finds_another_line_full() {
    let mut locker = full(vec![narrow(2), Limit { share_by: ShareBy::Nobody, ..narrow(2) }]);
    let second = [claim(1, 0, 1)];
    for at in 1..3 {
        wait(&mut locker, &ask(CLAIMS, 1), ms(at));
        wait(&mut locker, &ask(&second, 1), ms(at));
    }
    let both = [claim(0, 0, 1), claim(1, 0, 1)];
    assert_eq!(refused(&mut locker, &ask(&both, 2), ms(3)), RefusalReason::QueueFull);
    assert!(drain(&mut locker).is_empty());
    assert_eq!(locker.waiting(), 4);
}

#[test]
fn a_caller_at_another_home_is_let_into_the_line_too() {
    // All requests claim the second limit; those with two claims have their turns at the first.
    let mut locker = full(vec![limit(1, 1000, Kind::Sliding), narrow(3)]);
    let (narrow, both) = ([claim(1, 0, 1)], [claim(0, 0, 1), claim(1, 0, 1)]);
    let backlog: Vec<Ticket> = (1..4).map(|at| wait(&mut locker, &ask(&narrow, 1), ms(at))).collect();
    wait(&mut locker, &ask(&both, 2), ms(4));
    let (dropped, sorry) = dropped_waiter(&mut locker);
    assert_eq!((dropped, sorry.limit), (backlog[2], LimitId(1)));
}

#[test]
fn one_that_is_dropped_is_told_of_the_line_that_is_full_though_it_waits_longer_elsewhere() {
    let mut locker = full(vec![limit(1, 20_000, Kind::Sliding), narrow(2)]);
    let both = [claim(0, 0, 1), claim(1, 0, 1)];
    let backlog = [1, 2].map(|at| wait(&mut locker, &ask(&both, 1), ms(at)));
    wait(&mut locker, &ask(&[claim(1, 0, 1)], 2), ms(3));
    let (dropped, sorry) = dropped_waiter(&mut locker);
    assert_eq!((dropped, sorry.limit), (backlog[1], LimitId(1)));
    assert!(sorry.until >= ms(20_000), "the other limit keeps it longer: {:?}", sorry.until);
}

#[test]
fn one_that_was_in_line_before_is_dropped_for_no_newcomer_while_it_asks_again() {
    let mut locker = full(vec![narrow(1)]);
    wait(&mut locker, &ask(CLAIMS, 2), ms(2));
    let back = Ask { arrived: Some(ms(1)), kind: AskKind::Reask { retry: false }, ..ask(CLAIMS, 1) };
    wait(&mut locker, &back, ms(3));
    assert!(drain(&mut locker).is_empty());
    assert_eq!(locker.waiting(), 2);
}

//! Tests of the times that waiters and refused requests are told, and of those that are said to be exact.

use super::order::wait;
use super::*;

/// Times that this many waiters of one slot are told, one after the other at one moment.
fn told(locker: &mut Locker, waiters: usize, now: Time) -> Vec<Option<Time>> {
    let claims = [claim(0, 0, 1)];
    let told = |_| {
        let verdict = locker.ask(&ask(&claims, 1), now);
        let Verdict::Wait(_, until) = verdict else { panic!("{verdict:?}") };
        until
    };
    (0..waiters).map(told).collect()
}

/// Time that a request is told which would not wait, and whether it is exact.
fn refusal(locker: &mut Locker, cost: u32, now: Time) -> (Time, bool) {
    let claims = [claim(0, 0, cost)];
    let verdict = locker.ask(&Ask { max_wait: Some(Duration::ZERO), ..ask(&claims, 1) }, now);
    let Verdict::Sorry(sorry) = verdict else { panic!("{verdict:?}") };
    (sorry.until, sorry.exact)
}

/// Grants slots that do not settle.
fn take(locker: &mut Locker, requests: u32, now: Time) -> Vec<Grant> {
    let claims = [claim(0, 0, 1)];
    let take = |_| {
        let verdict = locker.ask(&ask(&claims, 1), now);
        let Verdict::Go(grant) = verdict else { panic!("{verdict:?}") };
        grant
    };
    (0..requests).map(take).collect()
}

fn fill(locker: &mut Locker, requests: u32, now: Time) {
    (0..requests).for_each(|_| assert!(send(locker, &ask(&[claim(0, 0, 1)], 1), now).is_ok()));
}

#[test]
fn those_behind_slots_under_way_are_told_one_span_for_each_full_window_ahead_of_them() {
    let mut locker = Locker::new(vec![limit(2, 1000, Kind::Sliding)]);
    let _under_way = take(&mut locker, 2, ms(0));
    let spans = [1000, 1000, 2000, 2000, 3000].map(|at| Some(ms(at)));
    assert_eq!(told(&mut locker, 5, ms(0)), spans);
}

/// The slots under way may settle, and open again, before the pause ends.
#[test]
fn those_behind_slots_under_way_are_told_the_end_of_a_pause_or_of_a_span_whichever_is_later() {
    for (paused, until) in [(5000, 5000), (1000, 1000), (300, 1000)] {
        let mut locker = Locker::new(vec![limit(2, 1000, Kind::Sliding)]);
        let _under_way = take(&mut locker, 2, ms(0));
        locker.pause(LimitId(0), Key(0), ms(paused), ms(0));
        assert_eq!(told(&mut locker, 3, ms(0)), [until, until, until + 1000].map(|at| Some(ms(at))));
        let mut locker = Locker::new(vec![limit(2, 1000, Kind::Fixed)]);
        let _under_way = take(&mut locker, 2, ms(0));
        locker.pause(LimitId(0), Key(0), ms(paused), ms(0));
        // Both may also be given back: at best the first two go in the present window.
        assert_eq!(told(&mut locker, 3, ms(0)), [paused, paused, until].map(|at| Some(ms(at))));
    }
}

#[test]
fn those_that_wait_for_the_store_are_told_one_span_for_each_full_window_ahead_of_them_but_the_first() {
    let shared = Limit { shared: true, ..limit(2, 1000, Kind::Sliding) };
    let mut locker = Locker::new(vec![shared]);
    locker.open_sharing(ms(0));
    let (second, third) = (Some(ms(1010)), Some(ms(2010)));
    assert_eq!(told(&mut locker, 8, ms(10)), [None, None, None, None, second, second, third, third]);
}

#[test]
fn a_waiter_of_a_fixed_window_is_told_the_end_of_the_present_one_or_of_the_one_that_those_ahead_fill() {
    let mut locker = Locker::new(vec![limit(2, 1000, Kind::Fixed)]);
    fill(&mut locker, 1, ms(0));
    for (cost, until) in [(2, 1000), (1, 2000), (2, 2000)] {
        let verdict = locker.ask(&ask(&[claim(0, 0, cost)], 1), ms(1));
        assert!(matches!(verdict, Verdict::Wait(_, Some(at)) if at <= ms(until)), "{verdict:?}, cost {cost}");
    }
}

#[test]
fn a_time_is_exact_if_all_slots_have_settled_and_those_ahead_cost_the_same() {
    for kind in [Kind::Sliding, Kind::Fixed] {
        let mut locker = Locker::new(vec![limit(2, 1000, kind.clone())]);
        fill(&mut locker, 2, ms(0));
        assert_eq!(refusal(&mut locker, 1, ms(1)), (ms(1000), true), "{kind:?}: none is ahead");
        let mut locker = Locker::new(vec![limit(2, 1000, kind.clone())]);
        fill(&mut locker, 2, ms(0));
        told(&mut locker, 2, ms(1));
        assert_eq!(refusal(&mut locker, 1, ms(1)), (ms(2000), true), "{kind:?}: two are ahead");
        let mut locker = Locker::new(vec![limit(2, 1000, kind.clone())]);
        fill(&mut locker, 2, ms(0));
        wait(&mut locker, &ask(&[claim(0, 0, 2)], 1), ms(1));
        assert!(!refusal(&mut locker, 1, ms(1)).1, "{kind:?}: one of another cost is ahead");
        let mut locker = Locker::new(vec![limit(2, 1000, kind.clone())]);
        fill(&mut locker, 1, ms(0));
        let _under_way = take(&mut locker, 1, ms(0));
        assert!(!refusal(&mut locker, 1, ms(1)).1, "{kind:?}: one slot is still to settle");
        told(&mut locker, 3, ms(1));
        assert!(!refusal(&mut locker, 1, ms(1)).1, "{kind:?}: one slot is still to settle, and those ahead need all");
    }
}

#[test]
fn a_key_that_holds_nothing_but_told_openings_makes_room_for_another() {
    let rule = Limit { when_full: WhenFull::Refuse, max_keys: 1, ..limit(1, 1000, Kind::Sliding) };
    let mut locker = Locker::new(vec![rule]);
    fill(&mut locker, 1, ms(0));
    let last = (0..30).map(|_| refusal(&mut locker, 1, ms(1)).0).max().unwrap();
    assert!(last > ms(10_000), "{last:?}: they are told to come one after the other");
    let other = [claim(0, 1, 1)];
    assert!(send(&mut locker, &ask(&other, 1), ms(999)).is_err());
    assert!(send(&mut locker, &ask(&other, 1), ms(1000)).is_ok(), "as it was told");
}

#[test]
fn a_fixed_window_of_which_no_slot_has_settled_is_taken_to_begin_now() {
    let mut locker = Locker::new(vec![limit(2, 1000, Kind::Fixed)]);
    let _under_way = take(&mut locker, 2, ms(400));
    assert_eq!(
        told(&mut locker, 3, ms(500)),
        [None, None, Some(ms(1500))],
        "the first two may be given back any moment"
    );
}

#[test]
fn a_time_behind_other_waiters_of_a_spaced_window_is_not_exact() {
    let mut locker = Locker::new(vec![limit(10, 1000, Kind::Smooth { burst: 1 })]);
    fill(&mut locker, 1, ms(0));
    assert_eq!(refusal(&mut locker, 1, ms(1)), (ms(100), true));
    let mut locker = Locker::new(vec![limit(10, 1000, Kind::Smooth { burst: 1 })]);
    fill(&mut locker, 1, ms(0));
    told(&mut locker, 1, ms(1));
    assert!(!refusal(&mut locker, 1, ms(1)).1);
}

#[test]
fn a_time_of_a_limit_that_refuses_is_not_exact_while_others_wait_there_for_another_limit() {
    let refuses = Limit { when_full: WhenFull::Refuse, ..limit(2, 1000, Kind::Sliding) };
    let mut locker = Locker::new(vec![refuses, limit(1, 5000, Kind::Sliding)]);
    assert!(send(&mut locker, &ask(&[claim(1, 0, 1)], 1), ms(0)).is_ok());
    wait(&mut locker, &ask(&[claim(1, 0, 1), claim(0, 0, 1)], 1), ms(1));
    fill(&mut locker, 2, ms(2));
    let verdict = locker.ask(&ask(&[claim(0, 0, 1)], 2), ms(3));
    assert!(
        matches!(verdict, Verdict::Sorry(Sorry { reason: RefusalReason::Full, exact: false, .. })),
        "{verdict:?}: the elder may take it"
    );
}

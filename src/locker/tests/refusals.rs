//! Tests of refusals where several limits count a request: when it is refused, why, and by which limit.

use super::crashes::{recording, write};
use super::order::wait;
use super::*;

fn refused(locker: &mut Locker, ask: &Ask<'_>, now: Time) -> Sorry {
    let verdict = locker.ask(ask, now);
    let Verdict::Sorry(sorry) = verdict else { panic!("{verdict:?}") };
    sorry
}

/// The refusals that are ready, as the ticket and the reason.
fn reasons(locker: &mut Locker) -> Vec<(Ticket, RefusalReason)> {
    let reason = |(ticket, verdict)| match verdict {
        Verdict::Sorry(sorry) => (ticket, sorry.reason),
        Verdict::Go(_) | Verdict::Wait(..) => panic!("{verdict:?}"),
    };
    drain(locker).into_iter().map(reason).collect()
}

#[test]
fn one_full_limit_beyond_its_patience_refuses_a_request_at_once_though_another_has_room() {
    let mut locker = Locker::new(vec![limit(5, 1000, Kind::Sliding), limit(1, 1000, Kind::Sliding)]);
    assert!(send(&mut locker, &ask(&[claim(1, 0, 1)], 1), ms(0)).is_ok());
    let claims = [claim(0, 0, 1), claim(1, 0, 1)];
    let hasty = Ask { max_wait: Some(Duration::from_millis(500)), ..ask(&claims, 1) };
    let sorry = refused(&mut locker, &hasty, ms(100));
    assert_eq!((sorry.reason, sorry.limit, sorry.until), (RefusalReason::TooLong, LimitId(1), ms(1000)));
}

#[test]
fn one_that_would_not_wait_is_refused_at_once_where_the_only_slot_is_kept_for_an_elder() {
    let mut locker = Locker::new(vec![limit(1, 1000, Kind::Sliding), limit(1, 500, Kind::Sliding)]);
    assert!(send(&mut locker, &ask(&[claim(1, 0, 1)], 1), ms(0)).is_ok());
    wait(&mut locker, &ask(&[claim(0, 0, 1), claim(1, 0, 1)], 1), ms(1));
    let claims = [claim(0, 0, 1)];
    let impatient = Ask { max_wait: Some(Duration::ZERO), ..ask(&claims, 2) };
    assert_eq!(refused(&mut locker, &impatient, ms(2)).reason, RefusalReason::TooLong);
    assert_eq!(locker.waiting(), 1);
}

#[test]
fn a_full_line_refuses_no_request_for_which_its_window_has_room() {
    let narrow = Limit { max_waiting: 1, share_by: ShareBy::Nobody, ..limit(2, 100, Kind::Sliding) };
    let mut locker = Locker::new(vec![limit(1, 1000, Kind::Sliding), narrow]);
    assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(0)).is_ok());
    wait(&mut locker, &ask(&[claim(0, 0, 1), claim(1, 0, 1)], 1), ms(1));
    let verdict = locker.ask(&ask(&[claim(1, 0, 1)], 2), ms(2));
    assert!(matches!(verdict, Verdict::Go(_)), "{verdict:?}: its slot is free again before the elder can go");
}

#[test]
fn a_refusal_for_a_full_line_names_the_limit_of_that_line_though_another_keeps_the_request_longer() {
    let narrow = Limit { max_waiting: 1, share_by: ShareBy::Nobody, ..limit(2, 100, Kind::Sliding) };
    let mut locker = Locker::new(vec![limit(1, 1000, Kind::Sliding), narrow]);
    assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(0)).is_ok());
    let both = [claim(0, 0, 1), claim(1, 0, 1)];
    wait(&mut locker, &ask(&both, 1), ms(1));
    let sorry = refused(&mut locker, &ask(&both, 2), ms(2));
    assert_eq!((sorry.reason, sorry.limit), (RefusalReason::QueueFull, LimitId(1)));
}

#[test]
fn one_that_would_not_wait_waits_for_a_write_of_one_limit_though_another_needs_none() {
    let open = Limit { dry_run: true, ..limit(5, 1000, Kind::Sliding) };
    for claims in [[claim(0, 0, 1), claim(1, 0, 1)], [claim(1, 0, 1), claim(0, 0, 1)]] {
        let long = Limit { max_wait: Duration::ZERO, ..limit(1, 1000, Kind::Sliding) };
        let (mut locker, mut disk) = recording(vec![open.clone(), long]);
        let ticket = wait(&mut locker, &ask(&claims, 1), ms(0));
        write(&mut locker, &mut disk, ms(1));
        let verdicts = drain(&mut locker);
        assert!(matches!(verdicts[..], [(got, Verdict::Go(_))] if got == ticket), "{verdicts:?}");
    }
}

#[test]
fn one_that_waits_in_vain_for_a_write_is_told_so_also_if_another_limit_has_room() {
    let long = Limit { max_wait: Duration::from_secs(2), ..limit(1, 1000, Kind::Sliding) };
    let flights = Limit { rate: None, in_flight: Some(9), ..long.clone() };
    for (rules, claims) in [
        (vec![long.clone()], vec![claim(0, 0, 1)]),
        (vec![flights.clone(), long.clone()], vec![claim(0, 0, 1), claim(1, 0, 1)]),
        (vec![long, flights], vec![claim(0, 0, 1), claim(1, 0, 1)]),
    ] {
        let (mut locker, _) = recording(rules);
        let ticket = wait(&mut locker, &ask(&claims, 1), ms(0));
        locker.handle_timeout(ms(1999));
        assert_eq!(reasons(&mut locker), []);
        locker.handle_timeout(ms(2000));
        assert_eq!(reasons(&mut locker), [(ticket, RefusalReason::Unwritten)]);
    }
}

#[test]
fn one_that_the_store_gives_no_slot_in_its_patience_has_timed_out() {
    let shared = Limit { shared: true, max_wait: Duration::from_secs(2), ..limit(5, 100, Kind::Sliding) };
    let mut locker = Locker::new(vec![shared]);
    locker.open_sharing(ms(0));
    let ticket = wait(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(10));
    locker.handle_timeout(ms(2010));
    assert_eq!(reasons(&mut locker), [(ticket, RefusalReason::TimedOut)]);
}

#[test]
fn one_lost_store_is_the_reason_though_another_limit_needs_none() {
    let local = Limit { max_wait: Duration::from_millis(50), ..limit(5, 100, Kind::Sliding) };
    let shared = Limit { shared: true, ..local.clone() };
    let mut locker = Locker::new(vec![local, shared]);
    let ticket = wait(&mut locker, &ask(&[claim(0, 0, 1), claim(1, 0, 1)], 1), ms(10));
    locker.handle_timeout(ms(60));
    assert_eq!(reasons(&mut locker), [(ticket, RefusalReason::StoreLost)]);
}

#[test]
fn for_want_of_a_store_all_are_told_the_same_time_one_span_ahead_for_a_key_that_is_new() {
    let shared = Limit { shared: true, when_full: WhenFull::Refuse, ..limit(5, 100, Kind::Sliding) };
    let mut locker = Locker::new(vec![shared]);
    for _ in 0..3 {
        let sorry = refused(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(10));
        assert_eq!((sorry.reason, sorry.until, sorry.exact), (RefusalReason::StoreLost, ms(110), false));
    }
}

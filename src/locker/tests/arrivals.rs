//! Tests of single asks: room, refusals, maximum wait, dry runs, the cap on keys.

use super::*;

fn sorry(verdict: Verdict) -> Sorry {
    let Verdict::Sorry(sorry) = verdict else { panic!("{verdict:?}") };
    sorry
}

fn ticket(verdict: Verdict) -> Ticket {
    let Verdict::Wait(ticket, _) = verdict else { panic!("{verdict:?}") };
    ticket
}

/// Times in ms, within the first two seconds, at which a caller that asks every 100 ms is granted a slot.
fn goes(limit: Limit) -> Vec<u64> {
    let mut locker = Locker::new(vec![limit]);
    let claims = [claim(0, 0, 1)];
    (0..20).map(|step| step * 100).filter(|at| send(&mut locker, &ask(&claims, 1), ms(*at)).is_ok()).collect()
}

#[test]
fn a_fixed_window_of_five_per_800_ms_answers_a_steady_caller_as_it_should() {
    let mut rule = limit(5, 800, Kind::Fixed);
    rule.when_full = WhenFull::Refuse;
    assert_eq!(goes(rule), [0, 100, 200, 300, 400, 800, 900, 1000, 1100, 1200, 1600, 1700, 1800, 1900]);
}

#[test]
fn a_sliding_window_lets_each_go_a_span_after_the_one_five_before() {
    let mut rule = limit(5, 800, Kind::Sliding);
    rule.when_full = WhenFull::Refuse;
    assert_eq!(goes(rule), [0, 100, 200, 300, 400, 800, 900, 1000, 1100, 1200, 1600, 1700, 1800, 1900]);
}

#[test]
fn waiters_go_the_moment_their_slot_opens() {
    let mut locker = Locker::new(vec![limit(2, 1000, Kind::Sliding)]);
    let claims = [claim(0, 0, 1)];
    assert!(send(&mut locker, &ask(&claims, 1), ms(0)).is_ok());
    assert!(send(&mut locker, &ask(&claims, 1), ms(300)).is_ok());
    let Verdict::Wait(third, until) = locker.ask(&ask(&claims, 1), ms(400)) else { panic!() };
    assert_eq!(until, Some(ms(1000)));
    let Verdict::Wait(fourth, until) = locker.ask(&ask(&claims, 1), ms(400)) else { panic!() };
    assert_eq!(until, Some(ms(1300)));
    let Verdict::Wait(fifth, until) = locker.ask(&ask(&claims, 1), ms(400)) else { panic!() };
    assert_eq!(until, Some(ms(2000)));
    assert_eq!(locker.waiting(), 3);
    for (at, expected) in [(1000, third), (1300, fourth), (2000, fifth)] {
        locker.handle_timeout(ms(at) - Duration::from_nanos(1));
        assert!(drain(&mut locker).is_empty());
        locker.handle_timeout(ms(at));
        let mut verdicts = drain(&mut locker);
        assert_eq!(verdicts.len(), 1);
        let Some((got, Verdict::Go(mut grant))) = verdicts.pop() else { panic!() };
        assert_eq!(got, expected);
        locker.settle(&mut grant, SettlePoint::Sent, ms(at));
    }
    assert_eq!(locker.waiting(), 0);
}

#[test]
fn one_that_leaves_makes_room_for_the_next() {
    let mut locker = Locker::new(vec![limit(1, 1000, Kind::Sliding)]);
    let claims = [claim(0, 0, 1)];
    assert!(send(&mut locker, &ask(&claims, 1), ms(0)).is_ok());
    let first = ticket(locker.ask(&ask(&claims, 1), ms(1)));
    let second = ticket(locker.ask(&ask(&claims, 1), ms(2)));
    locker.leave(first, ms(3));
    locker.leave(first, ms(4));
    locker.handle_timeout(ms(1000));
    let verdicts = drain(&mut locker);
    assert!(matches!(verdicts[..], [(got, Verdict::Go(_))] if got == second), "{verdicts:?}");
}

#[test]
fn one_that_leaves_after_it_was_let_go_gives_its_slot_to_the_next() {
    let mut locker = Locker::new(vec![limit(1, 1000, Kind::Sliding)]);
    let claims = [claim(0, 0, 1)];
    assert!(send(&mut locker, &ask(&claims, 1), ms(0)).is_ok());
    let first = ticket(locker.ask(&ask(&claims, 1), ms(1)));
    let second = ticket(locker.ask(&ask(&claims, 1), ms(2)));
    locker.handle_timeout(ms(1000));
    locker.leave(first, ms(1000));
    let verdicts = drain(&mut locker);
    assert!(matches!(verdicts[..], [(got, Verdict::Go(_))] if got == second), "{verdicts:?}");
}

#[test]
fn patience_ends_on_arrival_if_the_forecast_says_so_and_at_the_deadline_otherwise() {
    let mut locker = Locker::new(vec![limit(1, 1000, Kind::Sliding)]);
    let claims = [claim(0, 0, 1)];
    let Verdict::Go(mut unsettled) = locker.ask(&ask(&claims, 1), ms(0)) else { panic!() };
    let hasty = Ask { max_wait: Some(Duration::from_millis(1500)), ..ask(&claims, 1) };
    let waits = ticket(locker.ask(&hasty, ms(0)));
    let refused = sorry(locker.ask(&hasty, ms(0)));
    assert_eq!(refused, Sorry { reason: RefusalReason::TooLong, limit: LimitId(0), until: ms(2000), exact: false });
    locker.settle(&mut unsettled, SettlePoint::Sent, ms(900));
    assert_eq!(locker.poll_timeout(), Some(ms(500)), "the sweep");
    locker.handle_timeout(ms(1500));
    let verdicts = drain(&mut locker);
    assert!(
        matches!(verdicts[..], [(got, Verdict::Sorry(Sorry { reason: RefusalReason::TimedOut, .. }))] if got == waits),
        "{verdicts:?}"
    );
    assert_eq!(locker.waiting(), 0);
}

#[test]
fn a_full_queue_refuses() {
    let mut rule = limit(1, 1000, Kind::Sliding);
    rule.max_waiting = 2;
    let mut locker = Locker::new(vec![rule]);
    let claims = [claim(0, 0, 1)];
    assert!(send(&mut locker, &ask(&claims, 1), ms(0)).is_ok());
    ticket(locker.ask(&ask(&claims, 1), ms(1)));
    ticket(locker.ask(&ask(&claims, 2), ms(1)));
    assert_eq!(sorry(locker.ask(&ask(&claims, 3), ms(1))).reason, RefusalReason::QueueFull);
    assert_eq!(locker.waiting(), 2);
}

#[test]
fn what_costs_more_than_there_is_never_waits() {
    let mut locker = Locker::new(vec![limit(3, 1000, Kind::Sliding)]);
    assert_eq!(sorry(locker.ask(&ask(&[claim(0, 0, 4)], 1), ms(0))).reason, RefusalReason::CostTooHigh);
    assert!(send(&mut locker, &ask(&[claim(0, 0, 3)], 1), ms(0)).is_ok());
    let waits = ticket(locker.ask(&ask(&[claim(0, 0, 3)], 1), ms(0)));
    change(&mut locker, LimitId(0), limit(2, 1000, Kind::Sliding), ms(1));
    let verdicts = drain(&mut locker);
    assert!(
        matches!(verdicts[..], [(got, Verdict::Sorry(Sorry { reason: RefusalReason::CostTooHigh, .. }))] if got == waits),
        "{verdicts:?}"
    );
}

#[test]
fn unknown_keys_beyond_the_cap_are_refused_and_a_busy_window_is_kept() {
    let mut rule = limit(1, 1000, Kind::Sliding);
    rule.max_keys = 2;
    let mut locker = Locker::new(vec![rule]);
    assert!(send(&mut locker, &ask(&[claim(0, 1, 1)], 1), ms(0)).is_ok());
    assert!(send(&mut locker, &ask(&[claim(0, 2, 1)], 1), ms(500)).is_ok());
    assert_eq!(
        sorry(send(&mut locker, &ask(&[claim(0, 3, 1)], 1), ms(900)).unwrap_err()).reason,
        RefusalReason::TooManyKeys
    );
    assert!(send(&mut locker, &ask(&[claim(0, 3, 1)], 1), ms(1000)).is_ok());
    ticket(locker.ask(&ask(&[claim(0, 2, 1)], 1), ms(1000)));
    assert_eq!(locker.live_keys(), 2);
}

#[test]
fn a_dry_run_counts_and_lets_everything_go() {
    let mut rule = limit(1, 1000, Kind::Sliding);
    rule.dry_run = true;
    let mut locker = Locker::new(vec![rule, limit(2, 1000, Kind::Sliding)]);
    let claims = [claim(0, 0, 1), claim(1, 0, 1)];
    let Verdict::Go(mut first) = locker.ask(&ask(&claims, 1), ms(0)) else { panic!() };
    assert_eq!(first.dry_run_hit(), None);
    locker.settle(&mut first, SettlePoint::Sent, ms(0));
    let Verdict::Go(second) = locker.ask(&ask(&claims, 1), ms(100)) else { panic!() };
    assert_eq!(second.dry_run_hit(), Some((LimitId(0), ms(1000))));
    assert_eq!(locker.usage(LimitId(0), Key(0), ms(100)).taken, 1);
    assert_eq!(locker.usage(LimitId(1), Key(0), ms(100)).taken, 2);
    ticket(locker.ask(&ask(&claims, 1), ms(100)));
}

#[test]
fn a_dry_run_does_not_count_what_its_limit_would_never_let_go_also_after_a_wait_for_another() {
    let rule = Limit { dry_run: true, ..limit(1, 1000, Kind::Sliding) };
    let mut locker = Locker::new(vec![rule, limit(2, 100, Kind::Sliding)]);
    for (key, wait) in [(0, 0), (1, 100)] {
        let claims = [claim(0, key, 2), claim(1, 0, 2)];
        let grant = match locker.ask(&ask(&claims, 1), ms(0)) {
            Verdict::Go(mut grant) => {
                locker.settle(&mut grant, SettlePoint::Sent, ms(0));
                grant
            }
            Verdict::Wait(..) => {
                locker.handle_timeout(ms(wait));
                let Some((_, Verdict::Go(grant))) = locker.poll_verdict() else { panic!("its slots are free") };
                grant
            }
            Verdict::Sorry(sorry) => panic!("{sorry:?}"),
        };
        assert!(grant.dry_run_hit().is_some());
        assert_eq!(locker.usage(LimitId(0), Key(key), ms(wait)).taken, 0);
    }
}

#[test]
fn a_request_without_claims_goes_and_owes_nothing() {
    let mut locker = Locker::new(Vec::new());
    let Verdict::Go(grant) = locker.ask(&ask(&[], 1), ms(0)) else { panic!() };
    assert!(grant.is_empty() && !grant.awaits_answer() && !grant.holds_flight());
    assert_eq!(locker.poll_timeout(), None);
}

#[test]
fn flights_are_counted_until_they_end() {
    let mut rule = limit(1, 1000, Kind::Sliding);
    rule.rate = None;
    rule.in_flight = Some(2);
    let mut locker = Locker::new(vec![rule]);
    let claims = [claim(0, 0, 7)];
    let Verdict::Go(first) = locker.ask(&ask(&claims, 1), ms(0)) else { panic!() };
    let Verdict::Go(_second) = locker.ask(&ask(&claims, 1), ms(0)) else { panic!() };
    assert!(first.holds_flight() && !first.awaits_answer());
    let third = ticket(locker.ask(&ask(&claims, 1), ms(1)));
    locker.handle_timeout(ms(50_000));
    assert!(drain(&mut locker).is_empty());
    locker.finish(first, ms(50_001));
    let verdicts = drain(&mut locker);
    assert!(matches!(verdicts[..], [(got, Verdict::Go(_))] if got == third), "{verdicts:?}");
}

#[test]
fn idle_keys_leave_nothing_behind() {
    let mut locker = Locker::in_chunks(10, vec![limit(5, 800, Kind::Sliding)]);
    for key in 0..5000 {
        assert!(send(&mut locker, &ask(&[claim(0, key, 1)], 1), ms(0)).is_ok());
    }
    assert_eq!((locker.live_keys(), locker.counters.table.chunks()), (5000, 5));
    let mut calls = 0;
    while let Some(at) = locker.poll_timeout() {
        locker.handle_timeout(at);
        calls += 1;
    }
    assert_eq!((locker.live_keys(), locker.counters.table.chunks()), (0, 0));
    assert!(calls < 40, "{calls} wake-ups");
}

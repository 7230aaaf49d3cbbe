//! Tests of dry runs: what they count, and the opening that they note.

use super::order::wait;
use super::*;

fn dry_run(requests: u32, per: u64) -> Limit {
    Limit { dry_run: true, ..limit(requests, per, Kind::Sliding) }
}

fn granted(locker: &mut Locker, ask: &Ask<'_>, now: Time) -> Grant {
    let verdict = locker.ask(ask, now);
    let Verdict::Go(grant) = verdict else { panic!("{verdict:?}") };
    grant
}

/// The only grant that is ready.
fn next_grant(locker: &mut Locker) -> Grant {
    let verdict = locker.poll_verdict();
    let Some((_, Verdict::Go(grant))) = verdict else { panic!("{verdict:?}") };
    grant
}

#[test]
fn the_opening_that_a_dry_run_notes_lies_at_least_a_millisecond_ahead() {
    let mut locker = Locker::new(vec![dry_run(1, 1000)]);
    let claims = [claim(0, 0, 1)];
    assert!(send(&mut locker, &ask(&claims, 1), ms(0)).is_ok());
    let now = ms(1000) - Duration::from_micros(200);
    let hit = granted(&mut locker, &ask(&claims, 1), now).dry_run_hit();
    assert_eq!(hit, Some((LimitId(0), now + Duration::from_millis(1))));
}

#[test]
fn a_dry_run_that_would_never_let_a_cost_go_notes_an_opening_one_span_ahead() {
    let mut locker = Locker::new(vec![dry_run(1, 1000)]);
    let hit = granted(&mut locker, &ask(&[claim(0, 0, 2)], 1), ms(10)).dry_run_hit();
    assert_eq!(hit, Some((LimitId(0), ms(1010))));
}

#[test]
fn a_dry_run_counts_a_waiter_by_the_slots_that_are_open_when_it_goes() {
    let mut locker = Locker::new(vec![limit(1, 1000, Kind::Sliding), dry_run(1, 900)]);
    let claims = [claim(0, 0, 1), claim(1, 0, 1)];
    assert!(send(&mut locker, &ask(&claims, 1), ms(0)).is_ok());
    wait(&mut locker, &ask(&claims, 1), ms(1));
    locker.handle_timeout(ms(1000));
    assert_eq!(next_grant(&mut locker).dry_run_hit(), None, "its slot has opened meanwhile");
}

#[test]
fn a_dry_run_counts_a_waiter_under_no_key_beyond_its_cap() {
    for (max_keys, counted) in [(1, 0), (2, 1)] {
        let mut locker = Locker::new(vec![limit(1, 1000, Kind::Sliding), Limit { max_keys, ..dry_run(5, 10_000) }]);
        assert!(send(&mut locker, &ask(&[claim(0, 0, 1), claim(1, 1, 1)], 1), ms(0)).is_ok());
        wait(&mut locker, &ask(&[claim(0, 0, 1), claim(1, 2, 1)], 1), ms(1));
        locker.handle_timeout(ms(1000));
        assert_eq!(next_grant(&mut locker).dry_run_hit().is_some(), counted == 0);
        assert_eq!(locker.usage(LimitId(1), Key(2), ms(1000)).taken, counted);
    }
}

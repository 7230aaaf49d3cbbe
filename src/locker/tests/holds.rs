//! Tests of held lockers: during a reload or an upgrade no request is granted that could wait.

use super::crashes::{recording, write};
use super::*;

fn one_at_a_time() -> Limit {
    Limit { rate: None, in_flight: Some(1), ..limit(1, 1000, Kind::Sliding) }
}

fn granted(locker: &mut Locker, claims: &[Claim], now: Time) -> Grant {
    let verdict = locker.ask(&ask(claims, 1), now);
    let Verdict::Go(grant) = verdict else { panic!("{verdict:?}") };
    grant
}

fn queue(locker: &mut Locker, claims: &[Claim], now: Time) -> Ticket {
    let verdict = locker.ask(&ask(claims, 1), now);
    let Verdict::Wait(ticket, _) = verdict else { panic!("{verdict:?}") };
    ticket
}

#[test]
fn a_window_that_is_swept_while_the_locker_is_held_is_not_looked_at_afterwards() {
    let mut locker = Locker::new(vec![one_at_a_time()]);
    let claims = [claim(0, 0, 1)];
    let first = granted(&mut locker, &claims, ms(0));
    let second = queue(&mut locker, &claims, ms(1));
    locker.hold();
    locker.leave(second, ms(2));
    locker.finish(first, ms(3));
    locker.handle_timeout(ms(600));
    assert_eq!(
        (locker.live_keys(), locker.counters.table.chunks()),
        (0, 0),
        "no key is left, and its memory is given back"
    );
    locker.release(ms(600));
    assert!(drain(&mut locker).is_empty());
    drop(granted(&mut locker, &claims, ms(601)));
}

#[test]
fn one_that_would_not_wait_and_finds_room_in_a_held_locker_goes_when_that_is_released() {
    let mut locker = Locker::new(vec![limit(1, 1000, Kind::Sliding)]);
    let claims = [claim(0, 0, 1)];
    let impatient = Ask { max_wait: Some(Duration::ZERO), ..ask(&claims, 1) };
    locker.hold();
    let verdict = locker.ask(&impatient, ms(0));
    let Verdict::Wait(first, _) = verdict else { panic!("{verdict:?}") };
    locker.handle_timeout(ms(10));
    assert!(drain(&mut locker).is_empty());
    locker.release(ms(20));
    let verdicts = drain(&mut locker);
    assert!(matches!(verdicts[..], [(got, Verdict::Go(_))] if got == first), "{verdicts:?}");
}

#[test]
fn one_that_would_not_wait_is_refused_at_the_release_if_an_elder_has_taken_the_room() {
    let mut locker = Locker::new(vec![limit(1, 1000, Kind::Sliding)]);
    let claims = [claim(0, 0, 1)];
    locker.hold();
    let verdict = locker.ask(&Ask { max_wait: Some(Duration::ZERO), ..ask(&claims, 1) }, ms(1));
    let Verdict::Wait(impatient, _) = verdict else { panic!("{verdict:?}") };
    let verdict =
        locker.ask(&Ask { arrived: Some(ms(0)), kind: AskKind::Reask { retry: false }, ..ask(&claims, 2) }, ms(2));
    let Verdict::Wait(older, _) = verdict else { panic!("{verdict:?}") };
    locker.release(ms(20));
    let verdicts = drain(&mut locker);
    assert!(
        matches!(
            &verdicts[..],
            [(first, Verdict::Go(_)), (second, Verdict::Sorry(_))] if *first == older && *second == impatient
        ),
        "{verdicts:?}"
    );
    assert!(locker.queue.deadlines.is_empty());
}

#[test]
fn one_that_finds_no_room_in_a_held_locker_and_would_not_wait_is_refused_at_once() {
    let mut locker = Locker::new(vec![limit(1, 1000, Kind::Sliding)]);
    let claims = [claim(0, 0, 1)];
    assert!(send(&mut locker, &ask(&claims, 1), ms(0)).is_ok());
    locker.hold();
    let verdict = locker.ask(&Ask { max_wait: Some(Duration::ZERO), ..ask(&claims, 1) }, ms(1));
    assert!(matches!(verdict, Verdict::Sorry(Sorry { reason: RefusalReason::TooLong, .. })), "{verdict:?}");
}

#[test]
fn the_longer_patience_of_a_held_request_ends_with_the_hold() {
    let mut locker = Locker::new(vec![limit(1, 1000, Kind::Sliding)]);
    let claims = [claim(0, 0, 1)];
    let mut hold_and_release = |max_wait, elder_at: u64| {
        locker.hold();
        let now = ms(elder_at + 1);
        let verdict = locker.ask(&Ask { max_wait: Some(max_wait), ..ask(&claims, 1) }, now);
        let Verdict::Wait(hasty, _) = verdict else { panic!("{verdict:?}") };
        let elder = Ask { arrived: Some(ms(elder_at)), kind: AskKind::Reask { retry: false }, ..ask(&claims, 2) };
        let verdict = locker.ask(&elder, now);
        let Verdict::Wait(elder, _) = verdict else { panic!("{verdict:?}") };
        locker.release(ms(elder_at + 20));
        (hasty, elder)
    };
    let (hasty, elder) = hold_and_release(Duration::from_millis(100), 0);
    let verdicts = drain(&mut locker);
    assert!(matches!(verdicts[..], [(got, Verdict::Go(_))] if got == elder), "{verdicts:?}");
    locker.handle_timeout(ms(100));
    assert!(drain(&mut locker).is_empty());
    assert_eq!(locker.poll_timeout(), Some(ms(101)));
    locker.handle_timeout(ms(101));
    let verdicts = drain(&mut locker);
    assert!(matches!(verdicts[..], [(got, Verdict::Sorry(_))] if got == hasty), "{verdicts:?}");
    assert!(locker.queue.deadlines.is_empty());
}

#[test]
fn the_patience_of_a_held_request_that_was_longer_by_itself_stays_as_it_was() {
    let mut locker = Locker::new(vec![limit(1, 1000, Kind::Sliding)]);
    let claims = [claim(0, 0, 1)];
    locker.hold();
    let patient = Ask { max_wait: Some(Duration::from_millis(5000)), ..ask(&claims, 1) };
    let _first = queue(&mut locker, &claims, ms(0));
    let verdict = locker.ask(&patient, ms(0));
    let Verdict::Wait(second, _) = verdict else { panic!("{verdict:?}") };
    locker.release(ms(20));
    assert_eq!(drain(&mut locker).len(), 1, "the first goes");
    locker.handle_timeout(ms(4000));
    assert!(drain(&mut locker).is_empty());
    locker.handle_timeout(ms(5000));
    let verdicts = drain(&mut locker);
    assert!(matches!(verdicts[..], [(got, Verdict::Sorry(_))] if got == second), "{verdicts:?}");
}

#[test]
fn a_held_request_that_waits_for_a_write_after_the_hold_keeps_its_longer_patience() {
    let (mut locker, mut disk) = recording(vec![limit(1, 1000, Kind::Sliding)]);
    let claims = [claim(0, 0, 1)];
    locker.hold();
    let verdict = locker.ask(&Ask { max_wait: Some(Duration::ZERO), ..ask(&claims, 1) }, ms(1));
    let Verdict::Wait(ticket, _) = verdict else { panic!("{verdict:?}") };
    locker.release(ms(20));
    locker.handle_timeout(ms(30));
    assert!(drain(&mut locker).is_empty());
    write(&mut locker, &mut disk, ms(40));
    let verdicts = drain(&mut locker);
    assert!(matches!(verdicts[..], [(got, Verdict::Go(_))] if got == ticket), "{verdicts:?}");
}

//! Lockers that are held: while limits are read again, or another process takes over, nobody goes who could wait.

use super::*;

fn one_at_a_time() -> Limit {
    Limit { rate: None, in_flight: Some(1), ..limit(1, 1000, Kind::Sliding) }
}

fn granted(locker: &mut Locker, claims: &[Claim], now: Time) -> Grant {
    let verdict = locker.ask(&ask(claims, 1), now);
    let Verdict::Go(grant) = verdict else { panic!("{verdict:?}") };
    grant
}

fn waits(locker: &mut Locker, claims: &[Claim], now: Time) -> Ticket {
    let verdict = locker.ask(&ask(claims, 1), now);
    let Verdict::Wait(ticket, _) = verdict else { panic!("{verdict:?}") };
    ticket
}

#[test]
fn a_window_that_is_swept_while_the_locker_is_held_is_not_looked_at_afterwards() {
    let mut locker = Locker::new(vec![one_at_a_time()]);
    let claims = [claim(0, 0, 1)];
    let first = granted(&mut locker, &claims, ms(0));
    let second = waits(&mut locker, &claims, ms(1));
    locker.hold();
    locker.leave(second, ms(2));
    locker.finish(first, ms(3));
    locker.handle_timeout(ms(600));
    assert_eq!((locker.live_keys(), locker.table.chunks()), (0, 0), "no key is left, and its memory is given back");
    locker.release(ms(600));
    assert!(drain(&mut locker).is_empty());
    drop(granted(&mut locker, &claims, ms(601)));
}

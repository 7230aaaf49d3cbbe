//! Tests at the very moment at which something begins or ends, and a moment before.

use super::order::wait;
use super::persisting::{long, write_all};
use super::*;

/// One moment before.
fn just_before(at: Time) -> Time {
    at - Duration::from_nanos(1)
}

#[test]
fn a_slot_that_is_written_no_sooner_than_it_opens_wakes_its_waiter_then() {
    // Two slots are too few for a block that is written ahead.
    let mut locker = Locker::new(vec![long(2)]);
    locker.begin_persisting(JournalStart::Fresh, ms(0));
    write_all(&mut locker, ms(0));
    let claims = [claim(0, 0, 1)];
    for at in [ms(10), ms(20)] {
        wait(&mut locker, &ask(&claims, 1), at);
        write_all(&mut locker, at);
        let Some((_, Verdict::Go(mut grant))) = locker.poll_verdict() else { panic!("it is written") };
        locker.settle(&mut grant, SettlePoint::Sent, at);
        locker.finish(grant, at);
    }
    let Verdict::Wait(ticket, told) = locker.ask(&ask(&claims, 1), ms(30)) else { panic!("the window is full") };
    assert_eq!(told, Some(ms(1010)));
    while let Some(at) = locker.poll_timeout().filter(|at| *at <= ms(1010)) {
        locker.handle_timeout(at);
    }
    assert!(drain(&mut locker).is_empty() && locker.has_records(), "it is written first");
    write_all(&mut locker, ms(1011));
    assert!(matches!(drain(&mut locker)[..], [(granted, Verdict::Go(_))] if granted == ticket));
}

#[test]
fn a_part_of_a_shared_limit_ends_at_its_end() {
    let mut locker = Locker::new(vec![Limit { shared: true, ..limit(6, 100, Kind::Sliding) }]);
    locker.close_sharing(ms(0));
    let part = SharingMode::Fraction { parts: std::num::NonZeroU32::new(2).unwrap(), until: ms(150) };
    locker.set_sharing_mode(Some(LimitId(0)), part, ms(10));
    let claims = [claim(0, 0, 1)];
    assert!(send(&mut locker, &ask(&claims, 1), just_before(ms(150))).is_ok());
    wait(&mut locker, &ask(&claims, 1), ms(150));
}

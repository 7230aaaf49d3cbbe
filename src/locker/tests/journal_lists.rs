//! Tests of the journal's work list: what is on it, in which order, and when it ends.

use super::persisting::{long, write_all};
use super::*;

/// Applies one record as written. Returns the key of its window.
fn write_one(locker: &mut Locker, now: Time) -> Option<u128> {
    match locker.poll_records(1, now).pop()? {
        JournalRecord::Limits => locker.limits_written(),
        JournalRecord::Dropped(..) => {}
        JournalRecord::Window(record, written) => {
            locker.records_written([written], now);
            return Some(record.key.0);
        }
    }
    None
}

#[test]
fn without_a_journal_nothing_is_written() {
    let mut locker = Locker::new(vec![long(3)]);
    assert!(!locker.is_persisting() && !locker.is_catching_up());
    assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(0)).is_ok());
    assert!(!locker.has_records());
    locker.begin_persisting(JournalStart::Fresh, ms(1));
    assert!(locker.is_persisting() && locker.has_records());
    locker.end_persisting(ms(2));
    assert!(!locker.is_persisting() && !locker.has_records());
}

#[test]
fn one_that_waits_for_a_write_goes_when_nothing_is_written_any_more() {
    let mut locker = Locker::new(vec![long(1)]);
    locker.begin_persisting(JournalStart::Fresh, ms(0));
    let verdict = locker.ask(&ask(&[claim(0, 0, 1)], 1), ms(1));
    let Verdict::Wait(ticket, _) = verdict else { panic!("{verdict:?}") };
    locker.end_persisting(ms(2));
    locker.handle_timeout(ms(2));
    let verdicts = drain(&mut locker);
    assert!(matches!(verdicts[..], [(got, Verdict::Go(_))] if got == ticket), "{verdicts:?}");
}

#[test]
fn a_journal_with_no_window_to_catch_up_with_is_believed_at_once() {
    let flights = Limit { rate: None, in_flight: Some(1), ..long(1) };
    for limits in [vec![], vec![flights]] {
        let mut locker = Locker::new(limits);
        locker.begin_persisting(JournalStart::CatchUp, ms(0));
        assert!(!locker.is_catching_up());
    }
    let mut locker = Locker::new(vec![long(1)]);
    locker.begin_persisting(JournalStart::Fresh, ms(0));
    assert!(!locker.is_catching_up());
}

#[test]
fn a_busy_window_does_not_keep_the_journal_from_catching_up_with_the_others() {
    let mut locker = Locker::new(vec![long(1000)]);
    (0..5).for_each(|key| assert!(send(&mut locker, &ask(&[claim(0, key, 1)], 1), ms(0)).is_ok()));
    locker.begin_persisting(JournalStart::CatchUp, ms(1));
    let mut busy = None;
    let mut looks = 0;
    while locker.is_catching_up() {
        looks += 1;
        assert!(looks < 20, "the journal writes {busy:?} again and again");
        busy = busy.or(write_one(&mut locker, ms(2)));
        if let Some(key) = busy {
            locker.pause(LimitId(0), Key(key), ms(10 + looks), ms(2));
        }
    }
    assert!(busy.is_some());
}

#[test]
fn a_journal_that_begins_anew_removes_nothing_that_it_has_not_written() {
    let mut locker = Locker::new(vec![long(3)]);
    locker.begin_persisting(JournalStart::Fresh, ms(0));
    write_all(&mut locker, ms(0));
    let verdict = locker.ask(&ask(&[claim(0, 0, 1)], 1), ms(0));
    let Verdict::Go(mut grant) = verdict else { panic!("{verdict:?}") };
    locker.settle(&mut grant, SettlePoint::Sent, ms(0));
    locker.finish(grant, ms(0));
    write_all(&mut locker, ms(1));
    locker.handle_timeout(ms(100_000));
    assert_eq!((locker.live_keys(), locker.unwritten_drops()), (0, 1));
    locker.begin_persisting(JournalStart::Fresh, ms(100_000));
    assert_eq!(locker.poll_records(10, ms(100_000)), [JournalRecord::Limits]);
}

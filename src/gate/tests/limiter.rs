//! A limiter after the hand-over: late words of the journal and of the store change nothing.

use super::*;
use crate::locker::{AskKind, Event, JournalRecord, JournalStart, Locker, SyncRequest, SyncTrigger};

/// A patient ask by one caller.
fn ask(claims: &[Claim], caller: u64) -> Ask<'_> {
    Ask { claims, caller: Caller(caller), urgency: 3, max_wait: None, arrived: None, kind: AskKind::New }
}

#[test]
fn what_the_journal_and_the_store_say_after_the_hand_over_is_of_no_account() {
    let mut limiter = Limiter::Local(Locker::new(vec![limit(1, ms(100_000))]));
    let claims = [claim(0)];
    let Verdict::Go(_grant) = limiter.ask(&ask(&claims, 1), at(0)) else { panic!("it is free") };
    let Verdict::Wait(ticket, _) = limiter.ask(&ask(&claims, 2), at(1)) else { panic!("it is full") };
    limiter.begin_persisting(JournalStart::CatchUp, at(2));
    let records = limiter.poll_records(2, at(2));
    let [JournalRecord::Limits, JournalRecord::Window(_, written)] = records[..] else { panic!("{records:?}") };
    assert!(limiter.is_persisting() && limiter.is_catching_up() && limiter.has_records());

    limiter.hand_over(at(3));
    assert!(limiter.is_handed_over() && limiter.poll_timeout().is_none());
    assert!(limiter.is_catching_up(), "or the folder would be marked as whole");
    limiter.records_written([written], at(4));
    limiter.limits_written();
    limiter.begin_persisting(JournalStart::Resume, at(5));
    assert!(!limiter.is_persisting() && !limiter.has_records() && limiter.poll_records(2, at(5)).is_empty());
    limiter.end_persisting(at(6));
    limiter.open_sharing(at(7));
    assert!(!limiter.has_sync() && limiter.take_sync(SyncTrigger::Heartbeat, at(7)) == SyncRequest::default());
    limiter.handle_timeout(at(200_000));
    limiter.hand_over(at(200_001));
    assert!(limiter.poll_verdict().is_none() && !limiter.has_events());
    assert_eq!(limiter.orphaned_tickets(), [ticket]);
    limiter.leave(ticket, at(200_002));
    assert_eq!(limiter.poll_event(), Some(Event::Leave(ticket)));
}

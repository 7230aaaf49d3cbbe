//! Tests of shared limits: a limit that becomes shared, and slots that the store grants ahead.

use super::order::wait;
use super::*;

fn shared(requests: u32) -> Limit {
    Limit { shared: true, ..limit(requests, 1000, Kind::Sliding) }
}

#[test]
fn limits_that_become_shared_tell_the_store_at_once_what_they_have_counted_under_each_key() {
    let mut locker = Locker::new(vec![shared(5), limit(5, 1000, Kind::Sliding), limit(5, 1000, Kind::Sliding)]);
    locker.open_sharing(ms(0));
    locker.take_sync(SyncTrigger::Due, ms(0));
    for (limit, key) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
        assert!(send(&mut locker, &ask(&[claim(limit, key, 1)], 1), ms(10)).is_ok());
    }
    assert_eq!(locker.sync_due(), None);
    let limits = locker.limits().iter().map(|limit| Limit { shared: true, ..limit.clone() }).collect();
    locker.reload(limits, Duration::ZERO, ms(20));
    let mut told = Vec::new();
    while let Some(due) = locker.sync_due() {
        assert!(due <= ms(20), "{due:?}");
        let sync = locker.take_sync(SyncTrigger::Due, ms(20));
        for report in &sync.windows {
            assert_eq!((report.is_new, &report.settled[..]), (true, &[(ms(10), 1)][..]), "{report:?}");
            told.push((report.limit.0, report.key.0));
        }
        locker.sync_answered(&sync, &[], ms(20), ms(20), ms(20));
    }
    told.sort_unstable();
    assert_eq!(told, [(1, 0), (1, 1), (2, 0), (2, 1)]);
}

#[test]
fn a_limit_that_becomes_shared_without_a_window_has_nothing_to_tell() {
    let mut locker = Locker::new(vec![shared(5), limit(5, 1000, Kind::Sliding)]);
    locker.open_sharing(ms(0));
    locker.take_sync(SyncTrigger::Due, ms(0));
    let limits = locker.limits().iter().map(|limit| Limit { shared: true, ..limit.clone() }).collect();
    locker.reload(limits, Duration::ZERO, ms(20));
    assert_eq!(locker.sync_due(), None);
}

#[test]
fn the_store_is_told_until_when_slots_of_unknown_use_count() {
    let limits = Locker::new(vec![limit(5, 1000, Kind::Sliding)]).crash_limit_snapshots();
    let unwritten = Snapshot { limits, ..Snapshot::default() };
    let mut locker = Locker::restore(unwritten, Shutdown::NotPersisted, WALL, ms(100));
    let limits = locker.limits().iter().map(|limit| Limit { shared: true, ..limit.clone() }).collect();
    locker.reload(limits, Duration::ZERO, ms(200));
    locker.open_sharing(ms(200));
    let claims = [claim(0, 0, 1)];
    wait(&mut locker, &ask(&claims, 1), ms(200));
    assert_eq!(locker.take_sync(SyncTrigger::Due, ms(200)).windows[0].paused, ms(1100));
}

/// A locker that has used a slot of a shared limit, and to which the store has granted two more ahead at 20 ms.
fn granted_ahead() -> Locker {
    let mut locker = Locker::new(vec![shared(160)]);
    locker.open_sharing(ms(0));
    let claims = [claim(0, 0, 1)];
    wait(&mut locker, &ask(&claims, 1), ms(10));
    let sync = locker.take_sync(SyncTrigger::Due, ms(10));
    let one = SlotGrant { groups: vec![(Duration::ZERO, 1)], ..SlotGrant::default() };
    locker.sync_answered(&sync, &[one], ms(10), ms(12), ms(12));
    assert!(matches!(drain(&mut locker)[..], [(_, Verdict::Go(_))]));
    let sync = locker.take_sync(SyncTrigger::Due, ms(20));
    let [request] = &sync.slot_requests[..] else { panic!("{sync:?}") };
    assert!((request.group, request.requests) == (None, 0) && request.prefetch > 1, "{request:?}");
    locker.sync_answered(&sync, &[SlotGrant { prefetch: 2, ..SlotGrant::default() }], ms(20), ms(22), ms(22));
    locker
}

/// Uses one of the slots that are granted ahead at the end of their lease, and has the other returned.
#[track_caller]
fn use_one_of_two(mut locker: Locker) {
    let claims = [claim(0, 0, 1)];
    let verdict = locker.ask(&ask(&claims, 1), ms(20) + LEASE - Duration::from_nanos(1));
    assert!(matches!(&verdict, Verdict::Go(grant) if grant.until() == ms(20) + LEASE), "{verdict:?}");
    let late = ms(20) + LEASE;
    wait(&mut locker, &ask(&claims, 1), late);
    assert_eq!(locker.take_sync(SyncTrigger::Due, late).windows[0].returned, 1, "the other is too late");
}

#[test]
fn slots_that_the_store_grants_ahead_go_without_a_question_until_their_lease_is_over() {
    use_one_of_two(granted_ahead());
}

#[test]
fn slots_that_the_store_grants_ahead_are_not_lost_when_the_journal_begins_anew() {
    for begin in [JournalStart::CatchUp, JournalStart::Fresh, JournalStart::Resume] {
        let mut locker = granted_ahead();
        locker.begin_persisting(begin, ms(23));
        locker.end_persisting(ms(24));
        use_one_of_two(locker);
    }
}

#[test]
fn a_slot_that_settles_or_ends_is_reported_within_a_two_hundredth_of_the_span() {
    let flights = Limit { in_flight: Some(5), ..shared(5) };
    let mut locker = Locker::new(vec![flights]);
    locker.open_sharing(ms(0));
    wait(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(10));
    let quiet = |locker: &mut Locker, now: Time| {
        for _ in 0..3 {
            let sync = locker.take_sync(SyncTrigger::Due, now);
            let grants: Vec<_> = sync.slot_requests.iter().map(|_| SlotGrant::default()).collect();
            locker.sync_answered(&sync, &grants, now, now, now);
        }
        assert_eq!(locker.sync_due(), None);
    };
    let sync = locker.take_sync(SyncTrigger::Due, ms(10));
    let one = SlotGrant { groups: vec![(Duration::ZERO, 1)], ..SlotGrant::default() };
    locker.sync_answered(&sync, &[one], ms(10), ms(12), ms(12));
    let Some((_, Verdict::Go(mut grant))) = locker.poll_verdict() else { panic!("it was granted") };
    quiet(&mut locker, ms(20));
    locker.settle(&mut grant, SettlePoint::Sent, ms(100));
    assert_eq!(locker.sync_due(), Some(ms(105)));
    let sync = locker.take_sync(SyncTrigger::Due, ms(105));
    assert_eq!(sync.windows[0].settled, [(ms(100), 1)]);
    locker.sync_answered(&sync, &[], ms(105), ms(105), ms(105));
    quiet(&mut locker, ms(110));
    locker.finish(grant, ms(200));
    assert_eq!(locker.sync_due(), Some(ms(205)));
    assert_eq!(locker.take_sync(SyncTrigger::Due, ms(205)).windows[0].landed, 1);
}

#[test]
fn the_last_exchange_returns_what_was_granted_reports_what_has_settled_and_asks_for_nothing() {
    let mut locker = Locker::new(vec![shared(160)]);
    locker.open_sharing(ms(0));
    wait(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(10));
    let sync = locker.take_sync(SyncTrigger::Due, ms(10));
    let three = SlotGrant { groups: vec![(Duration::ZERO, 3)], ..SlotGrant::default() };
    locker.sync_answered(&sync, &[three], ms(10), ms(12), ms(12));
    let Some((_, Verdict::Go(mut grant))) = locker.poll_verdict() else { panic!("it was granted") };
    locker.settle(&mut grant, SettlePoint::Sent, ms(20));
    let last = locker.sign_off(ms(25));
    let [report] = &last.windows[..] else { panic!("{last:?}") };
    assert_eq!((report.returned, &report.settled[..]), (2, &[(ms(20), 1)][..]));
    assert_eq!(last.slot_requests, []);
}

//! Tests of persistence: slots are written before they are taken; from when that binds a window,
//! and its cost for others.

use super::*;

pub(super) fn long(requests: u32) -> Limit {
    limit(requests, 1000, Kind::Sliding)
}

/// Asks for one slot of a key and does not wait. A granted slot stays unsettled.
fn try_one(locker: &mut Locker, key: u128, now: Time) -> Option<Grant> {
    let claims = [claim(0, key, 1)];
    match locker.ask(&Ask { max_wait: Some(Duration::ZERO), ..ask(&claims, 1) }, now) {
        Verdict::Go(grant) => Some(grant),
        Verdict::Wait(ticket, _) => {
            locker.leave(ticket, now);
            None
        }
        Verdict::Sorry(_) => None,
    }
}

/// Number of slots of a key that are granted at once.
fn go(locker: &mut Locker, key: u128, now: Time) -> u32 {
    (0..).find(|_| try_one(locker, key, now).is_none()).expect("every window is full at last")
}

/// Writes up to `most` records. Returns the keys of the windows among them.
fn write(locker: &mut Locker, most: usize, now: Time) -> Vec<u128> {
    let records = locker.poll_records(most, now);
    let (mut keys, mut written) = (Vec::new(), Vec::new());
    for record in &records {
        match record {
            JournalRecord::Limits => locker.limits_written(),
            JournalRecord::Window(record, done) => {
                keys.push(record.key.0);
                written.push(*done);
            }
            JournalRecord::Dropped(..) => {}
        }
    }
    locker.records_written(written, now);
    keys
}

pub(super) fn write_all(locker: &mut Locker, now: Time) {
    while locker.has_records() {
        write(locker, 100, now);
    }
}

#[test]
fn while_all_is_written_anew_each_window_is_bound_from_its_own_first_page_on() {
    let mut locker = Locker::new(vec![long(60)]);
    (0..5).for_each(|key| assert!(try_one(&mut locker, key, ms(0)).is_some()));
    locker.begin_persisting(JournalStart::CatchUp, ms(1));
    let mut bound: Vec<u128> = Vec::new();
    while locker.is_catching_up() {
        for key in (0..5).filter(|key| !bound.contains(key)) {
            // A window is written in its turn even if it took slots or was paused before.
            assert!(try_one(&mut locker, key, ms(2)).is_some(), "{key} waits for nothing yet");
            locker.pause(LimitId(0), Key(key), ms(3), ms(2));
        }
        let records = locker.poll_records(1, ms(4));
        for record in records {
            match record {
                JournalRecord::Limits => locker.limits_written(),
                JournalRecord::Dropped(..) => {}
                JournalRecord::Window(record, written) => {
                    assert!(!bound.contains(&record.key.0), "{record:?} twice");
                    assert!(try_one(&mut locker, record.key.0, ms(5)).is_none(), "it is not on the disk yet");
                    locker.records_written([written], ms(5));
                    assert!(try_one(&mut locker, record.key.0, ms(5)).is_some());
                    bound.push(record.key.0);
                }
            }
        }
    }
    bound.sort_unstable();
    assert_eq!(bound, [0, 1, 2, 3, 4], "what is written is believed from here on");
    assert_eq!(go(&mut locker, 9, ms(8)), 20, "a new key begins with a block, which is a third in tests");
}

#[test]
fn a_locker_that_is_given_away_before_all_is_written_never_says_that_all_is() {
    let mut locker = Locker::new(vec![long(60)]);
    (0..5).for_each(|key| assert!(try_one(&mut locker, key, ms(0)).is_some()));
    locker.begin_persisting(JournalStart::CatchUp, ms(1));
    write(&mut locker, 3, ms(2));
    assert!(locker.is_catching_up() && locker.has_records());
    let forwarder = locker.hand_over(ms(3));
    assert!(
        forwarder.is_catching_up(),
        "or the folder would be marked as whole, and what the other has yet to write lost"
    );
}

#[test]
pub(super) fn a_page_that_was_named_before_an_end_is_of_no_account_afterwards() {
    let mut locker = Locker::new(vec![long(30)]);
    locker.begin_persisting(JournalStart::Fresh, ms(0));
    write_all(&mut locker, ms(0));
    assert_eq!(go(&mut locker, 0, ms(0)), 10);
    let Some(JournalRecord::Window(_, written)) = locker.poll_record(ms(0)) else { panic!("it was asked for") };
    locker.end_persisting(ms(1));
    locker.begin_persisting(JournalStart::Fresh, ms(1));
    assert_eq!(locker.poll_records(10, ms(1)), [JournalRecord::Limits]);
    assert_eq!(go(&mut locker, 0, ms(1)), 0, "its record was replaced with everything written before");
    let Some(JournalRecord::Window(_, anew)) = locker.poll_record(ms(1)) else { panic!("it was asked for again") };
    locker.records_written([written], ms(1));
    assert_eq!(go(&mut locker, 0, ms(1)), 0, "the record that counts is not written yet");
    locker.records_written([anew], ms(2));
    assert_eq!(go(&mut locker, 0, ms(2)), 10);
}

#[test]
fn a_slot_of_before_that_is_given_back_is_free_when_it_is_written() {
    let mut locker = Locker::new(vec![long(30)]);
    let before = try_one(&mut locker, 0, ms(0)).unwrap();
    locker.begin_persisting(JournalStart::Fresh, ms(1));
    assert_eq!(go(&mut locker, 0, ms(1)), 0, "it asks to be written down");
    locker.give_back(before, ms(1));
    assert_eq!(go(&mut locker, 0, ms(1)), 0, "nothing is written yet that a crash would find");
    write_all(&mut locker, ms(2));
    let grant = try_one(&mut locker, 0, ms(2)).expect("it is written");
    locker.give_back(grant, ms(2));
    assert_eq!(go(&mut locker, 0, ms(2)), 10, "what is written and was not used is used at once");
}

#[test]
fn where_all_is_written_already_each_window_is_written_when_more_of_it_is_wanted() {
    let mut locker = Locker::new(vec![long(2)]);
    locker.begin_persisting(JournalStart::Fresh, ms(0));
    write_all(&mut locker, ms(0));
    let claims = [claim(0, 0, 1)];
    let Verdict::Wait(waits, _) = locker.ask(&ask(&claims, 1), ms(0)) else { panic!("it must be written first") };
    // The record is polled, and the disk fails.
    assert!(locker.poll_record(ms(0)).is_some() && !locker.has_records());
    locker.begin_persisting(JournalStart::Resume, ms(1));
    let records = locker.poll_records(10, ms(1));
    let [JournalRecord::Limits, JournalRecord::Window(record, _)] = &records[..] else { panic!("{records:?}") };
    assert_eq!(record.key, Key(0), "the window with a waiter is polled again, and no other");
    locker.leave(waits, ms(1));
}

#[test]
pub(super) fn a_limit_that_comes_back_from_the_store_counts_as_full_after_a_crash_until_its_windows_are_written() {
    let shared = || Limit { shared: true, ..long(30) };
    let mut locker = Locker::new(vec![shared()]);
    locker.begin_persisting(JournalStart::Fresh, ms(0));
    write_all(&mut locker, ms(0));
    locker.set_sharing_mode(None, SharingMode::Standalone, ms(0));
    for key in 0..3 {
        assert_eq!(go(&mut locker, key, ms(1)), 30);
    }
    let local = Limit { shared: false, name: locker.limits()[0].name.clone(), ..shared() };
    locker.reload(vec![local], Duration::from_millis(50), ms(2));
    let has_unknown =
        |locker: &Locker| locker.crash_limit_snapshots()[0].unknown.iter().any(|(_, slots)| *slots == u32::MAX);
    assert!(has_unknown(&locker) && locker.has_unwritten_windows(), "none of its windows is written");
    let times: Vec<Time> = locker.crash_limit_snapshots()[0].unknown.iter().map(|(at, _)| *at).collect();
    assert_eq!(times.last(), Some(&ms(52)), "what is under way may settle until then");
    let mut limits = 0;
    let mut records = 0;
    while let Some(record) = locker.poll_record(ms(3)) {
        match record {
            JournalRecord::Limits => {
                limits += 1;
                assert_eq!(has_unknown(&locker), limits == 1, "after the records nothing is unknown");
                assert_eq!(records, if limits == 1 { 0 } else { 3 });
            }
            JournalRecord::Window(..) => records += 1,
            JournalRecord::Dropped(..) => {}
        }
    }
    assert_eq!((limits, records, locker.has_unwritten_windows()), (2, 3, false));
    assert!(locker.snapshot(ms(4)).limits[0].unknown.is_empty(), "another process is told all there is");
}

#[test]
fn what_was_taken_of_a_block_is_known_after_a_crash_of_a_lower_limit() {
    let mut locker = Locker::new(vec![long(30)]);
    locker.begin_persisting(JournalStart::Fresh, ms(0));
    write_all(&mut locker, ms(0));
    // Taken from its block of ten, without a record of the window.
    (0..2).for_each(|_| assert!(try_one(&mut locker, 0, ms(1)).is_some()));
    let lower = Limit { name: locker.limits()[0].name.clone(), ..long(2) };
    locker.reload(vec![lower], Duration::from_millis(5), ms(2));
    let mut records = Vec::new();
    while let Some(record) = locker.poll_record(ms(3)) {
        match record {
            JournalRecord::Limits => locker.limits_written(),
            JournalRecord::Window(record, written) => {
                records.push(record);
                locker.records_written([written], ms(3));
            }
            JournalRecord::Dropped(..) => {}
        }
    }
    let snapshot = Snapshot { limits: locker.crash_limit_snapshots(), windows: records, ..Snapshot::default() };
    let mut next = Locker::restore(snapshot, Shutdown::Crash, WALL, ms(10));
    assert_eq!((go(&mut next, 0, ms(10)), go(&mut next, 1, ms(10))), (0, 2));
}

#[test]
fn a_limit_that_becomes_short_is_written_until_the_disk_says_that_it_is_short() {
    let mut locker = Locker::new(vec![long(30)]);
    locker.begin_persisting(JournalStart::Fresh, ms(0));
    write_all(&mut locker, ms(0));
    assert_eq!(go(&mut locker, 0, ms(1)), 10);
    let before = locker.crash_limit_snapshots();
    let short = Limit { name: locker.limits()[0].name.clone(), ..limit(30, 20, Kind::Sliding) };
    locker.reload(vec![short], Duration::ZERO, ms(1));
    assert_eq!(go(&mut locker, 1, ms(2)), 10, "a block, which a crash finds by what is on the disk");
    let snapshot = Snapshot { limits: before, ..Snapshot::default() };
    assert_eq!(go(&mut Locker::restore(snapshot, Shutdown::Crash, WALL, ms(3)), 1, ms(3)), 20);
    write_all(&mut locker, ms(4));
    assert_eq!(go(&mut locker, 1, ms(4)), 20, "from here on a crash closes it");
}

#[test]
fn what_may_have_been_under_way_at_a_crash_counts_from_then_on_and_no_longer() {
    let shared = || Limit { shared: true, ..long(30) };
    let mut locker = Locker::new(vec![shared()]);
    locker.begin_persisting(JournalStart::Fresh, ms(0));
    write_all(&mut locker, ms(0));
    locker.set_sharing_mode(None, SharingMode::Standalone, ms(0));
    assert_eq!(go(&mut locker, 0, ms(1)), 30);
    let local = Limit { shared: false, name: locker.limits()[0].name.clone(), ..shared() };
    locker.reload(vec![local], Duration::from_secs(3600), ms(2));
    let crashed = |at: u64| {
        let snapshot = Snapshot { limits: locker.crash_limit_snapshots(), ..Snapshot::default() };
        Locker::restore(snapshot, Shutdown::Crash, WALL, ms(at))
    };
    assert_eq!(go(&mut crashed(10), 0, ms(1009)), 0, "it may have been sent just before the crash");
    assert_eq!(go(&mut crashed(10), 0, ms(1010)), 30, "and no later");
}

/// Many limits, every other one shared, with many windows each; some windows have waiters.
fn crowded(limits: u32, keys: u128) -> Locker {
    let rules = (0..limits).map(|number| Limit { shared: number % 2 == 0, ..limit(2, 60_000, Kind::Sliding) });
    let mut locker = Locker::new(rules.collect());
    locker.set_sharing_mode(None, SharingMode::Standalone, ms(0));
    for (number, key) in (0..limits).flat_map(|number| (0..keys).map(move |key| (number, key))) {
        let claims = [claim(number, key, 1)];
        assert!(send(&mut locker, &ask(&claims, 1), ms(1)).is_ok());
        if key % 5 == 0 {
            assert!(send(&mut locker, &ask(&claims, 1), ms(1)).is_ok());
            assert!(matches!(locker.ask(&ask(&claims, 1), ms(1)), Verdict::Wait(..)));
        }
    }
    locker
}

/// Number of table places accessed in one step, and the step's result.
fn look_count<R>(locker: &mut Locker, step: impl FnOnce(&mut Locker) -> R) -> (usize, R) {
    locker.counters.table.look_count.take();
    let result = step(locker);
    (locker.counters.table.look_count.take(), result)
}

#[test]
fn no_step_of_a_change_that_concerns_all_looks_at_more_than_a_slice() {
    let (limits, keys) = (40, 100);
    let mut locker = crowded(limits, keys);
    let slice = 512 + 64;
    let step = |locker: &mut Locker, what: &str, change: &dyn Fn(&mut Locker)| {
        let (places, ()) = look_count(locker, change);
        assert!(places <= slice, "{what}: {places} places");
        for _ in 0.. {
            if !locker.queue.has_review(&locker.counters) {
                break;
            }
            assert_eq!(locker.poll_timeout(), Some(ms(2)), "{what}: it goes on at once");
            let (places, ()) = look_count(locker, |locker| locker.handle_timeout(ms(2)));
            assert!(places <= slice + 2048, "{what}: {places} places, with a slice of the sweep");
        }
        assert!(drain(locker).is_empty());
    };
    step(&mut locker, "the store is lost", &|locker| locker.close_sharing(ms(2)));
    step(&mut locker, "the store is found", &|locker| locker.open_sharing(ms(2)));
    let (mut reported, mut exchanges) = (0, 0);
    while locker.has_sync() {
        let (places, sync) = look_count(&mut locker, |locker| locker.take_sync(SyncTrigger::Due, ms(2)));
        assert!(places <= 2 * slice, "an exchange: {places} places");
        reported += sync.windows.len();
        exchanges += 1;
        // Nothing opens for a minute.
        let (later, shut) = (Some(Duration::from_secs(60)), [Duration::from_secs(60)].into_iter().collect());
        let nothing = SlotGrant { next_in: later, opens_then: true, blocked_for: shut, ..SlotGrant::default() };
        let answers = vec![nothing; sync.slot_requests.len()];
        locker.sync_answered(&sync, &answers, ms(2), ms(2), ms(2));
        assert!(exchanges < 1000, "it ends");
    }
    assert!(reported >= (limits / 2 * keys as u32) as usize, "{reported}: all counted windows are reported");
    for begin in [JournalStart::Fresh, JournalStart::CatchUp, JournalStart::Resume] {
        step(&mut locker, "it is written", &|locker| locker.begin_persisting(begin, ms(2)));
        let mut written_records = 0;
        while locker.has_records() {
            let (places, records) = look_count(&mut locker, |locker| locker.poll_records(512, ms(2)));
            assert!(places <= slice, "{begin:?}: {places} places");
            let written: Vec<WriteToken> = records
                .iter()
                .filter_map(|record| match record {
                    JournalRecord::Window(_, written) => Some(*written),
                    JournalRecord::Limits | JournalRecord::Dropped(..) => None,
                })
                .collect();
            written_records += written.len();
            let (places, ()) = look_count(&mut locker, |locker| locker.records_written(written, ms(2)));
            assert!(places <= 2 * slice, "{begin:?}: {places} places, of which some have waiters");
        }
        let wanted = if begin == JournalStart::CatchUp { 2000..=4000 } else { 0..=(limits / 2 * 20) };
        assert!(wanted.contains(&(written_records as u32)), "{begin:?}: {written_records} pages");
        step(&mut locker, "it cannot be written", &|locker| locker.end_persisting(ms(2)));
    }
}

#[test]
fn a_snapshot_in_slices_holds_what_one_at_once_does() {
    let mut locker = crowded(4, 30);
    locker.pause(LimitId(1), Key(3), ms(5_000), ms(2));
    // A failed attempt settles later by itself.
    let claims = [claim(3, 77, 1)];
    let Verdict::Go(mut grant) = locker.ask(&ask(&claims, 1), ms(2)) else { panic!("it is free") };
    locker.settle(&mut grant, SettlePoint::Failed, ms(2));
    locker.finish(grant, ms(2));
    let whole = locker.snapshot(ms(3));
    assert!(whole.windows.iter().any(|window| !window.late.is_empty()));
    for places in [1, 7, 64, u32::MAX] {
        let (mut snapshot, mut scan) = locker.begin_snapshot(ms(3));
        while let Some(windows) = locker.snapshot_slice(&mut scan, places, ms(3)) {
            snapshot.windows.extend(windows);
        }
        let by_key = |snapshot: &Snapshot| {
            let mut windows = snapshot.windows.clone();
            windows.sort_by_key(|window| (window.limit.0, window.key));
            windows
        };
        assert_eq!(by_key(&snapshot), by_key(&whole), "{places} places at a time");
        assert_eq!((snapshot.limits, snapshot.readings), (whole.limits.clone(), whole.readings.clone()));
    }
}

#[test]
fn a_record_of_which_nothing_counts_any_more_is_removed_by_the_process_that_goes_on_with_it() {
    let (mut locker, later) = (Locker::new(vec![long(30)]), ms(2_000));
    locker.begin_persisting(JournalStart::Fresh, ms(0));
    write_all(&mut locker, ms(0));
    for key in 0..3 {
        // So many that more of its slots must be written.
        (0..6).for_each(|_| assert!(send(&mut locker, &ask(&[claim(0, key, 1)], 1), ms(0)).is_ok()));
    }
    write_all(&mut locker, ms(0));
    let given_away = locker.snapshot(later);
    let mut copied = Replica::begin(locker.begin_copy(later), WALL, later);
    copied.apply(locker.copy_slice(later).unwrap(), later);
    let copied = copied.finish(locker.finish_copy(later).unwrap(), WALL, later).unwrap();
    let restored = |end| Locker::restore(given_away.clone(), end, WALL, later);
    let (stopped, handed_over) = (restored(Shutdown::Orderly), restored(Shutdown::HandOver));
    for (end, mut next) in [("a stop", stopped), ("a hand-over", handed_over), ("a live copy", copied)] {
        assert_eq!((next.live_keys(), next.unwritten_drops()), (0, 3), "{end}");
        next.begin_persisting(JournalStart::Resume, later);
        let mut removed: Vec<u128> = std::iter::from_fn(|| next.poll_record(later))
            .filter_map(|record| match record {
                JournalRecord::Dropped(_, key) => Some(key.0),
                JournalRecord::Limits => None,
                JournalRecord::Window(record, _) => panic!("{record:?}"),
            })
            .collect();
        removed.sort_unstable();
        assert_eq!(removed, [0, 1, 2], "{end}: or a crash would find them once their keys have windows again");
    }
}

//! Tests of single crashes: written slots are counted afterwards, and never more than those were used.

use super::sim_disk::SimDisk;
use super::*;

pub(super) fn long(requests: u32) -> Limit {
    limit(requests, 1000, Kind::Sliding)
}

/// Asks for one slot of one key at a time, as long as it is granted at once. Returns the number granted.
pub(super) fn go(locker: &mut Locker, key: u128, now: Time) -> u32 {
    let claims = [claim(0, key, 1)];
    for gone in 0.. {
        match send(locker, &Ask { max_wait: Some(Duration::ZERO), ..ask(&claims, 1) }, now) {
            Ok(()) => {}
            Err(verdict) => {
                if let Verdict::Wait(ticket, _) = verdict {
                    locker.leave(ticket, now);
                }
                return gone;
            }
        }
    }
    unreachable!("every window is full at last")
}

pub(super) fn recording(limits: Vec<Limit>) -> (Locker, SimDisk) {
    let mut locker = Locker::new(limits);
    let mut disk = SimDisk::default();
    locker.begin_persisting(JournalStart::Fresh, ms(0));
    write(&mut locker, &mut disk, ms(0));
    (locker, disk)
}

pub(super) fn write(locker: &mut Locker, disk: &mut SimDisk, now: Time) {
    while let Some(record) = locker.poll_record(now) {
        disk.put(&record, locker);
        match record {
            JournalRecord::Limits => locker.limits_written(),
            JournalRecord::Window(_, written) => locker.records_written([written], now),
            JournalRecord::Dropped(..) => {}
        }
    }
}

fn after_a_crash(disk: &SimDisk, now: Time) -> Locker {
    let snapshot = Snapshot {
        limits: disk.limits.clone(),
        windows: disk.records.values().cloned().collect(),
        ..Snapshot::default()
    };
    Locker::restore(snapshot, Shutdown::Crash, WALL, now)
}

#[test]
fn a_block_goes_without_waiting_for_the_disk_and_no_more() {
    let (mut locker, mut disk) = recording(vec![long(30)]);
    assert_eq!(go(&mut locker, 0, ms(0)), 10, "a block of what a third is in tests");
    assert!(locker.has_records());
    write(&mut locker, &mut disk, ms(0));
    assert_eq!(go(&mut locker, 0, ms(0)), 10);
    drop(locker);
    let mut locker = after_a_crash(&disk, ms(500));
    assert_eq!(go(&mut locker, 0, ms(500)), 10, "twenty were used, and all that was written down was");
    assert_eq!(go(&mut locker, 1, ms(500)), 20, "a key of which nothing is written may have begun with a block");
    for (now, opens) in [(999, 0), (1000, 10), (1499, 0), (1500, 20)] {
        assert_eq!(go(&mut locker, 0, ms(now)), opens, "at {now} ms");
    }
}

#[test]
fn a_block_is_followed_by_the_next_before_it_is_used_up() {
    let (mut locker, _) = recording(vec![long(30)]);
    let claims = [claim(0, 0, 1)];
    for sent in 1..=10 {
        assert!(send(&mut locker, &ask(&claims, 1), ms(0)).is_ok());
        assert_eq!(locker.has_records(), sent > 5, "{sent} of 10 are used");
    }
}

#[test]
fn a_limit_of_few_slots_writes_each_down_and_loses_none() {
    let (mut locker, mut disk) = recording(vec![long(2)]);
    let claims = [claim(0, 0, 1)];
    let verdict = locker.ask(&ask(&claims, 1), ms(0));
    let Verdict::Wait(ticket, None) = verdict else { panic!("{verdict:?}: it must be written down first") };
    write(&mut locker, &mut disk, ms(0));
    let verdicts = drain(&mut locker);
    assert!(matches!(&verdicts[..], [(got, Verdict::Go(_))] if *got == ticket), "{verdicts:?}");
    drop(verdicts);
    let mut locker = after_a_crash(&disk, ms(10));
    locker.begin_persisting(JournalStart::Fresh, ms(10));
    write(&mut locker, &mut disk, ms(10));
    for (key, left) in [(0, 1), (1, 2)] {
        let mut gone = 0;
        for _ in 0..3 {
            let verdict = locker.ask(&ask(&[claim(0, key, 1)], 1), ms(10));
            write(&mut locker, &mut disk, ms(10));
            gone += usize::from(matches!(verdict, Verdict::Go(_))) + drain(&mut locker).len();
        }
        assert_eq!(gone, left, "key {key}");
    }
}

#[test]
fn who_does_not_wait_for_slots_waits_for_its_own_to_be_written_down() {
    for rule in [Limit { when_full: WhenFull::Refuse, ..long(1) }, Limit { max_wait: Duration::ZERO, ..long(1) }] {
        let (mut locker, mut disk) = recording(vec![rule]);
        let claims = [claim(0, 0, 1)];
        let (one, other) = (locker.ask(&ask(&claims, 1), ms(0)), locker.ask(&ask(&claims, 1), ms(0)));
        let (Verdict::Wait(first, _), Verdict::Wait(second, _)) = (&one, &other) else { panic!("{one:?}, {other:?}") };
        write(&mut locker, &mut disk, ms(1));
        let verdicts = drain(&mut locker);
        let verdict_of = |ticket: &Ticket| verdicts.iter().find(|(got, _)| got == ticket).map(|(_, verdict)| verdict);
        assert!(matches!(verdict_of(first), Some(Verdict::Go(_))), "{verdicts:?}");
        assert!(
            matches!(verdict_of(second), Some(Verdict::Sorry(sorry)) if sorry.until == ms(1001) || sorry.until > ms(1)),
            "{verdicts:?}"
        );
    }
}

#[test]
fn a_short_window_is_full_for_its_span_after_a_crash_and_not_after_a_stop() {
    let short = || limit(3, 20, Kind::Sliding);
    let (mut locker, disk) = recording(vec![short()]);
    assert_eq!(go(&mut locker, 0, ms(0)), 3, "nothing is written of it");
    let mut crashed = after_a_crash(&disk, ms(5));
    assert_eq!(go(&mut crashed, 0, ms(24)), 0);
    assert_eq!(go(&mut crashed, 0, ms(25)), 3);
    let mut stopped = Locker::restore(locker.snapshot(ms(5)), Shutdown::Orderly, WALL, ms(5));
    assert_eq!(go(&mut stopped, 0, ms(19)), 0);
    assert_eq!(go(&mut stopped, 0, ms(20)), 3);
    let mut again = Locker::restore(Locker::new(vec![short()]).snapshot(ms(5)), Shutdown::Orderly, WALL, ms(5));
    assert_eq!(go(&mut again, 0, ms(5)), 3, "what was never used is free at once");
}

#[test]
fn what_could_not_be_written_is_not_believed() {
    let mut locker = Locker::new(vec![long(3)]);
    locker.begin_persisting(JournalStart::Fresh, ms(0));
    let mut disk = SimDisk::default();
    write(&mut locker, &mut disk, ms(0));
    locker.end_persisting(ms(0));
    assert_eq!(go(&mut locker, 0, ms(0)), 3, "it goes on without");
    assert!(!locker.has_records() && locker.poll_record(ms(0)).is_none());
    let snapshot = Snapshot { limits: disk.limits.clone(), windows: Vec::new(), ..Snapshot::default() };
    let mut next = Locker::restore(snapshot, Shutdown::NotPersisted, WALL, ms(10));
    assert_eq!(go(&mut next, 0, ms(1009)), 0);
    assert_eq!(go(&mut next, 0, ms(1010)), 3);
}

#[test]
pub(super) fn what_is_idle_is_taken_out_of_what_is_written() {
    let (mut locker, mut disk) = recording(vec![long(30)]);
    assert_eq!(go(&mut locker, 7, ms(0)), 10);
    write(&mut locker, &mut disk, ms(0));
    assert_eq!(disk.records.len(), 1);
    for now in [1000, 1001, 20_000, 40_000] {
        locker.handle_timeout(ms(now));
        write(&mut locker, &mut disk, ms(now));
    }
    assert_eq!((locker.live_keys(), disk.records.len()), (0, 0));
}

/// Crashes after a key's window was dropped, and its next one has used slots before the record was removed: that of an
/// orderly stop, changed by `record`. Returns the number of slots counted afterwards, and of those used.
fn after_a_record_that_outlived_its_window(record: impl Fn(&mut WindowRecord)) -> (u32, u32) {
    let (mut locker, mut disk) = recording(vec![long(30)]);
    assert!(send(&mut locker, &ask(&[claim(0, 7, 1)], 1), ms(0)).is_ok());
    let mut stopped = locker.snapshot(ms(1));
    record(&mut stopped.windows[0]);
    disk.replace(&stopped);
    let mut locker = Locker::restore(stopped, Shutdown::Orderly, WALL, ms(2));
    assert_eq!(locker.usage(LimitId(0), Key(7), ms(999)).taken, 1);
    locker.begin_persisting(JournalStart::Resume, ms(999));
    write(&mut locker, &mut disk, ms(999));
    for now in [2000, 20_000, 40_000] {
        locker.handle_timeout(ms(now));
    }
    assert_eq!((locker.live_keys(), disk.records.len()), (0, 1), "its record is still to be removed");
    let used = go(&mut locker, 7, ms(40_000));
    let crashed = Snapshot {
        limits: disk.limits.clone(),
        windows: disk.records.values().cloned().collect(),
        ..Snapshot::default()
    };
    let mut next = Locker::restore(crashed, Shutdown::Crash, WALL, ms(40_001));
    (next.usage(LimitId(0), Key(7), ms(40_001)).taken, used)
}

#[test]
fn a_record_that_outlived_its_window_hides_no_slot_of_the_next_window_of_its_key() {
    let settled = after_a_record_that_outlived_its_window(|_| {});
    assert_eq!(settled, (10, 10), "the allowance of a key that nothing is written of");
    let under_way = after_a_record_that_outlived_its_window(|record| (record.log, record.open) = (Vec::new(), 1));
    assert_eq!(under_way, (10, 10));
    let failed = |record: &mut WindowRecord| (record.log, record.late) = (Vec::new(), vec![(ms(5), 1)]);
    assert_eq!(after_a_record_that_outlived_its_window(failed), (10, 10));
}

#[test]
pub(super) fn a_long_log_is_written_in_few_entries_that_open_no_slot_early() {
    let (mut locker, mut disk) = recording(vec![long(900)]);
    for now in 0..300 {
        assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(now)).is_ok());
        write(&mut locker, &mut disk, ms(now));
    }
    locker.pause(LimitId(0), Key(0), ms(310), ms(300));
    write(&mut locker, &mut disk, ms(300));
    let record = &disk.records[&(0, 0)];
    assert!(record.log.len() <= 129 && record.log.iter().map(|(_, count)| count).sum::<u32>() == 300);
    let later = disk.records[&(0, 0)].clone();
    let snapshot = Snapshot {
        limits: disk.limits.clone(),
        windows: vec![WindowRecord { open: 0, ..later }],
        ..Snapshot::default()
    };
    let mut next = Locker::restore(snapshot, Shutdown::Orderly, WALL, ms(400));
    for opened in 0..=300 {
        let now = ms(999 + opened);
        assert!(u64::from(next.usage(LimitId(0), Key(0), now).taken) >= 300 - opened, "at {now:?}");
    }
}

#[test]
fn a_window_that_was_taken_over_is_taken_out_of_the_file_when_it_is_idle() {
    let (mut first, mut disk) = recording(vec![long(30)]);
    assert_eq!(go(&mut first, 0, ms(0)), 10);
    write(&mut first, &mut disk, ms(0));
    let mut next = Locker::restore(first.snapshot(ms(1)), Shutdown::HandOver, WALL, ms(1));
    next.begin_persisting(JournalStart::Resume, ms(1));
    for now in [1, 1001, 20_000, 40_000] {
        next.handle_timeout(ms(now));
        write(&mut next, &mut disk, ms(now));
    }
    assert_eq!((next.live_keys(), disk.records.len()), (0, 0));
}

#[test]
pub(super) fn windows_that_had_no_page_while_the_disk_failed_get_one_when_it_works_again() {
    let (mut locker, mut disk) = recording(vec![Limit { dry_run: true, ..long(30) }]);
    (0..30).for_each(|_| assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(0)).is_ok()));
    // Nothing can be written when the limit begins to hold.
    let holds = Limit { name: locker.limits()[0].name.clone(), ..long(30) };
    locker.reload(vec![holds], Duration::ZERO, ms(1));
    locker.begin_persisting(JournalStart::Resume, ms(2));
    let limits = locker.poll_record(ms(2)).expect("they are written first");
    assert_eq!(limits, JournalRecord::Limits);
    disk.put(&limits, &locker);
    locker.limits_written();
    assert_eq!(go(&mut after_a_crash(&disk, ms(3)), 0, ms(3)), 0, "its windows are not written yet");
    write(&mut locker, &mut disk, ms(3));
    let mut next = after_a_crash(&disk, ms(4));
    assert_eq!((go(&mut next, 0, ms(4)), go(&mut next, 1, ms(4))), (0, 20), "they are");
}

#[test]
fn a_window_too_short_to_be_written_leaves_nothing_to_write() {
    let (mut locker, _) = recording(vec![limit(3, 20, Kind::Sliding)]);
    assert_eq!(go(&mut locker, 0, ms(0)), 3);
    [1001, 20_000, 40_000].into_iter().for_each(|now| locker.handle_timeout(ms(now)));
    assert_eq!((locker.live_keys(), locker.has_records()), (0, false));
}

#[test]
fn two_pauses_before_a_write_are_one_page() {
    let (mut locker, _) = recording(vec![long(30)]);
    assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(0)).is_ok());
    for until in [500, 600] {
        locker.pause(LimitId(0), Key(0), ms(until), ms(1));
    }
    assert_eq!(std::iter::from_fn(|| locker.poll_record(ms(1))).count(), 1);
}

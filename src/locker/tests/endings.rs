//! Tests of restarts after every kind of shutdown: requests that may have been sent count from the
//! earliest possible time.

use super::crashes::{go, long, recording, write};
use super::sim_disk::SimDisk;
use super::*;

/// The snapshot that a restart finds on the disk.
fn found(disk: &SimDisk) -> Snapshot {
    Snapshot { limits: disk.limits.clone(), windows: disk.records.values().cloned().collect(), ..Snapshot::default() }
}

/// A locker at 950 ms, restarted after a loss of its disk: of 30 slots per second, 10 went at 0 ms
/// and were written, 20 went at 900 ms and were not.
fn after_unpersisted_end(rule: Limit) -> Locker {
    let (mut locker, mut disk) = recording(vec![rule]);
    assert_eq!(go(&mut locker, 0, ms(0)), 10);
    write(&mut locker, &mut disk, ms(0));
    locker.end_persisting(ms(1));
    assert_eq!(go(&mut locker, 0, ms(900)), 20, "the disk is gone, and it goes on");
    Locker::restore(found(&disk), Shutdown::NotPersisted, WALL, ms(950))
}

fn of_kind(kind: Kind) -> Limit {
    Limit { rate: limit(30, 1000, kind).rate, ..long(30) }
}

fn answered(mut limit: Limit) -> Limit {
    limit.rate.as_mut().expect("it has one").counts = Counts::Answered;
    limit
}

#[test]
fn what_went_unwritten_counts_from_the_restart_and_not_from_the_oldest_that_is_known() {
    for rule in [long(30), of_kind(Kind::Smooth { burst: 30 })] {
        let mut next = after_unpersisted_end(rule);
        assert!(go(&mut next, 0, ms(1000)) <= 10, "of 30 in a second 20 went at 900 ms");
        assert_eq!(go(&mut next, 0, ms(1949)), 0);
        assert_eq!(go(&mut next, 0, ms(2950)), 30);
    }
}

#[test]
fn what_went_unwritten_counts_from_the_restart_under_a_shorter_and_a_longer_span_too() {
    for (per, opens) in [(500, 1450), (2000, 2950)] {
        let mut next = after_unpersisted_end(long(30));
        change(&mut next, LimitId(0), limit(30, per, Kind::Sliding), ms(960));
        let taken = |next: &mut Locker, now| next.usage(LimitId(0), Key(0), ms(now)).taken;
        assert!(taken(&mut next, opens - 1) >= 20, "{per} ms");
        assert_eq!(taken(&mut next, opens), 0, "{per} ms");
    }
}

#[test]
fn what_is_answered_after_an_end_counts_from_its_answer_in_every_kind_of_window() {
    // The answer may come a second after the restart.
    for kind in [Kind::Sliding, Kind::Fixed, Kind::Smooth { burst: 30 }] {
        let mut next = after_unpersisted_end(answered(of_kind(kind.clone())));
        let taken = |next: &mut Locker, now| next.usage(LimitId(0), Key(0), ms(now)).taken;
        assert!(taken(&mut next, 2949) >= 20, "{kind:?}");
        assert_eq!(taken(&mut next, 2950), 0, "{kind:?}");
    }
}

#[test]
fn a_spacing_goes_on_where_it_may_have_come_to_before_an_end() {
    let mut next = after_unpersisted_end(of_kind(Kind::Smooth { burst: 20 }));
    assert!(go(&mut next, 0, ms(1000)) <= 3, "twenty were saved up, and used at 900 ms; one more each 33 ms");
}

#[test]
fn what_earlier_crashes_may_have_cost_is_free_again_when_its_span_is_over() {
    let mut disk = recording(vec![long(30)]).1;
    for (crash, free) in [(0, 20), (900, 10), (1800, 10), (2700, 10)] {
        let mut locker = Locker::restore(found(&disk), Shutdown::Crash, WALL, ms(crash));
        assert_eq!(go(&mut locker, 1, ms(crash)), free, "a block of ten for each crash in a second: {crash} ms");
        locker.begin_persisting(JournalStart::Fresh, ms(crash));
        disk = SimDisk::default();
        while let Some(record) = locker.poll_record(ms(crash)) {
            if record == JournalRecord::Limits {
                disk.limits = locker.crash_limit_snapshots();
            }
        }
    }
}

#[test]
fn a_crash_does_not_prolong_what_was_unknown_before() {
    let disk = recording(vec![long(30)]).1;
    let locker = Locker::restore(found(&disk), Shutdown::NotPersisted, WALL, ms(0));
    let snapshot = Snapshot { limits: locker.crash_limit_snapshots(), windows: Vec::new(), ..Snapshot::default() };
    let mut next = Locker::restore(snapshot, Shutdown::Crash, WALL, ms(600));
    assert_eq!(go(&mut next, 0, ms(999)), 0, "all of it may have gone at 0 ms");
    assert_eq!(go(&mut next, 0, ms(1000)), 20, "and ten at 600 ms");
    assert_eq!(go(&mut next, 0, ms(1600)), 10);
}

#[test]
fn what_was_counted_as_unknown_is_not_counted_again() {
    // Ten slots that went at 0 ms are known, twenty are unknown.
    let next = || after_unpersisted_end(long(30));
    let mut stopped = next();
    let snapshot = stopped.snapshot(ms(1100));
    let mut stopped = Locker::restore(snapshot, Shutdown::Orderly, WALL, ms(1100));
    let mut changed = next();
    let patient = Limit { max_wait: Duration::from_secs(1), ..long(30) };
    change(&mut changed, LimitId(0), patient, ms(1100));
    for (how, locker) in [("stopped", &mut stopped), ("changed", &mut changed)] {
        assert_eq!(go(locker, 0, ms(1100)), 10, "{how}");
        assert_eq!(go(locker, 0, ms(1949)), 0, "{how}");
        assert_eq!(go(locker, 0, ms(1950)), 20, "{how}");
    }
}

#[test]
fn what_is_unknown_lies_between_what_went_before_it_and_what_went_after_it() {
    let known = LimitSnapshot {
        unknown: vec![(ms(500), u32::MAX)],
        ..Locker::new(vec![long(30)]).crash_limit_snapshots().remove(0)
    };
    let (limit, key) = (LimitId(0), Key(0));
    let log = vec![(ms(0), 5), (ms(100), 5), (ms(800), 5)];
    let record = WindowRecord { limit, key, log, late: vec![], open: 0, flying: 0, tat: ms(0), paused: ms(0) };
    let mut next = Locker::restore(
        Snapshot { limits: vec![known], windows: vec![record], ..Snapshot::default() },
        Shutdown::Crash,
        WALL,
        ms(900),
    );
    for (now, taken) in [(900, 30), (1000, 25), (1100, 20), (1499, 20), (1500, 5), (1800, 0)] {
        assert_eq!(next.usage(limit, key, ms(now)).taken, taken, "at {now} ms");
    }
}

#[test]
fn a_record_of_more_slots_than_can_be_counted_is_one_of_a_full_window() {
    let (limit, key, many) = (LimitId(0), Key(0), u32::MAX);
    let record = WindowRecord {
        log: vec![(ms(700), many), (ms(800), many)],
        late: vec![(ms(850), many), (ms(860), many)],
        open: many,
        ..WindowRecord::blank(limit, key)
    };
    for (late, open) in [(vec![], 0), (vec![], many), (record.late.clone(), 0), (record.late.clone(), many)] {
        let record = WindowRecord { late, open, ..record.clone() };
        let limits = Locker::new(vec![long(30)]).crash_limit_snapshots();
        let snapshot = Snapshot { limits, windows: vec![record], ..Snapshot::default() };
        for shutdown in [Shutdown::Orderly, Shutdown::Crash, Shutdown::NotPersisted, Shutdown::HandOver] {
            let mut next = Locker::restore(snapshot.clone(), shutdown, WALL, ms(900));
            assert_eq!(go(&mut next, 0, ms(900)), 0, "{shutdown:?}");
            drop(next.snapshot(ms(901)));
        }
    }
}

#[test]
fn a_key_without_a_window_is_told_when_what_is_unknown_no_longer_counts() {
    let short = || Limit { when_full: WhenFull::Refuse, ..limit(3, 20, Kind::Sliding) };
    let mut next = Locker::restore(Locker::new(vec![short()]).snapshot(ms(99)), Shutdown::Crash, WALL, ms(100));
    for max_waiting in [1000, 0] {
        let when_full = if max_waiting == 0 { WhenFull::Wait } else { WhenFull::Refuse };
        change(&mut next, LimitId(0), Limit { max_waiting, when_full, ..short() }, ms(110));
        let claims = [claim(0, 7, 1)];
        let Err(Verdict::Sorry(sorry)) = send(&mut next, &ask(&claims, 1), ms(115)) else { panic!("it is full") };
        assert_eq!((sorry.until, sorry.exact), (ms(120), true), "{:?}", sorry.reason);
    }
}

#[test]
pub(super) fn a_pause_outlives_a_crash_where_a_window_is_written_down() {
    for is_being_written in [false, true] {
        let (mut locker, mut disk) = recording(vec![long(30)]);
        assert_eq!(go(&mut locker, 0, ms(0)), 10);
        let record = if is_being_written { locker.poll_record(ms(0)) } else { None };
        for key in [0, 1] {
            locker.pause(LimitId(0), Key(key), ms(5000), ms(10));
        }
        if let Some(JournalRecord::Window(_, written)) = record {
            locker.records_written([written], ms(10));
        }
        write(&mut locker, &mut disk, ms(10));
        let mut next = Locker::restore(found(&disk), Shutdown::Crash, WALL, ms(20));
        for (now, goes) in [(4999, false), (5000, true)] {
            let gone = [0, 1].map(|key| go(&mut next, key, ms(now)) > 0);
            assert_eq!(gone, [goes; 2], "at {now} ms; while it was written: {is_being_written}");
        }
    }
}

/// Snapshot of a locker that has written its limits only.
fn only_limits(locker: &Locker) -> Snapshot {
    Snapshot { limits: locker.crash_limit_snapshots(), windows: Vec::new(), ..Snapshot::default() }
}

#[test]
fn a_limit_that_is_shared_no_more_counts_what_this_gateway_may_have_sent_before_a_crash() {
    let shared = Limit { shared: true, ..long(30) };
    let local = Limit { shared: false, ..shared.clone() };
    for (before, end) in
        [(&shared, Shutdown::Crash), (&Limit { dry_run: true, ..local.clone() }, Shutdown::NotPersisted)]
    {
        let disk = only_limits(&Locker::new(vec![before.clone()]));
        let mut crashed = Locker::restore(disk, end, WALL, ms(100));
        assert_eq!(crashed.usage(LimitId(0), Key(0), ms(100)).taken, 0, "as long as it is as it was");
        let mut stopped = Locker::restore(only_limits(&crashed), Shutdown::Orderly, WALL, ms(200));
        for locker in [&mut crashed, &mut stopped] {
            assert!(locker.reload(vec![local.clone()], Duration::ZERO, ms(300)).is_change());
            assert_eq!(go(locker, 0, ms(1099)), 0);
            assert_eq!(go(locker, 0, ms(1100)), 30);
        }
    }
}

#[test]
fn a_window_of_a_limit_that_is_shared_no_more_counts_what_may_have_been_sent_before_it_began() {
    let shared = Limit { shared: true, ..long(30) };
    let local = Limit { shared: false, ..shared.clone() };
    let disk = only_limits(&Locker::new(vec![shared]));
    let mut locker = Locker::restore(disk, Shutdown::Crash, WALL, ms(100));
    locker.set_sharing_mode(None, SharingMode::Standalone, ms(100));
    assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(200)).is_ok());
    locker.reload(vec![local], Duration::ZERO, ms(300));
    for (now, taken) in [(1099, 30), (1100, 1), (1200, 0)] {
        assert_eq!(locker.usage(LimitId(0), Key(0), ms(now)).taken, taken, "at {now} ms");
    }
}

#[test]
fn a_limit_that_is_keyed_anew_after_a_crash_counts_what_many_keys_may_have_sent_under_one() {
    let by = |key: &str| Limit { keyed_by: key.into(), name: "a".into(), ..long(30) };
    let (mut locker, disk) = recording(vec![by("host")]);
    for host in 0..6 {
        assert!(
            send(&mut locker, &ask(&[claim(0, host, 5)], 1), ms(0)).is_ok(),
            "half a block, and nothing is written"
        );
    }
    let mut next = Locker::restore(found(&disk), Shutdown::Crash, WALL, ms(100));
    next.reload(vec![by("caller")], Duration::ZERO, ms(200));
    assert_eq!(go(&mut next, 77, ms(999)), 0, "all thirty may have been one caller's");
    assert_eq!(go(&mut next, 77, ms(1200)), 30);
}

#[test]
fn what_may_be_answered_after_an_end_counts_from_then_under_another_kind_of_window_too() {
    let kinds = [Kind::Sliding, Kind::Fixed, Kind::Smooth { burst: 30 }];
    for (was, is) in kinds.iter().flat_map(|was| kinds.iter().map(move |is| (was, is))) {
        let mut next = after_unpersisted_end(answered(of_kind(was.clone())));
        change(&mut next, LimitId(0), answered(of_kind(is.clone())), ms(960));
        let taken = |next: &mut Locker, now| next.usage(LimitId(0), Key(0), ms(now)).taken;
        assert!(taken(&mut next, 2949) >= 20, "{was:?} to {is:?}");
        assert_eq!(taken(&mut next, 2960), 0, "{was:?} to {is:?}");
    }
}

#[test]
fn what_was_unknown_under_a_lower_limit_may_have_been_more() {
    let mut locker = Locker::new(vec![limit(30, 100, Kind::Sliding)]);
    for now in [0, 100, 200] {
        assert_eq!(go(&mut locker, 0, ms(now)), 30);
    }
    change(&mut locker, LimitId(0), limit(10, 1000, Kind::Sliding), ms(300));
    change(&mut locker, LimitId(0), limit(90, 1000, Kind::Sliding), ms(310));
    assert_eq!(go(&mut locker, 0, ms(310)), 0, "ninety went in the last second");
}

#[test]
pub(super) fn what_is_under_way_counts_from_its_answer_as_long_as_it_was_granted_so() {
    let (mut locker, mut disk) = recording(vec![answered(long(30))]);
    let claims = [claim(0, 0, 1)];
    let Verdict::Go(_grant) = locker.ask(&ask(&claims, 1), ms(0)) else { panic!("it is free") };
    let sent = Limit { name: locker.limits()[0].name.clone(), ..long(30) };
    locker.reload(vec![sent], Duration::from_millis(500), ms(100));
    write(&mut locker, &mut disk, ms(100));
    for (crash, opens) in [(200, 2200), (700, 1700)] {
        let mut next = Locker::restore(found(&disk), Shutdown::Crash, WALL, ms(crash));
        let taken = |next: &mut Locker, now| next.usage(LimitId(0), Key(0), ms(now)).taken;
        assert!(taken(&mut next, opens - 1) > 0, "{crash} ms");
        assert_eq!(taken(&mut next, opens), 0, "{crash} ms: by 600 ms all was answered");
    }
}

/// Its window ends before the answer can come that is still under way, or just then: all count in the
/// next one.
#[test]
pub(super) fn a_fixed_window_that_ends_before_the_last_answer_is_not_forgotten() {
    for per in [1000, 1500] {
        let mut locker = Locker::new(vec![answered(limit(2, per, Kind::Fixed))]);
        assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(0)).is_ok());
        let Verdict::Go(_grant) = locker.ask(&ask(&[claim(0, 0, 1)], 1), ms(0)) else { panic!("there is room") };
        let mut next = Locker::restore(locker.snapshot(ms(500)), Shutdown::Orderly, WALL, ms(500));
        let mut taken = |at| next.usage(LimitId(0), Key(0), ms(at)).taken;
        assert_eq!(taken(per - 1), 2);
        assert_eq!(taken(1500 + per - 1), 2, "it may be answered at 1500 ms");
        assert_eq!(taken(1500 + per), 0);
    }
}

#[test]
fn a_full_fixed_window_ends_in_time_after_a_crash_as_nothing_else_can_be_under_way() {
    let mut locker = Locker::new(vec![answered(limit(2, 1000, Kind::Fixed))]);
    (0..2).for_each(|_| assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(0)).is_ok()));
    let mut next = Locker::restore(locker.snapshot(ms(500)), Shutdown::NotPersisted, WALL, ms(500));
    assert_eq!(next.usage(LimitId(0), Key(0), ms(999)).taken, 2);
    assert_eq!(next.usage(LimitId(0), Key(0), ms(1000)).taken, 0);
}

//! Fuzz target of the journal's records, in their present form and in form 1.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::boot_time::{BootStamp, TimeMapping};
use super::codec::{DiskLimitSnapshot, DiskReading, DiskWindow, JournalHead};
use super::codec_v1::{HeadV1, WindowV1};
use crate::gate::clock::Clock;
use crate::locker::{Key, LimitId, LimitSnapshot, Locker, Shutdown, Snapshot, WindowRecord};

/// Journal records: any bytes are an error or a record that is encoded to the same bytes; its conversion loses no
/// slot, makes no time earlier, and can be restored. The first byte selects the kind of the record.
pub fn journal(input: &[u8]) {
    let [kind, bytes @ ..] = input else { return };
    let clock = Clock::start();
    let mapping = TimeMapping::here(&clock);
    match kind % 6 {
        0 => {
            if let Some(head) = decoded::<JournalHead>(bytes) {
                head.limits.into_iter().for_each(|limit| check_limit(limit, mapping));
                head.readings.into_iter().for_each(|reading| check_reading(reading, mapping));
            }
        }
        1 => {
            if let Some(window) = decoded::<DiskWindow>(bytes) {
                check_window(window, mapping);
            }
        }
        2 => {
            if let Some(stamp) = decoded::<BootStamp>(bytes) {
                let since = TimeMapping::since(&stamp, &clock);
                let _ = (stamp.reading(since), since.at_boot(stamp.since_boot()));
            }
        }
        3 => {
            if let Ok(head) = postcard::from_bytes::<HeadV1>(bytes) {
                let head = JournalHead::from(head);
                head.limits.into_iter().for_each(|limit| check_limit(limit, mapping));
            }
        }
        4 => {
            if let Ok(window) = postcard::from_bytes::<WindowV1>(bytes) {
                check_window(window.window(&BootStamp::now(&clock)), mapping);
            }
        }
        _ => check_restored(bytes, mapping, &clock),
    }
}

/// Decodes a record; what is decoded must be encoded in a form that is decoded to the same.
fn decoded<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let record: T = postcard::from_bytes(bytes).ok()?;
    let Ok(written) = postcard::to_stdvec(&record) else { panic!("a decoded record cannot be encoded") };
    let Ok(again) = postcard::from_bytes::<T>(&written) else { panic!("an encoded record cannot be decoded") };
    let Ok(twice) = postcard::to_stdvec(&again) else { panic!("a decoded record cannot be encoded") };
    assert_eq!(twice, written);
    Some(record)
}

/// A window keeps its slots, and no time becomes earlier on the way to the locker and back.
fn check_window(window: DiskWindow, mapping: TimeMapping) {
    let before = window.clone();
    let record: WindowRecord = window.window(LimitId(3), Key(7), mapping);
    assert_eq!(
        (record.limit, record.key, record.open, record.flying),
        (LimitId(3), Key(7), before.open, before.flying)
    );
    let after = DiskWindow::of(&record, mapping);
    for (one, other) in [(&before.log, &after.log), (&before.late, &after.late)] {
        assert_eq!(one.len(), other.len());
        for ((at, count), (later, same)) in one.iter().zip(other) {
            assert!(count == same && (later >= at || is_far(*at)), "{at} {later}");
        }
    }
    assert!(after.mark >= before.mark || is_far(before.mark));
    assert!(after.paused >= before.paused || is_far(before.paused));
}

/// A limit keeps its slots of unknown use and its name.
fn check_limit(limit: DiskLimitSnapshot, mapping: TimeMapping) {
    let before = limit.clone();
    let snapshot: LimitSnapshot = limit.snapshot(mapping);
    let after = DiskLimitSnapshot::of(&snapshot, mapping);
    for (one, other) in [(&before.unknown, &after.unknown), (&before.aside, &after.aside)] {
        assert_eq!(one.len(), other.len());
        for ((at, count), (later, same)) in one.iter().zip(other) {
            assert!(count == same && (later >= at || is_far(*at)), "{at} {later}");
        }
    }
    assert_eq!(after.in_force, before.in_force);
}

/// A reading keeps the order of its bounds.
fn check_reading(reading: DiskReading, mapping: TimeMapping) {
    let read = reading.reading(mapping);
    assert!(read.until >= crate::time::Time::START);
    drop(postcard::to_stdvec(&DiskReading::of(read, mapping)));
}

/// Restores a whole snapshot, whatever its numbers are, and takes it from the locker again: no slot gets lost.
fn check_restored(bytes: &[u8], mapping: TimeMapping, clock: &Clock) {
    type Records = (Vec<DiskLimitSnapshot>, Vec<(u128, DiskWindow)>, Vec<DiskReading>);
    let Ok((limits, windows, readings)) = postcard::from_bytes::<Records>(bytes) else { return };
    if limits.len() > 8 || windows.len() > 8 || readings.len() > 8 {
        return;
    }
    let limits: Vec<LimitSnapshot> = limits.into_iter().map(|limit| limit.snapshot(mapping)).collect();
    let windows = windows.into_iter().map(|(key, window)| window.window(LimitId(0), Key(key), mapping)).collect();
    let readings = readings.into_iter().map(|reading| reading.reading(mapping)).collect();
    let snapshot = Snapshot { limits, windows, readings };
    for shutdown in [Shutdown::Crash, Shutdown::Orderly] {
        let mut locker = Locker::restore(snapshot.clone(), shutdown, clock.wall(), clock.now());
        drop(locker.snapshot(clock.now()));
    }
}

/// True for a time near the end of the gateway's time line or beyond it, which is 2^64 nanoseconds long: it is cut to
/// the end of the line. The line began up to 2^57 nanoseconds (four years) before the boot.
fn is_far(at: i128) -> bool {
    at >= i128::from(u64::MAX) - (1 << 57)
}

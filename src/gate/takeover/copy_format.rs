//! Wire format of the live copy: limits, windows and waiters on their way to the new process.
//!
//! Times of windows are nanoseconds since the boot in 64 bits, which is shorter and faster than the
//! journal's 128: there are up to some millions of them.

use serde::{Deserialize, Serialize};

use super::wire_format::{TimeMappings, WireEvent};
use crate::gate::journal::codec::{DiskLimitSnapshot, DiskReading};
use crate::locker::{CopyRest, CopySlice, Key, LateSlots, LimitId, Snapshot, WindowRecord};
use crate::time::Time;

/// Message of the old process during the copy.
#[derive(Serialize, Deserialize)]
pub(super) enum WireCopy {
    /// The copy begins, or begins again.
    Begin(WireHead),
    /// More windows, or the same as they are now.
    Slice(WireSlice),
    /// Few windows are left: time to build what can fail.
    Prepare,
    /// All that is left. The old process grants nothing until it has an answer.
    Rest(Box<WireRest>),
}

/// See [`Snapshot`]; without windows.
#[derive(Serialize, Deserialize)]
pub(super) struct WireHead {
    /// All limits, by their id.
    limits: Vec<DiskLimitSnapshot>,
    /// History of the wall clock.
    readings: Vec<DiskReading>,
}

/// See [`CopySlice`].
#[derive(Serialize, Deserialize)]
pub(super) struct WireSlice {
    /// Present states.
    windows: Vec<WireRecord>,
    /// Limit and key of windows of which nothing counts any more.
    dropped: Vec<WireKey>,
}

/// See [`CopyRest`]; and the waiters.
#[derive(Serialize, Deserialize)]
pub(super) struct WireRest {
    /// Limits and readings as they are now.
    head: WireHead,
    /// Windows that have changed since they were copied.
    slice: WireSlice,
    /// Limit, key, settle time and number of slots that settle by themselves.
    late: Vec<(u32, [u8; 16], WireTime, u32)>,
    /// Keys whose record in the journal must be removed.
    stale_records: Vec<WireKey>,
    /// All waiters, as asks in the order of their arrival.
    waiters: Vec<WireEvent>,
}

/// See [`WindowRecord`].
#[derive(Serialize, Deserialize)]
struct WireRecord {
    limit: u32,
    key: [u8; 16],
    /// Settle times, and the number of slots that settled at each.
    log: Vec<(WireTime, u32)>,
    /// Slots taken and not settled.
    open: u32,
    flying: u32,
    /// Theoretical arrival time of `smooth`.
    tat: WireTime,
    paused: WireTime,
}

/// Nanoseconds since the boot. The lowest value stands for [`Time::START`], the highest for
/// [`Time::NEVER`] and for times that do not fit: 292 years ahead.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct WireTime(i64);

impl WireTime {
    /// Converts to the wire format.
    fn of(at: Time, mappings: TimeMappings) -> WireTime {
        if at == Time::START {
            return WireTime(i64::MIN);
        }
        // Of a time before the boot the distance does not matter: no time becomes earlier.
        mappings.write(at).map_or(WireTime(i64::MAX), |at| WireTime(i64::try_from(at).unwrap_or(i64::MAX)))
    }

    /// Converts from the wire format.
    fn time(self, mappings: TimeMappings) -> Time {
        match self.0 {
            i64::MIN => Time::START,
            i64::MAX => Time::NEVER,
            at => mappings.read(Some(at.into())),
        }
    }
}

/// Number of a limit, and a key in it.
type WireKey = (u32, [u8; 16]);

/// Converts to the wire format.
fn wire_keys(keys: &[(LimitId, Key)]) -> Vec<WireKey> {
    keys.iter().map(|(limit, key)| (limit.0, key.0.to_le_bytes())).collect()
}

/// Converts from the wire format.
fn keys(keys: Vec<WireKey>) -> Vec<(LimitId, Key)> {
    keys.into_iter().map(|(limit, key)| (LimitId(limit), Key(u128::from_le_bytes(key)))).collect()
}

impl WireHead {
    /// Converts to the wire format.
    pub(super) fn of(head: &Snapshot, mappings: TimeMappings) -> WireHead {
        WireHead {
            limits: head.limits.iter().map(|known| DiskLimitSnapshot::of(known, mappings.ours())).collect(),
            readings: head.readings.iter().map(|reading| DiskReading::of(*reading, mappings.ours())).collect(),
        }
    }

    /// Converts from the wire format.
    pub(super) fn head(self, mappings: TimeMappings) -> Snapshot {
        Snapshot {
            limits: self.limits.into_iter().map(|known| known.snapshot(mappings.theirs())).collect(),
            windows: Vec::new(),
            readings: self.readings.into_iter().map(|reading| reading.reading(mappings.theirs())).collect(),
        }
    }
}

impl WireSlice {
    /// Converts to the wire format.
    pub(super) fn of(slice: &CopySlice, mappings: TimeMappings) -> WireSlice {
        WireSlice {
            windows: slice.windows.iter().map(|record| WireRecord::of(record, mappings)).collect(),
            dropped: wire_keys(&slice.dropped),
        }
    }

    /// Converts from the wire format.
    pub(super) fn slice(self, mappings: TimeMappings) -> CopySlice {
        CopySlice {
            windows: self.windows.into_iter().map(|record| record.record(mappings)).collect(),
            dropped: keys(self.dropped),
        }
    }
}

impl WireRest {
    /// Converts to the wire format.
    pub(super) fn of(rest: &CopyRest, waiters: Vec<WireEvent>, mappings: TimeMappings) -> WireRest {
        let late =
            |late: &LateSlots| (late.limit.0, late.key.0.to_le_bytes(), WireTime::of(late.at, mappings), late.cost);
        WireRest {
            head: WireHead::of(&rest.head, mappings),
            slice: WireSlice::of(&rest.slice, mappings),
            late: rest.late.iter().map(late).collect(),
            stale_records: wire_keys(&rest.stale_records),
            waiters,
        }
    }

    /// Converts from the wire format. Returns the waiters besides.
    pub(super) fn rest(self, mappings: TimeMappings) -> (CopyRest, Vec<WireEvent>) {
        let late = |(limit, key, at, cost): (u32, [u8; 16], WireTime, u32)| LateSlots {
            limit: LimitId(limit),
            key: Key(u128::from_le_bytes(key)),
            at: at.time(mappings),
            cost,
        };
        let rest = CopyRest {
            head: self.head.head(mappings),
            slice: self.slice.slice(mappings),
            late: self.late.into_iter().map(late).collect(),
            stale_records: keys(self.stale_records),
        };
        (rest, self.waiters)
    }
}

impl WireRecord {
    /// Converts to the wire format.
    fn of(record: &WindowRecord, mappings: TimeMappings) -> WireRecord {
        WireRecord {
            limit: record.limit.0,
            key: record.key.0.to_le_bytes(),
            log: record.log.iter().map(|(at, count)| (WireTime::of(*at, mappings), *count)).collect(),
            open: record.open,
            flying: record.flying,
            tat: WireTime::of(record.tat, mappings),
            paused: WireTime::of(record.paused, mappings),
        }
    }

    /// Converts from the wire format.
    fn record(self, mappings: TimeMappings) -> WindowRecord {
        WindowRecord {
            limit: LimitId(self.limit),
            key: Key(u128::from_le_bytes(self.key)),
            log: self.log.into_iter().map(|(at, count)| (at.time(mappings), count)).collect(),
            late: Vec::new(),
            open: self.open,
            flying: self.flying,
            tat: self.tat.time(mappings),
            paused: self.paused.time(mappings),
        }
    }
}

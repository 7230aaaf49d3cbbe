//! Disk format of limits and windows (postcard), versioned. Times are nanoseconds since the machine's boot.
//!
//! Each `Disk…` type mirrors one of the locker's, without its invariants. postcard writes fields in
//! order and variants by number, without names: any change of order or type needs a new version.
//! The upgrade protocol uses these types too.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::boot_time::TimeMapping;
use crate::locker::{
    Counts, Key, Kind, Limit, LimitId, LimitSnapshot, Priority, Rate, ShareBy, Unit, WallReading, WhenFull,
    WindowRecord,
};
use crate::time::Time;

/// Version of the format; a file of a higher version is refused.
///
/// Lower versions are still read: 1 by `codec_v1`, and 2, which has no base.
pub(super) const DISK_VERSION: u32 = 3;

/// Head record: everything but the windows.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub(super) struct JournalHead {
    /// Seed of the hash of keys and callers.
    pub(super) seed: [u8; 16],
    /// True if the process that wrote it stopped in order.
    pub(super) stopped: bool,
    /// All limits that were not forgotten, in the order of their ids.
    pub(super) limits: Vec<DiskLimitSnapshot>,
    /// History of the wall clock, for `calendar` windows.
    pub(super) readings: Vec<DiskReading>,
}

/// Reading of the wall clock, in nanoseconds of Unix time extrapolated to the machine's boot. See [`WallReading`].
#[derive(Clone, Copy, Serialize, Deserialize, Debug)]
pub(in crate::gate) struct DiskReading {
    /// Lower bound.
    least: i128,
    /// Upper bound.
    most: i128,
    /// End of its validity; `None`: still valid.
    until: Option<i128>,
}

/// See [`LimitSnapshot`].
#[derive(Clone, Serialize, Deserialize, Debug)]
pub(in crate::gate) struct DiskLimitSnapshot {
    /// Settings of the limit.
    pub(super) limit: DiskLimit,
    /// True if the limit is in the configuration.
    pub(super) in_force: bool,
    /// Time since which all counts are known.
    pub(super) since: i128,
    /// Slots of unknown use that each window counts in addition: latest settle time and number.
    pub(super) unknown: Vec<(i128, u32)>,
    /// The same, for a limit that is shared or a dry run at present.
    pub(super) aside: Vec<(i128, u32)>,
    /// End of flights that count from their answer by an earlier rule, and the linger after their end.
    pub(super) lingers: Option<(i128, Duration)>,
}

/// See [`Limit`].
#[derive(Clone, Serialize, Deserialize, Debug)]
pub(super) struct DiskLimit {
    /// Unique name.
    /// It links the windows in the file to their limit.
    name: String,
    /// Key that its windows are counted by.
    keyed_by: String,
    /// Requests per time; `None`: unlimited.
    rate: Option<DiskRate>,
    /// Most requests in flight; `None`: unlimited.
    in_flight: Option<u32>,
    /// `when_full = "refuse"`.
    refuses: bool,
    /// Longest wait in the queue.
    max_wait: Duration,
    /// Most waiters.
    max_waiting: u64,
    /// Order of waiters.
    order: DiskOrder,
    /// Most keys with counts.
    max_keys: u64,
    /// Counts and reports, but delays nothing.
    dry_run: bool,
    /// Counted by the store, together with other gateways.
    shared: bool,
}

/// Order of waiters: priority and sharing in one. The first two variants are encoded like the `bool` of the time before
/// priorities: `false` for arrival order, `true` if callers take turns.
#[derive(Clone, Copy, Serialize, Deserialize, Debug)]
enum DiskOrder {
    /// Priority within the caller, order of arrival.
    Arrival,
    /// Priority within the caller, callers take turns.
    Turns,
    /// Strict priority, order of arrival.
    StrictArrival,
    /// Strict priority, callers take turns.
    StrictTurns,
    /// No priority, order of arrival.
    PlainArrival,
    /// No priority, callers take turns.
    PlainTurns,
}

/// See [`Rate`].
#[derive(Clone, Serialize, Deserialize, Debug)]
struct DiskRate {
    /// Slots per window.
    requests: u32,
    /// Time that a settled slot stays taken.
    per: Duration,
    /// Time that a slot stays taken beyond `per`, to cover network jitter.
    guard: Duration,
    /// Counts answers instead of requests sent.
    answered: bool,
    /// Kind of its windows.
    kind: DiskKind,
}

/// See [`Kind`].
#[derive(Clone, Serialize, Deserialize, Debug)]
enum DiskKind {
    /// `window = "sliding"`.
    Sliding,
    /// `window = "fixed"`.
    Fixed,
    /// Burst.
    Smooth(u32),
    /// Unit, and the IANA name of the time zone.
    Calendar(DiskUnit, String),
}

/// See [`Unit`].
#[derive(Clone, Copy, Serialize, Deserialize, Debug)]
enum DiskUnit {
    Minute,
    Hour,
    Day,
}

/// Record of a window, see [`WindowRecord`]. Limit and key are the record's key.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(in crate::gate) struct DiskWindow {
    /// Slots in the log: settle time and number.
    pub(super) log: Vec<(i128, u32)>,
    /// Slots of failed attempts, which the origin may still count: settle time and number.
    pub(super) late: Vec<(i128, u32)>,
    /// Slots that may be taken and are neither in the log nor late.
    pub(super) open: u32,
    /// Requests in flight.
    pub(super) flying: u32,
    /// `smooth`: time until which the spacing is used up (theoretical arrival time).
    pub(super) mark: i128,
    /// End of a pause.
    pub(super) paused: i128,
}

/// Converts times from gateway time to time since boot.
///
/// Never earlier than the true time, see [`TimeMapping::here`].
fn to_boot(slots: &[(Time, u32)], mapping: TimeMapping) -> Vec<(i128, u32)> {
    slots.iter().map(|(at, count)| (mapping.to_boot(*at), *count)).collect()
}

/// Converts times from time since boot to gateway time.
///
/// Never earlier than written.
fn at_boot(slots: &[(i128, u32)], mapping: TimeMapping) -> Vec<(Time, u32)> {
    slots.iter().map(|(at, count)| (mapping.at_boot(*at), *count)).collect()
}

impl DiskReading {
    /// Converts to the disk format.
    pub(in crate::gate) fn of(WallReading { least, most, until }: WallReading, mapping: TimeMapping) -> DiskReading {
        let until = (until < Time::NEVER).then(|| mapping.to_boot(until));
        DiskReading { least: mapping.wall_to_boot(least), most: mapping.wall_to_boot(most), until }
    }

    /// Converts from the disk format.
    pub(in crate::gate) fn reading(self, mapping: TimeMapping) -> WallReading {
        let DiskReading { least, most, until } = self;
        let until = until.map_or(Time::NEVER, |until| mapping.at_boot(until));
        mapping.read(least, most, until)
    }
}

impl DiskLimitSnapshot {
    /// Converts to the disk format.
    pub(in crate::gate) fn of(known: &LimitSnapshot, mapping: TimeMapping) -> DiskLimitSnapshot {
        DiskLimitSnapshot {
            limit: DiskLimit::of(&known.limit),
            in_force: known.in_force,
            since: mapping.to_boot(known.since),
            unknown: mutant!(to_boot(&known.unknown, mapping), "unknown slots are not on the disk", Vec::new()),
            aside: to_boot(&known.suspended, mapping),
            lingers: known.lingers.map(|(until, linger)| (mapping.to_boot(until), linger)),
        }
    }

    /// Converts from the disk format.
    pub(in crate::gate) fn snapshot(self, mapping: TimeMapping) -> LimitSnapshot {
        LimitSnapshot {
            limit: self.limit.limit(),
            in_force: self.in_force,
            since: mapping.at_boot(self.since),
            unknown: at_boot(&self.unknown, mapping),
            suspended: at_boot(&self.aside, mapping),
            lingers: self.lingers.map(|(until, linger)| (mapping.at_boot(until), linger)),
        }
    }
}

impl DiskWindow {
    /// Converts to the disk format.
    pub(in crate::gate) fn of(window: &WindowRecord, mapping: TimeMapping) -> DiskWindow {
        DiskWindow {
            log: to_boot(&window.log, mapping),
            late: mutant!(to_boot(&window.late, mapping), "failed attempts are not on the disk", Vec::new()),
            open: window.open,
            flying: window.flying,
            mark: mapping.to_boot(window.tat),
            paused: mapping.to_boot(window.paused),
        }
    }

    /// Converts from the disk format: the window of this limit and key.
    pub(in crate::gate) fn window(self, limit: LimitId, key: Key, mapping: TimeMapping) -> WindowRecord {
        WindowRecord {
            limit,
            key,
            log: at_boot(&self.log, mapping),
            late: at_boot(&self.late, mapping),
            open: self.open,
            flying: self.flying,
            tat: mutant!(mapping.at_boot(self.mark), "the spacing is not read from the disk", Time::START),
            paused: mapping.at_boot(self.paused),
        }
    }
}

impl DiskLimit {
    /// Converts to the disk format.
    pub(super) fn of(limit: &Limit) -> DiskLimit {
        DiskLimit {
            name: limit.name.to_string(),
            keyed_by: limit.keyed_by.to_string(),
            rate: limit.rate.as_ref().map(DiskRate::of),
            in_flight: limit.in_flight,
            refuses: limit.when_full == WhenFull::Refuse,
            max_wait: limit.max_wait,
            max_waiting: limit.max_waiting as u64,
            order: DiskOrder::of(limit),
            max_keys: limit.max_keys as u64,
            dry_run: limit.dry_run,
            shared: limit.shared,
        }
    }

    /// Converts from the disk format.
    fn limit(self) -> Limit {
        Limit {
            name: self.name.into(),
            keyed_by: self.keyed_by.into(),
            rate: self.rate.map(DiskRate::rate),
            in_flight: self.in_flight,
            when_full: if self.refuses { WhenFull::Refuse } else { WhenFull::Wait },
            max_wait: self.max_wait,
            max_waiting: usize::try_from(self.max_waiting).unwrap_or(usize::MAX),
            share_by: self.order.share_by(),
            priority: self.order.priority(),
            max_keys: usize::try_from(self.max_keys).unwrap_or(usize::MAX),
            dry_run: self.dry_run,
            shared: self.shared,
        }
    }
}

impl DiskOrder {
    /// Combines both settings.
    fn of(limit: &Limit) -> DiskOrder {
        match (limit.priority, limit.share_by) {
            (Priority::WithinCaller, ShareBy::Nobody) => DiskOrder::Arrival,
            (Priority::WithinCaller, ShareBy::Caller) => DiskOrder::Turns,
            (Priority::Strict, ShareBy::Nobody) => DiskOrder::StrictArrival,
            (Priority::Strict, ShareBy::Caller) => DiskOrder::StrictTurns,
            (Priority::None, ShareBy::Nobody) => DiskOrder::PlainArrival,
            (Priority::None, ShareBy::Caller) => DiskOrder::PlainTurns,
        }
    }

    /// Turns of callers, or one queue.
    fn share_by(self) -> ShareBy {
        match self {
            DiskOrder::Arrival | DiskOrder::StrictArrival | DiskOrder::PlainArrival => ShareBy::Nobody,
            DiskOrder::Turns | DiskOrder::StrictTurns | DiskOrder::PlainTurns => ShareBy::Caller,
        }
    }

    /// Effect of the urgency.
    fn priority(self) -> Priority {
        match self {
            DiskOrder::Arrival | DiskOrder::Turns => Priority::WithinCaller,
            DiskOrder::StrictArrival | DiskOrder::StrictTurns => Priority::Strict,
            DiskOrder::PlainArrival | DiskOrder::PlainTurns => Priority::None,
        }
    }
}

impl DiskRate {
    /// Converts to the disk format. A time zone without an IANA name is written as `UTC`.
    fn of(rate: &Rate) -> DiskRate {
        let kind = match &rate.kind {
            Kind::Sliding => DiskKind::Sliding,
            Kind::Fixed => DiskKind::Fixed,
            Kind::Smooth { burst } => DiskKind::Smooth(*burst),
            Kind::Calendar { unit, zone } => {
                let unit = match unit {
                    Unit::Minute => DiskUnit::Minute,
                    Unit::Hour => DiskUnit::Hour,
                    Unit::Day => DiskUnit::Day,
                };
                DiskKind::Calendar(unit, zone.iana_name().unwrap_or("UTC").to_owned())
            }
        };
        let Rate { requests, per, guard, counts, .. } = *rate;
        DiskRate { requests, per, guard, answered: counts == Counts::Answered, kind }
    }

    /// Converts from the disk format.
    fn rate(self) -> Rate {
        let kind = match self.kind {
            DiskKind::Sliding => Kind::Sliding,
            DiskKind::Fixed => Kind::Fixed,
            DiskKind::Smooth(burst) => Kind::Smooth { burst },
            DiskKind::Calendar(unit, zone) => {
                let unit = match unit {
                    DiskUnit::Minute => Unit::Minute,
                    DiskUnit::Hour => Unit::Hour,
                    DiskUnit::Day => Unit::Day,
                };
                // A zone unknown to this machine differs from the configured one, so the limit counts as changed.
                Kind::Calendar { unit, zone: TimeZone::get(&zone).unwrap_or(TimeZone::UTC) }
            }
        };
        let Self { requests, per, guard, answered, .. } = self;
        Rate { requests, per, guard, kind, counts: if answered { Counts::Answered } else { Counts::Sent } }
    }
}

#[cfg(test)]
mod tests;

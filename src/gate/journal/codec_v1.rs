//! Version 1 of the disk format (read only): a single sum of unknown slots per limit, and calendar windows without
//! settle times.
//!
//! A file of version 1 is read once, at the first start after an update; the first batch with a
//! head record then writes the present version. Times are nanoseconds since the boot, as in the
//! present format, unless a field says otherwise.

use serde::Deserialize;

use super::boot_time::BootStamp;
use super::codec::{DiskLimit, DiskLimitSnapshot, DiskWindow, JournalHead};

/// Head record.
#[derive(Deserialize)]
pub(super) struct HeadV1 {
    /// Seed of the hash of keys and callers.
    seed: [u8; 16],
    /// True if the process that wrote it stopped in order.
    stopped: bool,
    /// All limits that still have counts.
    limits: Vec<LimitSnapshotV1>,
}

/// Snapshot of a limit.
#[derive(Deserialize)]
struct LimitSnapshotV1 {
    /// Settings, in the same format as now.
    limit: DiskLimit,
    /// True if the limit is in the configuration.
    in_force: bool,
    /// Time since which all counts are known.
    since: i128,
    /// Latest settle time and number of slots of unknown use.
    unknown: Option<(i128, u32)>,
}

impl From<HeadV1> for JournalHead {
    /// Version 1 has no slots set aside, no lingers and no readings of the wall clock: these are
    /// empty.
    fn from(head: HeadV1) -> JournalHead {
        let known = |LimitSnapshotV1 { limit, in_force, since, unknown }: LimitSnapshotV1| {
            let unknown = unknown.into_iter().collect();
            DiskLimitSnapshot { limit, in_force, since, unknown, aside: Vec::new(), lingers: None }
        };
        let HeadV1 { seed, stopped, limits } = head;
        JournalHead { seed, stopped, limits: limits.into_iter().map(known).collect(), readings: Vec::new() }
    }
}

/// Record of a window.
#[derive(Deserialize)]
pub(super) struct WindowV1 {
    /// Counts, in the same format as now; the settle times of a `calendar` window are not used.
    window: DiskWindow,
    /// `calendar`: start and end of the period in which its slots settled, in nanoseconds of Unix time.
    period: Option<(i128, i128)>,
}

impl WindowV1 {
    /// Converts to the present format. `then`: time of the last write.
    ///
    /// A `calendar` window gets one settle time for all its slots: the latest that is possible, 1
    /// ns before the end of the period or the last write, so that none opens early.
    pub(super) fn window(self, then: &BootStamp) -> DiskWindow {
        let WindowV1 { mut window, period } = self;
        if let Some((_, end)) = period {
            // The slots settled before the last write, and before the end of the period.
            let settled = then.since_boot().min(then.boot_time_of(end).saturating_sub(1));
            window.log.iter_mut().for_each(|(at, _)| *at = settled);
        }
        window
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gate::clock::Clock;
    use crate::gate::journal::boot_time::TimeMapping;
    use crate::locker::{Counts, Kind, Limit, LimitSnapshot, Locker, Priority, Rate, ShareBy, WhenFull};
    use crate::time::Time;

    #[test]
    fn a_head_in_form_1_is_read() {
        let second = Duration::from_secs(1);
        let limit = Limit {
            name: "kept".into(),
            keyed_by: "host".into(),
            rate: Some(Rate { requests: 5, per: second, guard: second, kind: Kind::Sliding, counts: Counts::Sent }),
            in_flight: Some(2),
            when_full: WhenFull::Wait,
            max_wait: second,
            max_waiting: 1000,
            share_by: ShareBy::Caller,
            priority: Priority::WithinCaller,
            max_keys: 1000,
            dry_run: false,
            shared: false,
        };
        let form = || DiskLimit::of(&limit);
        // postcard writes a struct as its fields, one after the other.
        type KnownThen = (DiskLimit, bool, i128, Option<(i128, u32)>);
        let limits: [KnownThen; 2] = [(form(), true, 1, Some((2, 3))), (form(), false, 4, None)];
        let written = ([7_u8; 16], true, limits.to_vec());
        let head: JournalHead = postcard::from_bytes::<HeadV1>(&postcard::to_stdvec(&written).unwrap()).unwrap().into();
        assert_eq!((head.seed, head.stopped), ([7; 16], true));
        let (clock, _hand) = Clock::manual();
        let known: Vec<LimitSnapshot> =
            head.limits.into_iter().map(|known| known.snapshot(TimeMapping::here(&clock))).collect();
        let here = Locker::new(vec![limit.clone()]).crash_limit_snapshots().remove(0);
        let at = Time::from_nanos;
        let expected = [
            LimitSnapshot { since: at(1), unknown: vec![(at(2), 3)], ..here.clone() },
            LimitSnapshot { since: at(4), in_force: false, ..here },
        ];
        assert_eq!(known, expected);
    }

    #[test]
    fn a_calendar_page_in_form_1_settled_when_anything_was_written_last_or_its_period_ended() {
        let (clock, hand) = Clock::manual();
        hand.pass(Duration::from_secs(3600));
        let then = BootStamp::now(&clock);
        let hour = 3_600_000_000_000;
        let settled_at = |period| {
            let window = DiskWindow { log: vec![(1 << 70, 3)], late: vec![], open: 1, flying: 0, mark: 0, paused: 0 };
            let written = postcard::to_stdvec(&(window, period)).unwrap();
            postcard::from_bytes::<WindowV1>(&written).unwrap().window(&then).log
        };
        let wall = clock.wall_unix_nanos();
        assert_eq!(settled_at(Some((wall - hour, wall + hour))), [(then.since_boot(), 3)]);
        assert_eq!(settled_at(Some((wall - hour, wall - 1000))), [(then.since_boot() - 1001, 3)]);
        assert_eq!(settled_at(None), [(1 << 70, 3)], "others have times of their own");
    }
}

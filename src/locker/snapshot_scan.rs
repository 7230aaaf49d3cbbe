//! Snapshot in slices: the records of all windows, for a journal that writes them all at once.
//!
//! As [`Locker::snapshot`], but neither holds the lock for all windows nor has all records in memory
//! at one time. Only while nothing is granted, at a start and at a stop, do the slices make a whole:
//! a slot that settles or is given back between two of them is in its window's record as open or as
//! what became of it, and nothing is in none.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::Locker;
use super::counter_snapshot::Snapshot;
use super::window_record::WindowRecord;
use crate::time::Time;

/// State of a snapshot that is taken in slices.
#[derive(Default, Debug)]
pub struct SnapshotScan {
    /// First place of the window table that the next slice looks at.
    next: u32,
    /// Slots of each window that settle by themselves, and at what time.
    late: HashMap<u32, Vec<(Time, u32)>>,
}

impl Locker {
    /// Begins a snapshot at `now`: returns it without any windows.
    pub fn begin_snapshot(&mut self, now: Time) -> (Snapshot, SnapshotScan) {
        self.advance(now);
        let snapshot =
            Snapshot { limits: self.counters.limits.snapshots(), windows: Vec::new(), readings: self.wall.readings() };
        let mut late: HashMap<u32, Vec<(Time, u32)>> = HashMap::new();
        for Reverse(later) in &self.late_settles {
            late.entry(later.window).or_default().push((later.at, later.cost));
        }
        (snapshot, SnapshotScan { next: 0, late })
    }

    /// Records of the windows in the next `places` places of the table that are not blank. `None`
    /// after the last place. From now on the journal holds a record of each of these windows.
    pub fn snapshot_slice(&mut self, scan: &mut SnapshotScan, places: u32, now: Time) -> Option<Vec<WindowRecord>> {
        let now = self.advance(now);
        let table = &mut self.counters.table;
        if scan.next as usize >= table.places() {
            return None;
        }
        let (found, _more) = table.windows_in(scan.next, places);
        scan.next = scan.next.saturating_add(places);
        let mut records = Vec::with_capacity(found.len());
        for (index, limit) in found {
            let rule = &self.counters.limits.rules[limit.at()];
            let window = table.window_mut(index);
            window.expire(rule, now);
            let mut late = if scan.late.is_empty() { Vec::new() } else { scan.late.remove(&index).unwrap_or_default() };
            if window.is_blank(rule, now) {
                continue;
            }
            // Those whose time has come since the beginning are in the log.
            late.retain(|(at, _)| *at > now);
            late.sort_unstable();
            let settling: u32 = late.iter().map(|(_, cost)| cost).sum();
            let open = window.unsettled.saturating_sub(settling);
            window.set_persisted();
            records.push(WindowRecord { late, ..window.record(rule, open, usize::MAX) });
        }
        Some(records)
    }
}

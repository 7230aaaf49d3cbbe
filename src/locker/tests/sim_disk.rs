//! Simulated disk of the journal, for worlds that crash.

use std::collections::HashMap;

use super::*;

/// Records that the journal has written, and the write under way.
#[derive(Default)]
pub(super) struct SimDisk {
    pub(super) limits: Vec<LimitSnapshot>,
    pub(super) records: HashMap<(u32, u128), WindowRecord>,
    /// Write under way: a crash keeps all of it or nothing.
    pub(super) batch: Vec<JournalRecord>,
    /// True while writes fail.
    pub(super) fails: bool,
    /// True if the disk holds less than was used, and is marked so.
    pub(super) is_incomplete: bool,
    /// True if the next batch replaces everything written before.
    pub(super) starts_over: bool,
}

impl SimDisk {
    /// Replaces everything by the windows of a snapshot.
    pub(super) fn replace(&mut self, snapshot: &Snapshot) {
        self.limits.clone_from(&snapshot.limits);
        let key = |record: &WindowRecord| (record.limit.0, record.key.0);
        self.records = snapshot.windows.iter().map(|record| (key(record), record.clone())).collect();
    }

    pub(super) fn put(&mut self, record: &JournalRecord, locker: &Locker) {
        match record {
            JournalRecord::Limits => self.limits = locker.crash_limit_snapshots(),
            JournalRecord::Window(record, _) => {
                drop(self.records.insert((record.limit.0, record.key.0), record.clone()))
            }
            JournalRecord::Dropped(limit, key) => drop(self.records.remove(&(limit.0, key.0))),
        }
    }
}

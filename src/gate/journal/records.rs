//! Calls of the journal's thread into the gate: what is to be written next, and that it is written. Each of them holds the
//! gate's lock for a slice of work.

use crate::gate::Gate;
use crate::locker::{JournalRecord, JournalStart, LimitSnapshot, Snapshot, WallReading, WriteToken};

/// How many things are named, or said to be written, in one go: the gate is locked meanwhile.
pub(super) const MAX_SLICE: usize = 512;

/// What was written, as far as the locker wants to know.
#[derive(Default)]
pub(super) struct WrittenRecords {
    limits: bool,
    windows: Vec<WriteToken>,
}

impl WrittenRecords {
    pub(super) fn of(records: &[JournalRecord]) -> WrittenRecords {
        let mut written = WrittenRecords::default();
        written.extend(records);
        written
    }

    pub(super) fn extend(&mut self, records: &[JournalRecord]) {
        for record in records {
            match record {
                JournalRecord::Limits => self.limits = true,
                JournalRecord::Window(_, written) => self.windows.push(*written),
                JournalRecord::Dropped(..) => {}
            }
        }
    }
}

/// What the thread that writes says to the locker.
impl Gate {
    pub(super) fn begin_persisting(&self, begin: JournalStart) {
        let now = self.clock.now();
        self.step(now, |state| state.locker.begin_persisting(begin, now));
    }

    /// Nothing is taken that is not written, though nothing can be written for the time being.
    pub(super) fn keep_persisting(&self) {
        let now = self.clock.now();
        self.step(now, |state| {
            if !state.locker.is_persisting() {
                state.locker.begin_persisting(JournalStart::Resume, now);
            }
        });
    }

    pub(super) fn end_persisting(&self) {
        let now = self.clock.now();
        self.step(now, |state| {
            state.locker.end_persisting(now);
            state.pending_signals.journal = false;
        });
    }

    pub(super) fn is_catching_up(&self) -> bool {
        self.lock().locker.is_catching_up()
    }

    /// What is to be written next, after a look at some; and whether there is more. When there is not, and
    /// nothing was found, the bell is rung for the next.
    pub(super) fn take_records(&self) -> (Vec<JournalRecord>, bool) {
        let now = self.clock.now();
        self.step(now, |state| {
            let records = state.locker.poll_records(MAX_SLICE, now);
            let more = state.locker.has_records();
            state.pending_signals.journal = more || !records.is_empty();
            (records, more)
        })
    }

    /// These are on the disk.
    pub(super) fn records_written(&self, written: &WrittenRecords) {
        if written.limits {
            self.step(self.clock.now(), |state| state.locker.limits_written());
        }
        for windows in written.windows.chunks(MAX_SLICE) {
            let now = self.clock.now();
            self.step(now, |state| state.locker.records_written(windows.iter().copied(), now));
        }
    }

    /// What is known of limits, and of the wall clock.
    pub(super) fn known(&self) -> (Vec<LimitSnapshot>, Vec<WallReading>) {
        let state = self.lock();
        (state.locker.crash_limit_snapshots(), state.locker.readings())
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let now = self.clock.now();
        self.step(now, |state| state.locker.snapshot(now))
    }
}

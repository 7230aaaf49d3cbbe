//! Calls from the journal thread into the gate: fetch records to write, report them as written. Each call holds the
//! gate's lock for one slice of work.
//!
//! Order of calls for each batch:
//!
//! 1. `take_records` returns a slice of records.
//! 2. The writer puts them into a transaction and commits it.
//! 3. `records_written` passes the receipt to the locker, which may then grant the written slots.

use crate::gate::Gate;
use crate::gate::limiter::Limiter;
use crate::locker::{
    JournalRecord, JournalStart, LimitSnapshot, Snapshot, SnapshotScan, WallReading, WindowRecord, WriteToken,
};

/// Most records fetched or reported in one call, which bounds the time that the gate is locked.
pub(super) const MAX_SLICE: usize = 512;

/// Places of the window table in one slice of a snapshot: some 300 µs of work.
const MAX_SCAN: u32 = if cfg!(test) { 3 } else { 2048 };

/// Receipt of written records, for the locker.
#[derive(Default)]
pub(super) struct WrittenRecords {
    /// The list of limits was written.
    limits: bool,
    /// Tokens of the written windows.
    windows: Vec<WriteToken>,
}

impl WrittenRecords {
    /// Receipt for these records.
    pub(super) fn of(records: &[JournalRecord]) -> WrittenRecords {
        let mut written = WrittenRecords::default();
        written.extend(records);
        written
    }

    /// Adds these records.
    ///
    /// Removed windows need no receipt.
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

/// Calls of the journal thread.
impl Gate {
    /// Starts to grant only slots that are written, as `begin` says.
    pub(super) fn begin_persisting(&self, begin: JournalStart) {
        let now = self.clock.now();
        self.step(now, |state| state.locker.begin_persisting(begin, now));
    }

    /// Keeps granting only written slots although nothing can be written for now.
    ///
    /// For a disk that can be neither written nor marked as incomplete.
    pub(super) fn keep_persisting(&self) {
        mutant!("a disk that cannot be marked lets unwritten slots go", return self.end_persisting());
        let now = self.clock.now();
        self.step(now, |state| {
            if !state.locker.is_persisting() {
                state.locker.begin_persisting(JournalStart::Resume, now);
            }
        });
    }

    /// Stops to require that slots are written before they are granted.
    ///
    /// Called after the folder was marked as incomplete. Waiters for a write may be granted in this
    /// step.
    pub(super) fn end_persisting(&self) {
        let now = self.clock.now();
        self.step(now, |state| {
            state.locker.end_persisting(now);
            state.pending_signals.journal = false;
        });
    }

    /// True while some counts in use are not written yet.
    pub(super) fn is_catching_up(&self) -> bool {
        self.lock().locker.is_catching_up()
    }

    /// Scans some windows, and returns the records to write next and whether there are more. If there are none, the
    /// thread is notified of the next.
    ///
    /// At most [`MAX_SLICE`] records. An empty list with `true` is possible: the scanned windows
    /// had nothing to write.
    pub(super) fn take_records(&self) -> (Vec<JournalRecord>, bool) {
        let now = self.clock.now();
        self.step(now, |state| {
            let records = state.locker.poll_records(MAX_SLICE, now);
            let more = state.locker.has_records();
            state.pending_signals.journal = more || !records.is_empty();
            (records, more)
        })
    }

    /// Reports these records as written.
    ///
    /// Takes the lock once for each [`MAX_SLICE`] windows, so that requests are decided in between.
    pub(super) fn records_written(&self, written: &WrittenRecords) {
        if written.limits {
            self.step(self.clock.now(), |state| state.locker.limits_written());
        }
        for windows in written.windows.chunks(MAX_SLICE) {
            let now = self.clock.now();
            self.step(now, |state| state.locker.records_written(windows.iter().copied(), now));
        }
    }

    /// Snapshots of the limits, and the readings of the wall clock.
    pub(super) fn limits_and_readings(&self) -> (Vec<LimitSnapshot>, Vec<WallReading>) {
        let state = self.lock();
        (state.locker.crash_limit_snapshots(), state.locker.readings())
    }

    /// Number of dropped windows that may have a record in the file.
    pub(super) fn unwritten_drops(&self) -> usize {
        match &self.lock().locker {
            Limiter::Local(locker) => locker.unwritten_drops(),
            Limiter::Forwarding(_) => 0,
        }
    }

    /// Begins a snapshot of all counts: returns it without windows, which
    /// [`Gate::snapshot_slice`] returns some at a time.
    pub(super) fn begin_snapshot(&self) -> (Snapshot, SnapshotScan) {
        let now = self.clock.now();
        self.step(now, |state| match &mut state.locker {
            Limiter::Local(locker) => locker.begin_snapshot(now),
            // Another process has the windows.
            Limiter::Forwarding(_) => Default::default(),
        })
    }

    /// Next windows of a snapshot; `None` at its end.
    pub(super) fn snapshot_slice(&self, scan: &mut SnapshotScan) -> Option<Vec<WindowRecord>> {
        let now = self.clock.now();
        self.step(now, |state| match &mut state.locker {
            Limiter::Local(locker) => locker.snapshot_slice(scan, MAX_SCAN, now),
            Limiter::Forwarding(_) => None,
        })
    }
}

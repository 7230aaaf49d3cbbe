//! Journal interface of the locker: the journal's thread fetches the next records, and reports the
//! written ones.

use super::Locker;
use super::api::LimitId;
use super::counter_snapshot::LimitSnapshot;
use super::persistence::{JournalRecord, JournalStart, WriteToken};
use super::window::UnknownSlots;
use crate::time::Time;

impl Locker {
    /// Begins persistence: slots of long windows are written down before they are taken; the limits
    /// are written first. Called at the start, and after the disk works again.
    pub fn begin_persisting(&mut self, begin: JournalStart, now: Time) {
        let now = self.advance(now);
        let counters = &mut self.counters;
        let review = counters.write_queue.begin(&mut counters.limits, &mut counters.table, begin);
        self.review_limits(&review, now);
    }

    /// Ends persistence, as nothing can be written down any more: slots are taken without a write.
    /// Waiters for a write are reviewed some at a time.
    pub fn end_persisting(&mut self, now: Time) {
        let now = self.advance(now);
        let review = self.counters.write_queue.end(&mut self.counters.limits);
        self.review_limits(&review, now);
    }

    /// True if slots of long windows are written down before they are taken.
    pub fn is_persisting(&self) -> bool {
        self.counters.write_queue.is_on()
    }

    /// True while catching up: written pages are not believed before all of them are written.
    pub fn is_catching_up(&self) -> bool {
        self.counters.write_queue.is_catching_up()
    }

    /// True if any limit has pages that are not written yet: after a crash it must count as full.
    pub fn has_unwritten_windows(&self) -> bool {
        self.counters.write_queue.has_unwritten_windows()
    }

    /// Number of dropped windows of which the journal may have a record to remove.
    pub fn unwritten_drops(&self) -> usize {
        self.counters.table.dropped.len()
    }

    /// True if a call of `poll_records` may return a record.
    pub fn has_records(&self) -> bool {
        self.counters.write_queue.has_records(&self.counters.table)
    }

    /// Takes the next record to write; `None` if there is none. Records must reach the disk in the
    /// order in which they are returned.
    pub fn poll_record(&mut self, now: Time) -> Option<JournalRecord> {
        while self.has_records() {
            let record = self.poll_records(1, now).pop();
            if record.is_some() {
                return record;
            }
        }
        None
    }

    /// Takes the next records to write, after a look at `most` candidates. The result may be empty
    /// although more candidates follow ([`Locker::has_records`]).
    pub fn poll_records(&mut self, most: usize, now: Time) -> Vec<JournalRecord> {
        let now = self.advance(now);
        let counters = &mut self.counters;
        counters.write_queue.poll_records(&mut counters.limits, &mut counters.table, most, now)
    }

    /// Applies written pages: their slots may be granted, and waiters for them are dispatched.
    pub fn records_written(&mut self, written: impl IntoIterator<Item = WriteToken>, now: Time) {
        let now = self.advance(now);
        let counters = &mut self.counters;
        for page in written {
            let index = counters.write_queue.record_written(&counters.limits, &mut counters.table, page);
            if let Some(index) = index {
                self.queue.mark_dirty(&counters.table, index);
            }
        }
        self.dispatch(now);
    }

    /// Applies a write of the present limits: a key without a record may begin with a block from
    /// now on. Does nothing if the limits changed again meanwhile.
    pub fn limits_written(&mut self) {
        for id in self.counters.write_queue.limits_written(&mut self.counters.limits) {
            self.queue.review.add(id);
        }
    }

    /// State of the limits for the journal: as in [`Locker::snapshot`], but full for limits with
    /// unwritten windows.
    pub fn crash_limit_snapshots(&self) -> Vec<LimitSnapshot> {
        let mut all = self.counters.limits.snapshots();
        for (id, limit_snapshot) in (0..).map(LimitId).zip(&mut all) {
            let full = self.counters.write_queue.full_until(id);
            limit_snapshot.unknown.extend(full.map(|until| (until, UnknownSlots::all(until).slots)));
        }
        all
    }
}

//! Journal interface of the locker: the thread that writes says what it has written, and asks what comes next.

use super::Locker;
use super::api::LimitId;
use super::counter_snapshot::LimitSnapshot;
use super::persistence::{JournalRecord, JournalStart, WriteToken};
use super::window::UnknownSlots;
use crate::time::Time;

impl Locker {
    /// From here on slots of long windows are written down before they are taken; the limits first.
    pub fn begin_persisting(&mut self, begin: JournalStart, now: Time) {
        let now = self.advance(now);
        let counters = &mut self.counters;
        let review = counters.write_queue.begin(&mut counters.limits, &mut counters.table, begin);
        self.review_limits(&review, now);
    }

    /// Nothing can be written down any more: slots are taken all the same. Waiters for that are found by and by.
    pub fn end_persisting(&mut self, now: Time) {
        let now = self.advance(now);
        let review = self.counters.write_queue.end(&mut self.counters.limits);
        self.review_limits(&review, now);
    }

    /// True if slots of long windows are written down before they are taken.
    pub fn is_persisting(&self) -> bool {
        self.counters.write_queue.is_on()
    }

    /// True if not all is written yet that must be before what is written is believed.
    pub fn is_catching_up(&self) -> bool {
        self.counters.write_queue.is_catching_up()
    }

    /// True if the pages of any limit may be less than a crash must find.
    pub fn has_unwritten_windows(&self) -> bool {
        self.counters.write_queue.has_unwritten_windows()
    }

    /// True if there is anything to be written down.
    pub fn has_records(&self) -> bool {
        self.counters.write_queue.has_records(&self.counters.table)
    }

    /// The next thing to be written down. What is named first must be written no later than what is named after it.
    pub fn poll_record(&mut self, now: Time) -> Option<JournalRecord> {
        while self.has_records() {
            let record = self.poll_records(1, now).pop();
            if record.is_some() {
                return record;
            }
        }
        None
    }

    /// The next things to be written down, after a look at no more than `most`: there may be none among them, and more
    /// behind ([`Locker::has_records`]).
    pub fn poll_records(&mut self, most: usize, now: Time) -> Vec<JournalRecord> {
        let now = self.advance(now);
        let counters = &mut self.counters;
        counters.write_queue.poll_records(&mut counters.limits, &mut counters.table, most, now)
    }

    /// Pages are written down: what they say may be taken.
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

    /// The limits are written down as they are now: keys of which nothing is written may begin with a block.
    pub fn limits_written(&mut self) {
        for id in self.counters.write_queue.limits_written(&mut self.counters.limits) {
            self.queue.review.add(id);
        }
    }

    /// The limits as a crash must find them: as in [`Locker::snapshot`], and full if their windows have yet to be written.
    pub fn crash_limit_snapshots(&self) -> Vec<LimitSnapshot> {
        let mut all = self.counters.limits.snapshots();
        for (id, limit_snapshot) in (0..).map(LimitId).zip(&mut all) {
            let full = self.counters.write_queue.full_until(id);
            limit_snapshot.unknown.extend(full.map(|until| (until, UnknownSlots::all(until).slots)));
        }
        all
    }
}

//! Calls of the journal's thread into the gate: what is to be written next, and that it is written.

use crate::gate::Gate;
use crate::locker::{Estate, Known, Record, WallReading};

/// What the thread that writes says to the locker.
impl Gate {
    pub(super) fn begin_recording(&self) {
        let now = self.clock.now();
        self.step(now, |state| state.locker.begin_recording(now));
    }

    pub(super) fn end_recording(&self) {
        let now = self.clock.now();
        self.step(now, |state| {
            state.locker.end_recording(now);
            state.rung.journal = false;
        });
    }

    /// What is to be written next. When there is nothing, the bell is rung for the next.
    pub(super) fn take_records(&self, most: usize) -> Vec<Record> {
        let now = self.clock.now();
        self.step(now, |state| {
            let records: Vec<Record> = std::iter::from_fn(|| state.locker.poll_record(now)).take(most).collect();
            state.rung.journal = !records.is_empty();
            records
        })
    }

    /// These are on the disk.
    pub(super) fn wrote(&self, records: Vec<Record>) {
        let now = self.clock.now();
        self.step(now, |state| {
            for record in records {
                match record {
                    Record::Limits => state.locker.limits_recorded(),
                    Record::Window(_, written) => state.locker.recorded(written, now),
                    Record::Gone(..) => {}
                }
            }
        });
    }

    /// What is known of limits, and of the wall clock.
    pub(super) fn known(&self) -> (Vec<Known>, Vec<WallReading>) {
        let state = self.lock();
        (state.locker.known(), state.locker.readings())
    }

    pub(super) fn estate(&self) -> Estate {
        let now = self.clock.now();
        self.step(now, |state| state.locker.estate(now))
    }
}

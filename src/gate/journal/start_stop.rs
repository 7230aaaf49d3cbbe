//! Start and stop of the journal: each writes at most the packs of all windows, in one transaction.
//!
//! | start | what is written |
//! |---|---|
//! | after an orderly stop, under the same limits | head without the mark of a stop; the base stays |
//! | any other | head, and a base of all windows instead of all that the file has |
//!
//! In both cases the file then holds all that is counted, and a window gets a row before it grants
//! its next slot. A crash at any moment finds either what the start found, or what it has written: a
//! transaction is in the file as a whole or not at all.
//!
//! An orderly stop replaces all by a base, and marks the file as stopped. Before that is on the disk,
//! an end of the process is a crash, which loses nothing: the rows of every granted slot are there.

use std::io;
use std::sync::{Arc, PoisonError};

use super::base::Base;
use super::boot_time::TimeMapping;
use super::codec::{DiskReading, JournalHead};
use super::database::{Batch, Continuation, Integrity};
use super::records::WrittenRecords;
use super::writer::disk_limits;
use super::{AfterCrash, DiskState, Error, Journal};
use crate::gate::Gate;
use crate::locker::{JournalStart, Limit, ReloadSummary, Snapshot};

/// Most windows whose records a start removes one by one instead of writing all others anew.
const MAX_REMOVED: usize = if cfg!(test) { 3 } else { 4096 };

impl Journal {
    /// Decides that this start writes all windows anew, if the limits are not those of the file: the
    /// records of a changed limit may say less than its windows do by the new rule.
    pub(in crate::gate) fn consider_limits(&self, reload: &ReloadSummary) {
        // Windows of a new limit are yet to come.
        let ReloadSummary { ids: _, added: _, returned, changed, rekeyed, removed } = reload;
        if [returned, changed, rekeyed, removed].into_iter().any(|ids| !ids.is_empty()) {
            *self.continuation.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Marks the file as in use, and starts the writer thread.
    ///
    /// # Errors
    /// If the file cannot be written, or the system provides no thread.
    pub(in crate::gate) fn begin(self: &Arc<Self>, gate: &Arc<Gate>) -> Result<(), Error> {
        // Before the file is marked as in use.
        let writer = self.writer(gate)?;
        let continuation = self.continuation.lock().unwrap_or_else(PoisonError::into_inner).take();
        let begun = match continuation.filter(|_| gate.unwritten_drops() <= MAX_REMOVED) {
            Some(continuation) => self.continue_file(gate, continuation),
            None => self.rewrite(gate),
        };
        if let Err(error) = begun.and_then(|written| self.begun(gate, &written)) {
            // The file may be marked as in use by now. Nothing was granted: restore what an orderly stop leaves.
            if let Err(error) = self.write_stopped(gate) {
                tracing::debug!(%error, "cannot restore the mark of an orderly stop; the next start may treat this one as a crash");
            }
            return Err(Error::of_file(&self.folder.file(), error));
        }
        writer.start();
        Ok(())
    }

    /// Goes on with the file of an orderly stop: removes its mark.
    ///
    /// # Errors
    /// As [`File::write`](super::database::File::write).
    fn continue_file(&self, gate: &Gate, continuation: Continuation) -> Result<WrittenRecords, redb::Error> {
        gate.begin_persisting(JournalStart::Resume);
        self.write(|batch| {
            if let Some(since) = continuation.rebase {
                batch.rebase(since, TimeMapping::here(&self.clock))?;
            }
            self.put_all(batch, gate)
        })
    }

    /// Replaces the whole file by the present counts.
    ///
    /// # Errors
    /// As [`File::write`](super::database::File::write).
    fn rewrite(&self, gate: &Gate) -> Result<WrittenRecords, redb::Error> {
        gate.begin_persisting(JournalStart::Fresh);
        let (base, _snapshot) = take_base(gate);
        self.write(|batch| {
            batch.clear()?;
            self.put_base(batch, gate, &base)?;
            self.put_all(batch, gate)
        })
    }

    /// Writes all records that the locker names: the limits at least.
    fn put_all(&self, batch: &mut Batch<'_>, gate: &Gate) -> Result<WrittenRecords, redb::Error> {
        let mut written = WrittenRecords::default();
        loop {
            let (records, more) = gate.take_records();
            self.put(batch, gate, &records)?;
            written.extend(&records);
            if !more {
                return Ok(written);
            }
        }
    }

    /// Completes the start, once the file holds all counts.
    ///
    /// # Errors
    /// An I/O error of the mark.
    fn begun(&self, gate: &Gate, written: &WrittenRecords) -> Result<(), redb::Error> {
        self.mark_complete().map_err(redb::Error::Io)?;
        self.set_disk_state(DiskState::Complete);
        gate.records_written(written);
        // There may be more by now.
        self.signal.notify();
        Ok(())
    }

    /// Marks the file as complete, if it may be trusted after a crash.
    pub(super) fn mark_complete(&self) -> io::Result<()> {
        // With after_crash = "forget" there must be no mark, not even an old one: the setting may be another at the
        // next start.
        match self.after_crash {
            AfterCrash::Forget => self.folder.mark_incomplete(),
            AfterCrash::Remember => self.folder.mark_complete(),
        }
    }

    /// Writes the final snapshot at a shutdown. The gate must grant nothing any more.
    ///
    /// Blocks until the writer thread has ended and the snapshot is on the disk. Errors are logged.
    pub(in crate::gate) fn stop(&self, gate: &Gate) {
        self.signal.stop();
        match self.reopen(Integrity::Checked).and_then(|()| self.write_stopped(gate)) {
            Ok(windows) => tracing::debug!(windows, "counts written"),
            Err(error) => {
                tracing::error!(%error, "cannot write the counts: the next start treats this stop as a crash")
            }
        }
    }

    /// Replaces the whole file by a snapshot, marked as an orderly stop. Returns the number of
    /// windows.
    fn write_stopped(&self, gate: &Gate) -> Result<usize, redb::Error> {
        let (base, snapshot) = take_base(gate);
        let mapping = TimeMapping::here(&self.clock);
        let head = JournalHead {
            seed: self.seed,
            stopped: true,
            limits: disk_limits(&snapshot.limits, mapping),
            readings: snapshot.readings.iter().map(|reading| DiskReading::of(*reading, mapping)).collect(),
        };
        self.write(|batch| {
            batch.clear()?;
            batch.head(&head)?;
            self.put_base(batch, gate, &base)
        })?;
        Ok(base.len())
    }

    /// Writes a base.
    fn put_base(&self, batch: &mut Batch<'_>, gate: &Gate, base: &Base) -> Result<(), redb::Error> {
        let limits = gate.limits();
        let limits: Vec<&Limit> = limits.iter().collect();
        batch.base(base, &limits, TimeMapping::here(&self.clock))
    }
}

/// Takes all windows, a slice at a time, and what else a snapshot has.
fn take_base(gate: &Gate) -> (Base, Snapshot) {
    let mut base = Base::new(gate.clock().now());
    let (snapshot, mut scan) = gate.begin_snapshot();
    while let Some(windows) = gate.snapshot_slice(&mut scan) {
        base.extend(&windows);
    }
    (base, snapshot)
}

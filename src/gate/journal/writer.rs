//! Journal writer: the thread that writes the windows named by the locker, and recovers from disk
//! errors.
//!
//! The thread is the only one that writes while the gateway runs. It sleeps until a step of the
//! locker has left records, or for a second after a failure. Each failure closes the database; each
//! recovery opens it again.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use super::boot_time::{BootStamp, TimeMapping};
use super::codec::{DiskLimitSnapshot, DiskReading, DiskWindow, JournalHead};
use super::database::{Batch, File, Integrity};
use super::records::WrittenRecords;
use super::{AfterCrash, Coverage, DiskState, Error, Journal, OldLimits};
use crate::gate::Gate;
use crate::gate::thread_signal::{DeferredThread, ExitGuard};
use crate::locker::{JournalRecord, JournalStart, Limit, LimitSnapshot, WindowRecord};

/// Number of slices of [`MAX_SLICE`](super::records::MAX_SLICE) windows in one transaction while
/// all windows are written: fewer syncs, bounded memory.
const SLICES: usize = 8;
/// Interval of attempts to write after a failure.
///
/// A choice: counts of long windows are at risk or blocked meanwhile.
const RETRY: Duration = Duration::from_secs(1);

impl Journal {
    /// Begins to write, and starts the writer thread, after the old process of an upgrade has closed
    /// the file. There is no way back: if the file cannot be written, see [`Journal::fail`]. After
    /// this returns, new limits are written and slots may be granted. With other limits than those
    /// of the old process all windows are written anew.
    pub(in crate::gate) fn continue_from(&self, gate: &Gate, writer: DeferredThread, old_limits: OldLimits) {
        // Not before: after a failed upgrade the file must still name the old process.
        self.folder.name_holder();
        let resumes = self.may_resume() && old_limits == OldLimits::Same;
        let started = match mutant!(resumes, "a file of other limits is believed", self.may_resume()) {
            // The old process has written at least as much as this one knows of.
            true => self.resume(gate, Integrity::Trusted),
            false => self.folder.mark_incomplete().map_err(redb::Error::Io).and_then(|()| self.begin_catch_up(gate)),
        };
        if let Err(error) = started {
            self.fail(gate, &error);
        }
        writer.start();
        self.signal.notify();
    }

    /// True if [`Journal::continue_from`] will go on with the file as it is, unless the old process finds it incomplete
    /// at its end.
    pub(in crate::gate) fn may_resume(&self) -> bool {
        self.continues && self.folder.is_complete()
    }

    /// Creates the writer thread, which is started later.
    ///
    /// # Errors
    /// [`Error::System`] if the system provides no thread.
    ///
    /// Made before the step that cannot be undone; dropping it without a start ends the thread.
    pub(in crate::gate) fn writer(self: &Arc<Self>, gate: &Arc<Gate>) -> Result<DeferredThread, Error> {
        let (journal, gate) = (Arc::clone(self), Arc::downgrade(gate));
        DeferredThread::new("journal", move || journal.run(&gate)).map_err(Error::System)
    }

    /// Hands the file over to another process: writes nothing more, and unlocks the folder.
    /// `coverage`: whether the file holds all that a crash needs.
    ///
    /// Blocks until the writer thread has ended. Called by the old process of an upgrade.
    pub(in crate::gate) fn leave(&self, coverage: Coverage) {
        self.signal.stop();
        if coverage == Coverage::Incomplete
            && let Err(error) = self.folder.mark_incomplete()
        {
            tracing::error!(%error, "cannot mark the state folder as incomplete; after a crash its counts would be trusted wrongly");
        }
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.folder.unlock();
    }

    /// Main loop of the writer thread, until it is told to stop or the gate is dropped.
    fn run(&self, gate: &Weak<Gate>) {
        let _exit_guard = ExitGuard::new(&self.signal);
        loop {
            let is_closed = |disk_state| matches!(disk_state, DiskState::Degraded | DiskState::Blocked);
            if !self.signal.wait(is_closed(self.disk_state()).then_some(RETRY)) {
                return;
            }
            let Some(gate) = gate.upgrade() else { return };
            if is_closed(self.disk_state()) {
                self.recover(&gate);
                continue;
            }
            // The database may panic if another program writes to its file.
            let written = catch_unwind(AssertUnwindSafe(|| self.write_all(&gate)));
            if let Err(error) = written.unwrap_or(Err(redb::Error::PreviousIo)) {
                self.fail(&gate, &error);
            }
        }
    }

    /// Writes until nothing is left to write. Marks the file as complete if it then holds all
    /// counts.
    ///
    /// # Errors
    /// As [`File::write`]; the records of the failed batch are not reported as written.
    fn write_all(&self, gate: &Gate) -> Result<(), redb::Error> {
        loop {
            let (mut records, more) = self.take_batch(gate);
            if records.is_empty() && !more {
                break;
            }
            // A stop writes a full snapshot itself, and the new process of an upgrade what it needs; but no other process
            // knows that these windows were dropped.
            let is_stopping = self.signal.is_stopping();
            if is_stopping {
                records.retain(|record| matches!(record, JournalRecord::Dropped(..)));
            }
            if !records.is_empty() {
                self.write(|batch| self.put(batch, gate, &records))?;
                gate.records_written(&WrittenRecords::of(&records));
            }
            if is_stopping {
                return Ok(());
            }
        }
        // If this thread took too long to stop, the folder may belong to another process already.
        if self.disk_state() == DiskState::CatchingUp && !gate.is_catching_up() && !self.signal.is_stopping() {
            self.mark_complete().map_err(redb::Error::Io)?;
            self.set_disk_state(DiskState::Complete);
            tracing::info!("all counts are written");
        }
        Ok(())
    }

    /// Takes the records of one transaction, and tells whether there are more. While all windows
    /// are written, that is several slices; the gate is locked for each, but not between them.
    fn take_batch(&self, gate: &Gate) -> (Vec<JournalRecord>, bool) {
        let (mut records, mut more) = gate.take_records();
        // No request waits for these windows, and the disk is the bottleneck: fewer, larger transactions.
        for _ in 1..SLICES {
            if !(more && gate.is_catching_up()) {
                break;
            }
            let (slice, rest) = gate.take_records();
            records.extend(slice);
            more = rest;
        }
        (records, more)
    }

    /// Continues with a file that is complete: a window is written when it needs more slots.
    ///
    /// For an upgrade into the same folder, and for a disk that was read-only for a while.
    ///
    /// # Errors
    /// As [`Journal::reopen`] and [`File::write`].
    fn resume(&self, gate: &Gate, integrity: Integrity) -> Result<(), redb::Error> {
        self.reopen(integrity)?;
        // Proves that the disk accepts writes before the locker relies on it.
        self.write(|_| Ok(()))?;
        gate.begin_persisting(JournalStart::Resume);
        self.set_disk_state(DiskState::Complete);
        self.write_all(gate)
    }

    /// Starts to write all counts while slots are granted that are not written. The folder stays
    /// marked as incomplete.
    ///
    /// The first batch replaces the file; the normal loop writes the rest and sets the mark.
    ///
    /// # Errors
    /// As [`Journal::reopen`] and [`File::write`].
    fn begin_catch_up(&self, gate: &Gate) -> Result<(), redb::Error> {
        self.reopen(Integrity::Checked)?;
        self.write(|_| Ok(()))?;
        gate.begin_persisting(JournalStart::CatchUp);
        let (records, _more) = gate.take_records();
        self.write(|batch| {
            batch.clear()?;
            self.put(batch, gate, &records)
        })?;
        self.set_disk_state(DiskState::CatchingUp);
        gate.records_written(&WrittenRecords::of(&records));
        Ok(())
    }

    /// Writes these records into a batch.
    pub(super) fn put(&self, batch: &mut Batch<'_>, gate: &Gate, records: &[JournalRecord]) -> Result<(), redb::Error> {
        let mapping = TimeMapping::here(&self.clock);
        if records.contains(&JournalRecord::Limits) {
            let (known, readings) = gate.limits_and_readings();
            let limits = disk_limits(&known, mapping);
            let readings = readings.into_iter().map(|reading| DiskReading::of(reading, mapping)).collect();
            batch.head(&JournalHead { seed: self.seed, stopped: false, limits, readings })?;
        }
        let limits = gate.limits();
        let limits: Vec<&Limit> = limits.iter().collect();
        batch.windows(records.iter().filter_map(|record| match record {
            JournalRecord::Limits => None,
            JournalRecord::Window(window, _) => Some(disk_window(window, &limits, mapping)),
            JournalRecord::Dropped(limit, key) => Some((&*limits[limit.0 as usize].name, key.0, None)),
        }))
    }

    /// Writes one batch, with the time of writing. Returns what `write` does.
    ///
    /// # Errors
    /// [`redb::Error::PreviousIo`] while the database is closed; else as [`File::write`].
    pub(super) fn write<R>(
        &self,
        write: impl FnOnce(&mut Batch<'_>) -> Result<R, redb::Error>,
    ) -> Result<R, redb::Error> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = &*file else { return Err(redb::Error::PreviousIo) };
        let now = BootStamp::now(&self.clock);
        file.write(|batch| {
            batch.written(&now)?;
            write(batch)
        })
    }

    /// Handles a failed write. If the folder can be marked as incomplete, the gateway continues,
    /// and slots are granted that are not on the disk. If not (the disk is read-only), a crash
    /// could not be distinguished from one that has lost nothing: then slots that are not written
    /// wait, unless `after_crash` is "forget".
    fn fail(&self, gate: &Gate, error: &redb::Error) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let folder = self.folder.dir.display();
        match self.degrade(gate) {
            Ok(()) => tracing::error!(
                %folder, %error,
                "cannot write the counts; after a crash now all windows would count as full at the next start"
            ),
            Err(unmarked) => {
                gate.keep_persisting();
                self.set_disk_state(DiskState::Blocked);
                tracing::error!(
                    %folder, %error, %unmarked,
                    "cannot write the counts, nor mark them as incomplete: requests of limits with `per` above 10 s \
                     wait until the disk can be written (after_crash = \"forget\" would let them go)"
                );
            }
        }
    }

    /// Stops persistence, so that slots are granted unwritten. The folder is marked as incomplete
    /// first.
    ///
    /// # Errors
    /// If the mark cannot be removed; persistence goes on then.
    fn degrade(&self, gate: &Gate) -> io::Result<()> {
        if self.after_crash == AfterCrash::Remember {
            self.folder.mark_incomplete()?;
        }
        self.set_disk_state(DiskState::Degraded);
        gate.end_persisting();
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn fail_for_test(&self, gate: &Gate) {
        self.fail(gate, &redb::Error::PreviousIo);
        self.signal.notify();
    }

    /// Tries to write again after a failure.
    ///
    /// Called by the writer thread once a second while the file is closed.
    fn recover(&self, gate: &Gate) {
        let recovered = match self.disk_state() {
            DiskState::Blocked if self.folder.is_complete() => {
                self.resume(gate, Integrity::Checked).inspect(|()| tracing::info!("counts are written again"))
            }
            // The mark is removed, but its removal may not be on the disk yet.
            DiskState::Blocked => {
                self.folder.mark_incomplete().map_err(redb::Error::Io).and_then(|()| self.begin_catch_up(gate))
            }
            DiskState::Complete | DiskState::CatchingUp | DiskState::Degraded => self.begin_catch_up(gate),
        };
        match recovered {
            // The rest is written by the normal loop.
            Ok(()) => self.signal.notify(),
            Err(error) => {
                tracing::debug!(%error, "still cannot write the counts");
                *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
                // The disk may have been read-only before and be full now, which allows the mark to be removed.
                if let Err(error) = self.degrade(gate) {
                    tracing::debug!(%error, "cannot mark the state folder as incomplete either");
                    gate.keep_persisting();
                }
            }
        }
    }

    /// Opens the file again: the database refuses writes after an error.
    pub(super) fn reopen(&self, integrity: Integrity) -> Result<(), redb::Error> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.is_none() {
            let opened = File::reopen(&self.folder.file(), integrity);
            *file = Some(opened.map_err(|error| redb::Error::Io(io::Error::other(error)))?);
        }
        Ok(())
    }
}

/// Limits in the disk format, without forgotten ones: windows refer to their limit by its name.
pub(super) fn disk_limits(known: &[LimitSnapshot], mapping: TimeMapping) -> Vec<DiskLimitSnapshot> {
    let known = known.iter().filter(|known| !known.limit.is_forgotten());
    known.map(|known| DiskLimitSnapshot::of(known, mapping)).collect()
}

/// Limit name, key and content of a window in the disk format.
fn disk_window<'l>(
    window: &WindowRecord,
    limits: &[&'l Limit],
    mapping: TimeMapping,
) -> (&'l str, u128, Option<DiskWindow>) {
    (&*limits[window.limit.0 as usize].name, window.key.0, Some(DiskWindow::of(window, mapping)))
}

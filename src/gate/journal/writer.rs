//! Writes what the locker names, and tells it when that is on the disk.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use super::boot_time::{BootStamp, TimeMapping};
use super::codec::{DiskLimitSnapshot, DiskReading, DiskWindow, JournalHead};
use super::database::{Batch, File};
use super::records::WrittenRecords;
use super::{DiskState, Error, Journal};
use crate::gate::Gate;
use crate::gate::thread_signal::{DeferredThread, ExitGuard};
use crate::locker::{JournalRecord, JournalStart, Limit, LimitSnapshot, Snapshot, WindowRecord};

/// How many slices are written together where all windows are.
const SLICES: usize = 8;
/// How often to try again to write, when that has failed.
const RETRY: Duration = Duration::from_secs(1);

impl Journal {
    /// Writes what is known so far, and starts the thread that writes from then on.
    pub(in crate::gate) fn begin(self: &Arc<Self>, gate: &Arc<Gate>) -> Result<(), Error> {
        // Before the file says that a process runs.
        let writer = self.writer(gate)?;
        if let Err(error) = self.rewrite(gate) {
            // The file may say so by now. Nothing was let go: it goes back to what an orderly stop leaves.
            if let Err(error) = self.write_stopped(&gate.snapshot()) {
                tracing::debug!(%error, "the state folder is as it was, or says that this process runs");
            }
            return Err(Error::of_file(&self.folder.file(), error));
        }
        writer.start();
        Ok(())
    }

    /// As [`Journal::begin`], in the place of another process that has closed the file. There is no way back: if it cannot
    /// be written, see [`Journal::fail`]. When this returns, limits that are new are written down, and slots may be granted.
    pub(in crate::gate) fn continue_from(&self, gate: &Gate, writer: DeferredThread) {
        // Not before: a process that fails to take over leaves the number of the one that goes on.
        self.folder.name_holder();
        let begun = match self.continues && self.folder.is_complete() {
            // What that one has written is as much as this one knows of it, or more.
            true => self.resume(gate),
            false => self.folder.mark_incomplete().map_err(redb::Error::Io).and_then(|()| self.begin_catch_up(gate)),
        };
        if let Err(error) = begun {
            self.fail(gate, &error);
        }
        writer.start();
        self.signal.notify();
    }

    /// The thread that writes, for later.
    pub(in crate::gate) fn writer(self: &Arc<Self>, gate: &Arc<Gate>) -> Result<DeferredThread, Error> {
        let (journal, gate) = (Arc::clone(self), Arc::downgrade(gate));
        DeferredThread::new("journal", move || journal.run(&gate)).map_err(Error::System)
    }

    /// Another process writes from here on: nothing more is written here, and the folder is let go. `is_incomplete`: what is
    /// written is not all that a crash must find.
    pub(in crate::gate) fn leave(&self, is_incomplete: bool) {
        self.signal.stop();
        if is_incomplete && let Err(error) = self.folder.mark_incomplete() {
            tracing::error!(%error, "the state folder cannot be marked as incomplete, and the next process believes it");
        }
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.folder.unlock();
    }

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
            // A file that somebody else writes to may make the library panic.
            let written = catch_unwind(AssertUnwindSafe(|| self.write_all(&gate)));
            if let Err(error) = written.unwrap_or(Err(redb::Error::PreviousIo)) {
                self.fail(&gate, &error);
            }
        }
    }

    /// Writes until there is nothing more to be written. If that is all that must be known after a crash, says so.
    fn write_all(&self, gate: &Gate) -> Result<(), redb::Error> {
        loop {
            let (records, more) = self.take_batch(gate);
            if records.is_empty() && !more {
                break;
            }
            // A stop writes all there is by itself, and a process that takes over what it needs.
            if self.signal.is_stopping() {
                return Ok(());
            }
            if !records.is_empty() {
                self.write(|batch| self.put(batch, gate, &records))?;
                gate.records_written(&WrittenRecords::of(&records));
            }
        }
        // One that was told to end may have been waited for too long: the folder is another process's then.
        if self.disk_state() == DiskState::CatchingUp && !gate.is_catching_up() && !self.signal.is_stopping() {
            self.mark_complete().map_err(redb::Error::Io)?;
            self.set_disk_state(DiskState::Complete);
            tracing::info!("all that is counted is written");
        }
        Ok(())
    }

    /// What is written together: some slices, of which each has the gate locked, but not all the time.
    fn take_batch(&self, gate: &Gate) -> (Vec<JournalRecord>, bool) {
        let (mut records, mut more) = gate.take_records();
        // Where nobody waits for any of it, the disk is the slowest: then fewer commits of more.
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

    /// Writes all there is in the place of all that was written, together.
    fn rewrite(&self, gate: &Gate) -> Result<(), redb::Error> {
        gate.begin_persisting(JournalStart::Fresh);
        let mut written = WrittenRecords::default();
        self.write(|batch| {
            batch.clear()?;
            loop {
                let (records, more) = gate.take_records();
                self.put(batch, gate, &records)?;
                written.extend(&records);
                if !more {
                    return Ok(());
                }
            }
        })?;
        self.mark_complete().map_err(redb::Error::Io)?;
        self.set_disk_state(DiskState::Complete);
        gate.records_written(&written);
        // To look whether there is more by now.
        self.signal.notify();
        Ok(())
    }

    /// Goes on where what is written is right: each window is written when more of it is wanted.
    fn resume(&self, gate: &Gate) -> Result<(), redb::Error> {
        self.reopen()?;
        // The disk takes something, before the locker is told so.
        self.write(|_| Ok(()))?;
        gate.begin_persisting(JournalStart::Resume);
        self.set_disk_state(DiskState::Complete);
        self.write_all(gate)
    }

    /// Begins to write all there is, while slots are taken that are not written. The folder says that it is not all.
    fn begin_catch_up(&self, gate: &Gate) -> Result<(), redb::Error> {
        self.reopen()?;
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

    fn mark_complete(&self) -> io::Result<()> {
        // Where nothing is believed after a crash there must be no mark either, nor one of before: the file may say something
        // else by then.
        if self.forgets { self.folder.mark_incomplete() } else { self.folder.mark_complete() }
    }

    /// The last thing that is written: what a gateway that stops has counted.
    pub(in crate::gate) fn stop(&self, snapshot: &Snapshot) {
        self.signal.stop();
        match self.reopen().and_then(|()| self.write_stopped(snapshot)) {
            Ok(()) => tracing::debug!(windows = snapshot.windows.len(), "what was counted is written"),
            Err(error) => {
                tracing::error!(%error, "what was counted cannot be written: the next start treats it as after a crash")
            }
        }
    }

    /// Puts an estate in the place of all that was written, with the mark of an orderly stop.
    fn write_stopped(&self, snapshot: &Snapshot) -> Result<(), redb::Error> {
        let mapping = TimeMapping::here(&self.clock);
        let limits: Vec<&Limit> = snapshot.limits.iter().map(|known| &known.limit).collect();
        let head = JournalHead {
            seed: self.seed,
            stopped: true,
            limits: disk_limits(&snapshot.limits, mapping),
            readings: snapshot.readings.iter().map(|reading| DiskReading::of(*reading, mapping)).collect(),
        };
        self.write(|batch| {
            batch.clear()?;
            batch.head(&head)?;
            batch.windows(snapshot.windows.iter().map(|window| disk_window(window, &limits, mapping)))
        })
    }

    fn put(&self, batch: &mut Batch<'_>, gate: &Gate, records: &[JournalRecord]) -> Result<(), redb::Error> {
        let mapping = TimeMapping::here(&self.clock);
        if records.contains(&JournalRecord::Limits) {
            let (known, readings) = gate.known();
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

    fn write(&self, write: impl FnOnce(&mut Batch<'_>) -> Result<(), redb::Error>) -> Result<(), redb::Error> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = &*file else { return Err(redb::Error::PreviousIo) };
        let now = BootStamp::now(&self.clock);
        file.write(|batch| {
            batch.written(&now)?;
            write(batch)
        })
    }

    /// It cannot be written. If that can be marked in the folder the gateway goes on, and what it uses from here on is not
    /// on the disk. If not (it is read-only), a crash could not be told from one that has lost nothing: then what is not
    /// written waits, unless nothing is believed after a crash anyway.
    fn fail(&self, gate: &Gate, error: &redb::Error) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let folder = self.folder.dir.display();
        match self.degrade(gate) {
            Ok(()) => tracing::error!(
                %folder, %error,
                "what is counted cannot be written; if the gateway died now, all windows would count as full at its next start"
            ),
            Err(unmarked) => {
                gate.keep_persisting();
                self.set_disk_state(DiskState::Blocked);
                tracing::error!(
                    %folder, %error, %unmarked,
                    "what is counted cannot be written, nor marked as incomplete: requests of limits with `per` above 10 s \
                     wait until it can (after_crash = \"forget\" would let them go)"
                );
            }
        }
    }

    /// From here on more is used than is written. It is marked before anything is.
    fn degrade(&self, gate: &Gate) -> io::Result<()> {
        if !self.forgets {
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

    /// The file is closed because it could not be written: it is tried again.
    fn recover(&self, gate: &Gate) {
        let recovered = match self.disk_state() {
            DiskState::Blocked if self.folder.is_complete() => {
                self.resume(gate).inspect(|()| tracing::info!("what is counted is written again"))
            }
            // The mark is gone, which perhaps is not yet on the disk.
            DiskState::Blocked => {
                self.folder.mark_incomplete().map_err(redb::Error::Io).and_then(|()| self.begin_catch_up(gate))
            }
            DiskState::Complete | DiskState::CatchingUp | DiskState::Degraded => self.begin_catch_up(gate),
        };
        match recovered {
            // What is left is written as anything else.
            Ok(()) => self.signal.notify(),
            Err(error) => {
                tracing::debug!(%error, "what is counted still cannot be written");
                *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
                // A disk that is full now may have been read-only.
                if let Err(error) = self.degrade(gate) {
                    tracing::debug!(%error, "nor can it be marked as incomplete");
                    gate.keep_persisting();
                }
            }
        }
    }

    /// The library does not write a file again that it once could not.
    fn reopen(&self) -> Result<(), redb::Error> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.is_none() {
            let opened = File::reopen(&self.folder.file());
            *file = Some(opened.map_err(|error| redb::Error::Io(io::Error::other(error)))?);
        }
        Ok(())
    }
}

/// What is written of limits: nothing of those that were forgotten, since pages name theirs by its name.
fn disk_limits(known: &[LimitSnapshot], mapping: TimeMapping) -> Vec<DiskLimitSnapshot> {
    let known = known.iter().filter(|known| !known.limit.is_forgotten());
    known.map(|known| DiskLimitSnapshot::of(known, mapping)).collect()
}

fn disk_window<'l>(
    window: &WindowRecord,
    limits: &[&'l Limit],
    mapping: TimeMapping,
) -> (&'l str, u128, Option<DiskWindow>) {
    (&*limits[window.limit.0 as usize].name, window.key.0, Some(DiskWindow::of(window, mapping)))
}

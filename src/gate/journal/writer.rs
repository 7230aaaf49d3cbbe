//! Writes what the locker names, and tells it when that is on the disk.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use super::boot_time::{Line, Moment};
use super::codec::{Head, KnownForm, PageForm, ReadingForm};
use super::database::{Batch, File};
use super::records::Done;
use super::{Error, Journal, Standing};
use crate::gate::Gate;
use crate::gate::thread_signal::{Leaving, Parked};
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
            if let Err(error) = self.write_stopped(&gate.estate()) {
                tracing::debug!(%error, "the state folder is as it was, or says that this process runs");
            }
            return Err(Error::of_file(&self.folder.file(), error));
        }
        writer.begin();
        Ok(())
    }

    /// As [`Journal::begin`], in the place of another process that has closed the file. There is no way back: if it cannot
    /// be written, see [`Journal::fail`]. When this returns, limits that are new are written down, and slots may be granted.
    pub(in crate::gate) fn take_up(&self, gate: &Gate, writer: Parked) {
        // Not before: a process that fails to take over leaves the number of the one that goes on.
        self.folder.name_holder();
        let begun = match self.continues && self.folder.is_whole() {
            // What that one has written is as much as this one knows of it, or more.
            true => self.resume(gate),
            false => self.folder.set_blind().map_err(redb::Error::Io).and_then(|()| self.begin_to_catch_up(gate)),
        };
        if let Err(error) = begun {
            self.fail(gate, &error);
        }
        writer.begin();
        self.bell.ring();
    }

    /// The thread that writes, for later.
    pub(in crate::gate) fn writer(self: &Arc<Self>, gate: &Arc<Gate>) -> Result<Parked, Error> {
        let (journal, gate) = (Arc::clone(self), Arc::downgrade(gate));
        Parked::new("journal", move || journal.run(&gate)).map_err(Error::System)
    }

    /// Another process writes from here on: nothing more is written here, and the folder is let go. `doubtful`: what is
    /// written is not all that a crash must find.
    pub(in crate::gate) fn leave(&self, doubtful: bool) {
        self.bell.end();
        if doubtful && let Err(error) = self.folder.set_blind() {
            tracing::error!(%error, "the state folder cannot be marked as incomplete, and the next process believes it");
        }
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.folder.let_go();
    }

    fn run(&self, gate: &Weak<Gate>) {
        let _leaving = Leaving::at_the_end_of(&self.bell);
        loop {
            let is_closed = |standing| matches!(standing, Standing::Blind | Standing::Held);
            if !self.bell.hear(is_closed(self.standing()).then_some(RETRY)) {
                return;
            }
            let Some(gate) = gate.upgrade() else { return };
            if is_closed(self.standing()) {
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
            if self.bell.is_over() {
                return Ok(());
            }
            if !records.is_empty() {
                self.write(|batch| self.put(batch, gate, &records))?;
                gate.wrote(&Done::of(&records));
            }
        }
        // One that was told to end may have been waited for too long: the folder is another process's then.
        if self.standing() == Standing::CatchingUp && !gate.is_catching_up() && !self.bell.is_over() {
            self.set_whole().map_err(redb::Error::Io)?;
            self.set_standing(Standing::Whole);
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
        gate.begin_recording(JournalStart::Fresh);
        let mut done = Done::default();
        self.write(|batch| {
            batch.begin_anew()?;
            loop {
                let (records, more) = gate.take_records();
                self.put(batch, gate, &records)?;
                done.extend(&records);
                if !more {
                    return Ok(());
                }
            }
        })?;
        self.set_whole().map_err(redb::Error::Io)?;
        self.set_standing(Standing::Whole);
        gate.wrote(&done);
        // To look whether there is more by now.
        self.bell.ring();
        Ok(())
    }

    /// Goes on where what is written is right: each window is written when more of it is wanted.
    fn resume(&self, gate: &Gate) -> Result<(), redb::Error> {
        self.reopen()?;
        // The disk takes something, before the locker is told so.
        self.write(|_| Ok(()))?;
        gate.begin_recording(JournalStart::Resume);
        self.set_standing(Standing::Whole);
        self.write_all(gate)
    }

    /// Begins to write all there is, while slots are taken that are not written. The folder says that it is not all.
    fn begin_to_catch_up(&self, gate: &Gate) -> Result<(), redb::Error> {
        self.reopen()?;
        self.write(|_| Ok(()))?;
        gate.begin_recording(JournalStart::CatchUp);
        let (records, _more) = gate.take_records();
        self.write(|batch| {
            batch.begin_anew()?;
            self.put(batch, gate, &records)
        })?;
        self.set_standing(Standing::CatchingUp);
        gate.wrote(&Done::of(&records));
        Ok(())
    }

    fn set_whole(&self) -> io::Result<()> {
        // Where nothing is believed after a crash there must be no mark either, nor one of before: the file may say something
        // else by then.
        if self.forgets { self.folder.set_blind() } else { self.folder.set_whole() }
    }

    /// The last thing that is written: what a gateway that stops has counted.
    pub(in crate::gate) fn stop(&self, estate: &Snapshot) {
        self.bell.end();
        match self.reopen().and_then(|()| self.write_stopped(estate)) {
            Ok(()) => tracing::debug!(windows = estate.windows.len(), "what was counted is written"),
            Err(error) => {
                tracing::error!(%error, "what was counted cannot be written: the next start treats it as after a crash")
            }
        }
    }

    /// Puts an estate in the place of all that was written, with the mark of an orderly stop.
    fn write_stopped(&self, estate: &Snapshot) -> Result<(), redb::Error> {
        let line = Line::here(&self.clock);
        let limits: Vec<&Limit> = estate.limits.iter().map(|known| &known.limit).collect();
        let head = Head {
            seed: self.seed,
            stopped: true,
            limits: known_forms(&estate.limits, line),
            readings: estate.readings.iter().map(|reading| ReadingForm::of(*reading, line)).collect(),
        };
        self.write(|batch| {
            batch.begin_anew()?;
            batch.head(&head)?;
            batch.pages(estate.windows.iter().map(|page| form_of(page, &limits, line)))
        })
    }

    fn put(&self, batch: &mut Batch<'_>, gate: &Gate, records: &[JournalRecord]) -> Result<(), redb::Error> {
        let line = Line::here(&self.clock);
        if records.contains(&JournalRecord::Limits) {
            let (known, readings) = gate.known();
            let limits = known_forms(&known, line);
            let readings = readings.into_iter().map(|reading| ReadingForm::of(reading, line)).collect();
            batch.head(&Head { seed: self.seed, stopped: false, limits, readings })?;
        }
        let limits = gate.limits();
        let limits: Vec<&Limit> = limits.iter().collect();
        batch.pages(records.iter().filter_map(|record| match record {
            JournalRecord::Limits => None,
            JournalRecord::Window(page, _) => Some(form_of(page, &limits, line)),
            JournalRecord::Dropped(limit, key) => Some((&*limits[limit.0 as usize].name, key.0, None)),
        }))
    }

    fn write(&self, write: impl FnOnce(&mut Batch<'_>) -> Result<(), redb::Error>) -> Result<(), redb::Error> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = &*file else { return Err(redb::Error::PreviousIo) };
        let now = Moment::now(&self.clock);
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
        match self.mark_blind(gate) {
            Ok(()) => tracing::error!(
                %folder, %error,
                "what is counted cannot be written; if the gateway died now, all windows would count as full at its next start"
            ),
            Err(unmarked) => {
                gate.keep_recording();
                self.set_standing(Standing::Held);
                tracing::error!(
                    %folder, %error, %unmarked,
                    "what is counted cannot be written, nor marked as incomplete: requests of limits with `per` above 10 s \
                     wait until it can (after_crash = \"forget\" would let them go)"
                );
            }
        }
    }

    /// From here on more is used than is written. It is marked before anything is.
    fn mark_blind(&self, gate: &Gate) -> io::Result<()> {
        if !self.forgets {
            self.folder.set_blind()?;
        }
        self.set_standing(Standing::Blind);
        gate.end_recording();
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn fail_for_test(&self, gate: &Gate) {
        self.fail(gate, &redb::Error::PreviousIo);
        self.bell.ring();
    }

    /// The file is closed because it could not be written: it is tried again.
    fn recover(&self, gate: &Gate) {
        let recovered = match self.standing() {
            Standing::Held if self.folder.is_whole() => {
                self.resume(gate).inspect(|()| tracing::info!("what is counted is written again"))
            }
            // The mark is gone, which perhaps is not yet on the disk.
            Standing::Held => {
                self.folder.set_blind().map_err(redb::Error::Io).and_then(|()| self.begin_to_catch_up(gate))
            }
            Standing::Whole | Standing::CatchingUp | Standing::Blind => self.begin_to_catch_up(gate),
        };
        match recovered {
            // What is left is written as anything else.
            Ok(()) => self.bell.ring(),
            Err(error) => {
                tracing::debug!(%error, "what is counted still cannot be written");
                *self.file.lock().unwrap_or_else(PoisonError::into_inner) = None;
                // A disk that is full now may have been read-only.
                if let Err(error) = self.mark_blind(gate) {
                    tracing::debug!(%error, "nor can it be marked as incomplete");
                    gate.keep_recording();
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
fn known_forms(known: &[LimitSnapshot], line: Line) -> Vec<KnownForm> {
    let known = known.iter().filter(|known| !known.limit.is_forgotten());
    known.map(|known| KnownForm::of(known, line)).collect()
}

fn form_of<'l>(page: &WindowRecord, limits: &[&'l Limit], line: Line) -> (&'l str, u128, Option<PageForm>) {
    (&*limits[page.limit.0 as usize].name, page.key.0, Some(PageForm::of(page, line)))
}

//! State folder: its lock, the loaded counts, and the mark that says whether they are complete.
//!
//! Files in the folder:
//!
//! - `journal.redb`: the counts.
//! - `lock`: locked by its owner, contains the owner's process id.
//! - `whole`: the mark, an empty file.
//! - `journal.redb.unread`: an unusable database that was set aside.

use std::fs::{self, DirBuilder, File as Handle, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::database::LoadedFile;
use super::{AfterCrash, Error, Loaded};
use crate::locker::{Shutdown, Snapshot};

/// Name of the database file.
pub(super) const FILE: &str = "journal.redb";
/// Name of the lock file. The process that locks it owns the folder; its content is the process id.
pub(super) const LOCK: &str = "lock";
/// Number of attempts to take the lock, and the pause between them: 100 ms in all, see [`lock_soon`].
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// Name of the mark: as long as this file exists, the database holds all counts that had to be written before their
/// use.
pub(super) const COMPLETE_MARK: &str = "whole";

/// State folder and the lock on it.
pub(super) struct StateFolder {
    /// Path of the folder.
    pub(super) dir: PathBuf,
    /// Locked as long as this is open, here or in a process that it was passed to.
    /// `None` after [`StateFolder::unlock`].
    pub(super) lock: Mutex<Option<Handle>>,
}

/// Locks with retries: a process that has just exited may be outlived for a moment by a child that it was starting.
///
/// Blocks the thread for at most about 100 ms.
///
/// # Errors
/// [`TryLockError::WouldBlock`] if the lock is still held after that.
fn lock_soon(lock: &Handle) -> Result<(), TryLockError> {
    for _ in 0..LOCK_TRIES {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            result => return result,
        }
    }
    lock.try_lock()
}

impl StateFolder {
    /// Creates the folder if need be, and locks it.
    ///
    /// # Errors
    /// [`Error::Held`] if another gateway uses it, [`Error::Unusable`] if the system refuses.
    pub(super) fn lock(dir: &Path) -> Result<StateFolder, Error> {
        let unusable = |path: PathBuf| move |why| Error::Unusable { path, why };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable(dir.to_owned()))?;
        let path = dir.join(LOCK);
        let opened = Handle::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut lock = opened.map_err(unusable(path.clone()))?;
        match lock_soon(&lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Empty if the owner has not written its process id yet.
                let read = lock.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
                let holder = read.then(|| holder.trim().to_owned());
                return Err(Error::Held { dir: dir.to_owned(), holder });
            }
            Err(TryLockError::Error(error)) => return Err(unusable(path)(error)),
        }
        let folder = StateFolder::from_lock(dir, lock);
        folder.name_holder();
        Ok(folder)
    }

    /// Folder for a lock that is already held.
    ///
    /// For the new process of an upgrade, which receives the lock from the old one.
    pub(super) fn from_lock(dir: &Path, lock: Handle) -> StateFolder {
        StateFolder { dir: dir.to_owned(), lock: Mutex::new(Some(lock)) }
    }

    /// Writes this process's id into the lock file, for operators and for `kill -USR2`. Only the lock itself counts.
    pub(super) fn name_holder(&self) {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lock) = &mut *lock else { return };
        let truncated = lock.set_len(0).and_then(|()| lock.rewind());
        if let Err(error) = truncated.and_then(|()| writeln!(lock, "{}", std::process::id())) {
            tracing::debug!(%error, "cannot write the process id into the lock file");
        }
    }

    /// Unlocks the folder, unless another process has a copy of the lock.
    pub(super) fn unlock(&self) {
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Path of the database file.
    pub(super) fn file(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Decides which of the loaded counts are trusted, and logs if some are not.
    ///
    /// | end of the earlier process | `after_crash` | counts used |
    /// |---|---|---|
    /// | orderly stop | any | all |
    /// | crash, folder complete | "remember" | all written, and one block of slots for each key; windows of up to 10 s count as full |
    /// | crash, folder incomplete | "remember" | all windows count as full |
    /// | crash | "forget" | none; the seed is kept |
    pub(super) fn loaded(&self, file: LoadedFile, after_crash: AfterCrash) -> Loaded {
        let LoadedFile { seed, stopped, snapshot, continuation } = file;
        let end = match mutant!(stopped, "a crash is taken for a stop", true) {
            true => Shutdown::Orderly,
            false if mutant!(self.is_complete(), "a folder without its mark is believed", true) => Shutdown::Crash,
            false => Shutdown::NotPersisted,
        };
        match end {
            Shutdown::HandOver | Shutdown::Orderly => {}
            Shutdown::Crash | Shutdown::NotPersisted if after_crash == AfterCrash::Forget => {
                tracing::warn!(
                    "the previous gateway did not shut down cleanly: its counts are forgotten, as after_crash says"
                );
                return Loaded { snapshot: Snapshot::default(), end: Shutdown::Orderly, seed, continuation: None };
            }
            Shutdown::Crash => {
                tracing::warn!(
                    "the previous gateway did not shut down cleanly: windows of up to 10 s count as full for their span"
                );
            }
            Shutdown::NotPersisted => tracing::warn!(
                "the previous gateway could not write its counts and did not shut down cleanly: all windows count as full for their span"
            ),
        }
        Loaded { snapshot, end, seed, continuation }
    }

    /// Renames an unusable file, so that it can be examined later.
    ///
    /// Replaces the file that was set aside before.
    ///
    /// # Errors
    /// [`Error::Unusable`] if the system refuses.
    pub(super) fn set_aside(&self) -> Result<(), Error> {
        let (from, to) = (self.file(), self.dir.join(format!("{FILE}.unread")));
        fs::rename(&from, to).map_err(|why| Error::Unusable { path: from, why })
    }

    /// True if the folder is marked as complete.
    pub(super) fn is_complete(&self) -> bool {
        self.dir.join(COMPLETE_MARK).exists()
    }

    /// Marks the file as complete: it holds all counts that had to be written.
    ///
    /// Returns after the mark is on the disk (`fsync` of the folder).
    ///
    /// # Errors
    /// If the system refuses; the mark may exist or not then.
    pub(super) fn mark_complete(&self) -> io::Result<()> {
        Handle::create(self.dir.join(COMPLETE_MARK))?;
        Handle::open(&self.dir)?.sync_all()
    }

    /// Marks the file as incomplete: it does not hold all counts, or soon will not. The mark is a removal, since
    /// removing a file needs no space on a full disk.
    ///
    /// Returns after the removal is on the disk, also if there was no mark.
    ///
    /// # Errors
    /// If the system refuses, as on a read-only disk.
    pub(super) fn mark_incomplete(&self) -> io::Result<()> {
        mutant!("a disk that fails keeps its mark", return Ok(()));
        match fs::remove_file(self.dir.join(COMPLETE_MARK)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Handle::open(&self.dir)?.sync_all(),
        }
    }
}

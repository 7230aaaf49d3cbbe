//! State folder: who has it, what is in it, and whether that is all.

use std::fs::{self, DirBuilder, File as Handle, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::database::LoadedFile;
use super::{Error, Loaded};
use crate::locker::{Shutdown, Snapshot};

/// The file in the folder.
pub(super) const FILE: &str = "journal.redb";
/// Whoever holds a lock on it has the folder; it says who that is.
pub(super) const LOCK: &str = "lock";
/// How often, and how far apart, it is tried to lock it.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// As long as it is there, the file holds all that had to be written before it was used.
pub(super) const WHOLE: &str = "whole";

/// The paths in the folder, and the lock on it.
pub(super) struct StateFolder {
    pub(super) dir: PathBuf,
    /// Held as long as this is open, here or in a process that it was passed to.
    pub(super) lock: Mutex<Option<Handle>>,
}

/// A process that has just ended may be survived for a moment by one that it had begun to start.
fn lock_soon(lock: &Handle) -> Result<(), TryLockError> {
    for _ in 0..LOCK_TRIES {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            tried => return tried,
        }
    }
    lock.try_lock()
}

impl StateFolder {
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
                // It may be about to write it.
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

    /// The folder whose lock this is.
    pub(super) fn from_lock(dir: &Path, lock: Handle) -> StateFolder {
        StateFolder { dir: dir.to_owned(), lock: Mutex::new(Some(lock)) }
    }

    /// Writes this process's number into the lock's file: for operators, and for `kill -USR2`. The lock is what counts.
    pub(super) fn name_holder(&self) {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lock) = &mut *lock else { return };
        let told = lock.set_len(0).and_then(|()| lock.rewind());
        if let Err(error) = told.and_then(|()| writeln!(lock, "{}", std::process::id())) {
            tracing::debug!(%error, "the state folder does not say whose it is");
        }
    }

    pub(super) fn unlock(&self) {
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn file(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// What is believed of what was found.
    pub(super) fn loaded(&self, found: LoadedFile, forgets: bool) -> Loaded {
        let LoadedFile { seed, stopped, snapshot } = found;
        let end = match stopped {
            true => Shutdown::Orderly,
            false if self.is_complete() => Shutdown::Crash,
            false => Shutdown::NotPersisted,
        };
        match end {
            Shutdown::HandOver | Shutdown::Orderly => {}
            Shutdown::Crash | Shutdown::NotPersisted if forgets => {
                tracing::warn!(
                    "the gateway before did not stop in order: what it counted is forgotten, as after_crash says"
                );
                return Loaded { snapshot: Snapshot::default(), end: Shutdown::Orderly, seed };
            }
            Shutdown::Crash => {
                tracing::warn!(
                    "the gateway before did not stop in order: windows of up to 10 s count as full for their span"
                );
            }
            Shutdown::NotPersisted => tracing::warn!(
                "the gateway before could not write what it counted, and did not stop in order: all windows count as full for their span"
            ),
        }
        Loaded { snapshot, end, seed }
    }

    /// The file that cannot be used is kept for whoever wants to look at it.
    pub(super) fn set_aside(&self) -> Result<(), Error> {
        let (from, to) = (self.file(), self.dir.join(format!("{FILE}.unread")));
        fs::rename(&from, to).map_err(|why| Error::Unusable { path: from, why })
    }

    pub(super) fn is_complete(&self) -> bool {
        self.dir.join(WHOLE).exists()
    }

    /// What is written is all that had to be.
    pub(super) fn mark_complete(&self) -> io::Result<()> {
        Handle::create(self.dir.join(WHOLE))?;
        Handle::open(&self.dir)?.sync_all()
    }

    /// What is written is not all, or soon will not be. To remove a file takes no room on a disk that is full.
    pub(super) fn mark_incomplete(&self) -> io::Result<()> {
        match fs::remove_file(self.dir.join(WHOLE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Handle::open(&self.dir)?.sync_all(),
        }
    }
}

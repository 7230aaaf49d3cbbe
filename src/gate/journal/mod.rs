//! Persistence of the counts: a write-ahead journal in the state folder, written by its own thread.
//!
//! The gate never waits for the disk. The locker names the windows to write, ahead of their use,
//! and is told when they are on the disk.
//!
//! A disk that cannot be written blocks no request as long as the folder can be marked as
//! incomplete: the gateway continues without persistence, reports that, and after a crash the file
//! is not trusted. If not even the mark can be removed (the disk has become read-only), a crash
//! could not be distinguished from one that has lost nothing, and no note elsewhere survives a
//! container or a reboot as the disk does. Then slots of long windows wait until they can be
//! written.
//!
//! The journal never shares its folder: a lock admits one gateway at a time.

mod base;
pub(super) mod boot_time;
pub(super) mod codec;
mod codec_v1;
mod database;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod head_table;
mod records;
mod start_stop;
mod state_folder;
#[cfg(test)]
mod tests;
mod window_pack;
mod writer;

use std::ffi::OsStr;
use std::fs::File as Handle;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ring::rand::{SecureRandom, SystemRandom};

use self::database::{Continuation, File};
use self::state_folder::{COMPLETE_MARK, FILE, LOCK, StateFolder};
use super::clock::Clock;
use super::thread_signal::ThreadSignal;
use crate::locker::{Shutdown, Snapshot};

/// Names of the files in the state folder.
///
/// The database, the lock, and the mark that the counts are complete; besides, an unusable database
/// is kept as `journal.redb.unread`.
pub const FILES: [&str; 3] = [FILE, LOCK, COMPLETE_MARK];

/// Settings of persistence: `[state]` of the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Path of the state folder; created if missing. A new folder has mode 0700.
    pub dir: PathBuf,
    /// State that a start after a crash begins with.
    pub after_crash: AfterCrash,
}

/// State that a start after a crash begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterCrash {
    /// The counts written last; windows too short to be written count as full. Never grants too
    /// much after a crash.
    Remember,
    /// No counts. A crash may let the limits be exceeded once.
    Forget,
}

/// Reason why the counts cannot be loaded or persisted. `Display` names the problem, the path and
/// the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be created or used. Fault of the environment.
    #[error(
        "{} cannot be used: {why}; {}. With after_crash = \"forget\" in [state] the gateway runs without it, and a restart \
         forgets what was counted",
        named(path),
        remedy(why)
    )]
    Unusable {
        /// Path of the folder, or of the file in it.
        path: PathBuf,
        /// Error of the system.
        why: io::Error,
    },
    /// Another gateway uses the folder.
    #[error(
        "the state folder {} is in use by another gateway{}: two would allow twice as many requests. Stop that one (one of \
         `lockgate exec` ends by itself within a minute after its last program), or give this one a folder of its own in \
         [state] dir", absolute(dir).display(), holder.as_ref().map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Held {
        /// Path of the folder.
        dir: PathBuf,
        /// Process id of the other gateway, if it has written it.
        holder: Option<String>,
    },
    /// The file is damaged, or not a lockgate file.
    #[error(
        "{} cannot be read: {why}. Its counts cannot be used: move the file away to start without them, or set \
         after_crash = \"forget\" in [state] to have that done", path.display()
    )]
    Damaged {
        /// Path of the file.
        path: PathBuf,
        /// Description of the damage.
        why: String,
    },
    /// The file was written by a later version of lockgate.
    #[error(
        "{} was written by a newer lockgate. Run that one; or move the file away to start without its counts, or set \
         after_crash = \"forget\" in [state] to have that done", path.display()
    )]
    Newer {
        /// Path of the file.
        path: PathBuf,
    },
    /// The system provides no random numbers or threads.
    #[error("cannot persist counts: {0}")]
    System(io::Error),
}

impl Error {
    /// Maps an error of the database.
    ///
    /// [`Error::Unusable`] for an error of the system, [`Error::Damaged`] for everything else.
    fn of_file(path: &Path, error: redb::Error) -> Error {
        if let redb::Error::Io(why) = error {
            // The database reports a file of another format as `InvalidData`.
            if why.kind() != io::ErrorKind::InvalidData {
                return Error::Unusable { path: path.to_owned(), why };
            }
            return damaged(path, &why.to_string());
        }
        damaged(path, &error.to_string())
    }
}

/// Describes the state folder, or the file in it, for a message.
fn named(path: &Path) -> String {
    let path = absolute(path);
    let file = path.file_name().and_then(OsStr::to_str).filter(|name| FILES.contains(name));
    match (file, path.parent()) {
        (Some(file), Some(dir)) => format!("{file} in the state folder {}", dir.display()),
        _ => format!("the state folder {}", path.display()),
    }
}

/// Path from the root, since a relative one means little in the log of a service. As given if the
/// working directory is unknown.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Remedy for a folder that cannot be used.
///
/// A clause in the imperative, for the middle of a message.
fn remedy(why: &io::Error) -> &'static str {
    match why.kind() == io::ErrorKind::AlreadyExists || why.kind() == io::ErrorKind::NotADirectory {
        true => {
            "a file is in its place, or in that of a folder above it: move it away, or name another folder in [state] dir"
        }
        false => "let the gateway's user write there, or name another folder in [state] dir",
    }
}

/// Error of a damaged file.
fn damaged(path: &Path, why: &str) -> Error {
    Error::Damaged { path: path.to_owned(), why: why.to_owned() }
}

/// State of persistence, as reported to operators.
///
/// Shown by the admin API and as a metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JournalHealth {
    /// No persistence: not configured, or the folder cannot be used and `after_crash` is "forget".
    Off,
    /// Slots of long limits (over 10 s) are on the disk before they are used.
    Ok,
    /// The disk cannot be written, or is being caught up: after a crash now all windows would count
    /// as full.
    Degraded,
    /// The disk can neither be written nor marked as incomplete: long windows grant only what is
    /// written.
    Blocked,
}

/// State of the file relative to the counts in use.
///
/// Changes between its states:
///
/// - Start: `Degraded`, then `Complete` after all counts are written.
/// - Failed write: `Degraded`, or `Blocked` if the mark cannot be removed.
/// - Recovery: `CatchingUp`, then `Complete` after the last count is written; or `Complete` at once
///   if the mark still holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum DiskState {
    /// The file holds all counts in use, and is written ahead of their use.
    Complete,
    /// The file is written, but does not hold all counts in use yet; the folder is marked as
    /// incomplete.
    CatchingUp,
    /// The file is closed: writing failed, or has not begun. The folder is marked as incomplete.
    Degraded,
    /// The file is closed and the mark cannot be removed: only slots that it holds are used.
    Blocked,
}

/// Extent of the file: all counts that a start after a crash needs, or fewer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Coverage {
    /// It does.
    Complete,
    /// Some slots in use are not written.
    Incomplete,
}

/// Relation of the old process's limits to those of this one, at an upgrade.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OldLimits {
    /// The file names all limits of this process, as they are.
    Same,
    /// Some are new or have changed: their windows may have no record, or one that says too little.
    Other,
}

/// Journal of the counts, in the state folder.
pub(super) struct Journal {
    /// Open database; `None` while it cannot be written. Closed before the folder is unlocked.
    file: Mutex<Option<File>>,
    /// State of the file, set by the writer and read by reports.
    disk_state: Mutex<DiskState>,
    /// Lock and completeness mark of the folder.
    folder: StateFolder,
    /// Treatment of the counts after a crash.
    after_crash: AfterCrash,
    /// True if the old process of an upgrade used the same folder.
    continues: bool,
    /// The gate's clock, for the times in the file.
    clock: Clock,
    /// Seed of the hash of keys and callers.
    seed: [u8; 16],
    /// Present if the start may go on with the file as it is. Taken by the start.
    continuation: Mutex<Option<Continuation>>,
    /// Wakes the writer thread. Also ends it.
    signal: Arc<ThreadSignal>,
}

/// State restored from an earlier gateway.
pub(super) struct Loaded {
    /// Trusted counts.
    pub(super) snapshot: Snapshot,
    /// End of the earlier gateway, which decides how far its counts are trusted.
    pub(super) end: Shutdown,
    /// Seed of the hash of keys and callers.
    pub(super) seed: [u8; 16],
    /// Present if the start may go on with the file as it is.
    continuation: Option<Continuation>,
}

impl Loaded {
    /// State of a first start: no counts, a random seed.
    ///
    /// # Errors
    /// [`Error::System`] if the system has no random numbers.
    pub(super) fn none() -> Result<Loaded, Error> {
        let mut seed = [0; 16];
        let random = SystemRandom::new().fill(&mut seed);
        random.map_err(|_| Error::System(io::Error::other("the system has no random numbers")))?;
        Ok(Loaded { snapshot: Snapshot::default(), end: Shutdown::Orderly, seed, continuation: None })
    }
}

impl Journal {
    /// Locks the folder, and loads its counts. Returns no journal if the folder cannot be used and
    /// `after_crash` is "forget".
    ///
    /// # Errors
    /// See [`Error`]. [`Error::Held`] always fails the start, also with `after_crash = "forget"`.
    pub(super) fn open(settings: &Settings, clock: Clock) -> Result<(Option<Journal>, Loaded), Error> {
        let after_crash = settings.after_crash;
        let folder = match StateFolder::lock(&settings.dir) {
            Err(error @ Error::Unusable { .. }) if after_crash == AfterCrash::Forget => {
                tracing::warn!("{error}");
                return Ok((None, Loaded::none()?));
            }
            locked => locked?,
        };
        let (file, found) = match File::open(&folder.file(), &clock) {
            Err(error @ (Error::Damaged { .. } | Error::Newer { .. })) if after_crash == AfterCrash::Forget => {
                tracing::warn!("{error}");
                folder.set_aside()?;
                File::open(&folder.file(), &clock)?
            }
            opened => opened?,
        };
        let loaded = match found {
            None => Loaded::none()?,
            Some(found) => folder.loaded(found, after_crash),
        };
        let (seed, continuation, signal) = (loaded.seed, Mutex::new(loaded.continuation), Arc::default());
        let journal = Journal {
            file: Mutex::new(Some(file)),
            disk_state: Mutex::new(DiskState::Degraded),
            folder,
            after_crash,
            continues: false,
            clock,
            seed,
            continuation,
            signal,
        };
        Ok((Some(journal), loaded))
    }

    /// Takes over the journal of the old process; `lock` is the lock of its folder, if that is the
    /// same folder. The old process keeps the file open until [`Journal::continue_from`].
    ///
    /// # Errors
    /// If another folder is configured and cannot be locked.
    pub(super) fn adopt(
        settings: &Settings,
        lock: Option<Handle>,
        seed: [u8; 16],
        clock: Clock,
    ) -> Result<Journal, Error> {
        let (continues, after_crash) = (lock.is_some(), settings.after_crash);
        let folder = match lock {
            Some(lock) => StateFolder::from_lock(&settings.dir, lock),
            None => StateFolder::lock(&settings.dir)?,
        };
        let (file, disk_state) = (Mutex::new(None), Mutex::new(DiskState::Degraded));
        let (continuation, signal) = (Mutex::default(), Arc::default());
        Ok(Journal { file, disk_state, folder, after_crash, continues, clock, seed, continuation, signal })
    }

    /// Path of the folder, and a copy of its lock to pass to another process.
    ///
    /// The copy keeps the folder locked after this process has unlocked it.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub(super) fn for_handover(&self) -> io::Result<(&Path, Option<Handle>)> {
        let lock = self.folder.lock.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((&self.folder.dir, lock.as_ref().map(Handle::try_clone).transpose()?))
    }

    /// Signal to notify when there are windows to write.
    pub(super) fn signal(&self) -> Arc<ThreadSignal> {
        Arc::clone(&self.signal)
    }

    /// State of persistence, for reports.
    ///
    /// Takes no gate lock and does no I/O.
    pub(super) fn health(&self) -> JournalHealth {
        match self.disk_state() {
            DiskState::Complete => JournalHealth::Ok,
            DiskState::CatchingUp | DiskState::Degraded => JournalHealth::Degraded,
            DiskState::Blocked => JournalHealth::Blocked,
        }
    }

    /// Present state; a poisoned lock is used on, since the value is always valid.
    fn disk_state(&self) -> DiskState {
        *self.disk_state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the state that reports show and that the writer thread acts on.
    fn set_disk_state(&self, disk_state: DiskState) {
        *self.disk_state.lock().unwrap_or_else(PoisonError::into_inner) = disk_state;
    }
}

//! What must outlive a crash: a file in a folder of the gateway's own, written by a thread of its own.
//!
//! The gate never waits for it: the locker names what is to be written, ahead of its use, and is told when it is on the
//! disk. A disk that cannot be written stops nobody as long as the folder can be marked: the gateway goes on without, says so,
//! and after a crash what is written is not believed. Where not even the mark can be taken away (a disk that has become
//! read-only) a crash could not be told from one that has lost nothing, and no note elsewhere outlives a container or a
//! boot as the disk does: then slots of long windows wait until they can be written. One gateway at a time has the folder.

pub(super) mod boot_time;
pub(super) mod codec;
mod codec_v1;
mod database;
mod records;
mod state_folder;
#[cfg(test)]
mod tests;
mod writer;

use std::ffi::OsStr;
use std::fs::File as Handle;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ring::rand::{SecureRandom, SystemRandom};

use self::database::File;
use self::state_folder::{FILE, LOCK, StateFolder, WHOLE};
use super::clock::Clock;
use super::thread_signal::ThreadSignal;
use crate::locker::{Shutdown, Snapshot};

/// What is written in the folder.
pub const FILES: [&str; 3] = [FILE, LOCK, WHOLE];

/// What must outlive a restart, and what becomes of it; the `[state]` of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The folder. It is made if need be.
    pub dir: PathBuf,
    /// What is believed after a crash.
    pub after_crash: AfterCrash,
}

/// What is believed after a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterCrash {
    /// What was written down, and that windows too short for that are full.
    Remember,
    /// That nothing was counted.
    Forget,
}

/// Why what was counted cannot be known. `Display` says what is wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be made or used.
    #[error(
        "{} cannot be used: {why}; {}. With after_crash = \"forget\" in [state] the gateway runs without it, and a restart \
         forgets what was counted",
        named(path),
        remedy(why)
    )]
    Unusable {
        /// The folder, or the file in it.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// Another gateway has it.
    #[error(
        "the state folder {} is another gateway's{}: two would let twice as much go. Stop that one, or give this one a \
         folder of its own in [state] dir", dir.display(), holder.as_ref().map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Held {
        /// The folder.
        dir: PathBuf,
        /// The process that has it, if it says so.
        holder: Option<String>,
    },
    /// The file is damaged, or somebody else's.
    #[error(
        "{} cannot be read: {why}. What was counted is not known: move the file away to begin anew, or say \
         after_crash = \"forget\" in [state] to have that done", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file was written by a later version.
    #[error(
        "{} was written by a newer lockgate. Run that one; or move the file away to begin anew, or say \
         after_crash = \"forget\" in [state] to have that done", path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
    },
    /// There are no random numbers or threads to be had.
    #[error("what is counted cannot be kept: {0}")]
    System(io::Error),
}

impl Error {
    /// What the library says of the file.
    fn of_file(path: &Path, error: redb::Error) -> Error {
        if let redb::Error::Io(why) = error {
            // That is how it calls what is none of its files.
            if why.kind() != io::ErrorKind::InvalidData {
                return Error::Unusable { path: path.to_owned(), why };
            }
            return damaged(path, &why.to_string());
        }
        damaged(path, &error.to_string())
    }
}

/// The state folder, or the file in it.
fn named(path: &Path) -> String {
    let file = path.file_name().and_then(OsStr::to_str).filter(|name| FILES.contains(name));
    match (file, path.parent()) {
        (Some(file), Some(dir)) => format!("{file} in the state folder {}", dir.display()),
        _ => format!("the state folder {}", path.display()),
    }
}

/// What an operator can do about a folder that cannot be used.
fn remedy(why: &io::Error) -> &'static str {
    match why.kind() == io::ErrorKind::AlreadyExists || why.kind() == io::ErrorKind::NotADirectory {
        true => {
            "a file is in its place, or in that of a folder above it: move it away, or name another folder in [state] dir"
        }
        false => "let the gateway's user write there, or name another folder in [state] dir",
    }
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::Damaged { path: path.to_owned(), why: why.to_owned() }
}

/// How what is counted is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JournalHealth {
    /// It is not: nothing was asked for, or the folder cannot be used and need not be.
    Off,
    /// It is on the disk before it is used.
    Ok,
    /// The disk cannot be written, or it is written anew: after a crash now all windows would count as full.
    Degraded,
    /// The disk can neither be written nor marked as incomplete: long windows give out only what is written.
    Blocked,
}

/// What the file is worth, and what is done about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum DiskState {
    /// It holds all that is used, and is written.
    Complete,
    /// It is written, and will hold all that is used; the folder says that it does not yet.
    CatchingUp,
    /// It cannot be written, or is not yet; the folder says that it does not hold all.
    Degraded,
    /// It can neither be written nor marked so: nothing is used that it does not hold.
    Blocked,
}

/// The folder, and what is written in it.
pub(super) struct Journal {
    /// `None` while it cannot be written. It is closed before the folder is let go.
    file: Mutex<Option<File>>,
    disk_state: Mutex<DiskState>,
    folder: StateFolder,
    /// Whether nothing is believed after a crash.
    forgets: bool,
    /// Whether the process before this one wrote in the same folder until now.
    continues: bool,
    clock: Clock,
    /// What keys are hashed with.
    seed: [u8; 16],
    signal: Arc<ThreadSignal>,
}

/// What an earlier gateway has left.
pub(super) struct Loaded {
    pub(super) snapshot: Snapshot,
    pub(super) end: Shutdown,
    pub(super) seed: [u8; 16],
}

impl Loaded {
    /// Nobody was there before.
    pub(super) fn none() -> Result<Loaded, Error> {
        let mut seed = [0; 16];
        let random = SystemRandom::new().fill(&mut seed);
        random.map_err(|_| Error::System(io::Error::other("the system has no random numbers")))?;
        Ok(Loaded { snapshot: Snapshot::default(), end: Shutdown::Orderly, seed })
    }
}

impl Journal {
    /// Takes the folder, and reads what is in it. `None`: it cannot be used, and need not be.
    pub(super) fn open(settings: &Settings, clock: Clock) -> Result<(Option<Journal>, Loaded), Error> {
        let forgets = settings.after_crash == AfterCrash::Forget;
        let folder = match StateFolder::lock(&settings.dir) {
            Err(error @ Error::Unusable { .. }) if forgets => {
                tracing::warn!("{error}");
                return Ok((None, Loaded::none()?));
            }
            taken => taken?,
        };
        let (file, found) = match File::open(&folder.file(), &clock) {
            Err(error @ (Error::Damaged { .. } | Error::Newer { .. })) if forgets => {
                tracing::warn!("{error}");
                folder.set_aside()?;
                File::open(&folder.file(), &clock)?
            }
            opened => opened?,
        };
        let loaded = match found {
            None => Loaded::none()?,
            Some(found) => folder.loaded(found, forgets),
        };
        let (seed, signal) = (loaded.seed, Arc::default());
        let journal = Journal {
            file: Mutex::new(Some(file)),
            disk_state: Mutex::new(DiskState::Degraded),
            folder,
            forgets,
            continues: false,
            clock,
            seed,
            signal,
        };
        Ok((Some(journal), loaded))
    }

    /// Another process's journal, whose folder's lock was passed to this one if `lock` is something. The file is still that
    /// one's; see [`Journal::continue_from`].
    pub(super) fn adopt(
        settings: &Settings,
        lock: Option<Handle>,
        seed: [u8; 16],
        clock: Clock,
    ) -> Result<Journal, Error> {
        let (continues, forgets) = (lock.is_some(), settings.after_crash == AfterCrash::Forget);
        let folder = match lock {
            Some(lock) => StateFolder::from_lock(&settings.dir, lock),
            None => StateFolder::lock(&settings.dir)?,
        };
        let (file, disk_state) = (Mutex::new(None), Mutex::new(DiskState::Degraded));
        Ok(Journal { file, disk_state, folder, forgets, continues, clock, seed, signal: Arc::default() })
    }

    /// The folder, and its lock for another process.
    pub(super) fn for_handover(&self) -> io::Result<(&Path, Option<Handle>)> {
        let lock = self.folder.lock.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((&self.folder.dir, lock.as_ref().map(Handle::try_clone).transpose()?))
    }

    /// What is rung when there is something to be written.
    pub(super) fn signal(&self) -> Arc<ThreadSignal> {
        Arc::clone(&self.signal)
    }

    /// Whether what is counted is on the disk before it is used.
    pub(super) fn health(&self) -> JournalHealth {
        match self.disk_state() {
            DiskState::Complete => JournalHealth::Ok,
            DiskState::CatchingUp | DiskState::Degraded => JournalHealth::Degraded,
            DiskState::Blocked => JournalHealth::Blocked,
        }
    }

    fn disk_state(&self) -> DiskState {
        *self.disk_state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_disk_state(&self, disk_state: DiskState) {
        *self.disk_state.lock().unwrap_or_else(PoisonError::into_inner) = disk_state;
    }
}

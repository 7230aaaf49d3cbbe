//! What must outlive a crash: a file in a folder of the gateway's own, written by a thread of its own.
//!
//! The gate never waits for it: the locker names what is to be written, ahead of its use, and is told when it is on the
//! disk. A disk that cannot be written stops nobody: the gateway goes on without, says so, and notes that what is written
//! is not all. One gateway at a time has the folder.

mod file;
pub(super) mod form;
mod form_1;
#[cfg(test)]
mod tests;
pub(super) mod when;
mod writer;

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File as Handle, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

use self::file::{File, Found};
use super::bell::Bell;
use super::clock::Clock;
use crate::locker::{End, Estate};

/// The file in the folder.
const FILE: &str = "journal.redb";
/// Whoever holds a lock on it has the folder; it says who that is.
const LOCK: &str = "lock";
/// How often, and how far apart, it is tried to lock it.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// As long as it is there, the file holds all that had to be written before it was used.
const WHOLE: &str = "whole";

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
pub enum Health {
    /// It is not: nothing was asked for, or the folder cannot be used and need not be.
    Off,
    /// It is on the disk before it is used.
    Whole,
    /// The disk cannot be written: after a crash all windows count as full.
    Blind,
}

/// The folder, and what is written in it.
pub(super) struct Journal {
    /// `None` while it cannot be written. It is closed before the folder is let go.
    file: Mutex<Option<File>>,
    folder: Folder,
    clock: Clock,
    /// What keys are hashed with.
    seed: [u8; 16],
    bell: Arc<Bell>,
}

/// The paths in the folder, and the lock on it.
struct Folder {
    dir: PathBuf,
    /// Held as long as this is open, here or in a process that it was passed to.
    lock: Mutex<Option<Handle>>,
}

/// What an earlier gateway has left.
pub(super) struct Legacy {
    pub(super) estate: Estate,
    pub(super) end: End,
    pub(super) seed: [u8; 16],
}

impl Legacy {
    /// Nobody was there before.
    pub(super) fn none() -> Result<Legacy, Error> {
        let mut seed = [0; 16];
        let random = SystemRandom::new().fill(&mut seed);
        random.map_err(|_| Error::System(io::Error::other("the system has no random numbers")))?;
        Ok(Legacy { estate: Estate::default(), end: End::Orderly, seed })
    }
}

impl Journal {
    /// Takes the folder, and reads what is in it. `None`: it cannot be used, and need not be.
    pub(super) fn open(settings: &Settings, clock: Clock) -> Result<(Option<Journal>, Legacy), Error> {
        let forgets = settings.after_crash == AfterCrash::Forget;
        let folder = match Folder::take(&settings.dir) {
            Err(error @ Error::Unusable { .. }) if forgets => {
                tracing::warn!("{error}");
                return Ok((None, Legacy::none()?));
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
        let legacy = match found {
            None => Legacy::none()?,
            Some(found) => folder.legacy(found, forgets),
        };
        let (seed, bell) = (legacy.seed, Arc::default());
        Ok((Some(Journal { file: Mutex::new(Some(file)), folder, clock, seed, bell }), legacy))
    }

    /// Another process's journal, whose folder's lock was passed to this one if `lock` is something. The file is still that
    /// one's; see [`Journal::take_up`].
    pub(super) fn adopt(
        settings: &Settings,
        lock: Option<Handle>,
        seed: [u8; 16],
        clock: Clock,
    ) -> Result<Journal, Error> {
        let folder = match lock {
            Some(lock) => Folder::held(&settings.dir, lock),
            None => Folder::take(&settings.dir)?,
        };
        Ok(Journal { file: Mutex::new(None), folder, clock, seed, bell: Arc::default() })
    }

    /// The folder, and its lock for another process.
    pub(super) fn to_pass(&self) -> io::Result<(&Path, Option<Handle>)> {
        let lock = self.folder.lock.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((&self.folder.dir, lock.as_ref().map(Handle::try_clone).transpose()?))
    }

    /// What is rung when there is something to be written.
    pub(super) fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// Whether what is counted is on the disk before it is used.
    pub(super) fn health(&self) -> Health {
        if self.file.lock().unwrap_or_else(PoisonError::into_inner).is_some() { Health::Whole } else { Health::Blind }
    }
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

impl Folder {
    fn take(dir: &Path) -> Result<Folder, Error> {
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
        let folder = Folder::held(dir, lock);
        folder.name_holder();
        Ok(folder)
    }

    /// The folder whose lock this is.
    fn held(dir: &Path, lock: Handle) -> Folder {
        Folder { dir: dir.to_owned(), lock: Mutex::new(Some(lock)) }
    }

    /// Writes this process's number into the lock's file: for operators, and for `kill -USR2`. The lock is what counts.
    fn name_holder(&self) {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lock) = &mut *lock else { return };
        let told = lock.set_len(0).and_then(|()| lock.rewind());
        if let Err(error) = told.and_then(|()| writeln!(lock, "{}", std::process::id())) {
            tracing::debug!(%error, "the state folder does not say whose it is");
        }
    }

    fn let_go(&self) {
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn file(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// What is believed of what was found.
    fn legacy(&self, found: Found, forgets: bool) -> Legacy {
        let Found { seed, stopped, estate } = found;
        let end = match stopped {
            true => End::Orderly,
            false if self.is_whole() => End::Crash,
            false => End::Blind,
        };
        match end {
            End::HandOver | End::Orderly => {}
            End::Crash | End::Blind if forgets => {
                tracing::warn!(
                    "the gateway before did not stop in order: what it counted is forgotten, as after_crash says"
                );
                return Legacy { estate: Estate::default(), end: End::Orderly, seed };
            }
            End::Crash => {
                tracing::warn!(
                    "the gateway before did not stop in order: windows of up to 10 s count as full for their span"
                );
            }
            End::Blind => tracing::warn!(
                "the gateway before could not write what it counted, and did not stop in order: all windows count as full for their span"
            ),
        }
        Legacy { estate, end, seed }
    }

    /// The file that cannot be used is kept for whoever wants to look at it.
    fn set_aside(&self) -> Result<(), Error> {
        let (from, to) = (self.file(), self.dir.join(format!("{FILE}.unread")));
        fs::rename(&from, to).map_err(|why| Error::Unusable { path: from, why })
    }

    fn is_whole(&self) -> bool {
        self.dir.join(WHOLE).exists() && !self.doubt().exists()
    }

    /// What is written is all that had to be.
    fn set_whole(&self) -> io::Result<()> {
        Handle::create(self.dir.join(WHOLE))?;
        match fs::remove_file(self.doubt()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Handle::open(&self.dir)?.sync_all(),
        }
    }

    /// From here on more is used than is written.
    fn set_blind(&self) {
        let removed = match fs::remove_file(self.dir.join(WHOLE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Handle::open(&self.dir).and_then(|dir| dir.sync_all()),
        };
        // A disk that takes nothing at all: then the note is kept in memory that outlives the process.
        if removed.is_err()
            && let Err(error) = Handle::create(self.doubt())
        {
            tracing::error!(%error, "nothing can be noted of that; after a crash the gateway would believe what it reads");
        }
    }

    /// Where it is noted that what is written is not all, if the folder cannot be written.
    fn doubt(&self) -> PathBuf {
        let dir = fs::canonicalize(&self.dir).unwrap_or_else(|_| self.dir.clone());
        let digest = ring::digest::digest(&ring::digest::SHA256, dir.as_os_str().as_encoded_bytes());
        let name: String = digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Path::new("/dev/shm").join(format!("lockgate-blind-{name}"))
    }
}

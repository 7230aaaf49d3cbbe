//! Journal database: a head record and one record per window, in a redb file. Each batch is atomic.
//!
//! The file has two tables:
//!
//! | table | key | value |
//! |---|---|---|
//! | `whole` | `form` | version of the format |
//! | `whole` | `head` | seed, mark of an orderly stop, limits, readings of the wall clock |
//! | `whole` | `written` | moment of the last write |
//! | `pages` | limit name, key | one window |
//!
//! Values are encoded with postcard. The names are part of the format: another name makes a file
//! unreadable.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;

use super::boot_time::{BootStamp, TimeMapping};
use super::codec::{DISK_VERSION, DiskWindow, JournalHead};
use super::codec_v1::{HeadV1, WindowV1};
use super::{Error, damaged};
use crate::gate::clock::Clock;
use crate::locker::{Key, LimitId, Snapshot};

/// Table of the head records, by name.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("whole");
/// Key of the format's version, see [`DISK_VERSION`].
const VERSION_KEY: &str = "form";
/// Key of the [`JournalHead`].
const HEAD: &str = "head";
/// Key of the [`BootStamp`] of the last write.
const WRITTEN: &str = "written";
/// Table of the windows, by the limit's name and the key.
const WINDOWS: TableDefinition<'_, (&str, u128), &[u8]> = TableDefinition::new("pages");

/// Size of the page cache in bytes. Small (the library's default is 1 GiB), since windows are written far more often
/// than they are read.
const CACHE: usize = 8 << 20;

/// Trust in the content of a file that is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Integrity {
    /// The whole file is read and checked.
    Checked,
    /// Another process has closed it a moment ago: only its end is looked at. A file that was not
    /// closed in order is repaired.
    Trusted,
}

/// Open database file.
pub(super) struct File {
    /// redb database.
    database: Database,
    /// Path, for messages.
    path: PathBuf,
}

/// Content of a database file.
pub(super) struct LoadedFile {
    /// Seed of the hash of keys and callers.
    /// The next process continues with it, so that it finds the stored keys.
    pub(super) seed: [u8; 16],
    /// True if the process that wrote it stopped in order.
    pub(super) stopped: bool,
    /// All counts in the file.
    /// Times are converted to this process's clock.
    pub(super) snapshot: Snapshot,
}

impl File {
    /// Opens or creates the file. Returns its content, unless it was created just now.
    ///
    /// # Errors
    /// [`Error::Damaged`] or [`Error::Newer`] for a file that cannot be used, [`Error::Unusable`] if the system
    /// refuses.
    pub(super) fn open(path: &Path, clock: &Clock) -> Result<(File, Option<LoadedFile>), Error> {
        let is_new = fs::metadata(path).map_or(true, |metadata| metadata.len() == 0);
        // The database may panic on a file that another program has written to, as its documentation says.
        let open = || {
            let file = File::open_database(path, Integrity::Checked)?;
            let content = if is_new { None } else { file.read(clock)? };
            Ok((file, content))
        };
        catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| Err(damaged(path, "its contents are inconsistent")))
    }

    /// Opens the file without reading it: it was read before, or is about to be rewritten.
    ///
    /// # Errors
    /// As [`File::open`].
    pub(super) fn reopen(path: &Path, integrity: Integrity) -> Result<File, Error> {
        let open = || File::open_database(path, integrity);
        catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| Err(damaged(path, "its contents are inconsistent")))
    }

    /// Opens or creates the database.
    ///
    /// # Errors
    /// [`Error::Newer`] for a file format of a later redb, [`Error::Unusable`] or
    /// [`Error::Damaged`] otherwise.
    fn open_database(path: &Path, integrity: Integrity) -> Result<File, Error> {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE).set_check_integrity_on_open(integrity == Integrity::Checked);
        match builder.create(path) {
            Ok(database) => Ok(File { database, path: path.to_owned() }),
            Err(redb::DatabaseError::UpgradeRequired(_)) => Err(Error::Newer { path: path.to_owned() }),
            Err(error) => Err(Error::of_file(path, error.into())),
        }
    }

    /// Reads all counts; `None` if nothing was ever written.
    ///
    /// Reads also version 1 of the format. A window of a limit that the head does not name is
    /// skipped.
    ///
    /// # Errors
    /// [`Error::Newer`] for a later version of the format; [`Error::Damaged`] for everything that
    /// cannot be read or decoded.
    fn read(&self, clock: &Clock) -> Result<Option<LoadedFile>, Error> {
        let damage = |error: redb::Error| damaged(&self.path, &error.to_string());
        let transaction = self.database.begin_read().map_err(|error| damage(error.into()))?;
        let meta = match transaction.open_table(META) {
            Ok(table) => table,
            // The process that created it died before it wrote anything.
            Err(redb::TableError::TableDoesNotExist(_)) => return self.check_empty(&transaction),
            Err(error) => return Err(damage(error.into())),
        };
        let version: u32 = self.part(&meta, VERSION_KEY)?;
        if version > DISK_VERSION {
            return Err(Error::Newer { path: self.path.clone() });
        }
        let head: JournalHead =
            if version == 1 { self.part::<HeadV1>(&meta, HEAD)?.into() } else { self.part(&meta, HEAD)? };
        let written: BootStamp = self.part(&meta, WRITTEN)?;
        let mapping = TimeMapping::since(&written, clock);
        let limits: Vec<_> = head.limits.into_iter().map(|known| known.snapshot(mapping)).collect();
        let mut ids = HashMap::new();
        for (id, known) in (0..).map(LimitId).zip(&limits) {
            ids.insert(known.limit.name.to_string(), id);
        }
        let mut windows = Vec::new();
        let table = transaction.open_table(WINDOWS).map_err(|error| damage(error.into()))?;
        for entry in table.range::<(&str, u128)>(..).map_err(|error| damage(error.into()))? {
            let (limit_and_key, window) = entry.map_err(|error| damage(error.into()))?;
            let (name, key) = limit_and_key.value();
            let window = match version {
                1 => postcard::from_bytes(window.value()).map(|window: WindowV1| window.window(&written)),
                _ => postcard::from_bytes(window.value()),
            };
            let window: DiskWindow = window.map_err(|_| damaged(&self.path, "a window record cannot be decoded"))?;
            // Windows of removed limits were left in the file.
            windows.extend(ids.get(name).map(|id| window.window(*id, Key(key), mapping)));
        }
        let readings =
            head.readings.into_iter().map(|reading| reading.reading(mapping)).chain(written.reading(mapping)).collect();
        Ok(Some(LoadedFile {
            seed: head.seed,
            stopped: head.stopped,
            snapshot: Snapshot { limits, windows, readings },
        }))
    }

    /// Decodes one head record.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the record is missing or cannot be decoded; the message names it.
    fn part<T: DeserializeOwned>(
        &self,
        meta: &impl ReadableTable<&'static str, &'static [u8]>,
        name: &str,
    ) -> Result<T, Error> {
        let entry = meta.get(name).map_err(|error| damaged(&self.path, &error.to_string()))?;
        let read = entry.and_then(|bytes| postcard::from_bytes(bytes.value()).ok());
        read.ok_or_else(|| damaged(&self.path, &format!("its {name} cannot be read")))
    }

    /// Returns `None` for a database without tables; any other one is of another program.
    ///
    /// # Errors
    /// [`Error::Damaged`] if there is any table.
    fn check_empty(&self, transaction: &redb::ReadTransaction) -> Result<Option<LoadedFile>, Error> {
        let tables = transaction.list_tables().map_err(|error| damaged(&self.path, &error.to_string()))?;
        if tables.count() == 0 { Ok(None) } else { Err(damaged(&self.path, "it is not a lockgate file")) }
    }

    /// Writes one batch, and returns after it is on the disk.
    ///
    /// Either all of the batch is in the file afterwards or nothing of it, also after a crash.
    ///
    /// # Errors
    /// Errors of `write`, of the system and of the database; the file has its earlier content then.
    pub(super) fn write(
        &self,
        write: impl FnOnce(&mut Batch<'_>) -> Result<(), redb::Error>,
    ) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        write(&mut Batch { transaction: &transaction })?;
        transaction.commit()?;
        Ok(())
    }
}

/// Open transaction.
pub(super) struct Batch<'t> {
    /// Committed by [`File::write`] after the batch was filled.
    transaction: &'t WriteTransaction,
}

impl Batch<'_> {
    /// Writes the head record and the format's version.
    ///
    /// Replaces the earlier one.
    pub(super) fn head(&mut self, head: &JournalHead) -> Result<(), redb::Error> {
        let mut meta = self.transaction.open_table(META)?;
        meta.insert(VERSION_KEY, encode(&DISK_VERSION)?.as_slice())?;
        meta.insert(HEAD, encode(head)?.as_slice())?;
        Ok(())
    }

    /// Writes the time of this batch.
    ///
    /// Needed to convert the times in the file, so each batch contains it.
    pub(super) fn written(&mut self, at: &BootStamp) -> Result<(), redb::Error> {
        self.transaction.open_table(META)?.insert(WRITTEN, encode(at)?.as_slice())?;
        Ok(())
    }

    /// Writes each window, or removes it if `None`.
    ///
    /// Each item is the name of its limit, its key and its content.
    pub(super) fn windows<'p>(
        &mut self,
        windows: impl Iterator<Item = (&'p str, u128, Option<DiskWindow>)>,
    ) -> Result<(), redb::Error> {
        let mut table = self.transaction.open_table(WINDOWS)?;
        for (limit, key, window) in windows {
            match window {
                Some(window) => drop(table.insert((limit, key), encode(&window)?.as_slice())?),
                None => drop(table.remove((limit, key))?),
            }
        }
        Ok(())
    }

    /// Removes all windows.
    ///
    /// Part of the batch: windows put after it are in the file.
    pub(super) fn clear(&mut self) -> Result<(), redb::Error> {
        self.transaction.delete_table(WINDOWS)?;
        Ok(())
    }
}

/// Encodes a value with postcard.
///
/// # Errors
/// An I/O error that wraps the one of postcard.
fn encode(value: &impl serde::Serialize) -> Result<Vec<u8>, redb::Error> {
    postcard::to_stdvec(value).map_err(|error| redb::Error::Io(io::Error::other(error)))
}

//! Journal database: a head record, the windows of one moment in packs, and a row for each window that
//! was written since, in a redb file. Each batch is atomic.
//!
//! The file has three tables:
//!
//! | table | key | value |
//! |---|---|---|
//! | `whole` | `form` | version of the format |
//! | `whole` | `head` | seed, mark of an orderly stop, limits, readings of the wall clock |
//! | `whole` | `written` | moment of the last write |
//! | `whole` | `base` | head of the base; absent without one |
//! | `base` | limit name, number | pack of windows, see `window_pack` |
//! | `pages` | limit name, key | row: one window; it covers the one in the base |
//!
//! Values are encoded with postcard, but for packs. The names are part of the format: another name
//! makes a file unreadable. All times are nanoseconds since the boot of `written`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::hash::{BuildHasherDefault, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;

use super::base::{self, Base};
use super::boot_time::{BootStamp, TimeMapping};
use super::codec::{DISK_VERSION, DiskWindow, JournalHead};
use super::codec_v1::{HeadV1, WindowV1};
use super::head_table::{META, encode};
use super::{Error, damaged};
use crate::gate::clock::Clock;
use crate::locker::{Key, Limit, LimitId, Snapshot, WindowRecord};

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
    /// Present if a process may go on with the file as it is.
    pub(super) continuation: Option<Continuation>,
}

/// Conversion of a file for a process that goes on with it instead of writing all counts anew.
#[derive(Clone, Copy)]
pub(super) struct Continuation {
    /// Mapping by which the file was read, if it was written in another boot of the machine.
    pub(super) rebase: Option<TimeMapping>,
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

    /// Opens a database on a simulated disk.
    #[cfg(test)]
    pub(super) fn on_disk(disk: impl redb::StorageBackend, path: &Path) -> File {
        let database = Builder::new().set_cache_size(CACHE).create_with_backend(disk).unwrap();
        File { database, path: path.to_owned() }
    }

    /// Reads all counts; `None` if nothing was ever written.
    ///
    /// Reads also earlier versions of the format. A window of a limit that the head does not name is
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
        let ids: HashMap<_, _> = (0..).map(LimitId).zip(&limits).map(|(id, known)| (&*known.limit.name, id)).collect();
        let mut windows = self.rows(&transaction, &ids, |window| {
            let window = match version {
                1 => postcard::from_bytes(window).map(|window: WindowV1| window.window(&written)),
                _ => postcard::from_bytes(window),
            };
            window.map(|window| (window, mapping))
        })?;
        let is_resumable = version == DISK_VERSION && head.stopped && windows.is_empty();
        // The store counts the windows of shared limits: those in the base are known after an orderly stop only.
        let in_base = |id: &LimitId| head.stopped || !limits[id.0 as usize].limit.shared;
        self.base(&transaction, mapping, |name| ids.get(name).copied().filter(in_base), &mut windows)?;
        let readings =
            head.readings.into_iter().map(|reading| reading.reading(mapping)).chain(written.reading(mapping)).collect();
        let rebase = (!written.is_of_this_boot()).then_some(mapping);
        Ok(Some(LoadedFile {
            seed: head.seed,
            stopped: head.stopped,
            snapshot: Snapshot { limits, windows, readings },
            continuation: is_resumable.then_some(Continuation { rebase }),
        }))
    }

    /// Reads all rows. `ids`: limits by name; windows of others were left in the file by removed limits.
    ///
    /// # Errors
    /// [`Error::Damaged`] for what cannot be read or decoded.
    fn rows(
        &self,
        transaction: &redb::ReadTransaction,
        ids: &HashMap<&str, LimitId>,
        decode: impl Fn(&[u8]) -> postcard::Result<(DiskWindow, TimeMapping)>,
    ) -> Result<Vec<WindowRecord>, Error> {
        let damage = |error: redb::Error| damaged(&self.path, &error.to_string());
        let mut windows = Vec::new();
        let table = transaction.open_table(WINDOWS).map_err(|error| damage(error.into()))?;
        for entry in table.range::<(&str, u128)>(..).map_err(|error| damage(error.into()))? {
            let (limit_and_key, window) = entry.map_err(|error| damage(error.into()))?;
            let (name, key) = limit_and_key.value();
            let (window, mapping) =
                decode(window.value()).map_err(|_| damaged(&self.path, "a window record cannot be decoded"))?;
            windows.extend(ids.get(name).map(|id| window.window(*id, Key(key), mapping)));
        }
        Ok(windows)
    }

    /// Adds the windows of the base, if there is one, that no row of `windows` covers.
    ///
    /// # Errors
    /// [`Error::Damaged`] for what cannot be read or decoded.
    fn base(
        &self,
        transaction: &redb::ReadTransaction,
        mapping: TimeMapping,
        limit: impl Fn(&str) -> Option<LimitId>,
        windows: &mut Vec<WindowRecord>,
    ) -> Result<(), Error> {
        let read = || {
            let Some(head) = base::head(&transaction.open_table(META)?)? else { return Ok(()) };
            let covered: HashSet<_, BuildHasherDefault<WindowKeyHasher>> =
                windows.iter().map(|window| (window.limit, window.key)).collect();
            base::read(transaction, &head, mapping, limit, |window| {
                if covered.is_empty() || !covered.contains(&(window.limit, window.key)) {
                    windows.push(window);
                }
            })
        };
        read().map_err(|error: redb::Error| damaged(&self.path, &error.to_string()))
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

    /// Writes one batch, and returns what `write` does, after it is on the disk.
    ///
    /// Either all of the batch is in the file afterwards or nothing of it, also after a crash.
    ///
    /// # Errors
    /// Errors of `write`, of the system and of the database; the file has its earlier content then.
    pub(super) fn write<R>(
        &self,
        write: impl FnOnce(&mut Batch<'_>) -> Result<R, redb::Error>,
    ) -> Result<R, redb::Error> {
        let transaction = self.database.begin_write()?;
        let written = write(&mut Batch { transaction: &transaction })?;
        transaction.commit()?;
        Ok(written)
    }
}

/// Hash of limit and key: the key is a hash already, made with a secret seed.
#[derive(Default)]
struct WindowKeyHasher(u64);

impl Hasher for WindowKeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u32(&mut self, limit: u32) {
        self.write_u64(u64::from(limit));
    }

    fn write_u64(&mut self, part: u64) {
        self.0 = (self.0.rotate_left(5) ^ part).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_u128(&mut self, key: u128) {
        self.write_u64(base::low_word(key));
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

    /// Writes a row for each window, or removes all of it if `None`.
    ///
    /// Each item is the name of its limit, its key and its content.
    pub(super) fn windows<'p>(
        &mut self,
        windows: impl Iterator<Item = (&'p str, u128, Option<DiskWindow>)>,
    ) -> Result<(), redb::Error> {
        let mut dropped = Vec::new();
        let mut table = self.transaction.open_table(WINDOWS)?;
        for (limit, key, window) in windows {
            match window {
                Some(window) => drop(table.insert((limit, key), encode(&window)?.as_slice())?),
                None => {
                    table.remove((limit, key))?;
                    dropped.push((limit, key));
                }
            }
        }
        if dropped.is_empty() { Ok(()) } else { base::remove_windows(self.transaction, &dropped) }
    }

    /// Writes all windows as the base. Rows stay.
    ///
    /// `limits`: all limits by their id.
    pub(super) fn base(&mut self, base: &Base, limits: &[&Limit], mapping: TimeMapping) -> Result<(), redb::Error> {
        base.write(self.transaction, |id| &*limits[id.0 as usize].name, mapping)
    }

    /// Moves the times of the base to the present boot of the machine; `since`: mapping by which they
    /// were read.
    pub(super) fn rebase(&mut self, since: TimeMapping, here: TimeMapping) -> Result<(), redb::Error> {
        base::rebase(self.transaction, since, here)
    }

    /// Removes all windows.
    ///
    /// Part of the batch: windows put after it are in the file.
    pub(super) fn clear(&mut self) -> Result<(), redb::Error> {
        self.transaction.delete_table(WINDOWS)?;
        // An empty table, since a start reads it.
        self.transaction.open_table(WINDOWS)?;
        base::remove(self.transaction)
    }
}

//! The file in the folder: a head, and a page for each window. All of a batch is there afterwards, or nothing.

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

/// What is said of the whole, each under a name of its own.
const WHOLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("whole");
const VERSION_KEY: &str = "form";
const HEAD: &str = "head";
const WRITTEN: &str = "written";
/// By the name of the limit and the key.
const PAGES: TableDefinition<'_, (&str, u128), &[u8]> = TableDefinition::new("pages");

/// Pages are written far more often than they are read.
const CACHE: usize = 8 << 20;

/// An open file.
pub(super) struct File {
    database: Database,
    path: PathBuf,
}

/// What a file held.
pub(super) struct LoadedFile {
    pub(super) seed: [u8; 16],
    pub(super) stopped: bool,
    pub(super) snapshot: Snapshot,
}

impl File {
    /// Opens it, or makes it; and reads what it holds, if it was not made just now.
    pub(super) fn open(path: &Path, clock: &Clock) -> Result<(File, Option<LoadedFile>), Error> {
        let is_new = fs::metadata(path).map_or(true, |metadata| metadata.len() == 0);
        // A file that somebody else has written to may make the library panic, as its documentation says.
        let open = || {
            let file = File::open_database(path)?;
            let found = if is_new { None } else { file.read(clock)? };
            Ok((file, found))
        };
        catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| Err(damaged(path, "its parts do not fit together")))
    }

    /// Opens it once more, whatever it holds: it was read before, or is about to be written anew.
    pub(super) fn reopen(path: &Path) -> Result<File, Error> {
        let open = || File::open_database(path);
        catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| Err(damaged(path, "its parts do not fit together")))
    }

    fn open_database(path: &Path) -> Result<File, Error> {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
        match builder.create(path) {
            Ok(database) => Ok(File { database, path: path.to_owned() }),
            Err(redb::DatabaseError::UpgradeRequired(_)) => Err(Error::Newer { path: path.to_owned() }),
            Err(error) => Err(Error::of_file(path, error.into())),
        }
    }

    fn read(&self, clock: &Clock) -> Result<Option<LoadedFile>, Error> {
        let damage = |error: redb::Error| damaged(&self.path, &error.to_string());
        let transaction = self.database.begin_read().map_err(|error| damage(error.into()))?;
        let whole = match transaction.open_table(WHOLE) {
            Ok(table) => table,
            // It was made, and its maker died before it wrote anything.
            Err(redb::TableError::TableDoesNotExist(_)) => return self.is_empty(&transaction),
            Err(error) => return Err(damage(error.into())),
        };
        let form: u32 = self.part(&whole, VERSION_KEY)?;
        if form > DISK_VERSION {
            return Err(Error::Newer { path: self.path.clone() });
        }
        let head: JournalHead =
            if form == 1 { self.part::<HeadV1>(&whole, HEAD)?.into() } else { self.part(&whole, HEAD)? };
        let written: BootStamp = self.part(&whole, WRITTEN)?;
        let mapping = TimeMapping::since(&written, clock);
        let limits: Vec<_> = head.limits.into_iter().map(|known| known.known(mapping)).collect();
        let mut ids = HashMap::new();
        for (id, known) in (0..).map(LimitId).zip(&limits) {
            ids.insert(known.limit.name.to_string(), id);
        }
        let mut windows = Vec::new();
        let pages = transaction.open_table(PAGES).map_err(|error| damage(error.into()))?;
        for entry in pages.range::<(&str, u128)>(..).map_err(|error| damage(error.into()))? {
            let (place, window) = entry.map_err(|error| damage(error.into()))?;
            let (name, key) = place.value();
            let window = match form {
                1 => postcard::from_bytes(window.value()).map(|window: WindowV1| window.window(&written)),
                _ => postcard::from_bytes(window.value()),
            };
            let window: DiskWindow = window.map_err(|_| damaged(&self.path, "a page of it cannot be read"))?;
            // Pages of limits that are gone for good were left behind.
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

    fn part<T: DeserializeOwned>(
        &self,
        whole: &impl ReadableTable<&'static str, &'static [u8]>,
        name: &str,
    ) -> Result<T, Error> {
        let found = whole.get(name).map_err(|error| damaged(&self.path, &error.to_string()))?;
        let read = found.and_then(|bytes| postcard::from_bytes(bytes.value()).ok());
        read.ok_or_else(|| damaged(&self.path, &format!("its {name} cannot be read")))
    }

    fn is_empty(&self, transaction: &redb::ReadTransaction) -> Result<Option<LoadedFile>, Error> {
        let tables = transaction.list_tables().map_err(|error| damaged(&self.path, &error.to_string()))?;
        if tables.count() == 0 { Ok(None) } else { Err(damaged(&self.path, "it is not lockgate's")) }
    }

    /// Writes all that `write` says, and returns when it is on the disk.
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

/// What is written together.
pub(super) struct Batch<'t> {
    transaction: &'t WriteTransaction,
}

impl Batch<'_> {
    pub(super) fn head(&mut self, head: &JournalHead) -> Result<(), redb::Error> {
        let mut whole = self.transaction.open_table(WHOLE)?;
        whole.insert(VERSION_KEY, encode(&DISK_VERSION)?.as_slice())?;
        whole.insert(HEAD, encode(head)?.as_slice())?;
        Ok(())
    }

    pub(super) fn written(&mut self, at: &BootStamp) -> Result<(), redb::Error> {
        self.transaction.open_table(WHOLE)?.insert(WRITTEN, encode(at)?.as_slice())?;
        Ok(())
    }

    pub(super) fn windows<'p>(
        &mut self,
        windows: impl Iterator<Item = (&'p str, u128, Option<DiskWindow>)>,
    ) -> Result<(), redb::Error> {
        let mut table = self.transaction.open_table(PAGES)?;
        for (limit, key, window) in windows {
            match window {
                Some(window) => drop(table.insert((limit, key), encode(&window)?.as_slice())?),
                None => drop(table.remove((limit, key))?),
            }
        }
        Ok(())
    }

    /// Forgets all pages.
    pub(super) fn clear(&mut self) -> Result<(), redb::Error> {
        self.transaction.delete_table(PAGES)?;
        Ok(())
    }
}

fn encode(value: &impl serde::Serialize) -> Result<Vec<u8>, redb::Error> {
    postcard::to_stdvec(value).map_err(|error| redb::Error::Io(io::Error::other(error)))
}

//! Base of the journal: the windows of one moment in packs, which a stop and most starts write at once.
//!
//! A row for each of a million windows takes seconds to write; as packs they take a fraction of one.
//! While the gateway runs, windows are written as rows (`database`). For each window the file holds
//!
//! - its row, if it has one: it is younger than the base, and says all;
//! - else its entry in the base.
//!
//! A window that is dropped is removed from both. So an entry that no row covers is one of a window
//! that lives, or lived until a moment ago, and that has granted nothing since the base was written:
//! a slot is in a row before it is granted. Both are what a file of rows alone would say.
//!
//! Packs are found by a key's lowest bits: as many as make packs of about [`PACK_SIZE`].

use std::collections::HashMap;

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::boot_time::TimeMapping;
use super::head_table::{META, encode};
use super::window_pack::{self, NoPack, append};
use crate::locker::{LimitId, WindowRecord};
use crate::time::Time;

/// Table of the packs, by the limit's name and the lowest bits of the keys in it.
const PACKS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("base");
/// Key of the [`BaseHead`] in [`META`]; absent without a base.
const HEAD: &str = "base";

/// Mean size of a pack in bytes: some eighty windows of one slot. A dropped window costs a pack of
/// that size to write, which is half a page of the database; smaller ones make the table larger.
const PACK_SIZE: usize = if cfg!(test) { 64 } else { 2048 };

/// Head of the base.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(super) struct BaseHead {
    /// Zero of the times in the packs, in nanoseconds since the boot of the file's last write.
    origin: i128,
    /// Name of each limit that has packs, and the number of bits by which its packs are found.
    limits: Vec<(String, u8)>,
}

/// Windows that become a base.
pub(super) struct Base {
    /// Zero of the times.
    origin: Time,
    /// Encoded windows of each limit.
    limits: HashMap<LimitId, LimitEntries>,
}

/// Encoded windows of one limit.
#[derive(Default)]
struct LimitEntries {
    /// Entries, one behind the other.
    bytes: Vec<u8>,
    /// Lowest bits of the key, and the end in `bytes`, of each entry.
    ends: Vec<(u32, usize)>,
}

impl Base {
    /// An empty base. `now`: about the time of the windows that will be in it.
    pub(super) fn new(now: Time) -> Base {
        Base { origin: now, limits: HashMap::new() }
    }

    /// Adds windows.
    pub(super) fn extend(&mut self, windows: &[WindowRecord]) {
        for windows in windows.chunk_by(|one, next| one.limit == next.limit) {
            let limit = self.limits.entry(windows[0].limit).or_default();
            for window in windows {
                append(&mut limit.bytes, window, self.origin);
                limit.ends.push((low_bits(window.key.0), limit.bytes.len()));
            }
        }
    }

    /// Number of windows.
    pub(super) fn len(&self) -> usize {
        self.limits.values().map(|limit| limit.ends.len()).sum()
    }

    /// Writes it in the place of the base before, if there is any. `name`: name of a limit.
    ///
    /// # Errors
    /// Errors of the system and of the database.
    pub(super) fn write<'n>(
        &self,
        transaction: &WriteTransaction,
        name: impl Fn(LimitId) -> &'n str,
        mapping: TimeMapping,
    ) -> Result<(), redb::Error> {
        remove(transaction)?;
        let mut head = BaseHead { origin: mapping.to_boot(self.origin), limits: Vec::new() };
        let mut table = transaction.open_table(PACKS)?;
        let mut ids: Vec<&LimitId> = self.limits.keys().collect();
        // In the order of the table, so that it grows at its end.
        ids.sort_by_key(|id| name(**id));
        for id in ids {
            let bits = self.limits[id].bits();
            head.limits.push((name(*id).to_owned(), bits));
            self.limits[id].write(&mut table, name(*id), bits)?;
        }
        transaction.open_table(META)?.insert(HEAD, encode(&head)?.as_slice())?;
        Ok(())
    }
}

impl LimitEntries {
    /// Number of a key's lowest bits by which packs of the right size are found.
    fn bits(&self) -> u8 {
        let packs = self.bytes.len().div_ceil(PACK_SIZE).max(1);
        packs.next_power_of_two().trailing_zeros().min(u32::BITS) as u8
    }

    /// Writes the packs, by their number.
    fn write(
        &self,
        table: &mut redb::Table<'_, (&'static str, u64), &'static [u8]>,
        name: &str,
        bits: u8,
    ) -> Result<(), redb::Error> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(_, end)| *end));
        let entries =
            self.ends.iter().zip(starts).map(|((key, end), start)| (number(u128::from(*key), bits), start..*end));
        // Sorted by counting: the first place of each pack, then each entry into the next of its pack.
        let mut places = vec![0_usize; (1 << bits) + 1];
        entries.clone().for_each(|(number, _)| places[index(number) + 1] += 1);
        (1..places.len()).for_each(|number| places[number] += places[number - 1]);
        let (mut sorted, mut next) = (vec![(0, 0); self.ends.len()], places.clone());
        for (number, range) in entries {
            let place = &mut next[index(number)];
            sorted[*place] = (range.start, range.end);
            *place += 1;
        }
        let mut pack = Vec::new();
        for (number, bounds) in (0..).zip(places.windows(2)).filter(|(_, bounds)| bounds[0] < bounds[1]) {
            pack.clear();
            for (start, end) in &sorted[bounds[0]..bounds[1]] {
                pack.extend_from_slice(&self.bytes[*start..*end]);
            }
            table.insert((name, number), pack.as_slice())?;
        }
        Ok(())
    }
}

/// Number of the pack of a key.
fn number(key: u128, bits: u8) -> u64 {
    // A damaged head may say more bits than there are.
    low_word(key) & !u64::MAX.checked_shl(u32::from(bits)).unwrap_or(0)
}

/// Number of a pack as an index: a file has far fewer packs than the address space has bytes.
fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Lowest 64 bits of a key, a hash of which each part is as good as another.
#[allow(clippy::cast_possible_truncation, reason = "the rest of the hash is not needed")]
pub(super) fn low_word(key: u128) -> u64 {
    key as u64
}

/// Lowest 32 bits of a key.
#[allow(clippy::cast_possible_truncation, reason = "the rest of the hash is not needed")]
fn low_bits(key: u128) -> u32 {
    key as u32
}

/// Removes the base.
pub(super) fn remove(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(META)?.remove(HEAD)?;
    transaction.delete_table(PACKS)?;
    Ok(())
}

/// Moves the times of the base to the present boot of the machine. `since`: mapping by which they
/// were read.
pub(super) fn rebase(transaction: &WriteTransaction, since: TimeMapping, here: TimeMapping) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let Some(head) = head(&meta)? else { return Ok(()) };
    let head = BaseHead { origin: since.rebased(head.origin, here), ..head };
    meta.insert(HEAD, encode(&head)?.as_slice())?;
    Ok(())
}

/// Removes windows from the base, each given by its limit's name and its key.
pub(super) fn remove_windows(transaction: &WriteTransaction, windows: &[(&str, u128)]) -> Result<(), redb::Error> {
    let Some(head) = head(&transaction.open_table(META)?)? else { return Ok(()) };
    let mut table = transaction.open_table(PACKS)?;
    for (name, key) in windows {
        let Some((_, bits)) = head.limits.iter().find(|(limit, _)| limit == name) else { continue };
        let number = number(*key, *bits);
        let pack = match table.get((*name, number))? {
            Some(pack) => window_pack::without(pack.value(), *key).map_err(|NoPack| damage())?,
            None => None,
        };
        match pack {
            None => {}
            Some(rest) if rest.is_empty() => drop(table.remove((*name, number))?),
            Some(rest) => drop(table.insert((*name, number), rest.as_slice())?),
        }
    }
    Ok(())
}

/// Head of the base; `None` if there is no base.
///
/// # Errors
/// [`redb::Error::Corrupted`] if it cannot be decoded.
pub(super) fn head(meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Option<BaseHead>, redb::Error> {
    let Some(head) = meta.get(HEAD)? else { return Ok(None) };
    postcard::from_bytes(head.value()).map(Some).map_err(|_| damage())
}

/// Reads all windows. `limit`: the limit of a name, if its windows are wanted.
///
/// # Errors
/// Errors of the database; [`redb::Error::Corrupted`] if a pack cannot be decoded.
pub(super) fn read(
    transaction: &redb::ReadTransaction,
    head: &BaseHead,
    mapping: TimeMapping,
    limit: impl Fn(&str) -> Option<LimitId>,
    mut each: impl FnMut(WindowRecord),
) -> Result<(), redb::Error> {
    let table = transaction.open_table(PACKS)?;
    for pack in table.range::<(&str, u64)>(..)? {
        let (name_and_number, pack) = pack?;
        let Some(limit) = limit(name_and_number.value().0) else { continue };
        for entry in window_pack::entries(pack.value()) {
            let window = entry.and_then(|entry| entry.window(limit, head.origin, mapping));
            each(window.map_err(|NoPack| damage())?);
        }
    }
    Ok(())
}

/// Error of a base that cannot be decoded.
fn damage() -> redb::Error {
    redb::Error::Corrupted("the base of its windows cannot be decoded".to_owned())
}

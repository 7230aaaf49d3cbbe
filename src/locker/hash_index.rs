//! Hash index: an open-addressing hash table from hashes to places, one cache line per look-up,
//! eight bytes per entry.
//!
//! Uses linear probing. An entry stores its whole hash, so that growing and removing never access
//! the indexed values, and so that a look-up hardly ever fetches a wrong window.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use super::api::{Key, LimitId};

/// Hash of a key, and the place of its window.
#[derive(Clone, Copy, Debug)]
struct IndexEntry {
    /// Whole hash of the key; its low bits are the home position of the entry.
    hash: u32,
    /// Place of the window in the window table; `u32::MAX` if the entry is not in use.
    place: u32,
}

/// Entry that is not in use.
const EMPTY: IndexEntry = IndexEntry { hash: 0, place: u32::MAX };

/// Minimum number of entries of a table in use. They have 64 bytes, as a cache line.
const MIN_ENTRIES: usize = 8;

/// Open-addressing hash table; holds places, not keys.
///
/// The caller keeps each place in it at most once, and compares the keys itself: two windows may
/// share a hash.
#[derive(Debug, Default)]
pub(super) struct HashIndex {
    /// Entries: a power of two of them, at most three quarters in use; none while the table is
    /// empty.
    entries: Box<[IndexEntry]>,
    /// Number of entries in use.
    len: usize,
}

impl HashIndex {
    /// The place with this hash for which `is_it` returns true.
    ///
    /// `is_it` compares the key of the window at a place; it is called only for entries with the
    /// same hash.
    #[inline]
    pub(super) fn find(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mask = self.entries.len().wrapping_sub(1);
        let mut at = hash as usize & mask;
        // An index without entries has nothing to probe; any other one has an empty entry that ends the loop.
        while let Some(entry) = self.entries.get(at) {
            if entry.place == EMPTY.place {
                return None;
            }
            if entry.hash == hash && is_it(entry.place) {
                return Some(entry.place);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// Adds a place that is not in the index yet.
    ///
    /// Doubles the table when three quarters are in use.
    pub(super) fn insert(&mut self, hash: u32, place: u32) {
        if (self.len + 1) * 4 > self.entries.len() * 3 {
            self.resize((self.entries.len() * 2).max(MIN_ENTRIES));
        }
        self.put(IndexEntry { hash, place });
        self.len += 1;
    }

    /// Removes a place, and moves back the entries that were displaced by it (backward-shift
    /// deletion).
    ///
    /// Does nothing if the place is not in the index. Halves the table when less than an eighth is
    /// in use, and frees it when the last entry has left. No tombstones remain, so that look-ups
    /// stay short however many windows come and go.
    pub(super) fn remove(&mut self, hash: u32, place: u32) {
        let mask = self.entries.len().wrapping_sub(1);
        let mut hole = hash as usize & mask;
        while self.entries.get(hole).is_some_and(|entry| entry.place != place) {
            if self.entries[hole].place == EMPTY.place {
                return;
            }
            hole = (hole + 1) & mask;
        }
        let mut next = hole;
        loop {
            next = (next + 1) & mask;
            let Some(&entry) = self.entries.get(next).filter(|entry| entry.place != EMPTY.place) else { break };
            let wanted = entry.hash as usize & mask;
            // The entry may move back unless that puts it before its home slot.
            if (next.wrapping_sub(wanted) & mask) >= (next.wrapping_sub(hole) & mask) {
                self.entries[hole] = entry;
                hole = next;
            }
        }
        if let Some(entry) = self.entries.get_mut(hole) {
            *entry = EMPTY;
            self.len -= 1;
        }
        if self.len == 0 {
            self.entries = Box::default();
        } else if self.len * 8 < self.entries.len() && self.entries.len() > MIN_ENTRIES {
            self.resize(self.entries.len() / 2);
        }
    }

    /// Writes an entry at the first free position of its probe sequence.
    fn put(&mut self, entry: IndexEntry) {
        let mask = self.entries.len() - 1;
        let mut at = entry.hash as usize & mask;
        while self.entries[at].place != EMPTY.place {
            at = (at + 1) & mask;
        }
        self.entries[at] = entry;
    }

    /// Rehashes all entries into a table of `entries` entries.
    fn resize(&mut self, entries: usize) {
        let old = std::mem::replace(&mut self.entries, vec![EMPTY; entries].into_boxed_slice());
        for entry in old {
            if entry.place != EMPTY.place {
                self.put(entry);
            }
        }
    }
}

/// Random hash seed of one table. Keys of shared limits are hashed with a seed derived from their
/// group's name; without this second seed an attacker with that knowledge could choose keys that
/// collide in the index.
#[derive(Clone, Copy)]
pub(super) struct HashSeed([u64; 2]);

impl HashSeed {
    /// A new seed.
    pub(super) fn random() -> HashSeed {
        let random = RandomState::new();
        HashSeed([random.hash_one(0), random.hash_one(1)])
    }

    /// Shard and hash of a key: a folded multiplication (as in wyhash), unpredictable without the
    /// seed.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "a hash uses the halves of each number")]
    pub(super) fn shard_and_hash(self, limit: LimitId, key: Key) -> (usize, u32) {
        let (low, high) = (key.0 as u64, (key.0 >> 64) as u64);
        let low = low ^ self.0[0] ^ (u64::from(limit.0) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let product = u128::from(low) * u128::from(high ^ self.0[1]);
        let mixed = (product as u64 ^ (product >> 64) as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        ((mixed >> 56) as usize, (mixed >> 24) as u32)
    }
}

impl fmt::Debug for HashSeed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HashSeed(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_finds_what_a_map_finds_and_gives_its_memory_back() {
        let mut index = HashIndex::default();
        let mut map = BTreeMap::new();
        let mut random = 7u64;
        for round in 0..40_000u32 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Few different hashes, so that most collide; more insertions than removals at first, then the other way round.
            let (hash, place) = ((random >> 40) as u32 % 60, (random >> 20) as u32 % 500);
            let grows = (random >> 60) < if round < 20_000 { 9 } else { 5 };
            if grows && !map.contains_key(&place) {
                index.insert(hash, place);
                map.insert(place, hash);
            } else if let Some(hash) = map.remove(&place) {
                index.remove(hash, place);
            }
            let known = map.get(&place).copied();
            assert_eq!(index.find(known.unwrap_or(hash), |it| it == place), known.map(|_| place));
            assert_eq!(index.len, map.len());
        }
        for (place, hash) in std::mem::take(&mut map) {
            assert_eq!(index.find(hash, |it| it == place), Some(place));
            index.remove(hash, place);
        }
        assert_eq!(index.entries.len(), 0);
    }
}

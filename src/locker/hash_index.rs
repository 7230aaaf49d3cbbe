//! An index from hashes to places: one cache line per look-up, eight bytes per entry.
//!
//! Open addressing with linear probing. An entry holds its whole hash, so that growing and removing
//! never look at what the entry stands for, and so that a wrong window is hardly ever fetched.

/// A hash, and the place of what has it.
#[derive(Clone, Copy, Debug)]
struct IndexEntry {
    hash: u32,
    place: u32,
}

/// An entry that is not in use.
const EMPTY: IndexEntry = IndexEntry { hash: 0, place: u32::MAX };

/// The fewest entries that are kept once there is one.
const MIN_ENTRIES: usize = 8;

#[derive(Debug, Default)]
pub(super) struct HashIndex {
    /// A power of two of them, at most three quarters in use; or none.
    entries: Box<[IndexEntry]>,
    len: usize,
}

impl HashIndex {
    /// The place with this hash that `is_it`.
    #[inline]
    pub(super) fn find(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mask = self.entries.len().wrapping_sub(1);
        let mut at = hash as usize & mask;
        // An index without entries has no place to look at; any other has an empty one.
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

    /// Adds a place that is not there yet.
    pub(super) fn insert(&mut self, hash: u32, place: u32) {
        if (self.len + 1) * 4 > self.entries.len() * 3 {
            self.resize((self.entries.len() * 2).max(MIN_ENTRIES));
        }
        self.put(IndexEntry { hash, place });
        self.len += 1;
    }

    /// Removes a place, and moves up what had to go round it.
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
            // It may move up unless it would come before the place it wants.
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

    fn put(&mut self, entry: IndexEntry) {
        let mask = self.entries.len() - 1;
        let mut at = entry.hash as usize & mask;
        while self.entries[at].place != EMPTY.place {
            at = (at + 1) & mask;
        }
        self.entries[at] = entry;
    }

    fn resize(&mut self, entries: usize) {
        let old = std::mem::replace(&mut self.entries, vec![EMPTY; entries].into_boxed_slice());
        for entry in old {
            if entry.place != EMPTY.place {
                self.put(entry);
            }
        }
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
            // Few different hashes, so that most collide; more come than go at first, then the other way.
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

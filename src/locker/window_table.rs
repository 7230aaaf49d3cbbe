//! Window table: all live windows, indexed by limit and key, stored in chunks that are freed when
//! empty.

use std::collections::BTreeSet;

use super::api::{Key, LimitId};
use super::copy_progress::CopyProgress;
use super::hash_index::{HashIndex, HashSeed};
use super::rule_changes::RuleChanges;
use super::window::{Window, WindowRule};
use super::window_lists::WindowLists;
use super::window_queue::WindowQueue;
use crate::time::Time;

/// Windows per chunk, as a power of two: 32 MiB, of which only the used part takes memory. Smaller
/// blocks stay with the C library's allocator once it has seen some of their size come and go (its
/// mmap threshold grows up to there), so that a second burst of keys would not give its memory
/// back.
pub(super) const CHUNK_BITS: u32 = 18;

/// Number of index shards, each a hash table of its own. Growing one moves 1/256 of the entries, so
/// that a million keys never delay a decision by more than some 50 µs.
const SHARDS: usize = 256;

/// Limit of a place without a window.
const VACANT: LimitId = LimitId(u32::MAX);

/// End of a chunk's list of vacant places.
const NONE: u32 = u32::MAX;

/// Block of windows that is allocated and freed as a whole.
#[derive(Debug, Default)]
struct Chunk {
    /// Places of the chunk; empty if the chunk is freed.
    windows: Vec<Window>,
    /// Number of live windows in it.
    used: usize,
    /// First vacant place; the `generation` of a vacant place is the next vacant one.
    vacant: u32,
}

/// The live windows of all limits.
#[derive(Debug)]
pub(super) struct WindowTable {
    /// Windows per chunk, as a power of two.
    bits: u32,
    /// Random seed of the index's hash function.
    seed: HashSeed,
    /// The index, divided by the hash's highest bits.
    shards: Vec<HashIndex>,
    /// Storage; a window's index is its chunk's number times the chunk size, plus its place there.
    chunks: Vec<Chunk>,
    /// Lists of the windows of each limit.
    pub(super) lists: WindowLists,
    /// Numbers of the chunks with a vacant place. The lowest is filled first, so that the highest
    /// become empty.
    roomy: BTreeSet<usize>,
    /// Number of live windows.
    live: usize,
    /// Generation of the window inserted last; wraps around.
    generation: u32,
    /// Index at which the next sweep continues.
    sweep_at: usize,
    /// Keys of dropped windows that still have a journal record, which must be removed.
    pub(super) dropped: Vec<(LimitId, Key)>,
    /// Rule changes that some windows have not followed yet.
    pub(super) changes: RuleChanges,
    /// Live copy under way, which notes each change.
    pub(super) copy: Option<Box<CopyProgress>>,
    /// Number of places accessed, to test that no operation scans the table.
    #[cfg(test)]
    pub(super) look_count: LookCount,
}

/// Counts accesses to places; repeated accesses to one place count once.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct LookCount(std::cell::Cell<(u32, usize)>);

#[cfg(test)]
impl LookCount {
    fn at(&self, index: u32) {
        let (last, count) = self.0.get();
        self.0.set((index, count + usize::from(index != last)));
    }

    /// Returns the count since the last call and resets it.
    pub(super) fn take(&self) -> usize {
        self.0.replace((NONE, 0)).1
    }
}

impl WindowTable {
    /// An empty table with chunks of 2^`bits` windows.
    pub(super) fn new(bits: u32) -> WindowTable {
        WindowTable {
            bits,
            seed: HashSeed::random(),
            shards: (0..SHARDS).map(|_| HashIndex::default()).collect(),
            chunks: Vec::new(),
            lists: WindowLists::new(bits),
            roomy: BTreeSet::new(),
            live: 0,
            generation: 0,
            sweep_at: 0,
            dropped: Vec::new(),
            changes: RuleChanges::default(),
            copy: None,
            #[cfg(test)]
            look_count: LookCount::default(),
        }
    }

    /// Number of live windows.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// Number of chunks in use.
    #[cfg(test)]
    pub(super) fn chunks(&self) -> usize {
        self.chunks.iter().filter(|chunk| chunk.used > 0).count()
    }

    /// Number of places for windows, including vacant ones.
    pub(super) fn capacity(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.windows.len()).sum()
    }

    /// Number of places up to the last one that was ever used; every index is below it.
    pub(super) fn places(&self) -> usize {
        let last = self.chunks.last().map_or(0, |chunk| chunk.windows.len());
        self.chunks.len().saturating_sub(1) * self.chunk_size() + last
    }

    /// Number of windows per chunk.
    fn chunk_size(&self) -> usize {
        1 << self.bits
    }

    /// Chunk number of an index, and the place within the chunk.
    #[inline]
    fn at(&self, index: usize) -> (usize, usize) {
        (index >> self.bits, index & (self.chunk_size() - 1))
    }

    /// Index of a key's window, if it has one.
    #[inline]
    pub(super) fn find(&self, limit: LimitId, key: Key) -> Option<u32> {
        let (shard, hash) = self.seed.shard_and_hash(limit, key);
        let is_it = |index| {
            let window = self.peek(index);
            window.key == key && window.limit == limit
        };
        self.shards[shard].find(hash, is_it)
    }

    /// The window at an index in use, carried over to the present rule of its limit.
    #[inline]
    pub(super) fn window(&self, index: u32) -> &Window {
        let window = self.peek(index);
        debug_assert!(self.changes.is_carried(window), "a window is carried over before it is looked at by its rule");
        window
    }

    /// The window at an index in use, for a look at what no rule changes: its limit, its key, its
    /// waiters.
    #[inline]
    pub(super) fn peek(&self, index: u32) -> &Window {
        #[cfg(test)]
        self.look_count.at(index);
        let (chunk, place) = self.at(index as usize);
        &self.chunks[chunk].windows[place]
    }

    /// Carries a window over to the present rule of its limit.
    pub(super) fn carry(&mut self, index: u32) {
        self.window_mut(index);
    }

    /// The window at an index in use, for changes.
    #[inline]
    pub(super) fn window_mut(&mut self, index: u32) -> &mut Window {
        #[cfg(test)]
        self.look_count.at(index);
        let (chunk, place) = self.at(index as usize);
        let window = &mut self.chunks[chunk].windows[place];
        if mutant!(self.changes.is_pending(), "a window is not carried over when touched", false) {
            self.changes.carry(window);
        }
        if let Some(copy) = &mut self.copy {
            copy.note_change(index, window);
        }
        window
    }

    /// As [`WindowTable::window_mut`], for changes that no record of the window shows: a drop of
    /// what has expired, and the state of its writes.
    pub(super) fn window_unnoted(&mut self, index: u32) -> &mut Window {
        #[cfg(test)]
        self.look_count.at(index);
        let (chunk, place) = self.at(index as usize);
        let window = &mut self.chunks[chunk].windows[place];
        if self.changes.is_pending() {
            self.changes.carry(window);
        }
        window
    }

    /// The window at an index that may have been vacated or reused since, as with
    /// [`WindowTable::peek`].
    pub(super) fn get(&self, index: u32) -> Option<&Window> {
        #[cfg(test)]
        self.look_count.at(index);
        let (chunk, place) = self.at(index as usize);
        self.chunks.get(chunk)?.windows.get(place).filter(|window| window.limit != VACANT)
    }

    /// As [`WindowTable::get`], for changes.
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Window> {
        #[cfg(test)]
        self.look_count.at(index);
        let (chunk, place) = self.at(index as usize);
        let window = self.chunks.get_mut(chunk)?.windows.get_mut(place).filter(|window| window.limit != VACANT)?;
        if self.changes.is_pending() {
            self.changes.carry(window);
        }
        if let Some(copy) = &mut self.copy {
            copy.note_change(index, window);
        }
        Some(window)
    }

    /// The waiters at a window, if it still exists and has any.
    pub(super) fn queue(&self, index: u32) -> Option<&WindowQueue> {
        self.get(index)?.queue()
    }

    /// The window, unless it was dropped since; `generation` tells it from a later one at the same
    /// place.
    #[inline]
    pub(super) fn current(&mut self, index: u32, generation: u32) -> Option<&mut Window> {
        self.get_mut(index).filter(|window| window.generation == generation)
    }

    /// Creates the first window of a key by its limit's rule. Returns its index.
    pub(super) fn create(&mut self, rules: &mut [WindowRule], limit: LimitId, key: Key, now: Time) -> u32 {
        let rule = &mut rules[limit.at()];
        rule.live += 1;
        self.insert(Window::new(limit, key, rule, now))
    }

    /// Inserts the first window of a key. Returns its index.
    pub(super) fn insert(&mut self, mut window: Window) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        window.generation = self.generation;
        let (shard, hash) = self.seed.shard_and_hash(window.limit, window.key);
        let limit = window.limit;
        let index = self.store(window);
        // A new window is a change, too.
        self.window_mut(index);
        self.lists.link(limit, index);
        self.shards[shard].insert(hash, index);
        self.live += 1;
        index
    }

    /// Puts a window into the first vacant place. Returns its index.
    fn store(&mut self, window: Window) -> u32 {
        let number = self.roomy.first().copied().unwrap_or_else(|| {
            self.chunks.push(Chunk { vacant: NONE, ..Chunk::default() });
            self.roomy.insert(self.chunks.len() - 1);
            self.chunks.len() - 1
        });
        let size = self.chunk_size();
        let chunk = &mut self.chunks[number];
        let place = if chunk.vacant == NONE {
            if chunk.windows.is_empty() {
                chunk.windows.reserve_exact(size);
            }
            chunk.windows.push(window);
            chunk.windows.len() - 1
        } else {
            let place = chunk.vacant as usize;
            chunk.vacant = chunk.windows[place].generation;
            chunk.windows[place] = window;
            place
        };
        chunk.used += 1;
        if chunk.used == size {
            self.roomy.remove(&number);
        }
        u32::try_from(number * size + place).expect("4 billion windows do not fit in memory")
    }

    /// Puts another window of the same limit and key into the place of one.
    pub(super) fn replace(&mut self, index: u32, mut window: Window) {
        let place = self.window_mut(index);
        debug_assert!((place.limit, place.key) == (window.limit, window.key), "the index finds it by its key");
        window.generation = place.generation;
        *place = window;
    }

    /// Drops a window, and its record in the journal.
    pub(super) fn remove(&mut self, index: u32, rules: &mut [WindowRule]) {
        let window = self.peek(index);
        // Also if the limit is not persisted any more: the journal has a record from before.
        if mutant!(window.is_persisted(), "a dropped key keeps its record", false) {
            self.dropped.push((window.limit, window.key));
        }
        self.vacate(index, rules);
    }

    /// Drops a window; frees its chunk if that was the last one there.
    pub(super) fn vacate(&mut self, index: u32, rules: &mut [WindowRule]) {
        let (chunk, place) = self.at(index as usize);
        let window = &self.chunks[chunk].windows[place];
        if let Some(copy) = &mut self.copy {
            copy.note_drop(index, window);
        }
        let limit = window.limit;
        let (shard, hash) = self.seed.shard_and_hash(limit, window.key);
        self.shards[shard].remove(hash, index);
        self.lists.unlink(limit, index);
        let (size, (number, place)) = (self.chunk_size(), self.at(index as usize));
        let chunk = &mut self.chunks[number];
        let mut vacated = Window::bare(VACANT, Key::WHOLE);
        vacated.generation = chunk.vacant;
        chunk.windows[place] = vacated;
        chunk.vacant = u32::try_from(place).expect("a chunk has at most 2^18 places");
        if chunk.used == size {
            self.roomy.insert(number);
        }
        chunk.used -= 1;
        if chunk.used == 0 {
            *chunk = Chunk { vacant: NONE, ..Chunk::default() };
            self.lists.free(number);
        }
        self.live -= 1;
        rules[limit.at()].live -= 1;
        if self.live == 0 {
            self.chunks = Vec::new();
            self.lists.clear();
            self.roomy.clear();
        }
    }

    /// Drops idle windows among the next `places` places, going round. Bounded work: looks at no
    /// more places.
    pub(super) fn sweep(&mut self, places: usize, rules: &mut [WindowRule], now: Time) {
        let size = self.chunk_size();
        let mut left = places.min(self.capacity());
        while left > 0 && self.live > 0 {
            let (mut number, mut place) = self.at(self.sweep_at);
            if number >= self.chunks.len() {
                (number, place, self.sweep_at) = (0, 0, 0);
            }
            let Some(window) = self.chunks[number].windows.get_mut(place) else {
                self.sweep_at += size - place;
                continue;
            };
            let index = self.sweep_at;
            self.sweep_at += 1;
            left -= 1;
            if window.limit == VACANT {
                continue;
            }
            if self.changes.is_pending() {
                self.changes.carry(window);
            }
            let rule = &rules[window.limit.at()];
            window.expire(rule, now);
            if mutant!(window.is_idle(rule, now), "a key that still counts is dropped", window.unsettled == 0) {
                self.remove(u32::try_from(index).expect("it was stored under a u32"), rules);
            }
        }
    }

    /// Indexes of all windows of a limit, for rare operations.
    pub(super) fn of_limit(&self, limit: LimitId) -> Vec<u32> {
        self.lists.of(limit).collect()
    }

    /// Indexes and limits of the windows among `count` places from `from` on. The flag is true if
    /// more places follow.
    pub(super) fn windows_in(&self, from: u32, count: u32) -> (Vec<(u32, LimitId)>, bool) {
        let end = from.saturating_add(count);
        let last = u32::try_from(self.chunks.len() * self.chunk_size()).unwrap_or(u32::MAX);
        let at = |index: u32| {
            let (chunk, place) = self.at(index as usize);
            let window = self.chunks.get(chunk)?.windows.get(place)?;
            (window.limit != VACANT).then_some((index, window.limit))
        };
        ((from..end.min(last)).filter_map(at).collect(), end < last)
    }
}

#[cfg(test)]
mod tests;

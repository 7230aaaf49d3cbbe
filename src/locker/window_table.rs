//! All live windows: found by limit and key, kept in chunks that are given back when empty.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use super::api::{Key, LimitId};
use super::hash_index::HashIndex;
use super::window::{Window, WindowRule};
use super::window_lists::WindowLists;
use super::window_queue::WindowQueue;
use crate::time::Time;

/// Windows per chunk, as a power of two: 32 MiB, of which only what was used takes memory. Smaller blocks than that stay
/// with the C library's allocator once it has seen some of their size come and go (its threshold for memory of a block's
/// own grows up to there), and a second burst of keys would not give its memory back.
pub(super) const CHUNK_BITS: u32 = 18;

/// Parts of the index, each a table of its own: one that grows moves a 256th of the entries, so a
/// million keys never stall a decision by more than some 50 µs.
const SHARDS: usize = 256;

/// The limit of a place that holds no window.
const VACANT: LimitId = LimitId(u32::MAX);

/// The end of a chunk's list of vacant places.
const NONE: u32 = u32::MAX;

#[derive(Debug, Default)]
struct Chunk {
    /// Empty if the chunk has been given back.
    windows: Vec<Window>,
    used: usize,
    /// The first vacant place; its `generation` names the next.
    vacant: u32,
}

/// The live windows of all limits.
#[derive(Debug)]
pub(super) struct WindowTable {
    /// Windows per chunk, as a power of two.
    bits: u32,
    seed: HashSeed,
    shards: Vec<HashIndex>,
    chunks: Vec<Chunk>,
    /// The windows of each limit.
    pub(super) lists: WindowLists,
    /// The chunks that have room: the lowest is filled first, so that the highest empty.
    roomy: BTreeSet<usize>,
    live: usize,
    generation: u32,
    /// Where the sweep goes on.
    sweep_at: usize,
    /// Windows that were dropped, and of which something is written down.
    pub(super) dropped: Vec<(LimitId, Key)>,
    /// At how many places was looked, one after the other.
    #[cfg(test)]
    pub(super) look_count: LookCount,
}

/// Counts places that are looked at: another one than the last.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct LookCount(std::cell::Cell<(u32, usize)>);

#[cfg(test)]
impl LookCount {
    fn at(&self, index: u32) {
        let (last, count) = self.0.get();
        self.0.set((index, count + usize::from(index != last)));
    }

    /// How many there were since this was asked last.
    pub(super) fn take(&self) -> usize {
        self.0.replace((NONE, 0)).1
    }
}

impl WindowTable {
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
            #[cfg(test)]
            look_count: LookCount::default(),
        }
    }

    /// How many windows are alive.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// How many chunks of memory they fill.
    #[cfg(test)]
    pub(super) fn chunks(&self) -> usize {
        self.chunks.iter().filter(|chunk| chunk.used > 0).count()
    }

    /// The number of places for windows, vacant ones too.
    pub(super) fn capacity(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.windows.len()).sum()
    }

    fn chunk_size(&self) -> usize {
        1 << self.bits
    }

    /// In which chunk an index is, and at which place there.
    #[inline]
    fn at(&self, index: usize) -> (usize, usize) {
        (index >> self.bits, index & (self.chunk_size() - 1))
    }

    /// The window of a key, if it has one.
    #[inline]
    pub(super) fn find(&self, limit: LimitId, key: Key) -> Option<u32> {
        let (shard, hash) = self.seed.shard_and_hash(limit, key);
        let is_it = |index| {
            let window = self.window(index);
            window.key == key && window.limit == limit
        };
        self.shards[shard].find(hash, is_it)
    }

    #[inline]
    pub(super) fn window(&self, index: u32) -> &Window {
        #[cfg(test)]
        self.look_count.at(index);
        let (chunk, place) = self.at(index as usize);
        &self.chunks[chunk].windows[place]
    }

    #[inline]
    pub(super) fn window_mut(&mut self, index: u32) -> &mut Window {
        #[cfg(test)]
        self.look_count.at(index);
        let (chunk, place) = self.at(index as usize);
        &mut self.chunks[chunk].windows[place]
    }

    /// The window at a place that may have been vacated since, or have another window by now.
    pub(super) fn get(&self, index: u32) -> Option<&Window> {
        #[cfg(test)]
        self.look_count.at(index);
        let (chunk, place) = self.at(index as usize);
        self.chunks.get(chunk)?.windows.get(place).filter(|window| window.limit != VACANT)
    }

    /// As [`WindowTable::get`], to be changed.
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Window> {
        #[cfg(test)]
        self.look_count.at(index);
        let (chunk, place) = self.at(index as usize);
        self.chunks.get_mut(chunk)?.windows.get_mut(place).filter(|window| window.limit != VACANT)
    }

    /// The waiters of a window, if it is still there and has any.
    pub(super) fn queue(&self, index: u32) -> Option<&WindowQueue> {
        self.get(index)?.queue()
    }

    /// The window, unless it has been dropped since.
    #[inline]
    pub(super) fn current(&mut self, index: u32, generation: u32) -> Option<&mut Window> {
        self.get_mut(index).filter(|window| window.generation == generation)
    }

    /// Keeps a window whose key has none yet.
    pub(super) fn insert(&mut self, mut window: Window) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        window.generation = self.generation;
        let (shard, hash) = self.seed.shard_and_hash(window.limit, window.key);
        let limit = window.limit;
        let index = self.store(window);
        self.lists.link(limit, index);
        self.shards[shard].insert(hash, index);
        self.live += 1;
        index
    }

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

    fn remove(&mut self, index: u32, rules: &mut [WindowRule]) {
        let window = self.window(index);
        let limit = window.limit;
        // Also if its limit is not written down any more: it was when this was noted.
        if window.is_persisted() {
            self.dropped.push((limit, window.key));
        }
        let window = self.window(index);
        let (shard, hash) = self.seed.shard_and_hash(limit, window.key);
        self.shards[shard].remove(hash, index);
        self.lists.unlink(limit, index);
        let (size, (number, place)) = (self.chunk_size(), self.at(index as usize));
        let chunk = &mut self.chunks[number];
        let mut vacated = Window::bare(VACANT, Key::WHOLE);
        vacated.generation = chunk.vacant;
        chunk.windows[place] = vacated;
        chunk.vacant = place as u32;
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

    /// Drops what is idle among the next `places`, going round; never waits, never looks at more.
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
            let rule = &rules[window.limit.at()];
            window.expire(rule, now);
            if window.is_idle(rule, now) {
                self.remove(u32::try_from(index).expect("it was stored under a u32"), rules);
            }
        }
    }

    /// The places of all windows of a limit, for what happens seldom.
    pub(super) fn of_limit(&self, limit: LimitId) -> Vec<u32> {
        self.lists.of(limit).collect()
    }

    /// Where windows are among so many places, and of which limits; and whether there are places behind them.
    pub(super) fn windows_in(&self, from: u32, count: u32) -> (Vec<(u32, LimitId)>, bool) {
        let end = from.saturating_add(count);
        let last = (self.chunks.len() * self.chunk_size()) as u32;
        let at = |index: u32| {
            let (chunk, place) = self.at(index as usize);
            let window = self.chunks.get(chunk)?.windows.get(place)?;
            (window.limit != VACANT).then_some((index, window.limit))
        };
        ((from..end.min(last)).filter_map(at).collect(), end < last)
    }
}

/// What decides where keys lie in the index: random for each table. Keys of shared limits are hashed with a seed that
/// follows from their group, so that whoever knows that could choose keys that all lie in one run of the index.
#[derive(Clone, Copy)]
struct HashSeed([u64; 2]);

impl HashSeed {
    fn random() -> HashSeed {
        let random = RandomState::new();
        HashSeed([random.hash_one(0), random.hash_one(1)])
    }

    /// The shard and the hash of a key: a folded multiplication (as of wyhash), of which nothing can be foretold without
    /// the seed.
    #[inline]
    fn shard_and_hash(self, limit: LimitId, key: Key) -> (usize, u32) {
        let (low, high) = (key.0 as u64, (key.0 >> 64) as u64);
        let low = low ^ self.0[0] ^ (u64::from(limit.0) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let product = u128::from(low) * u128::from(high ^ self.0[1]);
        let mixed = (product as u64 ^ (product >> 64) as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        ((mixed >> 56) as usize, (mixed >> 24) as u32)
    }
}

impl fmt::Debug for HashSeed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests;

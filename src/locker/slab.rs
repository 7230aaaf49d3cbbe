//! Slab: values under small reusable indexes, with generations to recognise stale ones.
//!
//! It grows by a block at a time and gives its memory back by some blocks at a time, so that neither takes longer the
//! more values there are or were.

use std::ops::{Index, IndexMut};

/// Generation and value of an index; `None` for a vacant one.
type SlabEntry<T> = (u32, Option<T>);

/// Entries per block.
const BLOCK: usize = 256;

/// Most blocks that an empty slab frees at once.
const FREED_AT_ONCE: usize = 4;

/// Values under small indexes. An index is reused, its generation is not (before 2^32 others).
#[derive(Debug)]
pub(super) struct Slab<T> {
    /// Chunks of entries, all but the last with [`BLOCK`] of them.
    blocks: Vec<Vec<SlabEntry<T>>>,
    /// Chunks without values, of the time before the slab was empty, not yet freed.
    vacated: Vec<Vec<SlabEntry<T>>>,
    /// Vacant indexes, the last vacated last.
    free: Vec<u32>,
    /// Generation of the value inserted last.
    generation: u32,
    /// Number of values.
    len: usize,
}

impl<T> Slab<T> {
    /// An empty slab; allocates nothing.
    pub(super) fn new() -> Slab<T> {
        Slab { blocks: Vec::new(), vacated: Vec::new(), free: Vec::new(), generation: 0, len: 0 }
    }

    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Inserts a value under a vacant index and returns the index.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.len += 1;
        if let Some(index) = self.free.pop() {
            let (block, place) = at(index);
            self.blocks[block][place] = (self.generation, Some(value));
            return index;
        }
        if self.blocks.last().is_none_or(|block| block.len() == BLOCK) {
            self.blocks.push(Vec::with_capacity(if self.blocks.is_empty() { 0 } else { BLOCK }));
        }
        let number = self.blocks.len() - 1;
        self.blocks[number].push((self.generation, Some(value)));
        u32::try_from(self.places() - 1).expect("4 billion waiters do not fit in memory")
    }

    /// Number of indexes, in use or vacant.
    fn places(&self) -> usize {
        self.blocks.last().map_or(0, |last| (self.blocks.len() - 1) * BLOCK + last.len())
    }

    /// Removes and returns the value, if there is one. When the slab becomes empty its memory is
    /// freed, if much by [`Slab::free_some`].
    pub(super) fn remove(&mut self, index: u32) -> Option<T> {
        let (block, place) = at(index);
        let value = self.blocks.get_mut(block)?.get_mut(place)?.1.take()?;
        self.len -= 1;
        if self.len == 0 {
            self.free = Vec::new();
            match self.blocks.len() {
                0..=FREED_AT_ONCE => self.blocks = Vec::new(),
                _ => self.vacated.append(&mut self.blocks),
            }
        } else {
            self.free.push(index);
        }
        Some(value)
    }

    /// Frees the memory of some blocks that have no value any more. Returns true if more are left.
    pub(super) fn free_some(&mut self, blocks: usize) -> bool {
        self.vacated.truncate(self.vacated.len().saturating_sub(blocks));
        self.has_vacated()
    }

    /// True if blocks without values are left to be freed.
    pub(super) fn has_vacated(&self) -> bool {
        !self.vacated.is_empty()
    }

    /// Takes a value out but keeps its index reserved until `put_back`.
    ///
    /// # Panics
    /// If the index is not in use.
    pub(super) fn take(&mut self, index: u32) -> T {
        let (block, place) = at(index);
        self.blocks[block][place].1.take().expect("an index that is kept is in use")
    }

    /// Returns a value taken with `take`.
    pub(super) fn put_back(&mut self, index: u32, value: T) {
        let (block, place) = at(index);
        self.blocks[block][place].1 = Some(value);
    }

    /// The value at an index, if there is one.
    pub(super) fn get(&self, index: u32) -> Option<&T> {
        let (block, place) = at(index);
        self.blocks.get(block)?.get(place)?.1.as_ref()
    }

    /// The value at an index, for changes.
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let (block, place) = at(index);
        self.blocks.get_mut(block)?.get_mut(place)?.1.as_mut()
    }

    /// The generation of the value at an index, if there is one.
    pub(super) fn generation(&self, index: u32) -> Option<u32> {
        let (block, place) = at(index);
        let (generation, value) = self.blocks.get(block)?.get(place)?;
        value.is_some().then_some(*generation)
    }

    /// Indexes in use among `count` from `from` on. The flag is true if more indexes follow.
    pub(super) fn in_range(&self, from: u32, count: u32) -> (Vec<u32>, bool) {
        let last = u32::try_from(self.places()).expect("each number is a u32");
        let end = from.saturating_add(count).min(last);
        ((from..end).filter(|index| self.get(*index).is_some()).collect(), end < last)
    }

    /// All indexes in use.
    pub(super) fn indices(&self) -> Vec<u32> {
        (0u32..)
            .zip(self.blocks.iter().flatten())
            .filter(|(_, entry)| entry.1.is_some())
            .map(|(index, _)| index)
            .collect()
    }
}

/// Number of an index's block, and its place there.
#[inline]
fn at(index: u32) -> (usize, usize) {
    (index as usize / BLOCK, index as usize % BLOCK)
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        let (block, place) = at(index);
        self.blocks[block][place].1.as_ref().expect("an index that is kept is in use")
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        let (block, place) = at(index);
        self.blocks[block][place].1.as_mut().expect("an index that is kept is in use")
    }
}

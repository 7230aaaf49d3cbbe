//! Slab: values under small reusable indexes, with generations to recognise stale ones.

use std::ops::{Index, IndexMut};

/// Values under small indexes. An index is reused, its generation is not (before 2^32 others).
#[derive(Debug)]
pub(super) struct Slab<T> {
    /// Generation and value of each index; `None` for a vacant one.
    entries: Vec<(u32, Option<T>)>,
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
        Slab { entries: Vec::new(), free: Vec::new(), generation: 0, len: 0 }
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
            self.entries[index as usize] = (self.generation, Some(value));
            return index;
        }
        self.entries.push((self.generation, Some(value)));
        u32::try_from(self.entries.len() - 1).expect("4 billion waiters do not fit in memory")
    }

    /// Removes and returns the value, if there is one. Frees all memory when the slab becomes empty.
    pub(super) fn remove(&mut self, index: u32) -> Option<T> {
        let value = self.entries.get_mut(index as usize)?.1.take()?;
        self.len -= 1;
        if self.len == 0 {
            self.entries = Vec::new();
            self.free = Vec::new();
        } else {
            self.free.push(index);
        }
        Some(value)
    }

    /// Takes a value out but keeps its index reserved until `put_back`.
    ///
    /// # Panics
    /// If the index is not in use.
    pub(super) fn take(&mut self, index: u32) -> T {
        self.entries[index as usize].1.take().expect("an index that is kept is in use")
    }

    /// Returns a value taken with `take`.
    pub(super) fn put_back(&mut self, index: u32, value: T) {
        self.entries[index as usize].1 = Some(value);
    }

    /// The value at an index, if there is one.
    pub(super) fn get(&self, index: u32) -> Option<&T> {
        self.entries.get(index as usize)?.1.as_ref()
    }

    /// The value at an index, for changes.
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.entries.get_mut(index as usize)?.1.as_mut()
    }

    /// The generation of the value at an index, if there is one.
    pub(super) fn generation(&self, index: u32) -> Option<u32> {
        let (generation, value) = self.entries.get(index as usize)?;
        value.is_some().then_some(*generation)
    }

    /// Indexes in use among `count` from `from` on. The flag is true if more indexes follow.
    pub(super) fn in_range(&self, from: u32, count: u32) -> (Vec<u32>, bool) {
        let last = u32::try_from(self.entries.len()).expect("each number is a u32");
        let end = from.saturating_add(count).min(last);
        ((from..end).filter(|index| self.get(*index).is_some()).collect(), end < last)
    }

    /// All indexes in use.
    pub(super) fn indices(&self) -> Vec<u32> {
        (0u32..).zip(&self.entries).filter(|(_, entry)| entry.1.is_some()).map(|(index, _)| index).collect()
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        self.entries[index as usize].1.as_ref().expect("an index that is kept is in use")
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        self.entries[index as usize].1.as_mut().expect("an index that is kept is in use")
    }
}

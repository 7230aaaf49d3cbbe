//! Intrusive doubly linked lists of windows, one per limit: finds the windows of a limit without
//! visiting others.
//!
//! The links lie beside the windows, in chunks of the same size, and name windows by their index. A
//! list begins with the window created last, so that a walk from its beginning visits exactly the
//! windows that existed when it began.

use super::api::LimitId;

/// End of a list. No window has this index.
const END: u32 = u32::MAX;

/// Neighbours of a window in its limit's list.
#[derive(Clone, Copy, Debug)]
struct ListLink {
    /// Index of the window created next after this one, or [`END`].
    before: u32,
    /// Index of the window created before this one, or [`END`].
    after: u32,
}

/// A walk through one list that stays valid while windows come and go.
///
/// Each has one walk at a time, over one limit; beginning another one ends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ListCursor {
    /// Walk that writes windows to the journal.
    Journal,
    /// Walk that reports windows to the store.
    Sharing,
    /// Walk that carries windows over to a changed rule.
    RuleChanges,
}

/// Lists of the windows of all limits.
#[derive(Debug)]
pub(super) struct WindowLists {
    /// Windows per chunk, as a power of two.
    bits: u32,
    /// Links, in the same chunks and places as the windows.
    chunks: Vec<Vec<ListLink>>,
    /// Index of each limit's first window.
    first: Vec<u32>,
    /// Index of the next window of each cursor.
    next: [u32; 3],
}

impl WindowLists {
    /// Empty lists for chunks of 2^`bits` windows.
    pub(super) fn new(bits: u32) -> WindowLists {
        WindowLists { bits, chunks: Vec::new(), first: Vec::new(), next: [END; 3] }
    }

    /// Inserts a new window at the beginning of its limit's list.
    ///
    /// The window must not be in a list.
    pub(super) fn link(&mut self, limit: LimitId, index: u32) {
        if self.first.len() <= limit.at() {
            self.first.resize(limit.at() + 1, END);
        }
        let after = std::mem::replace(&mut self.first[limit.at()], index);
        let (number, place) = self.at(index);
        if self.chunks.len() <= number {
            self.chunks.resize_with(number + 1, Vec::new);
        }
        let chunk = &mut self.chunks[number];
        if chunk.is_empty() {
            chunk.reserve_exact(1 << self.bits);
        }
        let link = ListLink { before: END, after };
        match chunk.get_mut(place) {
            Some(found) => *found = link,
            // The table fills the places of a chunk in order.
            None => chunk.push(link),
        }
        if after != END {
            self.link_mut(after).before = index;
        }
    }

    /// Removes a window from its limit's list. A cursor that stands on it moves to the next one.
    ///
    /// The window must be in the list of this limit. Constant time.
    pub(super) fn unlink(&mut self, limit: LimitId, index: u32) {
        let ListLink { before, after } = *self.link_mut(index);
        match before {
            END => self.first[limit.at()] = after,
            before => self.link_mut(before).after = after,
        }
        if after != END {
            self.link_mut(after).before = before;
        }
        for next in &mut self.next {
            if *next == index {
                *next = after;
            }
        }
    }

    /// Frees a chunk that has no window left.
    pub(super) fn free(&mut self, chunk: usize) {
        self.chunks[chunk] = Vec::new();
    }

    /// Frees all chunks; called when no window is left.
    pub(super) fn clear(&mut self) {
        self.chunks = Vec::new();
    }

    /// Windows of a limit, the newest first.
    pub(super) fn of(&self, limit: LimitId) -> impl Iterator<Item = u32> {
        let is_some = |index: &u32| *index != END;
        let first = self.first.get(limit.at()).copied().filter(is_some);
        std::iter::successors(first, move |index| Some(self.after(*index)).filter(is_some))
    }

    /// Starts a walk over the windows that a limit has now.
    ///
    /// Windows created later are put before the beginning, and are not visited; removed ones are
    /// skipped.
    pub(super) fn begin(&mut self, cursor: ListCursor, limit: LimitId) {
        self.next[cursor as usize] = self.first.get(limit.at()).copied().unwrap_or(END);
    }

    /// The next window of a walk; `None` at the end of the list.
    pub(super) fn step(&mut self, cursor: ListCursor) -> Option<u32> {
        let index = self.next[cursor as usize];
        if index == END {
            return None;
        }
        self.next[cursor as usize] = self.after(index);
        Some(index)
    }

    /// Index of the window behind this one, or [`END`].
    fn after(&self, index: u32) -> u32 {
        let (chunk, place) = self.at(index);
        self.chunks[chunk][place].after
    }

    /// Links of a window, for changes.
    fn link_mut(&mut self, index: u32) -> &mut ListLink {
        let (chunk, place) = self.at(index);
        &mut self.chunks[chunk][place]
    }

    /// Chunk number of an index, and the place within the chunk.
    fn at(&self, index: u32) -> (usize, usize) {
        (index as usize >> self.bits, index as usize & ((1 << self.bits) - 1))
    }
}

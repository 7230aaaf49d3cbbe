//! Doubly linked lists of windows, one for each limit: finds the windows of a limit without a look at those of others.
//!
//! The links lie beside the windows, in chunks of the same size, and name windows by their places. A list begins with the
//! window that was made last, so that a walk from its beginning meets those alone that were there when it began.

use super::api::LimitId;

/// The end of a list.
const END: u32 = u32::MAX;

/// The neighbours of a window in its list.
#[derive(Clone, Copy, Debug)]
struct ListLink {
    before: u32,
    after: u32,
}

/// Who walks through a list while windows come and go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ListCursor {
    /// What is to be written down.
    Journal,
    /// What the store is to be told.
    Sharing,
}

#[derive(Debug)]
pub(super) struct WindowLists {
    /// Windows per chunk, as a power of two.
    bits: u32,
    chunks: Vec<Vec<ListLink>>,
    /// The first window of each limit.
    first: Vec<u32>,
    /// Where each walker goes on.
    next: [u32; 2],
}

impl WindowLists {
    pub(super) fn new(bits: u32) -> WindowLists {
        WindowLists { bits, chunks: Vec::new(), first: Vec::new(), next: [END; 2] }
    }

    /// Puts a window that was just made at the beginning of its limit's list.
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
            // Places are filled in their order.
            None => chunk.push(link),
        }
        if after != END {
            self.link_mut(after).before = index;
        }
    }

    /// Takes a window out of its limit's list; who was to go on there goes on behind it.
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

    /// No window of a chunk is left.
    pub(super) fn free(&mut self, chunk: usize) {
        self.chunks[chunk] = Vec::new();
    }

    /// No window is left.
    pub(super) fn clear(&mut self) {
        self.chunks = Vec::new();
    }

    /// The windows of a limit, the one that was made last first.
    pub(super) fn of(&self, limit: LimitId) -> impl Iterator<Item = u32> {
        let is_some = |index: &u32| *index != END;
        let first = self.first.get(limit.at()).copied().filter(is_some);
        std::iter::successors(first, move |index| Some(self.after(*index)).filter(is_some))
    }

    /// A walker begins with the windows that a limit has now.
    pub(super) fn begin(&mut self, walker: ListCursor, limit: LimitId) {
        self.next[walker as usize] = self.first.get(limit.at()).copied().unwrap_or(END);
    }

    /// The next window on a walker's way; `None` at the end of the list.
    pub(super) fn step(&mut self, walker: ListCursor) -> Option<u32> {
        let index = self.next[walker as usize];
        if index == END {
            return None;
        }
        self.next[walker as usize] = self.after(index);
        Some(index)
    }

    fn after(&self, index: u32) -> u32 {
        let (chunk, place) = self.at(index);
        self.chunks[chunk][place].after
    }

    fn link_mut(&mut self, index: u32) -> &mut ListLink {
        let (chunk, place) = self.at(index);
        &mut self.chunks[chunk][place]
    }

    fn at(&self, index: u32) -> (usize, usize) {
        (index as usize >> self.bits, index as usize & ((1 << self.bits) - 1))
    }
}

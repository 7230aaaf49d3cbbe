//! Progress of a live copy, noted by the table whenever a window is lent for changes.

use std::collections::VecDeque;

use super::api::{Key, LimitId};
use super::window::Window;

/// State of a live copy: how far its walk has come, and which copied windows have changed since.
///
/// Invariant: the key of a marked place is in `changed`.
#[derive(Debug)]
pub(super) struct CopyProgress {
    /// Place at which the walk continues; `None` at its end. A change from there on needs no note.
    pub(super) walk: Option<u32>,
    /// One bit for each place of the table: set if its window has changed since it was copied.
    marks: Vec<u64>,
    /// Keys to copy again, in the order of their first change.
    pub(super) changed: VecDeque<(LimitId, Key)>,
    /// Revision of the limits at the beginning: the copy is void under another one.
    pub(super) revision: u64,
}

impl CopyProgress {
    /// Progress of a copy that begins. `revision`: of the limits.
    pub(super) fn new(revision: u64) -> CopyProgress {
        CopyProgress { walk: Some(0), marks: Vec::new(), changed: VecDeque::new(), revision }
    }

    /// Notes a change in the window at a place, which may be a new one.
    #[cold]
    pub(super) fn note_change(&mut self, index: u32, window: &Window) {
        if self.is_ahead(index) {
            return;
        }
        let (word, bit) = (index as usize / 64, 1 << (index % 64));
        if self.marks.len() <= word {
            self.marks.resize(word + 1, 0);
        }
        if self.marks[word] & bit == 0 {
            self.marks[word] |= bit;
            self.changed.push_back((window.limit, window.key));
        }
    }

    /// Notes that the window at a place is dropped; the place may get another one.
    #[cold]
    pub(super) fn note_drop(&mut self, index: u32, window: &Window) {
        self.note_change(index, window);
        self.unmark(index);
    }

    /// True if the walk will still reach a place.
    fn is_ahead(&self, index: u32) -> bool {
        self.walk.is_some_and(|next| index >= next)
    }

    /// Removes the mark of a place.
    pub(super) fn unmark(&mut self, index: u32) {
        if let Some(word) = self.marks.get_mut(index as usize / 64) {
            *word &= !(1 << (index % 64));
        }
    }
}

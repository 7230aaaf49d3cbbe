//! A window's log: how many slots settled when, oldest first.
//!
//! The first entry lies in the window itself, so that a key with one settle needs no allocation.

use std::collections::VecDeque;

use super::Window;
use crate::time::Time;

/// How many slots settled at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) at: Time,
    pub(crate) count: u32,
}

impl Window {
    /// Appends `count` slots that settled at `at`, or with the last entry if that is later: the log
    /// never goes back in time, and an entry is never earlier than the settle it stands for.
    pub(super) fn log_push(&mut self, at: Time, count: u32) {
        if count == 0 {
            return;
        }
        if self.in_log == 0 {
            self.set_first(Entry { at, count });
        } else {
            match self.extra.as_deref_mut().and_then(|extra| extra.log.back_mut()) {
                Some(last) if last.at >= at => last.count += count,
                None if self.first_at >= at => self.first_count += count,
                Some(_) | None => self.extra_mut().log.push_back(Entry { at, count }),
            }
        }
        self.in_log += count;
    }

    /// Puts `count` slots before all others: they settled no later than those.
    pub(super) fn log_push_oldest(&mut self, at: Time, count: u32) {
        if count == 0 {
            return;
        }
        if self.in_log == 0 {
            self.set_first(Entry { at, count });
        } else if self.first_at <= at {
            self.first_count += count;
        } else {
            let first = self.first();
            self.extra_mut().log.push_front(first);
            self.set_first(Entry { at, count });
        }
        self.in_log += count;
    }

    /// Drops the oldest entry.
    pub(super) fn log_pop(&mut self) {
        self.in_log -= self.first_count;
        if self.in_log > 0 {
            let next = self.extra.as_mut().and_then(|extra| extra.log.pop_front());
            let next = next.expect("slots in the log beyond the first entry are in the deque");
            self.set_first(next);
        }
    }

    /// Forgets every entry.
    pub(super) fn log_clear(&mut self) {
        self.in_log = 0;
        if let Some(extra) = &mut self.extra {
            extra.log = VecDeque::new();
        }
    }

    /// The entries, oldest first.
    pub(super) fn log_entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let first = (self.in_log > 0).then(|| self.first());
        let rest = self.extra.iter().flat_map(|extra| extra.log.iter().copied());
        first.into_iter().chain(rest)
    }

    fn first(&self) -> Entry {
        Entry { at: self.first_at, count: self.first_count }
    }

    fn set_first(&mut self, entry: Entry) {
        self.first_at = entry.at;
        self.first_count = entry.count;
    }
}

//! Settle log of a window: the number of slots that settled at each time, oldest first.
//!
//! The oldest entries lie in a ring buffer inside the window; only entries beyond its size are
//! allocated.

use std::collections::VecDeque;

use super::Window;
use crate::time::Time;

/// Number of entries inside the window: as many as fill its second cache line.
pub(crate) const INLINE: usize = 5;

/// Last place of the ring.
const LAST_INLINE: u8 = 4;
const _: () = assert!(LAST_INLINE as usize == INLINE - 1, "the ring has `INLINE` places");

/// Initial capacity for the entries beyond the ring. The C library's allocator caches blocks below
/// this size for later requests of the same size, so that a million idle keys would not give their
/// memory back.
const FIRST_CAPACITY: usize = 16;

/// Slots that settled at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogEntry {
    /// Settle time, possibly rounded up.
    pub(crate) at: Time,
    /// Number of slots, at least 1.
    pub(crate) count: u32,
}

/// Ring buffer inside the window. Times and counts are separate arrays, because pairs of them would
/// be padded.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LogRing {
    /// Settle times, in ring order.
    at: [Time; INLINE],
    /// Numbers of slots, at the index of their time.
    count: [u32; INLINE],
}

impl Window {
    /// Settle time of the oldest entry; meaningless if there is none.
    #[inline]
    pub(super) fn first_at(&self) -> Time {
        self.oldest
    }

    /// Appends `count` slots that settled at `at`, or adds them to the last entry if that is later:
    /// the log never goes back in time, and no entry is earlier than the settle it stands for.
    #[inline]
    pub(super) fn log_push(&mut self, at: Time, count: u32) {
        if count == 0 {
            return;
        }
        self.in_log += count;
        if let Some(overflow) = self.overflow_mut() {
            match overflow.back_mut() {
                Some(last) if last.at >= at => last.count += count,
                Some(_) | None => overflow.push_back(LogEntry { at, count }),
            }
            return;
        }
        if self.len > 0 {
            let last = self.ring_index(self.len - 1);
            if self.ring.at[last] >= at {
                self.ring.count[last] += count;
                return;
            }
        }
        if self.len == 0 {
            self.oldest = at;
        }
        if usize::from(self.len) < INLINE {
            self.set(self.ring_index(self.len), LogEntry { at, count });
            self.len += 1;
        } else {
            let overflow = &mut self.extra_mut().log;
            overflow.reserve(FIRST_CAPACITY);
            overflow.push_back(LogEntry { at, count });
        }
    }

    /// Adds `count` slots that settled at `at` to the last entry and moves that entry to the later
    /// of the two times. Appends a new entry instead if the last one is older than `since`.
    pub(super) fn log_join(&mut self, since: Time, at: Time, count: u32) {
        if count == 0 {
            return;
        }
        let joined = |last: Time| mutant!(last.max(at), "slots of a period join at the earlier time", last);
        if let Some(last) = self.overflow_mut().and_then(VecDeque::back_mut) {
            if last.at < since {
                return self.log_push(at, count);
            }
            (last.at, last.count) = (joined(last.at), last.count + count);
        } else {
            let last = self.ring_index(self.len.saturating_sub(1));
            if self.len == 0 || self.ring.at[last] < since {
                return self.log_push(at, count);
            }
            self.ring.at[last] = joined(self.ring.at[last]);
            self.ring.count[last] += count;
            self.oldest = self.ring.at[usize::from(self.start)];
        }
        self.in_log += count;
    }

    /// Inserts `count` slots that settled at `at` in order of time.
    pub(super) fn log_insert(&mut self, at: Time, count: u32) {
        let Some(last) = self.log_entries().last().filter(|last| last.at > at) else {
            return self.log_push(at, count);
        };
        if at <= self.oldest {
            return self.log_push_oldest(at, count);
        }
        debug_assert!(at < last.at, "they are neither the newest nor the oldest");
        let entries: Vec<LogEntry> = self.log_entries().collect();
        self.log_clear();
        let (before, after) = entries.split_at(entries.partition_point(|entry| entry.at <= at));
        for LogEntry { at, count } in before.iter().chain(&[LogEntry { at, count }]).chain(after) {
            self.log_push(*at, *count);
        }
    }

    /// Inserts `count` slots before all others; `at` must not be later than the oldest entry.
    fn log_push_oldest(&mut self, at: Time, count: u32) {
        if count == 0 {
            return;
        }
        debug_assert!(self.len == 0 || at <= self.oldest, "an entry is never earlier than the settle it stands for");
        let first = usize::from(self.start);
        if self.len > 0 && self.ring.at[first] == at {
            self.ring.count[first] += count;
            self.in_log += count;
            return;
        }
        if usize::from(self.len) == INLINE {
            let last = self.entry(self.len - 1);
            self.extra_mut().log.push_front(last);
            self.len -= 1;
        }
        self.start = if self.start == 0 { LAST_INLINE } else { self.start - 1 };
        self.len += 1;
        self.set(usize::from(self.start), LogEntry { at, count });
        self.oldest = at;
        self.in_log += count;
    }

    /// Removes the oldest entry. The log must not be empty.
    #[inline]
    pub(super) fn log_pop(&mut self) {
        self.in_log -= self.ring.count[usize::from(self.start)];
        self.start = if usize::from(self.start) == INLINE - 1 { 0 } else { self.start + 1 };
        self.len -= 1;
        if self.len == 0 && self.in_log > 0 {
            self.refill_ring();
        }
        self.oldest = self.ring.at[usize::from(self.start)];
    }

    /// Refills the ring from the allocated entries.
    fn refill_ring(&mut self) {
        while usize::from(self.len) < INLINE
            && let Some(next) = self.overflow_mut().and_then(VecDeque::pop_front)
        {
            self.set(self.ring_index(self.len), next);
            self.len += 1;
        }
        debug_assert!(self.len > 0, "slots in the log are in the ring or in the rest");
    }

    /// Removes all entries.
    pub(super) fn log_clear(&mut self) {
        self.in_log = 0;
        self.len = 0;
        if let Some(extra) = &mut self.extra {
            extra.log = VecDeque::new();
        }
    }

    /// The entries, oldest first.
    pub(super) fn log_entries(&self) -> impl Iterator<Item = LogEntry> + '_ {
        let overflow = self.extra.iter().flat_map(|extra| extra.log.iter().copied());
        (0..self.len).map(|number| self.entry(number)).chain(overflow)
    }

    /// Entries as times and counts, oldest first. If there are more than `most`, neighbours are
    /// merged at the later time.
    pub(crate) fn short_log(&self, rule: &super::WindowRule, most: usize) -> Vec<(Time, u32)> {
        let step = (rule.span / most as u64).max(1);
        let mut log: Vec<(Time, u32)> = Vec::new();
        let is_long = self.log_entries().nth(most).is_some();
        for LogEntry { at, count } in self.log_entries() {
            match log.last_mut() {
                Some(last) if is_long && last.0.as_nanos() / step == at.as_nanos() / step => {
                    *last = (mutant!(at, "a record merges settles at the earlier time", last.0), last.1 + count);
                }
                Some(_) | None => log.push((at, count)),
            }
        }
        log
    }

    /// The allocated entries; `None` if there are none.
    #[inline]
    fn overflow_mut(&mut self) -> Option<&mut VecDeque<LogEntry>> {
        self.extra.as_mut().map(|extra| &mut extra.log).filter(|log| !log.is_empty())
    }

    /// The `number`-th entry of the ring; the oldest is number 0.
    fn entry(&self, number: u8) -> LogEntry {
        let ring_index = self.ring_index(number);
        LogEntry { at: self.ring.at[ring_index], count: self.ring.count[ring_index] }
    }

    /// Overwrites the entry at an index of the ring.
    fn set(&mut self, ring_index: usize, entry: LogEntry) {
        self.ring.at[ring_index] = entry.at;
        self.ring.count[ring_index] = entry.count;
    }

    /// Index in the ring of the `number`-th entry; the oldest is number 0.
    #[inline]
    fn ring_index(&self, number: u8) -> usize {
        let ring_index = usize::from(self.start) + usize::from(number);
        if ring_index < INLINE { ring_index } else { ring_index - INLINE }
    }
}

#[cfg(test)]
mod tests;

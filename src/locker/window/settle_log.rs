//! A window's log: how many slots settled when, oldest first.
//!
//! The oldest entries lie in the window itself, in a ring; only what finds no room there is allocated.

use std::collections::VecDeque;

use super::Window;
use crate::time::Time;

/// How many entries lie in the window itself: as many as fill its second cache line.
pub(crate) const INLINE: usize = 5;

/// How many entries the rest of a log has room for at first. Blocks below this size are kept by the C library's
/// allocator for the next of their size, and a million idle keys would not give their memory back.
const FIRST_CAPACITY: usize = 16;

/// How many slots settled at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogEntry {
    pub(crate) at: Time,
    pub(crate) count: u32,
}

/// The ring in the window: times and counts apart, because together each would be padded.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LogRing {
    at: [Time; INLINE],
    count: [u32; INLINE],
}

impl Window {
    /// When the oldest entry settled; any time if there is none.
    #[inline]
    pub(super) fn first_at(&self) -> Time {
        self.oldest
    }

    /// Appends `count` slots that settled at `at`, or with the last entry if that is later: the log
    /// never goes back in time, and an entry is never earlier than the settle it stands for.
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

    /// Adds `count` slots that settled at `at` to the last entry, which is as late as they are from there on; or appends
    /// them, if that is older than `since`.
    pub(super) fn log_join(&mut self, since: Time, at: Time, count: u32) {
        if count == 0 {
            return;
        }
        let joined = |last: Time| last.max(at);
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

    /// Puts `count` slots that settled at `at` where they belong in time.
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

    /// Puts `count` slots before all others: they settled no later than those.
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
        self.start = if self.start == 0 { INLINE as u8 - 1 } else { self.start - 1 };
        self.len += 1;
        self.set(usize::from(self.start), LogEntry { at, count });
        self.oldest = at;
        self.in_log += count;
    }

    /// Drops the oldest entry.
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

    /// Fills the ring again from the rest of the log.
    fn refill_ring(&mut self) {
        while usize::from(self.len) < INLINE
            && let Some(next) = self.overflow_mut().and_then(VecDeque::pop_front)
        {
            self.set(self.ring_index(self.len), next);
            self.len += 1;
        }
        debug_assert!(self.len > 0, "slots in the log are in the ring or in the rest");
    }

    /// Forgets every entry.
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

    /// The entries as times and counts, oldest first; of more than `most`, neighbours are one with the later's time.
    pub(crate) fn short_log(&self, rule: &super::WindowRule, most: usize) -> Vec<(Time, u32)> {
        let step = (rule.span / most as u64).max(1);
        let mut log: Vec<(Time, u32)> = Vec::new();
        let is_long = self.log_entries().nth(most).is_some();
        for LogEntry { at, count } in self.log_entries() {
            match log.last_mut() {
                Some(last) if is_long && last.0.as_nanos() / step == at.as_nanos() / step => {
                    *last = (at, last.1 + count);
                }
                Some(_) | None => log.push((at, count)),
            }
        }
        log
    }

    /// What does not lie in the window itself, unless that is nothing.
    #[inline]
    fn overflow_mut(&mut self) -> Option<&mut VecDeque<LogEntry>> {
        self.extra.as_mut().map(|extra| &mut extra.log).filter(|log| !log.is_empty())
    }

    fn entry(&self, number: u8) -> LogEntry {
        let ring_index = self.ring_index(number);
        LogEntry { at: self.ring.at[ring_index], count: self.ring.count[ring_index] }
    }

    fn set(&mut self, ring_index: usize, entry: LogEntry) {
        self.ring.at[ring_index] = entry.at;
        self.ring.count[ring_index] = entry.count;
    }

    /// Where in the ring the entry of that number is, the oldest being number 0.
    #[inline]
    fn ring_index(&self, number: u8) -> usize {
        let ring_index = usize::from(self.start) + usize::from(number);
        if ring_index < INLINE { ring_index } else { ring_index - INLINE }
    }
}

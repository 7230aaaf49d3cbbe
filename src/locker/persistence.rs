//! What is to be written down so that a crash forgets nothing: which windows, and what of them.
//!
//! The locker does not write. It names what is to be written (`poll_record`), and is told when that is done (`records_written`);
//! until then a window gives out no slot that is not written down.

use std::collections::{BTreeMap, VecDeque};

use super::Locker;
use super::api::{Key, LimitId};
use super::window::{Window, WindowRule};
use super::window_lists::ListCursor;
use super::window_record::WindowRecord;
use crate::time::Time;

/// Of a longer log than that, neighbouring settle times are written as one, the later: it holds back a little longer
/// after a crash (at most a 128th of the span), and a record stays below 2 KiB.
const MAX_LOG: usize = 128;

/// Something to be written down.
#[derive(Clone, PartialEq, Debug)]
pub enum JournalRecord {
    /// The limits are others than before: what `Locker::snapshot` says of them, without windows.
    Limits,
    /// What is to be found of a window after a crash.
    Window(WindowRecord, WriteToken),
    /// Nothing is left of a window.
    Dropped(LimitId, Key),
}

/// What is said to the locker when the page is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteToken {
    window: u32,
    generation: u32,
    term: u32,
}

/// What is on the disk when it begins to be written, and what follows for slots until it says all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JournalStart {
    /// Nothing that counts, and no slot is taken that is not written: for a start, at which nobody asks yet.
    Fresh,
    /// Nothing that counts, and what is written is not believed before all of it is ([`Locker::is_catching_up`]). Until a
    /// window's first page it gives out slots as it did, and from then on what is written.
    CatchUp,
    /// All that was counted: by the process before, or by this one until the disk failed. Whoever wants a slot of a window
    /// has it written down first.
    Resume,
}

/// What is to be written down.
#[derive(Debug, Default)]
pub(super) struct WriteQueue {
    /// Whether slots are written down before they are taken.
    is_on: bool,
    /// The limits are others than those that are written down.
    limits: bool,
    /// Windows of which more is to be written down.
    windows: VecDeque<(u32, u32)>,
    /// Limits of all whose windows a page is to be written; the first of them is being walked through.
    scan: VecDeque<LimitId>,
    /// Those of them that became such while others' pages are believed, and until when what they counted before may settle:
    /// as long as their windows are not written, a crash must count as full.
    counts_as_full: BTreeMap<LimitId, Time>,
    is_catching_up: bool,
    /// Whether it is a walk's turn, and not that of windows of which more was asked for.
    scan_turn: bool,
}

impl Locker {
    /// From here on slots of long windows are written down before they are taken; the limits first. It is so at once, by
    /// the rules of the limits: windows that have not had a page in this term have no credit, or with [`JournalStart::CatchUp`]
    /// need none yet. Neither can be told from the outside half-way, so nothing goes wrong if somebody asks in between.
    pub fn begin_persisting(&mut self, begin: JournalStart, now: Time) {
        let now = self.advance(now);
        self.write_queue = WriteQueue { is_on: true, limits: true, ..WriteQueue::default() };
        if begin != JournalStart::Resume {
            // Nothing of what is gone is left in what is written anew.
            self.table.dropped.clear();
        }
        for id in self.limits.ids.clone() {
            let rule = &mut self.limits.rules[id.at()];
            rule.persisted = should_persist(rule);
            rule.begin_term();
            rule.catches_up = rule.persisted && begin == JournalStart::CatchUp;
            match (rule.persisted, begin) {
                (false, _) => {}
                (true, JournalStart::Fresh | JournalStart::CatchUp) => self.write_queue.scan.push_back(id),
                // Whoever waits for what was asked to be written before asks again.
                (true, JournalStart::Resume) => self.review(id),
            }
        }
        self.write_queue.is_catching_up = begin == JournalStart::CatchUp && !self.write_queue.scan.is_empty();
        self.begin_journal_scan();
        self.review_some(now);
    }

    /// Nothing can be written down any more: slots are taken all the same. Who waited for that is found by and by.
    pub fn end_persisting(&mut self, now: Time) {
        let now = self.advance(now);
        self.write_queue = WriteQueue::default();
        for id in self.limits.ids.clone() {
            let rule = &mut self.limits.rules[id.at()];
            if std::mem::take(&mut rule.persisted) {
                rule.begin_term();
                self.review(id);
            }
        }
        self.review_some(now);
    }

    /// Whether slots of long windows are written down before they are taken.
    pub fn is_persisting(&self) -> bool {
        self.write_queue.is_on
    }

    /// Whether what is written is not all yet that it must be to be believed.
    pub fn is_catching_up(&self) -> bool {
        self.write_queue.is_catching_up
    }

    /// Brings the rule of a limit that is new or changed in line with whether anything is written down. `until`: when all
    /// has settled that its windows may have let go before. `block`: how many slots of it were written ahead before.
    pub(super) fn update_persistence(&mut self, id: LimitId, until: Time, block: u32) {
        let rule = &mut self.limits.rules[id.at()];
        let was = std::mem::replace(&mut rule.persisted, false);
        // What is on the disk says that it is written until the limits are there as they are now, and a crash before that
        // believes it.
        let is_believed = was && !rule.shared && !rule.dry_run && rule.counts_slots();
        rule.persisted = self.write_queue.is_on && (should_persist(rule) || is_believed);
        // Keys without a page may have taken a block by the rule of before, which a crash by this one would not count.
        if was == rule.persisted && (!was || block <= rule.block) {
            return;
        }
        let (is_recorded, live) = (rule.persisted, rule.live);
        rule.begin_term();
        self.write_queue.counts_as_full.remove(&id);
        if is_recorded && live > 0 {
            self.write_queue.counts_as_full.insert(id, until);
            self.write_queue.scan.push_back(id);
            if self.write_queue.scan.len() == 1 {
                self.begin_journal_scan();
            }
        }
    }

    /// Until when what a limit has let go may settle, if none of it may be on the disk.
    pub(super) fn full_until(&self, id: LimitId) -> Option<Time> {
        self.write_queue.counts_as_full.get(&id).copied()
    }

    /// Whether the pages of any limit may be less than is to be known.
    pub fn has_unwritten_windows(&self) -> bool {
        !self.write_queue.counts_as_full.is_empty()
    }

    /// Whether anything is written of windows that are gone, or of limits as they were.
    pub(super) fn has_unwritten_drops(&self) -> bool {
        self.write_queue.is_on && !(self.table.dropped.is_empty() && self.write_queue.scan.is_empty())
    }

    /// Whether there is anything to be written down.
    pub fn has_records(&self) -> bool {
        let WriteQueue { is_on, limits, windows, scan, .. } = &self.write_queue;
        *is_on && (*limits || !windows.is_empty() || !scan.is_empty() || !self.table.dropped.is_empty())
    }

    /// The next thing to be written down. What is named first must be written no later than what is named after it.
    pub fn poll_record(&mut self, now: Time) -> Option<JournalRecord> {
        while self.has_records() {
            let record = self.poll_records(1, now).pop();
            if record.is_some() {
                return record;
            }
        }
        None
    }

    /// The next things to be written down, after a look at no more than `most`: there may be none among them, and more
    /// behind ([`Locker::has_records`]).
    pub fn poll_records(&mut self, most: usize, now: Time) -> Vec<JournalRecord> {
        let now = self.advance(now);
        let mut records = Vec::new();
        for _ in 0..most {
            if !self.has_records() {
                break;
            }
            records.extend(self.next_record(now));
        }
        records
    }

    /// What is next to be looked at, if that is to be written down.
    fn next_record(&mut self, now: Time) -> Option<JournalRecord> {
        if std::mem::take(&mut self.write_queue.limits) {
            return Some(JournalRecord::Limits);
        }
        if let Some((limit, key)) = self.table.dropped.pop() {
            // Its key may have a window again, which has asked or will ask to be written down itself.
            return Some(JournalRecord::Dropped(limit, key));
        }
        // Both go on, however much there is of either.
        self.write_queue.scan_turn = !self.write_queue.scan_turn && !self.write_queue.scan.is_empty();
        if !self.write_queue.scan_turn
            && let Some((window, generation)) = self.write_queue.windows.pop_front()
        {
            let rules = &self.limits.rules;
            // One whose limit is not written down any more is of no account.
            let current = self.table.current(window, generation).filter(|window| rules[window.limit.at()].persisted);
            return current.is_some().then(|| self.begin_write(window, now));
        }
        if self.write_queue.scan.is_empty() {
            return None;
        }
        let Some(window) = self.table.lists.step(ListCursor::Journal) else {
            self.end_journal_scan();
            return None;
        };
        let found = self.table.window(window);
        let rule = &self.limits.rules[found.limit.at()];
        // One that is bound has a page, or has asked for one.
        (rule.persisted && found.is_unwritten(rule)).then(|| self.begin_write(window, now))
    }

    fn begin_journal_scan(&mut self) {
        if let Some(limit) = self.write_queue.scan.front() {
            self.table.lists.begin(ListCursor::Journal, *limit);
        }
    }

    /// All windows of the first limit have been named.
    fn end_journal_scan(&mut self) {
        let Some(limit) = self.write_queue.scan.pop_front() else { return };
        self.begin_journal_scan();
        // It may be there once more, because it was another's to write for a while.
        if !self.write_queue.scan.contains(&limit) && self.write_queue.counts_as_full.remove(&limit).is_some() {
            // After the pages: it says that they are all that is to be known.
            self.write_queue.limits = true;
        }
        if self.write_queue.scan.is_empty() {
            self.write_queue.is_catching_up = false;
            self.limits.ids.iter().for_each(|id| self.limits.rules[id.at()].catches_up = false);
        }
    }

    fn begin_write(&mut self, index: u32, now: Time) -> JournalRecord {
        let limit = self.table.window(index).limit;
        let rule = &self.limits.rules[limit.at()];
        let window = self.table.window_mut(index);
        window.expire(rule, now);
        // What waits can go as soon as there is room; more than N at one time never can.
        let waiting = window.queue().map_or(0, |queue| u32::try_from(queue.slots).unwrap_or(u32::MAX));
        let wanted = waiting.min(window.room(rule));
        let open = window.begin_write(rule, wanted);
        let written = WriteToken { window: index, generation: window.generation, term: rule.term };
        JournalRecord::Window(WindowRecord { flying: 0, ..window.record(rule, open, MAX_LOG) }, written)
    }

    /// Pages are written down: what they say may be taken.
    pub fn records_written(&mut self, written: impl IntoIterator<Item = WriteToken>, now: Time) {
        let now = self.advance(now);
        for WriteToken { window: index, generation, term } in written {
            let Some(window) = self.table.current(index, generation) else { continue };
            let rule = &self.limits.rules[window.limit.at()];
            if term != rule.term {
                continue;
            }
            if window.end_write(rule) || window.needs_more_prewritten(rule) {
                self.request_write(index);
            }
            self.mark_dirty(index);
        }
        self.dispatch(now);
    }

    /// The limits are written down as they are now: keys of which nothing is written may begin with a block.
    pub fn limits_written(&mut self) {
        if self.write_queue.limits {
            return;
        }
        for id in self.limits.ids.clone() {
            let rule = &mut self.limits.rules[id.at()];
            if rule.persisted && !should_persist(rule) {
                rule.persisted = false;
                rule.begin_term();
                self.write_queue.counts_as_full.remove(&id);
                self.review(id);
                continue;
            }
            rule.initial_prewritten = if rule.persisted { rule.block } else { 0 };
        }
    }

    /// More of a window is to be written down.
    pub(super) fn request_write(&mut self, index: u32) {
        let window = self.table.window_mut(index);
        let rule = &self.limits.rules[window.limit.at()];
        if rule.persisted && !is_covered_by_scan(window, rule) && window.request_write(rule) {
            self.write_queue.windows.push_back((index, window.generation));
        }
    }

    /// A window is held back by something else than its slots, or no longer.
    pub(super) fn request_rewrite(&mut self, index: u32) {
        let window = self.table.window_mut(index);
        let rule = &self.limits.rules[window.limit.at()];
        if rule.persisted && !is_covered_by_scan(window, rule) && window.request_rewrite(rule) {
            self.write_queue.windows.push_back((index, window.generation));
        }
    }

    /// The limits are to be written down anew.
    pub(super) fn request_limits_write(&mut self) {
        self.write_queue.limits = self.write_queue.is_on;
    }
}

/// Whether a window is written in its turn, and until then bound by nothing: all are written when the walk is over.
fn is_covered_by_scan(window: &Window, rule: &WindowRule) -> bool {
    rule.catches_up && window.is_unwritten(rule)
}

/// Whether a limit's slots are written down here. What is shared is written down in the store.
fn should_persist(rule: &WindowRule) -> bool {
    rule.is_long() && !rule.dry_run && !rule.shared
}

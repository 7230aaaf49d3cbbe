//! What is to be written down so that a crash forgets nothing: which windows, and what of them.
//!
//! The locker does not write. It names what is to be written (`poll_record`), and is told when that is done (`recorded`);
//! until then a window gives out no slot that is not written down.

use super::Locker;
use super::ask::{Key, LimitId};
use crate::time::Time;

/// Of a longer log than that, neighbouring settle times are written as one, the later: it holds back a little longer
/// after a crash (at most a 128th of the span), and a record stays below 2 KiB.
const LONGEST_LOG: usize = 128;

/// Something to be written down.
#[derive(Clone, PartialEq, Debug)]
pub enum Record {
    /// The limits are others than before: what `Locker::estate` says of them, without windows.
    Limits,
    /// What is to be found of a window after a crash.
    Window(Page, Written),
    /// Nothing is left of a window.
    Gone(LimitId, Key),
}

/// What a window has counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Of which limit.
    pub limit: LimitId,
    /// Under which key.
    pub key: Key,
    /// When slots settled, and how many; oldest first.
    pub log: Vec<(Time, u32)>,
    /// Failed attempts: how many slots settle when, which the origin may still count until then.
    pub late: Vec<(Time, u32)>,
    /// How many slots may be taken that are neither in the log nor late.
    pub open: u32,
    /// How many requests are under way.
    pub flying: u32,
    /// `smooth`: until when the spacing is used up.
    pub mark: Time,
    /// Nothing opens before.
    pub paused: Time,
}

/// What is said to the locker when the page is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    window: u32,
    generation: u32,
}

impl Locker {
    /// From here on no slot of a long window is taken that is not written down. The limits must be written down first.
    pub fn begin_recording(&mut self, now: Time) {
        if self.given.is_some() {
            return;
        }
        let now = self.advance(now);
        self.recording = true;
        self.limits_unwritten = true;
        for limit in 0..self.rules.len() {
            self.follow_recording(LimitId(limit as u32));
        }
        self.run(now);
    }

    /// Nothing can be written down any more: slots are taken all the same.
    pub fn end_recording(&mut self, now: Time) {
        if self.given.is_some() {
            return;
        }
        let now = self.advance(now);
        self.recording = false;
        self.limits_unwritten = false;
        self.unwritten.clear();
        for limit in 0..self.rules.len() {
            self.follow_recording(LimitId(limit as u32));
            self.limit_news(LimitId(limit as u32));
        }
        self.run(now);
    }

    /// Brings one limit's rule and windows in line with whether anything is written down.
    pub(super) fn follow_recording(&mut self, id: LimitId) {
        let rule = &mut self.rules[id.at()];
        let was = rule.recorded;
        // What is shared is written down in the store.
        rule.recorded = self.recording && rule.is_long() && !rule.dry_run && !rule.shared;
        if was && rule.recorded {
            return;
        }
        rule.free = 0;
        let recorded = rule.recorded;
        for window in self.table.of_limit(id) {
            self.table.window_mut(window).lose_record();
            if recorded {
                self.ask_for_record(window);
            }
        }
    }

    /// Whether there is anything to be written down.
    pub fn has_records(&self) -> bool {
        self.recording && (self.limits_unwritten || !self.unwritten.is_empty() || !self.table.gone.is_empty())
    }

    /// The next thing to be written down. What is named first must be written no later than what is named after it.
    pub fn poll_record(&mut self, now: Time) -> Option<Record> {
        let now = self.advance(now);
        if !self.recording {
            return None;
        }
        if std::mem::take(&mut self.limits_unwritten) {
            return Some(Record::Limits);
        }
        if let Some((limit, key)) = self.table.gone.pop() {
            // Its key may have a window again, which has asked or will ask to be written down itself.
            return Some(Record::Gone(limit, key));
        }
        while let Some((window, generation)) = self.unwritten.pop_front() {
            if self.table.still(window, generation).is_some() {
                return Some(self.begin_record(window, now));
            }
        }
        None
    }

    fn begin_record(&mut self, index: u32, now: Time) -> Record {
        let limit = self.table.window(index).limit;
        let rule = &self.rules[limit.at()];
        let window = self.table.window_mut(index);
        window.expire(rule, now);
        // What waits can go as soon as there is room; more than N at one time never can.
        let waiting = window.waits().map_or(0, |waits| u32::try_from(waits.slots).unwrap_or(u32::MAX));
        let wanted = waiting.min(window.room(rule));
        let open = window.begin_record(rule, wanted);
        let written = Written { window: index, generation: window.generation };
        Record::Window(Page { flying: 0, ..self.page(index, open, LONGEST_LOG) }, written)
    }

    /// What a window has counted, with so many slots whose time is not known. A longer log is made that short.
    pub(super) fn page(&self, index: u32, open: u32, longest_log: usize) -> Page {
        let window = self.table.window(index);
        let rule = &self.rules[window.limit.at()];
        Page {
            limit: window.limit,
            key: window.key,
            log: window.short_log(rule, longest_log),
            late: Vec::new(),
            open,
            flying: window.flying,
            mark: window.mark(),
            paused: window.paused(),
        }
    }

    /// A page is written down: what it says may be taken.
    pub fn recorded(&mut self, written: Written, now: Time) {
        // The window is another process's by now, and so is what is written of it.
        if self.given.is_some() {
            return;
        }
        let now = self.advance(now);
        let Some(window) = self.table.still(written.window, written.generation) else { return };
        let outdated = window.end_record();
        let limit = window.limit;
        if outdated || window.runs_low(&self.rules[limit.at()]) {
            self.ask_for_record(written.window);
        }
        self.news(written.window);
        self.run(now);
    }

    /// The limits are written down as they are now: keys of which nothing is written may begin with a block.
    pub fn limits_recorded(&mut self) {
        if self.limits_unwritten || self.given.is_some() {
            return;
        }
        for rule in &mut self.rules {
            rule.free = if rule.recorded { rule.block } else { 0 };
        }
    }

    /// More of a window is to be written down.
    pub(super) fn ask_for_record(&mut self, index: u32) {
        let window = self.table.window_mut(index);
        if window.ask_for_record() {
            let generation = window.generation;
            self.unwritten.push_back((index, generation));
        }
    }

    /// A window is held back by something else than its slots, or no longer.
    pub(super) fn rewrite_window(&mut self, index: u32) {
        let window = self.table.window_mut(index);
        if self.rules[window.limit.at()].recorded && window.ask_for_new_record() {
            let generation = window.generation;
            self.unwritten.push_back((index, generation));
        }
    }

    /// The limits are to be written down anew.
    pub(super) fn rewrite_limits(&mut self) {
        self.limits_unwritten = self.recording;
    }
}

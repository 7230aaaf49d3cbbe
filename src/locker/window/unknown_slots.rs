//! Slots that may have been taken and that no window shows: after a crash, and under a rule that remembers longer.

use super::window_rule::{Algorithm, UnknownSlots, WindowRule};
use super::{Window, later};
use crate::time::Time;

/// So many are kept apart for each limit. Of more, the two oldest are one from there on, which counts as long as the later
/// of the two.
const MAX_UNKNOWN: usize = 64;

fn add(all: &mut Vec<UnknownSlots>, unknown: UnknownSlots) {
    let place = all.partition_point(|other| other.at <= unknown.at);
    all.insert(place, unknown);
    if all.len() > MAX_UNKNOWN {
        let oldest = all.remove(0);
        all[0].slots = all[0].slots.saturating_add(oldest.slots);
    }
}

impl WindowRule {
    /// Each window may have taken these, and shows none of them.
    pub(crate) fn add_unknown(&mut self, unknown: UnknownSlots, now: Time) {
        self.forget_unknown(now);
        add(&mut self.unknown, unknown);
    }

    /// The same of a limit that is shared or a dry run: as long as it is, they do not count here.
    pub(crate) fn suspend_unknown(&mut self, unknown: UnknownSlots, now: Time) {
        self.forget_unknown(now);
        add(&mut self.suspended, unknown);
    }

    /// Slots that were put aside count from here on.
    pub(super) fn resume_suspended(&mut self) -> Vec<UnknownSlots> {
        let suspended = std::mem::take(&mut self.suspended);
        suspended.iter().for_each(|unknown| add(&mut self.unknown, *unknown));
        suspended
    }

    /// Drops what would not count any more.
    pub(crate) fn forget_unknown(&mut self, now: Time) {
        let (mut unknown, mut suspended) = (std::mem::take(&mut self.unknown), std::mem::take(&mut self.suspended));
        let counts = |unknown: &UnknownSlots| self.counts_unknown(*unknown, now);
        unknown.retain(counts);
        suspended.retain(counts);
        (self.unknown, self.suspended) = (unknown, suspended);
    }

    /// Until when what may have been taken would still count.
    pub(crate) fn unknown_until(&self) -> Option<Time> {
        let unknown = self.unknown.last()?;
        match self.algorithm {
            Algorithm::Uncounted => None,
            Algorithm::Sliding | Algorithm::Smooth | Algorithm::Fixed => Some(later(unknown.at, self.span)),
            Algorithm::Calendar { .. } => Some(self.period_opens(unknown.at)),
        }
    }

    fn counts_unknown(&self, unknown: UnknownSlots, now: Time) -> bool {
        match self.algorithm {
            Algorithm::Uncounted => false,
            Algorithm::Sliding | Algorithm::Smooth | Algorithm::Fixed => later(unknown.at, self.span) > now,
            Algorithm::Calendar { .. } => self.period_counts(unknown.at, now),
        }
    }
}

impl Window {
    /// Fills the window with what may have been taken besides what it shows. The latest first: no more than N can have
    /// been, and if they were, then as late as that.
    pub(super) fn count_unknown<'u>(
        &mut self,
        unknown: impl DoubleEndedIterator<Item = &'u UnknownSlots>,
        rule: &WindowRule,
        now: Time,
    ) {
        for unknown in unknown.rev() {
            if rule.counts_unknown(*unknown, now) {
                // As if nothing were unsettled: that may yet be given back, what was forgotten may not.
                let room = rule.requests.saturating_sub(self.in_log).min(unknown.slots);
                self.count_one_unknown(rule, unknown.at, room);
            }
        }
    }

    fn count_one_unknown(&mut self, rule: &WindowRule, at: Time, slots: u32) {
        match rule.algorithm {
            Algorithm::Sliding => self.log_insert(at, slots),
            Algorithm::Smooth => {
                // Of what is older than all that is known, the mark has heard.
                if slots > 0 && self.log_entries().last().is_none_or(|last| last.at <= at) {
                    let tat = later(self.tat().max(at), u64::from(slots).saturating_mul(rule.interval));
                    self.extra_mut().tat = tat;
                }
                self.log_insert(at, slots);
            }
            Algorithm::Fixed | Algorithm::Calendar { .. } => self.settled(rule, slots, at),
            Algorithm::Uncounted => {}
        }
    }
}

//! Write-ahead allowance of a window: slots written to the journal before they are taken.
//!
//! A window with a long span must not forget any slot in a crash. So its slots are written to disk
//! in blocks beforehand, and only written slots are granted. The unused rest of a block counts as
//! taken after a crash: at most a hundredth of N, or the number that waiters were about to take.

use super::Window;
use super::window_rule::WindowRule;
use crate::time::Time;

/// Write-ahead state of one window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Prewritten {
    /// Term of the rule to which all fields belong. In any other term they are void.
    term: u32,
    /// Number of written slots not taken yet: these may be granted without another write.
    left: u32,
    /// Number of slots in the write under way.
    in_write: u32,
    /// True if a write is requested or under way.
    requested: bool,
    /// True if all slots that the window holds are known to be written, so that returned ones may
    /// be granted again.
    covered: bool,
    /// True if the record being written is out of date already.
    outdated: bool,
}

impl Window {
    /// Gives a new window the allowance that every key without a journal record has.
    pub(super) fn begin_prewritten(&mut self, rule: &WindowRule) {
        // A rule that catches up does not bind existing windows to written slots yet, but it binds new ones.
        if rule.initial_prewritten > 0 || rule.catches_up {
            let prewritten = self.prewritten_mut(rule);
            (prewritten.left, prewritten.covered) = (rule.initial_prewritten, true);
        }
    }

    /// True if `cost` slots are written to disk, or need not be.
    #[inline]
    pub(super) fn has_prewritten(&self, rule: &WindowRule, cost: u32) -> bool {
        mutant!(!rule.persisted, "a page is written after the grant", true)
            || self.prewritten(rule).left >= rule.slots(cost)
            || (rule.catches_up && self.is_unwritten(rule))
    }

    /// True if in this term nothing of the window was written or requested to be written.
    pub(crate) fn is_unwritten(&self, rule: &WindowRule) -> bool {
        self.extra.as_ref().map_or(0, |extra| extra.prewritten.term) != rule.term
    }

    /// True if only pending I/O keeps a request of `cost` slots back: a journal write, or, for a
    /// shared window, the store's answer about when slots open.
    pub(crate) fn awaits_io(&self, rule: &WindowRule, cost: u32, now: Time) -> bool {
        if rule.store_managed {
            let unknown = self.lease_opens(rule, cost, now).is_none() && self.store_opens_after(rule, cost) <= now;
            return unknown && self.paused() <= now && !rule.store_lost;
        }
        !self.has_prewritten(rule, cost) && self.has_room(rule, cost, now)
    }

    /// True if more slots should be written now, before they are needed.
    #[inline]
    pub(crate) fn needs_more_prewritten(&self, rule: &WindowRule) -> bool {
        let prewritten = self.prewritten(rule);
        rule.persisted && rule.block > 0 && prewritten.left < rule.block.div_ceil(2) && !prewritten.requested
    }

    /// Takes `cost` slots from the allowance.
    #[inline]
    pub(super) fn use_prewritten(&mut self, rule: &WindowRule, cost: u32) {
        if rule.persisted && !self.is_unwritten(rule) {
            let prewritten = self.prewritten_mut(rule);
            prewritten.left = prewritten.left.saturating_sub(rule.slots(cost));
        }
    }

    /// Returns `slots` unused slots to the allowance.
    pub(super) fn return_prewritten(&mut self, rule: &WindowRule, slots: u32) {
        // Slots taken before this term are written only with the term's first record.
        if rule.persisted && self.prewritten(rule).covered {
            let prewritten = self.prewritten_mut(rule);
            prewritten.left = prewritten.left.saturating_add(slots);
        }
    }

    /// Notes that a write is needed. Returns false if that was noted before.
    pub(crate) fn request_write(&mut self, rule: &WindowRule) -> bool {
        !std::mem::replace(&mut self.prewritten_mut(rule).requested, true)
    }

    /// Notes that the window's present state must be written. Returns false if a write is requested
    /// already; if one is under way, another follows it.
    pub(crate) fn request_rewrite(&mut self, rule: &WindowRule) -> bool {
        let prewritten = self.prewritten_mut(rule);
        prewritten.outdated = prewritten.requested;
        !std::mem::replace(&mut prewritten.requested, true)
    }

    /// Begins a write that has room for `wanted` slots. Returns the number of slots that the record
    /// must count as taken, as far as a reader after a crash can know: unsettled slots, the
    /// allowance left, and the slots added to it.
    pub(crate) fn begin_write(&mut self, rule: &WindowRule, wanted: u32) -> u32 {
        let unsettled = self.unsettled;
        let prewritten = self.prewritten_mut(rule);
        prewritten.in_write = rule.block.max(wanted).saturating_sub(prewritten.left);
        (prewritten.requested, prewritten.outdated) = (true, false);
        let in_write = mutant!(prewritten.in_write, "a page leaves out the slots that it adds", 0);
        let open = unsettled.saturating_add(prewritten.left).saturating_add(in_write);
        self.set_persisted();
        open
    }

    /// Ends the write that `begin_write` began. Returns true if the record is out of date by now
    /// and must be written again.
    pub(crate) fn end_write(&mut self, rule: &WindowRule) -> bool {
        let prewritten = self.prewritten_mut(rule);
        prewritten.left = prewritten.left.saturating_add(std::mem::take(&mut prewritten.in_write));
        (prewritten.requested, prewritten.covered) = (false, true);
        mutant!(std::mem::take(&mut prewritten.outdated), "a pause during a write is not written", false)
    }

    /// True if the journal holds a record of this window.
    pub(crate) fn is_persisted(&self) -> bool {
        self.marks.is_persisted()
    }

    /// Notes that the journal holds a record of this window, or is about to.
    pub(crate) fn set_persisted(&mut self) {
        self.marks.set_persisted();
    }

    /// True if a write is requested or under way.
    pub(super) fn has_pending_write(&self, rule: &WindowRule) -> bool {
        self.prewritten(rule).requested
    }

    /// The allowance in the present term; an empty one if the stored one belongs to another term.
    #[inline]
    fn prewritten(&self, rule: &WindowRule) -> Prewritten {
        let prewritten = self.extra.as_ref().map(|extra| extra.prewritten);
        prewritten.filter(|prewritten| prewritten.term == rule.term).unwrap_or_default()
    }

    /// The allowance in the present term, for changes; resets one of another term.
    fn prewritten_mut(&mut self, rule: &WindowRule) -> &mut Prewritten {
        let prewritten = &mut self.extra_mut().prewritten;
        if prewritten.term != rule.term {
            *prewritten = Prewritten { term: rule.term, ..Prewritten::default() };
        }
        prewritten
    }
}

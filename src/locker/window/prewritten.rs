//! Slots that are written down before they are taken.
//!
//! Of a window with a long span a crash must forget nothing: its slots are written down ahead, some at a time, and only
//! what is written down is taken. What is left of that when the gateway dies counts as taken; so it is never more than a
//! hundredth of N, or what waiters were about to take.

use super::Window;
use super::window_rule::WindowRule;
use crate::time::Time;

/// What is written down of a window, and not taken yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Prewritten {
    /// In which term of its rule; in another nothing of this holds but `persisted`.
    term: u32,
    /// Slots that may be taken before more must be written down.
    left: u32,
    /// Slots that are being written down.
    in_write: u32,
    /// More was asked for.
    requested: bool,
    /// All that it holds is known to be written down: what it gives back it may let go again.
    covered: bool,
    /// The page that is being written down is out of date.
    outdated: bool,
    /// Something is written down of it, which must be taken out when the window is dropped.
    persisted: bool,
}

impl Window {
    /// A window that is made now may take so many slots as any key of which nothing is written.
    pub(super) fn begin_prewritten(&mut self, rule: &WindowRule) {
        // Where windows that were there before are not bound by what is written yet, one that is made now is.
        if rule.initial_prewritten > 0 || rule.catches_up {
            let prewritten = self.prewritten_mut(rule);
            (prewritten.left, prewritten.covered) = (rule.initial_prewritten, true);
        }
    }

    /// Whether `cost` slots are written down, or need not be.
    #[inline]
    pub(super) fn has_prewritten(&self, rule: &WindowRule, cost: u32) -> bool {
        !rule.persisted
            || self.prewritten(rule).left >= rule.slots(cost)
            || (rule.catches_up && self.is_unwritten(rule))
    }

    /// Whether nothing has been asked to be written of it in this term, nor was written.
    pub(crate) fn is_unwritten(&self, rule: &WindowRule) -> bool {
        self.extra.as_ref().map_or(0, |extra| extra.prewritten.term) != rule.term
    }

    /// Whether only that keeps a request of `cost` slots back; of a shared window, whether nobody knows yet until when it
    /// is kept back.
    pub(crate) fn awaits_io(&self, rule: &WindowRule, cost: u32, now: Time) -> bool {
        if rule.store_managed {
            let unknown = self.lease_opens(rule, cost, now).is_none() && self.store_opens_after(rule, cost) <= now;
            return unknown && self.paused() <= now && !rule.store_lost;
        }
        !self.has_prewritten(rule, cost) && self.has_room(rule, cost, now)
    }

    /// Whether more should be written down before it is needed.
    #[inline]
    pub(crate) fn needs_more_prewritten(&self, rule: &WindowRule) -> bool {
        let prewritten = self.prewritten(rule);
        rule.persisted && rule.block > 0 && prewritten.left < rule.block.div_ceil(2) && !prewritten.requested
    }

    #[inline]
    pub(super) fn use_prewritten(&mut self, rule: &WindowRule, cost: u32) {
        if rule.persisted && !self.is_unwritten(rule) {
            let prewritten = self.prewritten_mut(rule);
            prewritten.left = prewritten.left.saturating_sub(rule.slots(cost));
        }
    }

    pub(super) fn return_prewritten(&mut self, rule: &WindowRule, slots: u32) {
        // What was taken before this term was written down with the first page of it, and not before.
        if rule.persisted && self.prewritten(rule).covered {
            let prewritten = self.prewritten_mut(rule);
            prewritten.left = prewritten.left.saturating_add(slots);
        }
    }

    /// Notes that more is to be written down; `false` if it was noted already.
    pub(crate) fn request_write(&mut self, rule: &WindowRule) -> bool {
        !std::mem::replace(&mut self.prewritten_mut(rule).requested, true)
    }

    /// Notes that it is to be written down as it is now; `false` if it will be already, or as soon as what is being written
    /// is on the disk.
    pub(crate) fn request_rewrite(&mut self, rule: &WindowRule) -> bool {
        let prewritten = self.prewritten_mut(rule);
        prewritten.outdated = prewritten.requested;
        !std::mem::replace(&mut prewritten.requested, true)
    }

    /// How many slots are to be written down as taken for all anyone knows, if `wanted` are wanted: those not settled,
    /// those left, and those that are added.
    pub(crate) fn begin_write(&mut self, rule: &WindowRule, wanted: u32) -> u32 {
        let unsettled = self.unsettled;
        let prewritten = self.prewritten_mut(rule);
        prewritten.in_write = rule.block.max(wanted).saturating_sub(prewritten.left);
        (prewritten.requested, prewritten.persisted, prewritten.outdated) = (true, true, false);
        unsettled.saturating_add(prewritten.left).saturating_add(prewritten.in_write)
    }

    /// The slots that `begin_write` named are written down. Returns true if the page is out of date by now.
    pub(crate) fn end_write(&mut self, rule: &WindowRule) -> bool {
        let prewritten = self.prewritten_mut(rule);
        prewritten.left = prewritten.left.saturating_add(std::mem::take(&mut prewritten.in_write));
        (prewritten.requested, prewritten.covered) = (false, true);
        std::mem::take(&mut prewritten.outdated)
    }

    /// Something is written down of it.
    pub(crate) fn is_persisted(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.prewritten.persisted)
    }

    pub(crate) fn set_persisted(&mut self) {
        self.extra_mut().prewritten.persisted = true;
    }

    pub(super) fn has_pending_write(&self, rule: &WindowRule) -> bool {
        self.prewritten(rule).requested
    }

    #[inline]
    fn prewritten(&self, rule: &WindowRule) -> Prewritten {
        let prewritten = self.extra.as_ref().map(|extra| extra.prewritten);
        prewritten.filter(|prewritten| prewritten.term == rule.term).unwrap_or_default()
    }

    /// What there is in this term, to be changed.
    fn prewritten_mut(&mut self, rule: &WindowRule) -> &mut Prewritten {
        let prewritten = &mut self.extra_mut().prewritten;
        if prewritten.term != rule.term {
            *prewritten = Prewritten { term: rule.term, persisted: prewritten.persisted, ..Prewritten::default() };
        }
        prewritten
    }
}

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
    /// In which term of its rule; in another nothing of this holds but `noted`.
    term: u32,
    /// Slots that may be taken before more must be written down.
    left: u32,
    /// Slots that are being written down.
    coming: u32,
    /// More was asked for.
    asked: bool,
    /// All that it holds is known to be written down: what it gives back it may let go again.
    covered: bool,
    /// The page that is being written down is out of date.
    outdated: bool,
    /// Something is written down of it, which must be taken out when the window is dropped.
    noted: bool,
}

impl Window {
    /// A window that is made now may take so many slots as any key of which nothing is written.
    pub(super) fn begin_credit(&mut self, rule: &WindowRule) {
        // Where windows that were there before are not bound by what is written yet, one that is made now is.
        if rule.free > 0 || rule.catches_up {
            let credit = self.credit_mut(rule);
            (credit.left, credit.covered) = (rule.free, true);
        }
    }

    /// Whether `cost` slots are written down, or need not be.
    #[inline]
    pub(super) fn has_credit(&self, rule: &WindowRule, cost: u32) -> bool {
        !rule.recorded || self.credit(rule).left >= rule.slots(cost) || (rule.catches_up && self.is_unbound(rule))
    }

    /// Whether nothing has been asked to be written of it in this term, nor was written.
    pub(crate) fn is_unbound(&self, rule: &WindowRule) -> bool {
        self.extra.as_ref().map_or(0, |extra| extra.credit.term) != rule.term
    }

    /// Whether only that keeps a request of `cost` slots back; of a shared window, whether nobody knows yet until when it
    /// is kept back.
    pub(crate) fn awaits_io(&self, rule: &WindowRule, cost: u32, now: Time) -> bool {
        if rule.pooled {
            let unknown = self.share_opens(rule, cost, now).is_none() && self.later(rule, cost) <= now;
            return unknown && self.paused() <= now && !rule.lost;
        }
        !self.has_credit(rule, cost) && self.has_room(rule, cost, now)
    }

    /// Whether more should be written down before it is needed.
    #[inline]
    pub(crate) fn runs_low(&self, rule: &WindowRule) -> bool {
        let credit = self.credit(rule);
        rule.recorded && rule.block > 0 && credit.left < rule.block.div_ceil(2) && !credit.asked
    }

    #[inline]
    pub(super) fn use_credit(&mut self, rule: &WindowRule, cost: u32) {
        if rule.recorded && !self.is_unbound(rule) {
            let credit = self.credit_mut(rule);
            credit.left = credit.left.saturating_sub(rule.slots(cost));
        }
    }

    pub(super) fn return_credit(&mut self, rule: &WindowRule, slots: u32) {
        // What was taken before this term was written down with the first page of it, and not before.
        if rule.recorded && self.credit(rule).covered {
            let credit = self.credit_mut(rule);
            credit.left = credit.left.saturating_add(slots);
        }
    }

    /// Notes that more is to be written down; `false` if it was noted already.
    pub(crate) fn ask_for_record(&mut self, rule: &WindowRule) -> bool {
        !std::mem::replace(&mut self.credit_mut(rule).asked, true)
    }

    /// Notes that it is to be written down as it is now; `false` if it will be already, or as soon as what is being written
    /// is on the disk.
    pub(crate) fn ask_for_new_record(&mut self, rule: &WindowRule) -> bool {
        let credit = self.credit_mut(rule);
        credit.outdated = credit.asked;
        !std::mem::replace(&mut credit.asked, true)
    }

    /// How many slots are to be written down as taken for all anyone knows, if `wanted` are wanted: those not settled,
    /// those left, and those that are added.
    pub(crate) fn begin_record(&mut self, rule: &WindowRule, wanted: u32) -> u32 {
        let unsettled = self.unsettled;
        let credit = self.credit_mut(rule);
        credit.coming = rule.block.max(wanted).saturating_sub(credit.left);
        (credit.asked, credit.noted, credit.outdated) = (true, true, false);
        unsettled.saturating_add(credit.left).saturating_add(credit.coming)
    }

    /// The slots that `begin_record` named are written down. Returns true if the page is out of date by now.
    pub(crate) fn end_record(&mut self, rule: &WindowRule) -> bool {
        let credit = self.credit_mut(rule);
        credit.left = credit.left.saturating_add(std::mem::take(&mut credit.coming));
        (credit.asked, credit.covered) = (false, true);
        std::mem::take(&mut credit.outdated)
    }

    /// Something is written down of it.
    pub(crate) fn is_noted(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.credit.noted)
    }

    pub(crate) fn set_noted(&mut self) {
        self.extra_mut().credit.noted = true;
    }

    pub(super) fn is_being_recorded(&self, rule: &WindowRule) -> bool {
        self.credit(rule).asked
    }

    #[inline]
    fn credit(&self, rule: &WindowRule) -> Prewritten {
        let credit = self.extra.as_ref().map(|extra| extra.credit);
        credit.filter(|credit| credit.term == rule.term).unwrap_or_default()
    }

    /// What there is in this term, to be changed.
    fn credit_mut(&mut self, rule: &WindowRule) -> &mut Prewritten {
        let credit = &mut self.extra_mut().credit;
        if credit.term != rule.term {
            *credit = Prewritten { term: rule.term, noted: credit.noted, ..Prewritten::default() };
        }
        credit
    }
}

//! Slots that are written down before they are taken.
//!
//! Of a window with a long span a crash must forget nothing: its slots are written down ahead, some at a time, and only
//! what is written down is taken. What is left of that when the gateway dies counts as taken; so it is never more than a
//! hundredth of N, or what waiters were about to take.

use super::Window;
use super::rule::Rule;

/// What is written down of a window, and not taken yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Credit {
    /// Slots that may be taken before more must be written down.
    pub(super) left: u32,
    /// Slots that are being written down.
    coming: u32,
    /// More was asked for.
    asked: bool,
    /// The page that is being written down is out of date.
    outdated: bool,
    /// Something is written down of it, which must be taken out when the window is dropped.
    noted: bool,
}

impl Window {
    /// Whether `cost` slots are written down.
    #[inline]
    pub(super) fn has_credit(&self, rule: &Rule, cost: u32) -> bool {
        !rule.recorded || self.credit().left >= rule.slots(cost)
    }

    /// Whether only that keeps a request of `cost` slots back; of a shared window, whether nobody knows yet until when it
    /// is kept back.
    pub(crate) fn is_dry(&self, rule: &Rule, cost: u32, now: crate::time::Time) -> bool {
        if rule.pooled {
            let unknown = self.share_opens(rule, cost, now).is_none() && self.later(rule, cost) <= now;
            return unknown && self.paused() <= now && !rule.lost;
        }
        !self.has_credit(rule, cost) && self.has_room(rule, cost, now)
    }

    /// Whether more should be written down before it is needed.
    #[inline]
    pub(crate) fn runs_low(&self, rule: &Rule) -> bool {
        rule.recorded && rule.block > 0 && self.credit().left < rule.block.div_ceil(2) && !self.credit().asked
    }

    #[inline]
    pub(super) fn use_credit(&mut self, rule: &Rule, cost: u32) {
        if rule.recorded {
            let slots = rule.slots(cost);
            let credit = &mut self.extra_mut().credit;
            credit.left = credit.left.saturating_sub(slots);
        }
    }

    pub(super) fn return_credit(&mut self, rule: &Rule, slots: u32) {
        if rule.recorded {
            let credit = &mut self.extra_mut().credit;
            credit.left = credit.left.saturating_add(slots);
        }
    }

    /// Notes that more is to be written down; `false` if it was noted already.
    pub(crate) fn ask_for_record(&mut self) -> bool {
        let credit = &mut self.extra_mut().credit;
        !std::mem::replace(&mut credit.asked, true)
    }

    /// Notes that it is to be written down as it is now; `false` if it will be already, or as soon as what is being written
    /// is on the disk.
    pub(crate) fn ask_for_new_record(&mut self) -> bool {
        let credit = &mut self.extra_mut().credit;
        credit.outdated = credit.asked;
        !std::mem::replace(&mut credit.asked, true)
    }

    /// How many slots are to be written down as taken for all anyone knows, if `wanted` are wanted: those not settled,
    /// those left, and those that are added.
    pub(crate) fn begin_record(&mut self, rule: &Rule, wanted: u32) -> u32 {
        let unsettled = self.unsettled;
        let credit = &mut self.extra_mut().credit;
        credit.coming = rule.block.max(wanted).saturating_sub(credit.left);
        credit.noted = true;
        credit.outdated = false;
        unsettled.saturating_add(credit.left).saturating_add(credit.coming)
    }

    /// The slots that `begin_record` named are written down. Returns true if the page is out of date by now.
    pub(crate) fn end_record(&mut self) -> bool {
        let credit = &mut self.extra_mut().credit;
        credit.left = credit.left.saturating_add(std::mem::take(&mut credit.coming));
        credit.asked = false;
        std::mem::take(&mut credit.outdated)
    }

    /// Nothing is known to be written down of it any more.
    pub(crate) fn lose_record(&mut self) {
        if let Some(extra) = &mut self.extra {
            extra.credit = Credit { noted: extra.credit.noted, ..Credit::default() };
        }
    }

    /// Something is written down of it.
    pub(crate) fn is_noted(&self) -> bool {
        self.credit().noted
    }

    pub(crate) fn set_noted(&mut self) {
        self.extra_mut().credit.noted = true;
    }

    pub(super) fn is_being_recorded(&self) -> bool {
        self.credit().asked
    }

    #[inline]
    fn credit(&self) -> Credit {
        self.extra.as_ref().map_or_else(Credit::default, |extra| extra.credit)
    }
}

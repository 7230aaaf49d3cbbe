//! The state of one limit for one key, and the contract that every kind of window keeps.
//!
//! - A slot is *taken* by a grant, *settles* later, and opens again as its kind says; until it
//!   settles it is busy, whatever that takes.
//! - Slots taken and settled never exceed N, unless N was lowered after they were taken.
//! - `fits` says yes exactly when `opening` says now.
//! - A window that is `idle` cannot be told from a new one.
//! - Of a limit that is written down, no slot is taken that was not written down before (`prewritten`).
//!
//! What it never does: look at other windows, or at who waits.

pub(crate) mod calendar;
mod fixed;
mod period;
mod prewritten;
mod rule_change;
mod settle_log;
mod sliding;
mod smooth;
pub(crate) mod store_state;
#[cfg(test)]
mod tests;
mod unknown_slots;
pub(crate) mod window_rule;

use std::collections::VecDeque;

use self::prewritten::Prewritten;
use self::settle_log::LogEntry;
use self::store_state::StoreState;
pub(crate) use self::window_rule::{Algorithm, UnknownSlots, WindowRule, later};
use super::api::{Key, LimitId};
use super::window_queue::WindowQueue;
use super::window_record::WindowRecord;
use crate::time::Time;

/// One window: two neighbouring cache lines, of which the second is the start of its log. A limit of up to
/// [`settle_log::INLINE`] slots needs nothing besides, so that a million of its keys are a million times these 128 bytes.
#[derive(Debug)]
///
/// In this order, so that a look at a window in which nothing has expired stays in the first line.
#[repr(C, align(128))]
pub(crate) struct Window {
    pub(crate) key: Key,
    pub(crate) limit: LimitId,
    /// Tells this window from an earlier one at the same place.
    pub(crate) generation: u32,
    /// Slots taken and not settled.
    pub(crate) unsettled: u32,
    /// Slots settled that still count: the sum over the log.
    pub(crate) in_log: u32,
    /// Requests between their permit and the end of their response.
    pub(crate) flying: u32,
    /// Where the log's oldest entry is in `ring`, and how many are there.
    start: u8,
    len: u8,
    /// Whether `extra` tells of a pause.
    is_paused: bool,
    /// When the log's oldest entry settled, if there is one.
    oldest: Time,
    /// Who waits here.
    queue: Option<Box<WindowQueue>>,
    extra: Option<Box<Extra>>,
    ring: settle_log::LogRing,
}

/// What most windows do not need.
#[derive(Debug, Default)]
struct Extra {
    /// The log after what is in the window itself.
    log: VecDeque<LogEntry>,
    /// `smooth`: the moment up to which the spacing is used up.
    tat: Time,
    /// Nothing opens before.
    paused: Time,
    prewritten: Prewritten,
    store: Option<Box<StoreState>>,
}

impl Window {
    pub(crate) fn new(limit: LimitId, key: Key, rule: &WindowRule, now: Time) -> Window {
        let mut window = Window::bare(limit, key);
        window.begin_prewritten(rule);
        window.count_unknown(rule.unknown.iter(), rule, now);
        window
    }

    /// One that holds nothing whatever its rule: the marker of a vacant place too, which needs no memory besides.
    pub(crate) fn bare(limit: LimitId, key: Key) -> Window {
        Window {
            key,
            limit,
            generation: 0,
            unsettled: 0,
            in_log: 0,
            flying: 0,
            start: 0,
            len: 0,
            is_paused: false,
            oldest: Time::START,
            queue: None,
            extra: None,
            ring: settle_log::LogRing::default(),
        }
    }

    /// Whether it needs no memory besides its own.
    #[cfg(test)]
    pub(crate) fn is_bare(&self) -> bool {
        self.queue.is_none() && self.extra.is_none()
    }

    /// One that goes on where another ended. What was open there settled then; all of these besides.
    pub(crate) fn restored<'u>(
        record: &WindowRecord,
        rule: &WindowRule,
        unknown: impl DoubleEndedIterator<Item = &'u UnknownSlots>,
        settled: Time,
        now: Time,
    ) -> Window {
        let mut window = Window::from_record(record, rule, now);
        if record.open > 0 && rule.counts_slots() {
            window.settled(rule, record.open, settled);
        }
        window.count_unknown(unknown, rule, now);
        window.expire(rule, now);
        window
    }

    /// One that goes on in another process, whose requests are still under way.
    pub(crate) fn handed_over(record: &WindowRecord, rule: &WindowRule, now: Time) -> Window {
        let mut window = Window::from_record(record, rule, now);
        (window.unsettled, window.flying) = (record.open, record.flying);
        window
    }

    /// What has settled, and what holds a window back besides.
    fn from_record(record: &WindowRecord, rule: &WindowRule, now: Time) -> Window {
        let mut window = Window::bare(record.limit, record.key);
        record.log.iter().for_each(|(at, count)| window.log_push(*at, *count));
        window.expire(rule, now);
        if record.tat > Time::START {
            window.extra_mut().tat = record.tat.max(window.tat());
        }
        window.pause_again(record.paused, now);
        window
    }

    /// Forgets what no longer counts. Every question below is asked after it, with the same `now`.
    #[inline]
    pub(crate) fn expire(&mut self, rule: &WindowRule, now: Time) {
        if rule.store_managed {
            self.expire_leases(rule, now);
        }
        match rule.algorithm {
            Algorithm::Sliding | Algorithm::Smooth => sliding::expire(self, rule, now),
            Algorithm::Fixed => fixed::expire(self, rule, now),
            Algorithm::Calendar { .. } => calendar::expire(self, rule, now),
            Algorithm::Uncounted => {}
        }
    }

    /// Whether a request of `cost` slots may go now, as far as this window is concerned.
    #[inline]
    pub(crate) fn fits(&self, rule: &WindowRule, cost: u32, now: Time) -> bool {
        if rule.store_managed {
            return self.has_lease(rule, cost, now);
        }
        self.has_room(rule, cost, now) && self.has_prewritten(rule, cost)
    }

    /// Whether it has room for `cost` slots now, written down or not.
    #[inline]
    pub(crate) fn has_room(&self, rule: &WindowRule, cost: u32, now: Time) -> bool {
        let taken = u64::from(self.unsettled) + u64::from(self.in_log);
        now < rule.until
            && self.flying < rule.in_flight
            && taken + u64::from(rule.slots(cost)) <= u64::from(rule.requests)
            && self.paused() <= now
            && (!matches!(rule.algorithm, Algorithm::Smooth) || smooth::is_spaced(self, rule, cost, now))
    }

    /// Takes the slots of a request that fits; it must have left when they end.
    #[inline]
    pub(crate) fn take(&mut self, rule: &WindowRule, cost: u32) -> Time {
        self.unsettled += rule.slots(cost);
        self.use_prewritten(rule, cost);
        self.flying += u32::from(rule.counts_flights());
        if rule.store_managed { self.use_lease(rule, cost) } else { rule.until }
    }

    /// `cost` taken slots settle now.
    #[inline]
    pub(crate) fn settle(&mut self, rule: &WindowRule, cost: u32, now: Time) {
        self.unsettled = self.unsettled.saturating_sub(cost);
        self.expire(rule, now);
        self.settled(rule, cost, now);
        if rule.shared {
            self.report(rule, cost, now);
        }
    }

    /// `cost` slots settle at a moment that need not be the present.
    #[inline]
    fn settled(&mut self, rule: &WindowRule, cost: u32, now: Time) {
        match rule.algorithm {
            Algorithm::Sliding => sliding::settle(self, rule, cost, now),
            Algorithm::Fixed => fixed::settle(self, rule, cost, now),
            Algorithm::Calendar { .. } => calendar::settle(self, rule, cost, now),
            Algorithm::Smooth => {
                sliding::settle(self, rule, cost, now);
                smooth::settle(self, rule, cost, now);
            }
            Algorithm::Uncounted => {}
        }
    }

    /// `cost` taken slots were not used.
    pub(crate) fn give_back(&mut self, rule: &WindowRule, cost: u32) {
        self.unsettled = self.unsettled.saturating_sub(cost);
        self.return_prewritten(rule, cost);
        if rule.shared {
            self.report_unused(rule, cost, 0);
        }
    }

    /// A flight has ended.
    pub(crate) fn land(&mut self, rule: &WindowRule) {
        self.flying = self.flying.saturating_sub(1);
        if rule.shared {
            self.report_unused(rule, 0, 1);
        }
    }

    /// When a request of `cost` slots has room, once `ahead` slots and `flights` requests have gone before
    /// it at once; `None` if that hangs on a settle, a give-back, a flight's end or a record yet to come.
    pub(crate) fn opening(&self, rule: &WindowRule, ahead: u64, flights: u32, cost: u32, now: Time) -> Option<Time> {
        if rule.store_managed {
            let ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
            return self.lease_opens(rule, cost.saturating_add(ahead), now);
        }
        let opening = self.room_opens(rule, ahead, flights, cost, now)?;
        (opening > now || self.has_prewritten(rule, cost)).then_some(opening)
    }

    /// As [`Window::opening`], whether the slot has been written down or not.
    pub(crate) fn room_opens(&self, rule: &WindowRule, ahead: u64, flights: u32, cost: u32, now: Time) -> Option<Time> {
        if u64::from(self.flying) + u64::from(flights) >= u64::from(rule.in_flight) {
            return None;
        }
        let from = self.paused().max(now);
        let place = ahead.saturating_add(u64::from(cost));
        let opening = match rule.algorithm {
            Algorithm::Uncounted => from,
            Algorithm::Sliding => sliding::opening(self, rule, place, from)?,
            Algorithm::Smooth => {
                let slots = sliding::opening(self, rule, place, from)?;
                smooth::opening(self, rule, ahead, cost, from)?.max(slots)
            }
            Algorithm::Calendar { .. } => sliding::opening_by(self, rule, place, from, |at| rule.period_opens(at))?,
            Algorithm::Fixed => self.opening_of_next(rule, place, from)?,
        };
        (opening < rule.until).then_some(opening)
    }

    /// `opening` where all that has settled opens at one moment.
    fn opening_of_next(&self, rule: &WindowRule, place: u64, from: Time) -> Option<Time> {
        let requests = u64::from(rule.requests);
        if place + u64::from(self.unsettled) > requests {
            return None;
        }
        if place + u64::from(self.unsettled) + u64::from(self.in_log) <= requests {
            return Some(from);
        }
        Some(self.next_window(rule).max(from))
    }

    /// `fixed`: when what has settled no longer counts.
    pub(crate) fn next_window(&self, rule: &WindowRule) -> Time {
        later(self.first_at(), rule.span)
    }

    /// When the `place`-th slot of one turn of the window opens, if what is unsettled settled now.
    pub(crate) fn opening_at_best(&self, rule: &WindowRule, place: u64, from: Time) -> Time {
        sliding::opening(self, rule, place, from).unwrap_or_else(|| later(from, rule.span))
    }

    /// The earliest moment at which the spacing of `smooth` lets a request go.
    pub(crate) fn spacing_at_best(&self, rule: &WindowRule, ahead: u64, cost: u32, from: Time) -> Time {
        match rule.algorithm {
            Algorithm::Smooth => smooth::bound(self, rule, ahead, cost, from),
            Algorithm::Uncounted | Algorithm::Sliding | Algorithm::Fixed | Algorithm::Calendar { .. } => from,
        }
    }

    /// How many slots are free now.
    pub(crate) fn room(&self, rule: &WindowRule) -> u32 {
        rule.requests.saturating_sub(self.unsettled).saturating_sub(self.in_log)
    }

    /// Whether the window holds nothing that a new one would not.
    pub(crate) fn is_idle(&self, rule: &WindowRule, now: Time) -> bool {
        self.is_blank(rule, now) && !self.has_pending_write(rule) && !self.has_store_state(rule, now)
    }

    /// Whether nothing of it needs to be remembered.
    pub(crate) fn is_blank(&self, rule: &WindowRule, now: Time) -> bool {
        let at_rest = self.unsettled == 0 && self.in_log == 0 && self.flying == 0;
        let spaced = !matches!(rule.algorithm, Algorithm::Smooth) || self.tat() <= now;
        at_rest && spaced && self.paused() <= now && self.queue().is_none()
    }

    #[inline]
    pub(crate) fn paused(&self) -> Time {
        match &self.extra {
            Some(extra) if self.is_paused => extra.paused,
            Some(_) | None => Time::START,
        }
    }

    pub(crate) fn tat(&self) -> Time {
        self.extra.as_ref().map_or(Time::START, |extra| extra.tat)
    }

    /// Nothing opens before `until`; an earlier end than one already set changes nothing.
    pub(crate) fn pause(&mut self, until: Time) {
        let until = self.paused().max(until);
        self.extra_mut().paused = until;
        self.is_paused = true;
    }

    /// A pause that was begun before goes on.
    fn pause_again(&mut self, until: Time, now: Time) {
        if until > now {
            self.pause(until);
        }
    }

    #[inline]
    pub(crate) fn queue(&self) -> Option<&WindowQueue> {
        self.queue.as_deref()
    }

    pub(crate) fn queue_mut(&mut self) -> Option<&mut WindowQueue> {
        self.queue.as_deref_mut()
    }

    /// The line at this window, begun if there is none.
    pub(crate) fn queue_or_new(&mut self) -> &mut WindowQueue {
        self.queue.get_or_insert_default()
    }

    /// Nobody waits here any more.
    pub(crate) fn drop_queue(&mut self) {
        self.queue = None;
    }

    fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }
}

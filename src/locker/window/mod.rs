//! Rate-limit window: the counters of one limit for one key, and the contract of every window kind.
//!
//! - A slot is *taken* by a grant, *settles* later, and opens again as the kind of the window says.
//!   Until it settles it stays busy, for however long.
//! - Slots taken and settled never exceed N, unless N was lowered after they were taken.
//! - `fits` returns true exactly if `opening` returns `now`.
//! - A window that is `idle` behaves like a new one, so it can be dropped.
//! - A persisted limit grants only slots that were written to the journal beforehand
//!   (`prewritten`).
//!
//! A window never looks at other windows or at waiters, and reads no clock: `now` is an argument.

pub(crate) mod calendar;
mod fixed;
mod marks;
mod period;
mod prewritten;
mod rule_change;
mod settle_log;
mod sliding;
mod smooth;
pub(crate) mod store_state;
#[cfg(test)]
mod tests;
mod told_openings;
mod unknown_slots;
pub(crate) mod window_rule;

use std::collections::VecDeque;

use self::marks::Marks;
pub(super) use self::marks::RULE_VERSIONS;
use self::prewritten::Prewritten;
use self::settle_log::LogEntry;
use self::store_state::StoreState;
use self::told_openings::ToldOpenings;
pub(crate) use self::window_rule::{Algorithm, UnknownSlots, WindowRule, later};
use super::api::{Key, LimitId};
use super::window_queue::WindowQueue;
use super::window_record::WindowRecord;
use crate::time::Time;

/// One window: two neighbouring cache lines, of which the second is the start of its log. A limit
/// of up to [`settle_log::INLINE`] slots needs nothing besides, so that a million of its keys are a
/// million times these 128 bytes.
///
/// The order of the fields keeps a check of a window in which nothing has expired within the first
/// cache line.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Window {
    pub(crate) key: Key,
    pub(crate) limit: LimitId,
    /// Tells this window from an earlier one at the same place of the table.
    pub(crate) generation: u32,
    /// Slots taken and not settled.
    pub(crate) unsettled: u32,
    /// Slots settled that still count: the sum over the log.
    pub(crate) in_log: u32,
    /// Flights: requests between their permit and the end of their response. Always 0 if the limit
    /// does not count flights.
    pub(crate) flying: u32,
    /// Index of the log's oldest entry in `ring`.
    start: u8,
    /// Number of log entries in `ring`, at most [`settle_log::INLINE`].
    len: u8,
    /// Marks of a pause and of a written record, and the version of its rule.
    marks: Marks,
    /// Settle time of the log's oldest entry; meaningless if the log is empty.
    oldest: Time,
    /// Waiters at this window; `None` if there are none.
    queue: Option<Box<WindowQueue>>,
    /// Rarely needed state; `None` until it is first used.
    extra: Option<Box<Extra>>,
    /// The oldest part of the log.
    ring: settle_log::LogRing,
}

/// State that most windows do not need.
#[derive(Debug, Default)]
struct Extra {
    /// The log behind the entries in `Window::ring`.
    log: VecDeque<LogEntry>,
    /// `smooth`: theoretical arrival time (TAT) of the GCRA, up to which the spacing is used up.
    tat: Time,
    /// End of the pause: no slot opens before it.
    paused: Time,
    /// Slots written to the journal ahead of their use.
    prewritten: Prewritten,
    /// Leases and reports of a shared limit; `None` if the window never had any.
    store: Option<Box<StoreState>>,
    /// Openings told to refused requests; `None` as long as none was told.
    told: Option<Box<ToldOpenings>>,
}

impl Window {
    /// A window of which nothing has been counted, but for the limit's unknown slots.
    pub(crate) fn new(limit: LimitId, key: Key, rule: &WindowRule, now: Time) -> Window {
        let mut window = Window::bare(limit, key);
        window.set_rule_version(rule.version);
        window.begin_prewritten(rule);
        window.count_unknown(rule.unknown.iter(), rule, now);
        window
    }

    /// An empty window, regardless of any rule; needs no allocation. Also marks a vacant place of
    /// the table.
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
            marks: Marks::default(),
            oldest: Time::START,
            queue: None,
            extra: None,
            ring: settle_log::LogRing::default(),
        }
    }

    /// A window loaded from disk. Slots that were open in `record` count as settled at `settled`;
    /// `unknown` slots are added.
    pub(crate) fn restored<'u>(
        record: &WindowRecord,
        rule: &WindowRule,
        unknown: impl DoubleEndedIterator<Item = &'u UnknownSlots>,
        settled: Time,
        now: Time,
    ) -> Window {
        let mut window = Window::from_record(record, rule, now);
        if mutant!(record.open, "open slots of a record are forgotten", 0) > 0 && rule.counts_slots() {
            window.settled(rule, record.open, settled);
        }
        window.count_unknown(unknown, rule, now);
        window.expire(rule, now);
        window
    }

    /// A window taken over from another process, with its unsettled slots and its flights still
    /// under way.
    pub(crate) fn handed_over(record: &WindowRecord, rule: &WindowRule, now: Time) -> Window {
        let mut window = Window::from_record(record, rule, now);
        let open = mutant!(record.open, "open slots are lost at a hand-over", 0);
        (window.unsettled, window.flying) = (open, record.flying);
        window
    }

    /// A window with the log, the TAT and the pause of `record`, but without its open slots.
    fn from_record(record: &WindowRecord, rule: &WindowRule, now: Time) -> Window {
        let mut window = Window::bare(record.limit, record.key);
        window.set_rule_version(rule.version);
        record.log.iter().for_each(|(at, count)| window.log_push(*at, *count));
        window.expire(rule, now);
        if record.tat > Time::START {
            window.extra_mut().tat = record.tat.max(window.tat());
        }
        window.pause_again(record.paused, now);
        window
    }

    /// Record of its counters, with `open` unsettled slots and a log of `max_log` entries at most.
    pub(crate) fn record(&self, rule: &WindowRule, open: u32, max_log: usize) -> WindowRecord {
        WindowRecord {
            limit: self.limit,
            key: self.key,
            log: self.short_log(rule, max_log),
            late: Vec::new(),
            open,
            flying: self.flying,
            tat: self.tat(),
            paused: self.paused(),
        }
    }

    /// Drops whatever no longer counts. Must be called with the same `now` before any of the
    /// queries below.
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

    /// True if this window lets a request of `cost` slots go now.
    #[inline]
    pub(crate) fn fits(&self, rule: &WindowRule, cost: u32, now: Time) -> bool {
        if rule.store_managed {
            return self.has_lease(rule, cost, now);
        }
        self.has_room(rule, cost, now) && self.has_prewritten(rule, cost)
    }

    /// True if there is room for `cost` slots now, whether they were written to the journal or not.
    #[inline]
    pub(crate) fn has_room(&self, rule: &WindowRule, cost: u32, now: Time) -> bool {
        let taken = u64::from(self.unsettled) + u64::from(self.in_log);
        now < rule.until
            && self.flying < mutant!(rule.in_flight, "one flight too many", rule.in_flight.saturating_add(1))
            && taken + u64::from(rule.slots(cost)) <= u64::from(rule.requests)
            && self.paused() <= now
            && (!matches!(rule.algorithm, Algorithm::Smooth) || smooth::is_spaced(self, rule, cost, now))
    }

    /// Takes the slots of a request that fits. Returns the time by which it must have left for the
    /// origin.
    #[inline]
    pub(crate) fn take(&mut self, rule: &WindowRule, cost: u32) -> Time {
        self.unsettled += rule.slots(cost);
        self.use_prewritten(rule, cost);
        self.flying += u32::from(rule.counts_flights());
        if rule.store_managed { self.use_lease(rule, cost) } else { rule.until }
    }

    /// Settles `cost` taken slots at `now`.
    #[inline]
    pub(crate) fn settle(&mut self, rule: &WindowRule, cost: u32, now: Time) {
        self.unsettled = self.unsettled.saturating_sub(cost);
        self.expire(rule, now);
        self.settled(rule, cost, now);
        if rule.shared {
            self.report(rule, cost, now);
        }
    }

    /// Logs `cost` slots as settled at `now`, which need not be the present.
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

    /// Frees `cost` taken slots that were not used.
    pub(crate) fn give_back(&mut self, rule: &WindowRule, cost: u32) {
        self.unsettled = self.unsettled.saturating_sub(cost);
        self.return_prewritten(rule, cost);
        if rule.shared {
            self.report_unused(rule, cost, 0);
        }
    }

    /// Ends one flight.
    pub(crate) fn land(&mut self, rule: &WindowRule) {
        self.flying = self.flying.saturating_sub(1);
        if rule.shared {
            self.report_unused(rule, 0, 1);
        }
    }

    /// Time at which a request of `cost` slots has room, after `ahead` slots and `flights` requests
    /// that go before it at once. `None` if that depends on a settle, a returned slot, the end of a
    /// flight or a pending write.
    pub(crate) fn opening(&self, rule: &WindowRule, ahead: u64, flights: u32, cost: u32, now: Time) -> Option<Time> {
        if rule.store_managed {
            let ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
            return self.lease_opens(rule, cost.saturating_add(ahead), now);
        }
        let opening = self.room_opens(rule, ahead, flights, cost, now)?;
        (opening > now || self.has_prewritten(rule, cost)).then_some(opening)
    }

    /// As [`Window::opening`], but ignores whether the slots were written to the journal.
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

    /// `opening` of a `fixed` window, where all settled slots open at one moment.
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

    /// `fixed`: end of the open window, when its settled slots stop counting.
    pub(crate) fn next_window(&self, rule: &WindowRule) -> Time {
        later(self.first_at(), rule.span)
    }

    /// Time at which the `place`-th slot opens, but not before `from`, if all unsettled slots
    /// settled now. `place` must be at most N.
    pub(crate) fn opening_at_best(&self, rule: &WindowRule, place: u64, from: Time, now: Time) -> Time {
        sliding::opening(self, rule, place, from).unwrap_or_else(|| later(now, rule.span).max(from))
    }

    /// Earliest time at which the spacing of `smooth` lets a request of `cost` slots go after
    /// `ahead` others.
    pub(crate) fn spacing_at_best(&self, rule: &WindowRule, ahead: u64, cost: u32, from: Time) -> Time {
        match rule.algorithm {
            Algorithm::Smooth => smooth::bound(self, rule, ahead, cost, from),
            Algorithm::Uncounted | Algorithm::Sliding | Algorithm::Fixed | Algorithm::Calendar { .. } => from,
        }
    }

    /// Number of free slots.
    pub(crate) fn room(&self, rule: &WindowRule) -> u32 {
        rule.requests.saturating_sub(self.unsettled).saturating_sub(self.in_log)
    }

    /// True if the window holds nothing that a new one would not, so that it can be dropped. What was told to refused
    /// callers keeps it only where its limit has room for other keys: it is advice.
    pub(crate) fn is_idle(&self, rule: &WindowRule, now: Time) -> bool {
        self.is_blank(rule, now)
            && !self.has_pending_write(rule)
            && !self.has_store_state(rule, now)
            && (rule.live >= rule.max_keys || !self.has_told(now))
    }

    /// True if no count, spacing, pause or waiter needs to be remembered. Ignores journal, store and
    /// told openings.
    pub(crate) fn is_blank(&self, rule: &WindowRule, now: Time) -> bool {
        let at_rest = self.unsettled == 0 && self.in_log == 0 && self.flying == 0;
        let spaced = !matches!(rule.algorithm, Algorithm::Smooth) || self.tat() <= now;
        at_rest && spaced && self.paused() <= now && self.queue().is_none()
    }

    /// `smooth`: theoretical arrival time, see `Extra::tat`.
    pub(crate) fn tat(&self) -> Time {
        self.extra.as_ref().map_or(Time::START, |extra| extra.tat)
    }

    /// Waiters at this window.
    #[inline]
    pub(crate) fn queue(&self) -> Option<&WindowQueue> {
        self.queue.as_deref()
    }

    /// Waiters at this window, for changes.
    pub(crate) fn queue_mut(&mut self) -> Option<&mut WindowQueue> {
        self.queue.as_deref_mut()
    }

    /// Waiters at this window; creates the queue if there is none.
    pub(crate) fn queue_or_new(&mut self) -> &mut WindowQueue {
        self.queue.get_or_insert_default()
    }

    /// Removes the queue after the last waiter has left it.
    pub(crate) fn drop_queue(&mut self) {
        self.queue = None;
    }

    /// The rarely needed state, created on first use.
    fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }
}

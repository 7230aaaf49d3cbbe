//! Limit rule: a limit's settings as the integers that its windows compute with, and the limit-wide
//! state.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::period::CalendarPeriod;
use crate::locker::limit::{Counts, Kind, Limit, MAX_SLOTS, Priority, Unit, WhenFull};
use crate::time::Time;

/// Up to this N a window logs exact settle times. A larger one logs them in steps of 1/1024 of its
/// span, so that its log never has more than 1025 entries (16 KiB).
const EXACT_UP_TO: u32 = 1024;

/// Divisor of N for the slots written ahead: a crash costs at most a hundredth of N. Small in
/// tests, to reach the edges.
const BLOCK_FRACTION: u32 = if cfg!(test) { 3 } else { 100 };

/// Longest span in nanoseconds (10 s) that is not persisted: after a crash such a window counts as
/// full for its span.
pub(crate) const MAX_UNPERSISTED_SPAN: u64 = if cfg!(test) { 40_000_000 } else { 10_000_000_000 };

/// Slots that may have been taken in each window of a limit, and settled at or before a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct UnknownSlots {
    /// Latest time at which they can have settled.
    pub(crate) at: Time,
    /// Number of slots per window. A value above N stands for all.
    pub(crate) slots: u32,
}

impl UnknownSlots {
    /// All slots of each window, settled at or before `at`.
    pub(crate) fn all(at: Time) -> UnknownSlots {
        UnknownSlots { at, slots: u32::MAX }
    }

    /// True if all slots of each window may have been taken.
    ///
    /// As after a crash without a journal.
    pub(crate) fn is_all(self) -> bool {
        self.slots == u32::MAX
    }
}

/// Counting algorithm of a window.
#[derive(Clone, Debug)]
pub(crate) enum Algorithm {
    /// Counts no slots, only flights.
    Uncounted,
    /// At most N in any span of T, exactly.
    Sliding,
    /// N per window; a window starts with the first settle after the last window's end.
    Fixed,
    /// N per period of a wall clock in a time zone.
    Calendar { unit: Unit, zone: TimeZone },
    /// GCRA spacing with a burst, beside the sliding window.
    Smooth,
}

/// One limit's rule. Windows receive it with every call and keep no copy.
#[derive(Clone, Debug)]
pub(crate) struct WindowRule {
    /// N; `u32::MAX` where no slots are counted.
    pub(crate) requests: u32,
    /// T plus guard, in nanoseconds.
    pub(crate) span: u64,
    /// Guard, in nanoseconds. `calendar` windows keep it on both sides of a boundary.
    pub(crate) guard: u64,
    /// Step to which settle times are rounded up, in nanoseconds; 1 means exact.
    pub(crate) quantum: u64,
    /// `smooth`: spacing between requests, T/N rounded up, in nanoseconds.
    pub(crate) interval: u64,
    /// `smooth`: number of slots that may go without spacing, at least 1.
    pub(crate) burst: u32,
    /// Window kind, which decides how slots open.
    pub(crate) algorithm: Algorithm,
    /// `calendar`: unit and zone in words, by which gateways compare whether they count the same
    /// periods.
    pub(crate) calendar: Option<Arc<str>>,
    /// True if a slot settles with the origin's answer and not with the request's departure
    /// (`counts = "answered"`).
    pub(crate) answered: bool,
    /// M, the maximum of flights; `u32::MAX` if flights are not capped.
    pub(crate) in_flight: u32,
    /// Time for which a failed attempt may still reach the origin, see [`Limit::linger`].
    pub(crate) linger: Duration,
    /// True if the limit only observes: it refuses and delays nothing.
    pub(crate) dry_run: bool,
    /// True if a full window refuses requests and has no queue (`when_full = "refuse"`).
    pub(crate) refuses: bool,
    /// Maximum wait of a request.
    pub(crate) max_wait: Duration,
    /// Maximum number of waiters in a window.
    pub(crate) max_waiting: usize,
    /// Maximum number of windows (keys); a request with one more is refused.
    pub(crate) max_keys: usize,
    /// True if callers take turns in the queue (`share_by = "caller"`).
    pub(crate) takes_turns: bool,
    /// Scope in which a request's priority counts.
    pub(crate) priority: Priority,
    /// Wall-clock period of the `calendar` windows.
    pub(crate) period: CalendarPeriod,
    /// Slots that may have been taken but that no window shows, oldest first.
    pub(crate) unknown: Vec<UnknownSlots>,
    /// Unknown slots of a limit that is not persisted here, because it is shared or a dry run. They
    /// count as soon as it is neither.
    pub(crate) suspended: Vec<UnknownSlots>,
    /// Flights of an earlier rule that counted from the answer: the time until which they may be
    /// under way, and for how long after an end of the process they may still reach the origin.
    pub(crate) lingers: Option<(Time, Duration)>,
    /// Time from which on every count is known (unless it has expired).
    pub(crate) since: Time,
    /// Term number: changes whenever earlier journal records or store grants of this limit's
    /// windows become invalid. Each window keeps the number under which it got them, so that a new
    /// term needs no pass over the windows. Wraps around.
    pub(crate) term: u32,
    /// True if slots are written to the journal before they are taken, so that a crash forgets
    /// none.
    pub(crate) persisted: bool,
    /// True if windows without a write in this term still grant slots that were not written: a
    /// crash is known to forget these.
    pub(crate) catches_up: bool,
    /// Number of slots written ahead per window: the cost of a crash.
    pub(crate) block: u32,
    /// Number of slots written ahead for each key without a journal record of its own.
    pub(crate) initial_prewritten: u32,
    /// True if several gateways count this limit together.
    pub(crate) shared: bool,
    /// Longest span, in nanoseconds, for which any gateway counts a settled slot, as far as the
    /// store has reported.
    pub(crate) longest_span: u64,
    /// True if the store grants the slots at present.
    pub(crate) store_managed: bool,
    /// True if the store is unreachable.
    pub(crate) store_lost: bool,
    /// `requests`, `interval` and `in_flight` of the whole limit, before any division among
    /// gateways.
    pub(crate) whole: (u32, u64, u32),
    /// True if `requests` and `in_flight` are this gateway's fraction of the whole.
    pub(crate) is_fraction: bool,
    /// End of that fraction: no grants from then on, and granted requests must have left. `NEVER`
    /// for a whole limit.
    pub(crate) until: Time,
    /// Number of live windows.
    pub(crate) live: usize,
    /// Version number: changes with each reload that changes the limit. Windows note the one that
    /// they were last carried over to. Counts modulo [`RULE_VERSIONS`](super::RULE_VERSIONS).
    pub(crate) version: u16,
}

impl WindowRule {
    /// The rule of a limit at its start. Clamps N to 1 ..= [`MAX_SLOTS`].
    pub(crate) fn new(limit: &Limit) -> WindowRule {
        let mut rule = WindowRule {
            requests: u32::MAX,
            span: 0,
            guard: 0,
            quantum: 1,
            interval: 0,
            burst: 1,
            algorithm: Algorithm::Uncounted,
            calendar: None,
            answered: false,
            in_flight: limit.in_flight.map_or(u32::MAX, |most| most.max(1)),
            linger: limit.linger(),
            dry_run: limit.dry_run,
            refuses: limit.when_full == WhenFull::Refuse,
            max_wait: limit.max_wait,
            max_waiting: limit.max_waiting,
            max_keys: limit.max_keys,
            takes_turns: limit.share_by == crate::locker::ShareBy::Caller,
            priority: limit.priority,
            period: CalendarPeriod::default(),
            unknown: Vec::new(),
            suspended: Vec::new(),
            lingers: None,
            since: Time::START,
            term: 0,
            persisted: false,
            catches_up: false,
            block: 0,
            initial_prewritten: 0,
            shared: limit.shared && !limit.dry_run,
            longest_span: 0,
            store_managed: false,
            store_lost: false,
            whole: (u32::MAX, 0, u32::MAX),
            is_fraction: false,
            until: Time::NEVER,
            live: 0,
            version: 0,
        };
        rule.whole.2 = rule.in_flight;
        let Some(rate) = &limit.rate else { return rule };
        rule.requests = rate.requests.clamp(1, MAX_SLOTS);
        rule.guard = nanos(rate.guard);
        let guard = mutant!(rule.guard, "the guard is forgotten", 0);
        rule.span = nanos(rate.per).saturating_add(guard).max(1);
        if rule.requests > EXACT_UP_TO {
            rule.quantum = rule.span.div_ceil(u64::from(EXACT_UP_TO));
        }
        rule.block = rule.requests / BLOCK_FRACTION;
        rule.interval = rule.span.div_ceil(u64::from(rule.requests));
        rule.whole = (rule.requests, rule.interval, rule.in_flight);
        rule.answered = rate.counts == Counts::Answered;
        rule.algorithm = match &rate.kind {
            Kind::Sliding => Algorithm::Sliding,
            Kind::Fixed => Algorithm::Fixed,
            Kind::Calendar { unit, zone } => {
                rule.calendar = Some(calendar_name(*unit, zone));
                Algorithm::Calendar { unit: *unit, zone: zone.clone() }
            }
            Kind::Smooth { burst } => {
                rule.burst = (*burst).max(1);
                Algorithm::Smooth
            }
        };
        rule
    }

    /// Invalidates the journal records and store grants of all windows. A term number repeats after
    /// 2^32 terms.
    pub(crate) fn begin_term(&mut self) {
        self.term = self.term.wrapping_add(1);
        (self.initial_prewritten, self.catches_up) = (0, false);
    }

    /// True if slots are counted at all.
    pub(crate) fn counts_slots(&self) -> bool {
        !matches!(self.algorithm, Algorithm::Uncounted)
    }

    /// True if the span is so long that a crash would lose too much without a journal.
    pub(crate) fn is_long(&self) -> bool {
        self.counts_slots() && self.span > MAX_UNPERSISTED_SPAN
    }

    /// True if a taken slot that is not sent yet delays other requests although slots are free.
    pub(crate) fn is_spaced(&self) -> bool {
        matches!(self.algorithm, Algorithm::Smooth)
    }

    /// Age in nanoseconds up to which settled slots are reported to the store.
    pub(crate) fn report_span(&self) -> u64 {
        self.span.max(self.longest_span)
    }

    /// Time by which all requests under way have settled if the process ends at `now`. They may
    /// reach the origin a little later; a request with an incomplete head never does.
    pub(crate) fn settled_at_end(&self, now: Time) -> Time {
        let own = if self.answered { self.linger } else { Duration::ZERO };
        let earlier = self.lingers.filter(|(until, _)| *until > now).map_or(Duration::ZERO, |(_, linger)| linger);
        now + own.max(earlier)
    }

    /// True if flights are counted.
    pub(crate) fn counts_flights(&self) -> bool {
        self.in_flight != u32::MAX
    }

    /// True if the windows' queues need to know the caller of each waiter.
    pub(crate) fn tracks_callers(&self) -> bool {
        self.takes_turns || self.priority == Priority::WithinCaller
    }

    /// Number of slots that a claim of `cost` takes; 0 if slots are not counted.
    pub(crate) fn slots(&self, cost: u32) -> u32 {
        if self.counts_slots() { cost } else { 0 }
    }
}

/// Unit and IANA zone name, written alike by all gateways.
fn calendar_name(unit: Unit, zone: &TimeZone) -> Arc<str> {
    let unit = match unit {
        Unit::Minute => "minute",
        Unit::Hour => "hour",
        Unit::Day => "day",
    };
    format!("{unit} {}", zone.iana_name().unwrap_or("of an unnamed zone")).into()
}

/// The duration in nanoseconds; saturates at 2^64 - 1 (584 years).
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The time `by` nanoseconds after `time`; saturates.
///
/// The sum is at most [`Time::NEVER`].
pub(crate) fn later(time: Time, by: u64) -> Time {
    Time::from_nanos(time.as_nanos().saturating_add(by))
}

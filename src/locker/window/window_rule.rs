//! A limit's rule in the numbers that windows reckon with.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::period::CalendarPeriod;
use crate::locker::limit::{Counts, Kind, Limit, Priority, Unit, WhenFull};
use crate::time::Time;

/// A window of more slots than this keeps settle times in steps of its span's 1024th part, so that
/// its log never has more than 1025 entries (16 KiB).
const EXACT_UP_TO: u32 = 1024;

/// What a crash may cost is a hundredth of N at most.
const BLOCK_FRACTION: u32 = if cfg!(test) { 3 } else { 100 };

/// Up to this span, in nanoseconds, nothing is written down: after a crash a window counts as full for that long.
pub(crate) const MAX_UNPERSISTED_SPAN: u64 = if cfg!(test) { 40_000_000 } else { 10_000_000_000 };

/// Slots that may have been taken in each window, and settled at or before a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct UnknownSlots {
    pub(crate) at: Time,
    /// More than there are stands for all.
    pub(crate) slots: u32,
}

impl UnknownSlots {
    /// All slots of each window.
    pub(crate) fn all(at: Time) -> UnknownSlots {
        UnknownSlots { at, slots: u32::MAX }
    }

    /// Returns true if all slots of each window may have been taken.
    pub(crate) fn is_all(self) -> bool {
        self.slots == u32::MAX
    }
}

/// Which arithmetic a window keeps.
#[derive(Clone, Debug)]
pub(crate) enum Algorithm {
    /// No slots are counted, only flights.
    Uncounted,
    Sliding,
    Fixed,
    Calendar {
        unit: Unit,
        zone: TimeZone,
    },
    Smooth,
}

/// One limit's rule. Windows are handed it with every call and keep no copy.
#[derive(Clone, Debug)]
pub(crate) struct WindowRule {
    /// N; `u32::MAX` where no slots are counted.
    pub(crate) requests: u32,
    /// T and guard, in nanoseconds.
    pub(crate) span: u64,
    /// The guard alone, which `calendar` windows keep on both sides of a boundary; in nanoseconds.
    pub(crate) guard: u64,
    /// Settle times are rounded up to a multiple of this many nanoseconds.
    pub(crate) quantum: u64,
    /// T/N rounded up: the distance that `smooth` keeps, in nanoseconds.
    pub(crate) interval: u64,
    pub(crate) burst: u32,
    pub(crate) algorithm: Algorithm,
    /// `calendar`: the unit and the zone in words, by which gateways see whether they mean the same periods.
    pub(crate) calendar: Option<Arc<str>>,
    pub(crate) answered: bool,
    /// M; `u32::MAX` where flights are not capped.
    pub(crate) in_flight: u32,
    pub(crate) linger: Duration,
    pub(crate) dry_run: bool,
    pub(crate) refuses: bool,
    pub(crate) max_wait: Duration,
    pub(crate) max_waiting: usize,
    pub(crate) max_keys: usize,
    pub(crate) takes_turns: bool,
    pub(crate) priority: Priority,
    /// The wall-clock period that `calendar` windows are in.
    pub(crate) period: CalendarPeriod,
    /// Slots that may have been taken and that no window shows, oldest first.
    pub(crate) unknown: Vec<UnknownSlots>,
    /// The same of a limit of which nothing is written down here, because it is shared or a dry run. It counts once it is
    /// neither.
    pub(crate) suspended: Vec<UnknownSlots>,
    /// Until when requests may be under way that count from their answer by an earlier rule, and for how long after an end
    /// they may still reach the origin.
    pub(crate) lingers: Option<(Time, Duration)>,
    /// Since when all that was counted is known, unless it has expired.
    pub(crate) since: Time,
    /// A number that is another one whenever what was written down, or granted by the store, for the windows of this limit
    /// holds no longer. Windows bear the number that held when they got it, so that none has to be looked for.
    pub(crate) term: u32,
    /// Whether slots are written down before they are taken, so that a crash forgets none.
    pub(crate) persisted: bool,
    /// Whether that is not yet so in windows of which nothing has been written in this term: a crash is known to have
    /// forgotten what they let go.
    pub(crate) catches_up: bool,
    /// How many slots are written down ahead: what a crash may cost.
    pub(crate) block: u32,
    /// How many of them a key has of which nothing is written down.
    pub(crate) initial_prewritten: u32,
    /// Whether it is counted together with other gateways.
    pub(crate) shared: bool,
    /// For how long what settled counts for any gateway, as far as the store has said, in nanoseconds.
    pub(crate) longest_span: u64,
    /// Whether what may go is the store's to say now.
    pub(crate) store_managed: bool,
    /// Whether the store cannot be asked.
    pub(crate) store_lost: bool,
    /// `requests`, `interval` and `in_flight` of the whole.
    pub(crate) whole: (u32, u64, u32),
    /// Whether `requests` and `in_flight` are this gateway's part of the whole.
    pub(crate) is_fraction: bool,
    /// When that part ends: nothing goes from then on, and what was granted must have left. `NEVER` for a whole.
    pub(crate) until: Time,
    /// How many windows are alive.
    pub(crate) live: usize,
}

impl WindowRule {
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
        };
        rule.whole.2 = rule.in_flight;
        let Some(rate) = &limit.rate else { return rule };
        rule.requests = rate.requests.clamp(1, u32::MAX - 1);
        rule.guard = nanos(rate.guard);
        rule.span = nanos(rate.per).saturating_add(rule.guard).max(1);
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

    /// What was written down, or granted, for its windows holds no longer. A number comes again after 4 billion others.
    pub(crate) fn begin_term(&mut self) {
        self.term = self.term.wrapping_add(1);
        (self.initial_prewritten, self.catches_up) = (0, false);
    }

    /// Whether slots are counted at all.
    pub(crate) fn counts_slots(&self) -> bool {
        !matches!(self.algorithm, Algorithm::Uncounted)
    }

    /// Whether a crash would forget too much if its slots were not written down.
    pub(crate) fn is_long(&self) -> bool {
        self.counts_slots() && self.span > MAX_UNPERSISTED_SPAN
    }

    /// Whether a slot that is taken and not sent keeps others back, although there are more.
    pub(crate) fn is_spaced(&self) -> bool {
        matches!(self.algorithm, Algorithm::Smooth)
    }

    /// For how long what settled is told to the store, in nanoseconds.
    pub(crate) fn report_span(&self) -> u64 {
        self.span.max(self.longest_span)
    }

    /// The moment by which requests under way have settled if the process ends now: they may reach the origin a little
    /// later, but for a head that had not left as a whole, which never will.
    pub(crate) fn settled_at_end(&self, now: Time) -> Time {
        let own = if self.answered { self.linger } else { Duration::ZERO };
        let earlier = self.lingers.filter(|(until, _)| *until > now).map_or(Duration::ZERO, |(_, linger)| linger);
        now + own.max(earlier)
    }

    /// Whether flights are counted.
    pub(crate) fn counts_flights(&self) -> bool {
        self.in_flight != u32::MAX
    }

    /// Whether its windows know which waiters are whose.
    pub(crate) fn tracks_callers(&self) -> bool {
        self.takes_turns || self.priority == Priority::WithinCaller
    }

    /// How many slots a claim of `cost` takes.
    pub(crate) fn slots(&self, cost: u32) -> u32 {
        if self.counts_slots() { cost } else { 0 }
    }
}

/// A unit and a zone as all gateways write them.
fn calendar_name(unit: Unit, zone: &TimeZone) -> Arc<str> {
    let unit = match unit {
        Unit::Minute => "minute",
        Unit::Hour => "hour",
        Unit::Day => "day",
    };
    format!("{unit} {}", zone.iana_name().unwrap_or("of an unnamed zone")).into()
}

/// A duration in nanoseconds, at most 2^64 - 1 of them (584 years).
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The moment `by` nanoseconds after `time`.
pub(crate) fn later(time: Time, by: u64) -> Time {
    Time::from_nanos(time.as_nanos().saturating_add(by))
}

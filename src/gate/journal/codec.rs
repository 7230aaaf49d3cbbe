//! How what is known of limits and windows is written: plain data, with a number for its form.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::boot_time::Line;
use crate::locker::{
    Counts, Key, Kind, Limit, LimitId, LimitSnapshot, Priority, Rate, ShareBy, Unit, WallReading, WhenFull,
    WindowRecord,
};
use crate::time::Time;

/// The number of the form; a higher one is not read.
pub(super) const FORM: u32 = 2;

/// What is said of the whole.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub(super) struct Head {
    /// What keys and callers are hashed with.
    pub(super) seed: [u8; 16],
    /// Whether the process that wrote it stopped in order.
    pub(super) stopped: bool,
    pub(super) limits: Vec<KnownForm>,
    pub(super) readings: Vec<ReadingForm>,
}

/// A reading of the wall clock where the line of the machine's boot begins, and until when it held.
#[derive(Clone, Copy, Serialize, Deserialize, Debug)]
pub(in crate::gate) struct ReadingForm {
    least: i128,
    most: i128,
    until: Option<i128>,
}

#[derive(Clone, Serialize, Deserialize, Debug)]
pub(in crate::gate) struct KnownForm {
    pub(super) limit: LimitForm,
    pub(super) in_force: bool,
    pub(super) since: i128,
    pub(super) unknown: Vec<(i128, u32)>,
    pub(super) aside: Vec<(i128, u32)>,
    pub(super) lingers: Option<(i128, Duration)>,
}

#[derive(Clone, Serialize, Deserialize, Debug)]
pub(super) struct LimitForm {
    name: String,
    keyed_by: String,
    rate: Option<RateForm>,
    in_flight: Option<u32>,
    refuses: bool,
    max_wait: Duration,
    max_waiting: u64,
    order: OrderForm,
    max_keys: u64,
    dry_run: bool,
    shared: bool,
}

/// In which order waiters go. The first two are written as the `bool` that was here before there were priorities: `false` and
/// `true` if callers take turns.
#[derive(Clone, Copy, Serialize, Deserialize, Debug)]
enum OrderForm {
    Arrival,
    Turns,
    StrictArrival,
    StrictTurns,
    PlainArrival,
    PlainTurns,
}

#[derive(Clone, Serialize, Deserialize, Debug)]
struct RateForm {
    requests: u32,
    per: Duration,
    guard: Duration,
    answered: bool,
    kind: KindForm,
}

#[derive(Clone, Serialize, Deserialize, Debug)]
enum KindForm {
    Sliding,
    Fixed,
    Smooth(u32),
    Calendar(UnitForm, String),
}

#[derive(Clone, Copy, Serialize, Deserialize, Debug)]
enum UnitForm {
    Minute,
    Hour,
    Day,
}

/// What is written of a window, under its limit's name and its key.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(in crate::gate) struct PageForm {
    pub(super) log: Vec<(i128, u32)>,
    pub(super) late: Vec<(i128, u32)>,
    pub(super) open: u32,
    pub(super) flying: u32,
    pub(super) mark: i128,
    pub(super) paused: i128,
}

fn to_boot(slots: &[(Time, u32)], line: Line) -> Vec<(i128, u32)> {
    slots.iter().map(|(at, count)| (line.to_boot(*at), *count)).collect()
}

fn at_boot(slots: &[(i128, u32)], line: Line) -> Vec<(Time, u32)> {
    slots.iter().map(|(at, count)| (line.at_boot(*at), *count)).collect()
}

impl ReadingForm {
    pub(in crate::gate) fn of(WallReading { least, most, until }: WallReading, line: Line) -> ReadingForm {
        let until = (until < Time::NEVER).then(|| line.to_boot(until));
        ReadingForm { least: line.wall_to_boot(least), most: line.wall_to_boot(most), until }
    }

    pub(in crate::gate) fn reading(self, line: Line) -> WallReading {
        let ReadingForm { least, most, until } = self;
        let until = until.map_or(Time::NEVER, |until| line.at_boot(until));
        line.read(least, most, until)
    }
}

impl KnownForm {
    pub(in crate::gate) fn of(known: &LimitSnapshot, line: Line) -> KnownForm {
        KnownForm {
            limit: LimitForm::of(&known.limit),
            in_force: known.in_force,
            since: line.to_boot(known.since),
            unknown: to_boot(&known.unknown, line),
            aside: to_boot(&known.suspended, line),
            lingers: known.lingers.map(|(until, linger)| (line.to_boot(until), linger)),
        }
    }

    pub(in crate::gate) fn known(self, line: Line) -> LimitSnapshot {
        LimitSnapshot {
            limit: self.limit.limit(),
            in_force: self.in_force,
            since: line.at_boot(self.since),
            unknown: at_boot(&self.unknown, line),
            suspended: at_boot(&self.aside, line),
            lingers: self.lingers.map(|(until, linger)| (line.at_boot(until), linger)),
        }
    }
}

impl PageForm {
    pub(in crate::gate) fn of(page: &WindowRecord, line: Line) -> PageForm {
        PageForm {
            log: to_boot(&page.log, line),
            late: to_boot(&page.late, line),
            open: page.open,
            flying: page.flying,
            mark: line.to_boot(page.tat),
            paused: line.to_boot(page.paused),
        }
    }

    pub(in crate::gate) fn page(self, limit: LimitId, key: Key, line: Line) -> WindowRecord {
        WindowRecord {
            limit,
            key,
            log: at_boot(&self.log, line),
            late: at_boot(&self.late, line),
            open: self.open,
            flying: self.flying,
            tat: line.at_boot(self.mark),
            paused: line.at_boot(self.paused),
        }
    }
}

impl LimitForm {
    pub(super) fn of(limit: &Limit) -> LimitForm {
        LimitForm {
            name: limit.name.to_string(),
            keyed_by: limit.keyed_by.to_string(),
            rate: limit.rate.as_ref().map(RateForm::of),
            in_flight: limit.in_flight,
            refuses: limit.when_full == WhenFull::Refuse,
            max_wait: limit.max_wait,
            max_waiting: limit.max_waiting as u64,
            order: OrderForm::of(limit),
            max_keys: limit.max_keys as u64,
            dry_run: limit.dry_run,
            shared: limit.shared,
        }
    }

    fn limit(self) -> Limit {
        Limit {
            name: self.name.into(),
            keyed_by: self.keyed_by.into(),
            rate: self.rate.map(RateForm::rate),
            in_flight: self.in_flight,
            when_full: if self.refuses { WhenFull::Refuse } else { WhenFull::Wait },
            max_wait: self.max_wait,
            max_waiting: usize::try_from(self.max_waiting).unwrap_or(usize::MAX),
            share_by: self.order.share_by(),
            priority: self.order.priority(),
            max_keys: usize::try_from(self.max_keys).unwrap_or(usize::MAX),
            dry_run: self.dry_run,
            shared: self.shared,
        }
    }
}

impl OrderForm {
    fn of(limit: &Limit) -> OrderForm {
        match (limit.priority, limit.share_by) {
            (Priority::WithinCaller, ShareBy::Nobody) => OrderForm::Arrival,
            (Priority::WithinCaller, ShareBy::Caller) => OrderForm::Turns,
            (Priority::Strict, ShareBy::Nobody) => OrderForm::StrictArrival,
            (Priority::Strict, ShareBy::Caller) => OrderForm::StrictTurns,
            (Priority::None, ShareBy::Nobody) => OrderForm::PlainArrival,
            (Priority::None, ShareBy::Caller) => OrderForm::PlainTurns,
        }
    }

    fn share_by(self) -> ShareBy {
        match self {
            OrderForm::Arrival | OrderForm::StrictArrival | OrderForm::PlainArrival => ShareBy::Nobody,
            OrderForm::Turns | OrderForm::StrictTurns | OrderForm::PlainTurns => ShareBy::Caller,
        }
    }

    fn priority(self) -> Priority {
        match self {
            OrderForm::Arrival | OrderForm::Turns => Priority::WithinCaller,
            OrderForm::StrictArrival | OrderForm::StrictTurns => Priority::Strict,
            OrderForm::PlainArrival | OrderForm::PlainTurns => Priority::None,
        }
    }
}

impl RateForm {
    fn of(rate: &Rate) -> RateForm {
        let kind = match &rate.kind {
            Kind::Sliding => KindForm::Sliding,
            Kind::Fixed => KindForm::Fixed,
            Kind::Smooth { burst } => KindForm::Smooth(*burst),
            Kind::Calendar { unit, zone } => {
                let unit = match unit {
                    Unit::Minute => UnitForm::Minute,
                    Unit::Hour => UnitForm::Hour,
                    Unit::Day => UnitForm::Day,
                };
                KindForm::Calendar(unit, zone.iana_name().unwrap_or("UTC").to_owned())
            }
        };
        let Rate { requests, per, guard, counts, .. } = *rate;
        RateForm { requests, per, guard, answered: counts == Counts::Answered, kind }
    }

    fn rate(self) -> Rate {
        let kind = match self.kind {
            KindForm::Sliding => Kind::Sliding,
            KindForm::Fixed => Kind::Fixed,
            KindForm::Smooth(burst) => Kind::Smooth { burst },
            KindForm::Calendar(unit, zone) => {
                let unit = match unit {
                    UnitForm::Minute => Unit::Minute,
                    UnitForm::Hour => Unit::Hour,
                    UnitForm::Day => Unit::Day,
                };
                // A zone that this machine does not know any more is another than the file's, and treated as such.
                Kind::Calendar { unit, zone: TimeZone::get(&zone).unwrap_or(TimeZone::UTC) }
            }
        };
        let Self { requests, per, guard, answered, .. } = self;
        Rate { requests, per, guard, kind, counts: if answered { Counts::Answered } else { Counts::Sent } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_as_what_was_written_before_there_were_priorities() {
        for turns in [false, true] {
            let before = postcard::to_stdvec(&turns).unwrap();
            let order: OrderForm = postcard::from_bytes(&before).unwrap();
            assert_eq!(order.share_by() == ShareBy::Caller, turns);
            assert_eq!(order.priority(), Priority::WithinCaller);
            assert_eq!(postcard::to_stdvec(&order).unwrap(), before);
        }
    }
}

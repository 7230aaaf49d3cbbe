//! How what is known of limits and windows is written: plain data, with a number for its form.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::when::Line;
use crate::locker::{Counts, Key, Kind, Known, Limit, LimitId, Page, Rate, ShareBy, Unit, WhenFull};
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
}

#[derive(Clone, Serialize, Deserialize, Debug)]
pub(in crate::gate) struct KnownForm {
    limit: LimitForm,
    in_force: bool,
    since: i128,
    unknown: Vec<(i128, u32)>,
    aside: Vec<(i128, u32)>,
}

#[derive(Clone, Serialize, Deserialize, Debug)]
struct LimitForm {
    name: String,
    keyed_by: String,
    rate: Option<RateForm>,
    in_flight: Option<u32>,
    refuses: bool,
    max_wait: Duration,
    max_waiting: u64,
    turns: bool,
    max_keys: u64,
    dry_run: bool,
    shared: bool,
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
    log: Vec<(i128, u32)>,
    late: Vec<(i128, u32)>,
    open: u32,
    flying: u32,
    mark: i128,
    paused: i128,
    period: Option<(i128, i128)>,
}

fn to_boot(slots: &[(Time, u32)], line: Line) -> Vec<(i128, u32)> {
    slots.iter().map(|(at, count)| (line.to_boot(*at), *count)).collect()
}

fn at_boot(slots: &[(i128, u32)], line: Line) -> Vec<(Time, u32)> {
    slots.iter().map(|(at, count)| (line.at_boot(*at), *count)).collect()
}

impl KnownForm {
    pub(in crate::gate) fn of(known: &Known, line: Line) -> KnownForm {
        KnownForm {
            limit: LimitForm::of(&known.limit),
            in_force: known.in_force,
            since: line.to_boot(known.since),
            unknown: to_boot(&known.unknown, line),
            aside: to_boot(&known.aside, line),
        }
    }

    pub(in crate::gate) fn known(self, line: Line) -> Known {
        Known {
            limit: self.limit.limit(),
            in_force: self.in_force,
            since: line.at_boot(self.since),
            unknown: at_boot(&self.unknown, line),
            aside: at_boot(&self.aside, line),
        }
    }
}

/// The head in form 1, which knew one sum of what was unknown.
#[derive(Deserialize)]
pub(super) struct Head1 {
    seed: [u8; 16],
    stopped: bool,
    limits: Vec<Known1>,
}

#[derive(Deserialize)]
struct Known1 {
    limit: LimitForm,
    in_force: bool,
    since: i128,
    unknown: Option<(i128, u32)>,
}

impl From<Head1> for Head {
    fn from(head: Head1) -> Head {
        let known = |Known1 { limit, in_force, since, unknown }: Known1| {
            let unknown = unknown.into_iter().collect();
            KnownForm { limit, in_force, since, unknown, aside: Vec::new() }
        };
        let Head1 { seed, stopped, limits } = head;
        Head { seed, stopped, limits: limits.into_iter().map(known).collect() }
    }
}

impl PageForm {
    pub(in crate::gate) fn of(page: &Page, line: Line) -> PageForm {
        PageForm {
            log: to_boot(&page.log, line),
            late: to_boot(&page.late, line),
            open: page.open,
            flying: page.flying,
            mark: line.to_boot(page.mark),
            paused: line.to_boot(page.paused),
            period: page.period,
        }
    }

    pub(in crate::gate) fn page(self, limit: LimitId, key: Key, line: Line) -> Page {
        Page {
            limit,
            key,
            log: at_boot(&self.log, line),
            late: at_boot(&self.late, line),
            open: self.open,
            flying: self.flying,
            mark: line.at_boot(self.mark),
            paused: line.at_boot(self.paused),
            period: self.period,
        }
    }
}

impl LimitForm {
    fn of(limit: &Limit) -> LimitForm {
        LimitForm {
            name: limit.name.to_string(),
            keyed_by: limit.keyed_by.to_string(),
            rate: limit.rate.as_ref().map(RateForm::of),
            in_flight: limit.in_flight,
            refuses: limit.when_full == WhenFull::Refuse,
            max_wait: limit.max_wait,
            max_waiting: limit.max_waiting as u64,
            turns: limit.share_by == ShareBy::Caller,
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
            share_by: if self.turns { ShareBy::Caller } else { ShareBy::Nobody },
            max_keys: usize::try_from(self.max_keys).unwrap_or(usize::MAX),
            dry_run: self.dry_run,
            shared: self.shared,
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
    use crate::gate::clock::Clock;
    use crate::locker::Locker;

    #[test]
    fn a_head_in_form_1_is_read() {
        let second = Duration::from_secs(1);
        let limit = Limit {
            name: "kept".into(),
            keyed_by: "host".into(),
            rate: Some(Rate { requests: 5, per: second, guard: second, kind: Kind::Sliding, counts: Counts::Sent }),
            in_flight: Some(2),
            when_full: WhenFull::Wait,
            max_wait: second,
            max_waiting: 1000,
            share_by: ShareBy::Caller,
            max_keys: 1000,
            dry_run: false,
            shared: false,
        };
        let form = || LimitForm::of(&limit);
        // A struct is written as its fields, one after the other.
        type KnownThen = (LimitForm, bool, i128, Option<(i128, u32)>);
        let limits: [KnownThen; 2] = [(form(), true, 1, Some((2, 3))), (form(), false, 4, None)];
        let written = ([7_u8; 16], true, limits.to_vec());
        let head: Head = postcard::from_bytes::<Head1>(&postcard::to_stdvec(&written).unwrap()).unwrap().into();
        assert_eq!((head.seed, head.stopped), ([7; 16], true));
        let (clock, _hand) = Clock::manual();
        let known: Vec<Known> = head.limits.into_iter().map(|known| known.known(Line::here(&clock))).collect();
        let here = Locker::new(vec![limit.clone()]).known().remove(0);
        let at = Time::from_nanos;
        let expected = [
            Known { since: at(1), unknown: vec![(at(2), 3)], ..here.clone() },
            Known { since: at(4), in_force: false, ..here },
        ];
        assert_eq!(known, expected);
    }
}

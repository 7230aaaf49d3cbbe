//! Form 1 of what is written, which is still read: one sum of what was unknown, and calendar windows without times.

use serde::Deserialize;

use super::boot_time::Moment;
use super::codec::{Head, KnownForm, LimitForm, PageForm};

/// The head.
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
            KnownForm { limit, in_force, since, unknown, aside: Vec::new(), lingers: None }
        };
        let Head1 { seed, stopped, limits } = head;
        Head { seed, stopped, limits: limits.into_iter().map(known).collect(), readings: Vec::new() }
    }
}

/// The page of a window.
#[derive(Deserialize)]
pub(super) struct Page1 {
    page: PageForm,
    /// `calendar`: the period in which its slots settled, in nanoseconds of Unix time.
    period: Option<(i128, i128)>,
}

impl Page1 {
    /// The page as it is written now. `then`: when anything was written last.
    pub(super) fn page(self, then: &Moment) -> PageForm {
        let Page1 { mut page, period } = self;
        if let Some((_, end)) = period {
            // They settled before that was written, and before the period's end.
            let settled = then.since_boot().min(then.boot_time_of(end) - 1);
            page.log.iter_mut().for_each(|(at, _)| *at = settled);
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gate::clock::Clock;
    use crate::gate::journal::boot_time::Line;
    use crate::locker::{Counts, Kind, Limit, LimitSnapshot, Locker, Priority, Rate, ShareBy, WhenFull};
    use crate::time::Time;

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
            priority: Priority::WithinCaller,
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
        let known: Vec<LimitSnapshot> = head.limits.into_iter().map(|known| known.known(Line::here(&clock))).collect();
        let here = Locker::new(vec![limit.clone()]).crash_limit_snapshots().remove(0);
        let at = Time::from_nanos;
        let expected = [
            LimitSnapshot { since: at(1), unknown: vec![(at(2), 3)], ..here.clone() },
            LimitSnapshot { since: at(4), in_force: false, ..here },
        ];
        assert_eq!(known, expected);
    }

    #[test]
    fn a_calendar_page_in_form_1_settled_when_anything_was_written_last_or_its_period_ended() {
        let (clock, hand) = Clock::manual();
        hand.pass(Duration::from_secs(3600));
        let then = Moment::now(&clock);
        let hour = 3_600_000_000_000;
        let settled_at = |period| {
            let page = PageForm { log: vec![(1 << 70, 3)], late: vec![], open: 1, flying: 0, mark: 0, paused: 0 };
            let written = postcard::to_stdvec(&(page, period)).unwrap();
            postcard::from_bytes::<Page1>(&written).unwrap().page(&then).log
        };
        let wall = clock.wall_unix_nanos();
        assert_eq!(settled_at(Some((wall - hour, wall + hour))), [(then.since_boot(), 3)]);
        assert_eq!(settled_at(Some((wall - hour, wall - 1000))), [(then.since_boot() - 1001, 3)]);
        assert_eq!(settled_at(None), [(1 << 70, 3)], "others have times of their own");
    }
}

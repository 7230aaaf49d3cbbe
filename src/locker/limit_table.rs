//! Table of the limits: what each of them says, its rule in numbers, and whether it is in force.
//!
//! A limit that is gone from the file is *retired*: it is kept as long as what it counted would
//! count, and then forgotten. It leaves its number behind, which is never used again: a request
//! that was classified before may still name it. So every pass over all limits goes by
//! `LimitTable::ids`, and costs what the limits cost that there are, not those that ever were.

use std::collections::BTreeSet;
use std::time::Duration;

use super::api::LimitId;
use super::limit::{Limit, Priority, ShareBy, WhenFull};
use super::queue::{Waiter, WindowDemand};
use super::wall_clock::WallClock;
use super::window::WindowRule;
use crate::time::Time;

/// All limits by `LimitId`, with their rules.
///
/// `all` and `rules` are of the same length, and have a mark in the place of each limit that was
/// forgotten ([`Limit::forgotten`]).
#[derive(Debug, Default)]
pub(super) struct LimitTable {
    /// The limits as they were given, by `LimitId`.
    pub(super) all: Vec<Limit>,
    /// The rule of each limit.
    pub(super) rules: Vec<WindowRule>,
    /// The limits that were not forgotten, in their order.
    pub(super) ids: Vec<LimitId>,
    /// Those of them that are no longer in the file. They count as a dry run until they return or
    /// are forgotten.
    pub(super) retired: BTreeSet<LimitId>,
    /// Number of changes of the limits and the wall clock; the passing of time is none.
    pub(super) revision: u64,
}

impl LimitTable {
    /// Adds a limit behind the others, in force from `now` on.
    pub(super) fn add(&mut self, limit: Limit, wall: &WallClock, now: Time) -> LimitId {
        let mut rule = WindowRule::new(&limit);
        rule.since = now;
        rule.roll(wall, now);
        self.rules.push(rule);
        self.all.push(limit);
        let id = LimitId(u32::try_from(self.all.len() - 1).expect("a file has fewer than 4 billion limits"));
        self.ids.push(id);
        self.revision += 1;
        id
    }

    /// True if a limit is one of those that were given last.
    pub(super) fn is_in_force(&self, id: LimitId) -> bool {
        self.ids.binary_search(&id).is_ok() && !self.retired.contains(&id)
    }

    /// The limits that are shared.
    pub(super) fn shared(&self) -> Vec<LimitId> {
        self.ids.iter().copied().filter(|id| self.rules[id.at()].shared).collect()
    }

    /// True if any limit in force is shared.
    pub(super) fn shares(&self) -> bool {
        self.ids.iter().any(|id| self.rules[id.at()].shared && self.is_in_force(*id))
    }

    /// Begins the `calendar` periods that have come. Returns the limits of which slots may open sooner than was known:
    /// a reading of the clock from before it was set counts no more.
    pub(super) fn roll(&mut self, wall: &WallClock, now: Time) -> Vec<LimitId> {
        let mut sooner = Vec::new();
        for id in &self.ids {
            if self.rules[id.at()].roll(wall, now) {
                sooner.push(*id);
            }
        }
        sooner
    }

    /// End of the next `calendar` period.
    pub(super) fn next_roll(&self) -> Time {
        let ends = self.ids.iter().map(|id| self.rules[id.at()].period.until);
        ends.min().unwrap_or(Time::NEVER)
    }

    /// Deadline of a waiter: its arrival plus the shortest `max_wait` of the limits that it waits
    /// for, or the caller's own bound if that is earlier.
    pub(super) fn deadline(&self, waiter: &Waiter) -> Time {
        let of_limit = |demand: &WindowDemand| waiter.caller_order.arrived + self.rules[demand.limit.at()].max_wait;
        waiter.demands.iter().map(of_limit).fold(waiter.caller_deadline, Time::min)
    }

    /// Forgets the retired limits of which nothing counts any more: no window is alive, and nothing
    /// that no window shows may have been let go. Returns them. One that comes back later is a new
    /// one.
    pub(super) fn forget_retired(&mut self, now: Time) -> Vec<LimitId> {
        let mut gone: Vec<LimitId> = self.retired.iter().copied().filter(|id| self.rules[id.at()].live == 0).collect();
        gone.retain(|id| {
            let rule = &mut self.rules[id.at()];
            rule.forget_unknown(now);
            rule.unknown.is_empty() && rule.suspended.is_empty()
        });
        for id in &gone {
            self.forget(*id);
        }
        gone
    }

    /// Puts the mark in the place of a limit, so that the ids of the others stay valid.
    fn forget(&mut self, id: LimitId) {
        let limit = Limit::forgotten();
        self.rules[id.at()] = WindowRule::new(&limit);
        self.all[id.at()] = limit;
        self.revision += 1;
        self.retired.remove(&id);
        if let Ok(at) = self.ids.binary_search(&id) {
            self.ids.remove(at);
        }
    }
}

impl Limit {
    /// The mark in the place of a limit that was forgotten: it counts nothing and holds no request
    /// back.
    pub(super) fn forgotten() -> Limit {
        Limit {
            name: "".into(),
            keyed_by: "".into(),
            rate: None,
            in_flight: None,
            when_full: WhenFull::Wait,
            max_wait: Duration::ZERO,
            max_waiting: 0,
            share_by: ShareBy::Nobody,
            priority: Priority::WithinCaller,
            max_keys: 0,
            dry_run: true,
            shared: false,
        }
    }

    /// Returns true if it stands for a limit that was forgotten. Every other one has a name.
    pub fn is_forgotten(&self) -> bool {
        self.name.is_empty()
    }
}

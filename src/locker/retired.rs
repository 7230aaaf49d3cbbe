//! Retired limits: gone from the file, kept as long as what they counted would count, and then forgotten.
//!
//! A limit that is forgotten leaves its number behind, which is never used again: a request that was classified before may
//! still name it. So every look at all limits goes by `limit_ids`, and costs what the limits cost that there are, not those
//! that ever were.

use super::Locker;
use super::api::LimitId;
use super::limit::{Limit, Priority, ShareBy, WhenFull};
use super::window::WindowRule;
use crate::time::Time;

impl Limit {
    /// What stands in the place of a limit that was forgotten: it counts nothing and holds nobody back.
    pub(super) fn forgotten() -> Limit {
        Limit {
            name: "".into(),
            keyed_by: "".into(),
            rate: None,
            in_flight: None,
            when_full: WhenFull::Wait,
            max_wait: std::time::Duration::ZERO,
            max_waiting: 0,
            share_by: ShareBy::Nobody,
            priority: Priority::WithinCaller,
            max_keys: 0,
            dry_run: true,
            shared: false,
        }
    }

    /// Whether it stands for a limit that was forgotten. Every other one has a name.
    pub fn is_forgotten(&self) -> bool {
        self.name.is_empty()
    }
}

impl Locker {
    /// Forgets the limits that are gone from the file and of which nothing counts any more: no window is alive, and nothing
    /// that no window shows may have been let go. One that comes back later is a new one.
    pub(super) fn forget_retired(&mut self, now: Time) {
        if self.retired.is_empty() || self.has_unwritten_drops() {
            return;
        }
        let gone: Vec<LimitId> = self.retired.iter().copied().filter(|id| self.rules[id.at()].live == 0).collect();
        let known = self.limit_ids.len();
        for id in gone {
            let rule = &mut self.rules[id.at()];
            rule.forget_unknown(now);
            if rule.unknown.is_empty() && rule.suspended.is_empty() {
                self.forget_limit(id);
            }
        }
        if self.limit_ids.len() < known {
            self.request_limits_write();
        }
    }

    fn forget_limit(&mut self, id: LimitId) {
        let limit = Limit::forgotten();
        self.rules[id.at()] = WindowRule::new(&limit);
        self.limits[id.at()] = limit;
        self.retired.remove(&id);
        self.sharing_modes.remove(&id);
        if let Ok(at) = self.limit_ids.binary_search(&id) {
            self.limit_ids.remove(at);
        }
    }

    /// When the next `calendar` period ends.
    pub(super) fn update_next_roll(&mut self) {
        let ends = self.limit_ids.iter().map(|id| self.rules[id.at()].period.until);
        self.next_roll = ends.min().unwrap_or(Time::NEVER);
    }
}

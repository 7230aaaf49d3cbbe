//! What becomes of waiters when a limit's rule changes: they stay in line under the new one.

use super::Locker;
use super::ask::{LimitId, Sorry, Verdict, Why};
use super::lane::Fate;
use super::window::later;
use crate::time::Time;

impl Locker {
    /// Brings every waiter of a limit in line with its new rule.
    pub(super) fn waiters_changed(&mut self, limit: LimitId, now: Time) {
        let mut waiters = self.queue.waiters.numbers();
        waiters.retain(|id| self.queue.waiters[*id].claims.iter().any(|claim| claim.limit == limit));
        waiters.sort_by_key(|id| self.queue.waiters[*id].place.in_time());
        // All leave before the first comes back: turns, windows and patience may all be others now,
        // and their order is to be that of their arrival.
        waiters.retain(|id| self.stays(*id, limit, now));
        for id in &waiters {
            self.unlink(*id, Fate::Leaves);
        }
        for id in waiters {
            let mut waiter = self.queue.waiters.lift(id);
            self.want(&mut waiter, now);
            waiter.deadline = self.deadline(&waiter);
            self.queue.waiters.put_back(id, waiter);
            self.link(id);
        }
    }

    /// Whether a waiter may stay in line; if not, it is told so.
    fn stays(&mut self, id: u32, limit: LimitId, now: Time) -> bool {
        let Some(why) = self.refused_by(id, limit) else { return true };
        let ticket = self.queue.ticket(id);
        self.part(id);
        let sorry = Sorry { why, limit, until: later(now, 1_000_000), exact: false };
        self.outbox.push_back((ticket, Verdict::Sorry(sorry)));
        false
    }

    /// Why the new rule does not let a waiter stay.
    fn refused_by(&self, id: u32, limit: LimitId) -> Option<Why> {
        let rule = &self.rules[limit.at()];
        if rule.dry_run {
            return None;
        }
        let mut claims = self.queue.waiters[id].claims.iter().filter(|claim| claim.limit == limit);
        claims.find_map(|claim| {
            let new_key = self.table.find(limit, claim.key).is_none() && rule.live >= rule.max_keys;
            if rule.slots(claim.cost) > rule.requests {
                Some(Why::CostTooHigh)
            } else {
                new_key.then_some(Why::TooManyKeys)
            }
        })
    }
}

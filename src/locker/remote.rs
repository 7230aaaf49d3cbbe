//! Requests of another process, whose windows are here now: what is said of them, and what becomes of them if nobody says
//! anything any more.

use super::Locker;
use super::api::{Grant, Key, LimitId};
use super::forward::{Event, GrantedSlots};
use crate::time::Time;

impl Locker {
    /// Whether an event speaks of limits that are known here; one that does not is no event of a process before this one.
    pub fn knows_limits_of(&self, event: &Event) -> bool {
        let known = |limit: LimitId| limit.at() < self.limits.rules.len();
        match event {
            Event::Ask { claims, .. } => claims.iter().all(|claim| known(claim.limit) && claim.cost > 0),
            Event::Leave(_) => true,
            Event::Settle { limit, .. }
            | Event::GiveBack { limit, .. }
            | Event::Land { limit, .. }
            | Event::Pause { limit, .. } => known(*limit),
        }
    }

    /// What the other process says of a slot that it has taken. Whatever else it says is the gate's to know.
    pub fn handle_remote(&mut self, event: &Event, now: Time) {
        if self.forwarding.is_some() {
            return self.forward_remote(event);
        }
        let now = self.advance(now);
        match *event {
            Event::Settle { limit, key, cost, at } => self.settle_remote(limit, key, cost, at, now),
            Event::GiveBack { limit, key, cost } => {
                let Some(index) = self.take_remote_window(limit, key, cost, 0) else { return };
                self.table.window_mut(index).give_back(&self.limits.rules[limit.at()], cost);
                self.queue_settle_report(index);
                self.mark_dirty(index);
            }
            Event::Land { limit, key } => {
                let Some(index) = self.take_remote_window(limit, key, 0, 1) else { return };
                self.table.window_mut(index).land(&self.limits.rules[limit.at()]);
                self.queue_settle_report(index);
                self.mark_dirty(index);
            }
            Event::Pause { limit, key, until } => return self.pause(limit, key, until, now),
            Event::Ask { .. } | Event::Leave(_) => {}
        }
        self.dispatch(now);
    }

    /// The other process has the grant from here on, and says what becomes of it.
    pub fn delegate(&mut self, grant: Grant) -> Vec<GrantedSlots> {
        let mut slots = Vec::new();
        for held in &grant.held {
            let Some(window) = self.table.current(held.window, held.generation) else { continue };
            let (limit, key) = (held.limit, window.key);
            let open = if held.settled { 0 } else { held.cost };
            let holding = self.remote_holdings.entry((limit, key)).or_default();
            holding.0 += open;
            holding.1 += u32::from(held.flying);
            slots.push(GrantedSlots {
                limit,
                key,
                cost: held.cost,
                answered: held.answered,
                flying: held.flying,
                until: grant.until,
            });
        }
        slots
    }

    /// The other process is gone. What it had under way may still reach the origin for a while.
    pub fn remote_lost(&mut self, now: Time) {
        if self.forwarding.is_some() {
            return self.forward_remote_loss(now);
        }
        let now = self.advance(now);
        for ((limit, key), (open, flying)) in std::mem::take(&mut self.remote_holdings) {
            let Some(index) = self.table.find(limit, key) else { continue };
            for _ in 0..flying {
                self.table.window_mut(index).land(&self.limits.rules[limit.at()]);
            }
            self.queue_settle_report(index);
            if open > 0 {
                let at = now + self.limits.rules[limit.at()].linger;
                self.settle_at(at, index, self.table.window(index).generation, open);
            }
            self.mark_dirty(index);
        }
        self.dispatch(now);
    }

    /// The windows have moved on to a third process, which counts what this one was told of as this one's.
    fn forward_remote(&mut self, event: &Event) {
        let is_remote = match *event {
            Event::Settle { limit, key, cost, .. } | Event::GiveBack { limit, key, cost } => {
                self.take_remote(limit, key, cost, 0)
            }
            Event::Land { limit, key } => self.take_remote(limit, key, 0, 1),
            Event::Pause { .. } => true,
            // These are the gate's to know.
            Event::Ask { .. } | Event::Leave(_) => false,
        };
        if is_remote {
            self.forward_event(event.clone());
        }
    }

    fn forward_remote_loss(&mut self, now: Time) {
        for ((limit, key), (open, flying)) in std::mem::take(&mut self.remote_holdings) {
            if open > 0 {
                let at = now + self.limits.rules[limit.at()].linger;
                self.forward_event(Event::Settle { limit, key, cost: open, at });
            }
            (0..flying).for_each(|_| self.forward_event(Event::Land { limit, key }));
        }
    }

    fn settle_remote(&mut self, limit: LimitId, key: Key, cost: u32, at: Time, now: Time) {
        let Some(index) = self.take_remote_window(limit, key, cost, 0) else { return };
        if at > now {
            return self.settle_at(at, index, self.table.window(index).generation, cost);
        }
        self.table.window_mut(index).settle(&self.limits.rules[limit.at()], cost, at);
        self.queue_settle_report(index);
        self.mark_dirty(index);
    }

    /// Takes so much from what the other process holds in a window; `None` if it does not hold that.
    fn take_remote_window(&mut self, limit: LimitId, key: Key, open: u32, flying: u32) -> Option<u32> {
        self.take_remote(limit, key, open, flying).then(|| self.table.find(limit, key)).flatten()
    }

    /// Whether the other process held that; it no longer does.
    fn take_remote(&mut self, limit: LimitId, key: Key, open: u32, flying: u32) -> bool {
        let Some(holding) = self.remote_holdings.get_mut(&(limit, key)) else { return false };
        let (Some(open), Some(flying)) = (holding.0.checked_sub(open), holding.1.checked_sub(flying)) else {
            return false;
        };
        *holding = (open, flying);
        if *holding == (0, 0) {
            self.remote_holdings.remove(&(limit, key));
        }
        true
    }
}

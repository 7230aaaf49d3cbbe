//! The end of a grant: its slots settle or are given back, and its flight lands.

use std::cmp::Reverse;

use super::Locker;
use super::ask::{Grant, Moment};
use crate::time::Time;

impl Locker {
    /// Says how far a granted request has come. Each slot settles once; what is said again is ignored.
    pub fn settle(&mut self, grant: &mut Grant, moment: Moment, now: Time) {
        if self.given.is_some() {
            return self.pass_on_settle(grant, moment, now);
        }
        let now = self.advance(now);
        let mut news = false;
        for held in &mut grant.held {
            if held.settled || (moment == Moment::Sent && held.answered) {
                continue;
            }
            held.settled = true;
            let rule = &self.rules[held.limit.at()];
            if moment == Moment::Failed {
                let at = now + rule.linger;
                self.late.push(Reverse((at, held.window, held.cost)));
                self.due = self.due.min(at);
                continue;
            }
            let Some(window) = self.table.still(held.window, held.generation) else { continue };
            window.settle(rule, held.cost, now);
            let shared = rule.shared;
            if window.waits().is_some() {
                self.news(held.window);
                news = true;
            }
            if shared {
                self.note_settle(held.window);
            }
        }
        if news {
            self.run(now);
        }
    }

    /// Nothing of the request left: every slot not yet settled opens at once, in_flight ends.
    pub fn give_back(&mut self, mut grant: Grant, now: Time) {
        if self.given.is_some() {
            return self.pass_on_return(grant);
        }
        let now = self.advance(now);
        for held in &mut grant.held {
            let Some(window) = self.table.still(held.window, held.generation) else { continue };
            if !held.settled {
                window.give_back(&self.rules[held.limit.at()], held.cost);
            }
            held.settled = true;
        }
        self.land(&grant, now);
    }

    /// The response's last byte is gone: in_flight ends. What is not settled settles as failed.
    pub fn finish(&mut self, mut grant: Grant, now: Time) {
        self.settle(&mut grant, Moment::Failed, now);
        self.land(&grant, self.last);
    }

    fn land(&mut self, grant: &Grant, now: Time) {
        if self.given.is_some() {
            return self.pass_on_end(grant);
        }
        let mut news = false;
        for held in &grant.held {
            let Some(window) = self.table.still(held.window, held.generation) else { continue };
            if held.flying {
                window.land(&self.rules[held.limit.at()]);
            }
            if window.waits().is_some() {
                self.news(held.window);
                news = true;
            }
            self.note_settle(held.window);
        }
        if news {
            self.run(now);
        }
    }
}

//! Random worlds that are handed over to another locker in the middle of everything: those in line and under way stay with
//! the first, whose word reaches the second late.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::generators::{WorldConfig, config};
use super::invariants::VerdictSource;
use super::locker_world::{LockerWorld, SentRequest, WorldWaiter, queue_settle_report};
use super::oracle::OracleItem;
use super::*;

/// The locker that has given its windows away, and whom it still looks after.
struct Before {
    locker: Locker,
    waiting: Vec<WorldWaiter>,
    sent: Vec<SentRequest>,
    /// What it has said and the other has not heard.
    said: VecDeque<Event>,
    /// Whom the other's tickets are for.
    remote_holdings: HashMap<Ticket, Ticket>,
    number: u64,
}

struct HandedOver {
    world: LockerWorld,
    before: Before,
}

impl LockerWorld {
    fn hand_over(mut self) -> HandedOver {
        let (snapshot, waiters) = (self.locker.snapshot(self.now), self.locker.queued_asks());
        assert_eq!(waiters.len(), self.waiting.len(), "seed {}", self.seed);
        let limits = self.locker.limits().to_vec();
        let mut next = Locker::restore(snapshot, Shutdown::HandOver, WALL, self.now);
        assert!(!next.reload(limits, Duration::ZERO, self.now).is_change(), "seed {}", self.seed);
        next.hold();
        let mut old = std::mem::replace(&mut self.locker, next);
        old.hand_over(self.now);
        self.changed = true;
        let before = Before {
            locker: old,
            waiting: std::mem::take(&mut self.waiting),
            sent: std::mem::take(&mut self.sent),
            said: waiters.into(),
            remote_holdings: HashMap::new(),
            number: 1_000_000,
        };
        let mut both = HandedOver { world: self, before };
        while !both.before.said.is_empty() {
            both.deliver();
        }
        both.world.locker.release(both.world.now);
        both.listen();
        both
    }
}

impl HandedOver {
    /// The second hears the next of what the first has said.
    fn deliver(&mut self) {
        let now = self.world.now;
        while let Some(event) = self.before.locker.poll_event() {
            self.before.said.push_back(event);
        }
        let Some(event) = self.before.said.pop_front() else { return };
        let locker = &mut self.world.locker;
        match event {
            Event::Ask { ticket, claims, caller, urgency, arrived, bound, kind } => {
                let max_wait = (bound < Time::NEVER).then(|| bound.since(arrived));
                let ask = Ask { claims: &claims, caller, urgency, max_wait, arrived: Some(arrived), kind };
                match locker.ask(&ask, now) {
                    Verdict::Wait(here, _) => drop(self.before.remote_holdings.insert(here, ticket)),
                    Verdict::Go(grant) => self.grant(ticket, grant),
                    Verdict::Sorry(sorry) => self.before.locker.handle_verdict(ticket, Err(sorry), now),
                }
            }
            Event::Leave(ticket) => {
                let here =
                    self.before.remote_holdings.iter().find(|(_, there)| **there == ticket).map(|(here, _)| *here);
                if let Some(here) = here {
                    self.before.remote_holdings.remove(&here);
                    locker.leave(here, now);
                }
            }
            event @ (Event::Settle { .. } | Event::GiveBack { .. } | Event::Land { .. } | Event::Pause { .. }) => {
                locker.handle_remote(&event, now);
            }
        }
        self.listen();
    }

    /// The second lets somebody of the first's go.
    fn grant(&mut self, ticket: Ticket, grant: Grant) {
        let claims: Vec<Claim> = self.claims_of(ticket);
        self.world.judge_grant(&claims);
        let slots = self.world.locker.delegate(grant);
        self.before.locker.handle_verdict(ticket, Ok(slots), self.world.now);
    }

    fn claims_of(&self, ticket: Ticket) -> Vec<Claim> {
        let found = self.before.waiting.iter().find(|waiting| waiting.ticket == ticket);
        found.map(|waiting| waiting.claims.clone()).unwrap_or_default()
    }

    /// Both hear what was decided.
    fn listen(&mut self) {
        while let Some((ticket, verdict)) = self.world.locker.poll_verdict() {
            let Some(there) = self.before.remote_holdings.remove(&ticket) else {
                self.world.hear_verdict(ticket, verdict);
                continue;
            };
            match verdict {
                Verdict::Go(grant) => self.grant(there, grant),
                Verdict::Sorry(sorry) => self.before.locker.handle_verdict(there, Err(sorry), self.world.now),
                Verdict::Wait(..) => panic!("seed {}", self.world.seed),
            }
        }
        while let Some((ticket, verdict)) = self.before.locker.poll_verdict() {
            let at = self.before.waiting.iter().position(|waiting| waiting.ticket == ticket);
            let waiting = self.before.waiting.swap_remove(at.unwrap_or_else(|| panic!("seed {}", self.world.seed)));
            if let Verdict::Go(grant) = verdict {
                let items = self.world.note_items(&waiting.claims);
                self.before.sent.push(SentRequest { grant, items });
            }
        }
    }

    /// Something happens to what the first looks after.
    fn something_happens_before(&mut self) {
        let (now, limits) = (self.world.now, self.world.locker.limits().to_vec());
        let what = self.world.dice.roll(0, 8);
        let picked =
            (!self.before.sent.is_empty()).then(|| self.world.dice.roll(0, self.before.sent.len() as u64) as usize);
        match (what, picked) {
            (0..3, Some(picked)) => {
                let moment = [SettlePoint::Sent, SettlePoint::Answered, SettlePoint::Failed]
                    [self.world.dice.roll(0, 3) as usize];
                let sent = &mut self.before.sent[picked];
                self.before.locker.settle(&mut sent.grant, moment, now);
                for item in &sent.items {
                    queue_settle_report(&mut self.world.oracle.items[*item], &limits, moment, now);
                }
            }
            (3, Some(picked)) => {
                let sent = self.before.sent.swap_remove(picked);
                self.end(&sent.items, |item| {
                    item.cost = 0;
                    item.settled = Some(now);
                });
                self.before.locker.give_back(sent.grant, now);
            }
            (4, Some(picked)) => {
                let sent = self.before.sent.swap_remove(picked);
                self.end(&sent.items, |item| queue_settle_report(item, &limits, SettlePoint::Failed, now));
                self.before.locker.finish(sent.grant, now);
            }
            (5, _) if !self.before.waiting.is_empty() => {
                let picked = self.world.dice.roll(0, self.before.waiting.len() as u64) as usize;
                let left = self.before.waiting.swap_remove(picked);
                self.before.locker.leave(left.ticket, now);
            }
            _ => {
                let claims = self.world.claims();
                let verdict = self.before.locker.ask(&ask(&claims, self.world.dice.roll(0, 3)), now);
                let Verdict::Wait(ticket, None) = verdict else { panic!("seed {}: {verdict:?}", self.world.seed) };
                self.before.number += 1;
                self.before.waiting.push(WorldWaiter { ticket, claims, number: self.before.number });
            }
        }
        self.listen();
    }

    fn end(&mut self, items: &[usize], mut end: impl FnMut(&mut OracleItem)) {
        for item in items {
            let item = &mut self.world.oracle.items[*item];
            item.flying = false;
            if item.settled.is_none() {
                end(item);
            }
        }
    }

    fn live(mut self) -> u64 {
        for _ in 0..self.world.nature.steps {
            let now = self.world.time_goes_on();
            self.world.locker.handle_timeout(now);
            self.listen();
            match self.world.dice.roll(0, 10) {
                0..3 => self.deliver(),
                3..6 => self.something_happens_before(),
                _ => {
                    self.world.something_happens_but(now, VerdictSource::Elsewhere);
                    self.listen();
                }
            }
        }
        self.rest()
    }

    /// All that is left of the first ends, and is heard of.
    fn rest(mut self) -> u64 {
        let (now, limits) = (self.world.now, self.world.locker.limits().to_vec());
        while let Some(waiting) = self.before.waiting.pop() {
            self.before.locker.leave(waiting.ticket, now);
        }
        while let Some(sent) = self.before.sent.pop() {
            self.end(&sent.items, |item| queue_settle_report(item, &limits, SettlePoint::Failed, now));
            self.before.locker.finish(sent.grant, now);
        }
        loop {
            self.deliver();
            if self.before.said.is_empty() && !self.before.locker.has_events() {
                break;
            }
        }
        // Verdicts on those who left meanwhile come back once more.
        self.listen();
        while self.before.locker.has_events() || !self.before.said.is_empty() {
            self.deliver();
        }
        self.world.come_to_rest();
        self.world.promise_holds();
        self.world.granted
    }
}

const NATURE: WorldConfig =
    WorldConfig { limits: 2, fixed: 1, calendar: 1, changes: false, turns: true, holds: false, steps: 300 };

fn handed_over(seed: u64) -> u64 {
    let mut world = LockerWorld::new(seed, NATURE);
    for _ in 0..60 {
        let now = world.time_goes_on();
        world.something_happens(now);
        world.listen();
    }
    world.hand_over().live()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_locker_whose_windows_are_elsewhere_never_lets_more_go_than_it_may(seed: u64) {
        handed_over(seed);
    }
}

#[test]
fn worlds_that_are_handed_over_let_many_go() {
    let granted: u64 = (0..30).map(handed_over).sum();
    assert!(granted > 1000, "{granted}: worlds in which nothing happens prove nothing");
}

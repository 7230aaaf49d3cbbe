//! Random worlds with an upgrade in the middle: waiters and requests under way stay with the old
//! process, and its events reach the new one late.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::generators::{WorldConfig, cases};
use super::invariants::VerdictSource;
use super::locker_world::{LockerWorld, SentRequest, WorldWaiter, settle_item};
use super::oracle::OracleItem;
use super::*;

/// The locker that handed its windows over, with its remaining waiters and requests.
struct OldProcess {
    forwarder: Forwarder,
    waiting: Vec<WorldWaiter>,
    sent: Vec<SentRequest>,
    /// Events that it has sent and that are not delivered yet.
    sent_events: VecDeque<Event>,
    /// Tickets of the old process by the new process's tickets.
    remote_waiters: HashMap<Ticket, Ticket>,
}

/// Time that an event of the old process takes to the new one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EventDelay {
    /// None: the new process counts exactly what the oracle does.
    None,
    /// Any: meanwhile it counts more.
    Random,
}

struct Upgrade {
    world: LockerWorld,
    old: OldProcess,
    delay: EventDelay,
}

impl LockerWorld {
    fn hand_over(mut self, delay: EventDelay) -> Upgrade {
        let mut replica = Replica::begin(self.locker.begin_copy(self.now), WALL, self.now);
        for _ in 0..self.rng.range(0, 40) {
            let now = self.advance_time();
            self.random_step(now);
            self.drain_verdicts();
            if self.rng.one_in(2) {
                replica.apply(self.locker.copy_slice(self.now).unwrap(), self.now);
            }
        }
        let (rest, waiters) = (self.locker.finish_copy(self.now).unwrap(), self.locker.queued_asks());
        self.drain_verdicts();
        assert_eq!(waiters.len(), self.waiting.len(), "seed {}", self.seed);
        let limits = self.locker.limits().to_vec();
        let mut next = replica.finish(rest, WALL, self.now).unwrap();
        assert!(!next.reload(limits, Duration::ZERO, self.now).is_change(), "seed {}", self.seed);
        next.hold();
        let forwarder = std::mem::replace(&mut self.locker, next).hand_over(self.now);
        self.left = None;
        let old = OldProcess {
            forwarder,
            waiting: std::mem::take(&mut self.waiting),
            sent: std::mem::take(&mut self.sent),
            sent_events: waiters.into(),
            remote_waiters: HashMap::new(),
        };
        let mut both = Upgrade { world: self, old, delay };
        while !both.old.sent_events.is_empty() {
            both.deliver();
        }
        both.world.locker.release(both.world.now);
        both.drain_verdicts();
        both
    }
}

impl Upgrade {
    /// Delivers the next event of the old process to the new one.
    fn deliver(&mut self) {
        let now = self.world.now;
        while let Some(event) = self.old.forwarder.poll_event() {
            self.old.sent_events.push_back(event);
        }
        let Some(event) = self.old.sent_events.pop_front() else { return };
        let locker = &mut self.world.locker;
        match event {
            Event::Ask { ticket, claims, caller, urgency, arrived, bound, kind } => {
                let max_wait = (bound < Time::NEVER).then(|| bound.since(arrived));
                let ask = Ask { claims: &claims, caller, urgency, max_wait, arrived: Some(arrived), kind };
                match locker.ask(&ask, now) {
                    Verdict::Wait(new_ticket, _) => drop(self.old.remote_waiters.insert(new_ticket, ticket)),
                    Verdict::Go(grant) => self.grant(ticket, grant),
                    Verdict::Sorry(sorry) => self.old.forwarder.handle_verdict(ticket, Err(sorry), now),
                }
            }
            Event::Leave(ticket) => {
                let new_ticket = self
                    .old
                    .remote_waiters
                    .iter()
                    .find(|(_, old_ticket)| **old_ticket == ticket)
                    .map(|(new_ticket, _)| *new_ticket);
                if let Some(new_ticket) = new_ticket {
                    self.old.remote_waiters.remove(&new_ticket);
                    locker.leave(new_ticket, now);
                }
            }
            event @ (Event::Settle { .. } | Event::GiveBack { .. } | Event::Land { .. } | Event::Pause { .. }) => {
                locker.handle_remote(&event, now);
            }
        }
        self.drain_verdicts();
    }

    /// Passes a grant of the new process on to a waiter of the old one.
    fn grant(&mut self, ticket: Ticket, grant: Grant) {
        let claims: Vec<Claim> = self.claims_of(ticket);
        self.world.check_grant(&claims);
        let slots = self.world.locker.delegate(grant);
        self.old.forwarder.handle_verdict(ticket, Ok(slots), self.world.now);
    }

    fn claims_of(&self, ticket: Ticket) -> Vec<Claim> {
        let found = self.old.waiting.iter().find(|waiting| waiting.ticket == ticket);
        found.map(|waiting| waiting.claims.clone()).unwrap_or_default()
    }

    /// Handles the verdicts of both lockers.
    fn drain_verdicts(&mut self) {
        while let Some((ticket, verdict)) = self.world.locker.poll_verdict() {
            let Some(old_ticket) = self.old.remote_waiters.remove(&ticket) else {
                self.world.handle_verdict(ticket, verdict);
                continue;
            };
            match verdict {
                Verdict::Go(grant) => self.grant(old_ticket, grant),
                Verdict::Sorry(sorry) => self.old.forwarder.handle_verdict(old_ticket, Err(sorry), self.world.now),
                Verdict::Wait(..) => panic!("seed {}", self.world.seed),
            }
        }
        while let Some((ticket, verdict)) = self.old.forwarder.poll_verdict() {
            let at = self.old.waiting.iter().position(|waiting| waiting.ticket == ticket);
            let waiting = self.old.waiting.swap_remove(at.unwrap_or_else(|| panic!("seed {}", self.world.seed)));
            if let Verdict::Go(grant) = verdict {
                let items = self.world.add_items(&waiting.claims);
                self.old.sent.push(SentRequest { grant, items });
            }
        }
    }

    /// A random step of the old process's requests and waiters.
    fn old_process_step(&mut self) {
        let (now, limits) = (self.world.now, self.world.locker.limits().to_vec());
        let what = self.world.rng.range(0, 8);
        let picked = (!self.old.sent.is_empty()).then(|| self.world.rng.range(0, self.old.sent.len() as u64) as usize);
        match (what, picked) {
            (0..3, Some(picked)) => {
                let point = [SettlePoint::Sent, SettlePoint::Answered, SettlePoint::Failed]
                    [self.world.rng.range(0, 3) as usize];
                let sent = &mut self.old.sent[picked];
                self.old.forwarder.settle(&mut sent.grant, point, now);
                for item in &sent.items {
                    settle_item(&mut self.world.oracle.items[*item], &limits, point, now);
                }
            }
            (3, Some(picked)) => {
                let sent = self.old.sent.swap_remove(picked);
                self.end(&sent.items, |item| {
                    item.cost = 0;
                    item.settled = Some(now);
                });
                self.old.forwarder.give_back(sent.grant);
            }
            (4, Some(picked)) => {
                let sent = self.old.sent.swap_remove(picked);
                self.end(&sent.items, |item| settle_item(item, &limits, SettlePoint::Failed, now));
                self.old.forwarder.finish(sent.grant, now);
            }
            (5, _) if !self.old.waiting.is_empty() => {
                let picked = self.world.rng.range(0, self.old.waiting.len() as u64) as usize;
                let left = self.old.waiting.swap_remove(picked);
                self.old.forwarder.leave(left.ticket);
            }
            _ => {
                let claims = self.world.claims();
                let verdict = self.old.forwarder.ask(&ask(&claims, self.world.rng.range(0, 3)), now);
                let Verdict::Wait(ticket, None) = verdict else { panic!("seed {}: {verdict:?}", self.world.seed) };
                self.world.number += 1;
                self.old.waiting.push(WorldWaiter { ticket, claims, number: self.world.number });
            }
        }
        self.drain_verdicts();
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

    fn run(mut self) -> u64 {
        for _ in 0..self.world.world_config.steps {
            let now = self.world.advance_time();
            self.world.locker.handle_timeout(now);
            self.drain_verdicts();
            // However far the time has moved, what is under way still counts in the new process.
            if self.has_events() {
                self.world.blur();
            }
            match self.world.rng.range(0, 10) {
                0..3 => self.deliver(),
                3..6 => self.old_process_step(),
                _ => {
                    self.name_waiters();
                    self.world.random_step_of(now, VerdictSource::Elsewhere);
                    self.drain_verdicts();
                }
            }
            self.check();
        }
        self.finish_all()
    }

    fn has_events(&self) -> bool {
        self.old.forwarder.has_events() || !self.old.sent_events.is_empty()
    }

    /// Judges the new process: while events are under way it counts more than there is, and the same
    /// otherwise.
    fn check(&mut self) {
        while self.delay == EventDelay::None && self.has_events() {
            self.deliver();
        }
        self.world.has_events_under_way = self.has_events();
        if self.has_events() {
            self.world.blur();
        }
        self.name_waiters();
        self.world.check_invariants();
    }

    /// Tells the world of the waiters of the old process.
    fn name_waiters(&mut self) {
        let waiting = self.old.waiting.iter().map(|waiting| (waiting.number, waiting.claims.clone()));
        self.world.elsewhere = waiting.collect();
    }

    /// Ends everything that is left of the old process, and delivers all its events.
    fn finish_all(mut self) -> u64 {
        let (now, limits) = (self.world.now, self.world.locker.limits().to_vec());
        self.world.elsewhere.clear();
        while let Some(waiting) = self.old.waiting.pop() {
            self.old.forwarder.leave(waiting.ticket);
        }
        while let Some(sent) = self.old.sent.pop() {
            self.end(&sent.items, |item| settle_item(item, &limits, SettlePoint::Failed, now));
            self.old.forwarder.finish(sent.grant, now);
        }
        loop {
            self.deliver();
            if self.old.sent_events.is_empty() && !self.old.forwarder.has_events() {
                break;
            }
        }
        // Verdicts on waiters that left meanwhile are returned once more.
        self.drain_verdicts();
        while self.old.forwarder.has_events() || !self.old.sent_events.is_empty() {
            self.deliver();
        }
        self.world.run_until_idle();
        self.world.assert_promise();
        self.world.granted
    }
}

const CONFIG: WorldConfig = WorldConfig {
    limits: 2,
    fixed: 1,
    calendar: 1,
    changes: false,
    turns: true,
    holds: false,
    steps: 300,
    ..WorldConfig::PLAIN
};

/// A world that another process takes over, with events that arrive at once or late.
pub(super) fn handed_over(seed: u64) -> u64 {
    let delay = if seed.is_multiple_of(2) { EventDelay::None } else { EventDelay::Random };
    let mut world = LockerWorld::new(seed, WorldConfig { turns: seed % 4 < 2, ..CONFIG });
    for _ in 0..60 {
        let now = world.advance_time();
        world.random_step(now);
        world.drain_verdicts();
    }
    world.hand_over(delay).run()
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_locker_whose_windows_are_elsewhere_never_lets_more_go_than_it_may(seed: u64) {
        handed_over(seed);
    }
}

#[test]
fn years_may_pass_while_events_are_under_way() {
    handed_over(6_745_498_637_118_093_525);
}

#[test]
fn worlds_that_are_handed_over_let_many_go() {
    let granted: u64 = (0..30).map(handed_over).sum();
    assert!(granted > 1000, "{granted}: worlds in which nothing happens prove nothing");
}

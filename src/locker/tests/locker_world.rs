//! Random worlds: requests are asked, settled, failed, returned and abandoned; rules change; time
//! stands still and jumps.

use super::generators::{SeededRng, Sizes, WorldConfig, rule};
use super::invariants::VerdictSource;
use super::oracle::{Oracle, OracleItem};
use super::sim_disk::SimDisk;
use super::*;

/// Number of the step that holds or releases the locker; above all other steps.
const HOLDS: u64 = 20;

/// Number of gateways that share each limit in a world of [`Sizes::Fraction`].
pub(super) const PARTS: u32 = 3;

pub(super) struct WorldWaiter {
    pub(super) ticket: Ticket,
    pub(super) claims: Vec<Claim>,
    pub(super) number: u64,
}

/// A granted request: what the locker gave, and its items with the oracle.
pub(super) struct SentRequest {
    pub(super) grant: Grant,
    pub(super) items: Vec<usize>,
}

pub(super) struct LockerWorld {
    pub(super) rng: SeededRng,
    pub(super) seed: u64,
    pub(super) world_config: WorldConfig,
    pub(super) locker: Locker,
    pub(super) oracle: Oracle,
    pub(super) now: Time,
    pub(super) waiting: Vec<WorldWaiter>,
    pub(super) sent: Vec<SentRequest>,
    /// Items of requests that the process before this one has under way.
    pub(super) remote: Vec<usize>,
    pub(super) number: u64,
    /// True if a journal or another process may keep a request back that has room.
    pub(super) waits_for_others: bool,
    /// Claims of waiters that another locker knows, each with its number.
    pub(super) elsewhere: Vec<(u64, Vec<Claim>)>,
    pub(super) held: bool,
    /// The waiter that left last.
    pub(super) left: Option<Ticket>,
    /// True if another locker has events that this one does not know yet.
    pub(super) has_events_under_way: bool,
    pub(super) granted: u64,
    pub(super) disk: SimDisk,
}

impl LockerWorld {
    pub(super) fn new(seed: u64, world_config: WorldConfig) -> LockerWorld {
        let mut rng = SeededRng::new(seed);
        let limits = (0..rng.range(1, world_config.limits + 1)).map(|_| rule(&mut rng, world_config)).collect();
        let mut locker = Locker::new(limits);
        locker.queue.budget = step_budget::StepBudget::new(world_config.units);
        locker.set_wall(WALL, Time::START);
        if world_config.sizes == Sizes::Fraction {
            let parts = std::num::NonZeroU32::new(PARTS).unwrap();
            locker.set_sharing_mode(None, SharingMode::Fraction { parts, until: Time::NEVER }, Time::START);
        }
        let mut oracle = Oracle::default();
        oracle.history.begin(locker.limits(), 0, Time::START);
        LockerWorld {
            rng,
            seed,
            world_config,
            locker,
            oracle,
            now: Time::START,
            waiting: Vec::new(),
            sent: Vec::new(),
            remote: Vec::new(),
            number: 0,
            waits_for_others: false,
            elsewhere: Vec::new(),
            held: false,
            left: None,
            has_events_under_way: false,
            granted: 0,
            disk: SimDisk::default(),
        }
    }

    pub(super) fn run(mut self) -> u64 {
        for _ in 0..self.world_config.steps {
            let now = self.advance_time();
            self.random_step(now);
            self.drain_verdicts();
            if self.has_finished_steps() {
                self.check_invariants();
            }
        }
        self.run_until_idle();
        self.assert_promise();
        self.granted
    }

    /// True if the locker has done all that it can do now. With short steps, work is left between most of what happens;
    /// at times all of it is done.
    fn has_finished_steps(&mut self) -> bool {
        if self.world_config.units == step_budget::UNITS {
            return true;
        }
        let is_unfinished = |world: &LockerWorld| world.locker.poll_timeout().is_some_and(|at| at <= world.now);
        let finishes = self.rng.one_in(3);
        while finishes && is_unfinished(self) {
            self.locker.handle_timeout(self.now);
            self.drain_verdicts();
        }
        !is_unfinished(self)
    }

    /// Makes a call that must grant nothing of what is left from the step before: it changes what a grant is judged by.
    pub(super) fn ungranting(&mut self, call: impl FnOnce(&mut Locker)) {
        if self.world_config.units == step_budget::UNITS {
            return call(&mut self.locker);
        }
        let is_held = std::mem::replace(&mut self.locker.queue.is_held, true);
        call(&mut self.locker);
        self.locker.queue.is_held = is_held;
        self.locker.update_due();
    }

    /// Advances time: not at all, a little, to the next timeout, or far. At times the returned time
    /// is too early.
    pub(super) fn advance_time(&mut self) -> Time {
        let mut time = self.now;
        match self.rng.range(0, 10) {
            0..3 => {}
            3..7 => time = time + Duration::from_micros(self.rng.range(1, 20_000)),
            7..9 => time = self.locker.poll_timeout().unwrap_or(time).max(time),
            _ if self.rng.one_in(20) => time = time + Duration::from_secs(self.rng.range(1, 100_000_000)),
            _ => time = time + Duration::from_millis(self.rng.range(1, 200)),
        }
        if self.rng.one_in(10) {
            time = time - Duration::from_millis(self.rng.range(0, 100));
        }
        // I9: a time before the latest counts as the latest.
        self.now = self.now.max(time);
        time
    }

    pub(super) fn random_step(&mut self, now: Time) {
        self.random_step_of(now, VerdictSource::Here);
    }

    /// As `random_step`, if another locker may return the verdicts.
    pub(super) fn random_step_of(&mut self, now: Time, source: VerdictSource) {
        let what = if self.world_config.holds && self.rng.one_in(12) { HOLDS } else { self.rng.range(0, 20) };
        if what >= 8 && source == VerdictSource::Here {
            // Expired timers fire before the step, and the oracle must see them in that order.
            self.locker.handle_timeout(now);
            self.drain_verdicts();
        }
        match what {
            0..8 => self.ask(now),
            8..14 => self.settle(now),
            14 => self.give_back(now),
            15 => self.finish(now),
            16 => self.leave(now),
            17 if self.rng.one_in(4) => self.pause(now),
            18 if self.world_config.changes && self.rng.one_in(4) => self.change(),
            HOLDS => self.hold_or_release(now),
            _ => self.locker.handle_timeout(now),
        }
    }

    pub(super) fn claims(&mut self) -> Vec<Claim> {
        let limits = self.locker.limits().len() as u64;
        let mut claims = Vec::new();
        for limit in 0..limits {
            if claims.is_empty() && limit + 1 == limits || self.rng.one_in(2) {
                let cost = self.cost();
                let key = self.rng.range(0, if self.world_config.sizes == Sizes::FewKeys { 6 } else { 2 });
                claims.push(claim(limit as u32, u128::from(key), cost as u32));
                // A request may count under several keys of one limit.
                if self.rng.one_in(6) {
                    claims.push(claim(limit as u32, u128::from((key + 1) % 3), cost as u32));
                }
            }
        }
        claims
    }

    fn cost(&mut self) -> u64 {
        match self.world_config.sizes {
            Sizes::Large => self.rng.range(1, 700),
            Sizes::Small | Sizes::FewKeys | Sizes::Fraction if self.rng.one_in(3) => self.rng.range(1, 4),
            Sizes::Small | Sizes::FewKeys | Sizes::Fraction => 1,
        }
    }

    fn ask(&mut self, now: Time) {
        let claims = self.claims();
        let mut ask = ask(&claims, self.rng.range(0, 3));
        if self.world_config.turns && self.rng.one_in(4) {
            ask.urgency = self.rng.range(0, 9) as u8;
        }
        if self.rng.one_in(4) {
            ask.max_wait = Some(Duration::from_millis(self.rng.range(0, 100)));
        }
        let room = self.has_room(&claims);
        let has_key = self.has_key(&claims);
        match self.locker.ask(&ask, now) {
            Verdict::Go(grant) => {
                // Waiters that went in the same call went before it, which counts for a dry run.
                if self.world_config.sizes == Sizes::FewKeys {
                    self.drain_verdicts();
                }
                self.go(grant, &claims);
            }
            Verdict::Wait(ticket, until) => {
                self.number += 1;
                assert!(until.is_none_or(|until| until > self.now), "seed {}", self.seed);
                self.waiting.push(WorldWaiter { ticket, claims, number: self.number });
            }
            Verdict::Sorry(sorry) => {
                let crowded = self.others_waiting().any(|(_, other)| share_window(other, &claims));
                let foreseen = claims.iter().all(|claim| self.is_foreseen(claim.limit.0));
                assert!(
                    !room || !has_key || crowded || !foreseen,
                    "seed {}: {sorry:?} though there is room",
                    self.seed
                );
                let no_key = sorry.reason == RefusalReason::TooManyKeys;
                assert!(!no_key || !has_key, "seed {}: {sorry:?} though there is a place", self.seed);
                assert!(sorry.until > self.now && sorry.until < Time::NEVER, "seed {}: {sorry:?}", self.seed);
            }
        }
    }

    fn go(&mut self, grant: Grant, claims: &[Claim]) {
        self.check_grant(claims);
        let items = self.add_items(claims);
        self.sent.push(SentRequest { grant, items });
    }

    /// I1, I2: asserts that the oracle has room for a granted request.
    pub(super) fn check_grant(&mut self, claims: &[Claim]) {
        self.granted += 1;
        for claim in claims {
            let rule = self.rule(claim.limit.0);
            // After a change a `fixed` window may have begun elsewhere: see `check_fixed`.
            let is_fixed = rule.rate.as_ref().is_some_and(|rate| rate.kind == Kind::Fixed);
            if rule.dry_run || is_fixed && !self.oracle.history.is_unbroken(claim.limit.0) {
                continue;
            }
            assert!(self.room_by(&rule, claim), "seed {}: {claim:?} went without room at {:?}", self.seed, self.now);
        }
    }

    /// Adds a grant to the oracle. Returns the indexes of its items.
    pub(super) fn add_items(&mut self, claims: &[Claim]) -> Vec<usize> {
        let mut items = Vec::new();
        for claim in claims {
            let rule = self.rule(claim.limit.0).into_owned();
            // A dry run takes what there is, and counts nothing else.
            let taken = !rule.dry_run || self.room_by(&rule, claim);
            items.push(self.oracle.items.len());
            self.oracle.items.push(OracleItem {
                limit: claim.limit.0,
                key: claim.key.0,
                cost: if rule.rate.is_some() && taken { u64::from(claim.cost) } else { 0 },
                taken: self.now,
                settled: None,
                flying: rule.in_flight.is_some() && taken,
                answered: rule.rate.as_ref().is_some_and(|rate| rate.counts == Counts::Answered),
            });
        }
        items
    }

    fn pick(&mut self) -> Option<usize> {
        if self.sent.is_empty() { None } else { Some(self.rng.range(0, self.sent.len() as u64) as usize) }
    }

    fn settle(&mut self, now: Time) {
        let Some(picked) = self.pick() else { return };
        let point = [SettlePoint::Sent, SettlePoint::Sent, SettlePoint::Answered, SettlePoint::Failed]
            [self.rng.range(0, 4) as usize];
        let sent = &mut self.sent[picked];
        self.locker.settle(&mut sent.grant, point, now);
        for item in &sent.items {
            settle_item(&mut self.oracle.items[*item], self.locker.limits(), point, self.now);
        }
    }

    fn give_back(&mut self, now: Time) {
        let Some(picked) = self.pick() else { return };
        let sent = self.sent.swap_remove(picked);
        for item in sent.items {
            let item = &mut self.oracle.items[item];
            item.flying = false;
            if item.settled.is_none() {
                item.cost = 0;
                item.settled = Some(self.now);
            }
        }
        self.locker.give_back(sent.grant, now);
    }

    fn finish(&mut self, now: Time) {
        let Some(picked) = self.pick() else { return };
        let sent = self.sent.swap_remove(picked);
        for item in sent.items {
            let item = &mut self.oracle.items[item];
            item.flying = false;
            settle_item(item, self.locker.limits(), SettlePoint::Failed, self.now);
        }
        self.locker.finish(sent.grant, now);
    }

    fn leave(&mut self, now: Time) {
        if let Some(left) = self.left {
            // It has left: a waiter that came later is not taken for it.
            self.locker.leave(left, now);
        }
        if self.waiting.is_empty() {
            return;
        }
        let picked = self.rng.range(0, self.waiting.len() as u64) as usize;
        let left = self.waiting.swap_remove(picked);
        self.locker.leave(left.ticket, now);
        self.left = Some(left.ticket);
    }

    fn pause(&mut self, now: Time) {
        let (limit, key) =
            (self.rng.range(0, self.locker.limits().len() as u64) as u32, u128::from(self.rng.range(0, 2)));
        let until = self.now + Duration::from_millis(self.rng.range(0, 300));
        if self.has_key(&[claim(limit, key, 1)]) {
            self.oracle.pauses.push((limit, key, until));
        }
        self.ungranting(|locker| locker.pause(LimitId(limit), Key(key), until, now));
    }

    pub(super) fn hold_or_release(&mut self, now: Time) {
        self.held = !self.held;
        if self.held { self.locker.hold() } else { self.locker.release(now) }
    }

    /// Handles all verdicts that are ready.
    pub(super) fn drain_verdicts(&mut self) {
        while let Some((ticket, verdict)) = self.locker.poll_verdict() {
            self.handle_verdict(ticket, verdict);
        }
        assert_eq!(self.locker.waiting(), self.waiting.len(), "seed {}", self.seed);
    }

    pub(super) fn handle_verdict(&mut self, ticket: Ticket, verdict: Verdict) {
        let found = self.waiting.iter().position(|waiting| waiting.ticket == ticket);
        let waiting = self.waiting.swap_remove(found.unwrap_or_else(|| panic!("seed {}: {ticket:?}", self.seed)));
        match verdict {
            Verdict::Go(grant) => {
                self.check_fifo(&waiting);
                self.go(grant, &waiting.claims);
            }
            Verdict::Sorry(sorry) => {
                assert!(sorry.until > self.now, "seed {}: {sorry:?} at {:?}", self.seed, self.now);
            }
            Verdict::Wait(..) => panic!("seed {}: a waiter is queued twice", self.seed),
        }
    }

    /// I6: asserts that among waiters with the same windows the first to arrive goes first.
    fn check_fifo(&self, goes: &WorldWaiter) {
        let windows = |claims: &[Claim]| claims.iter().map(|claim| (claim.limit, claim.key)).collect::<Vec<_>>();
        let same = |other: &&WorldWaiter| windows(&other.claims) == windows(&goes.claims);
        let passed = self.waiting.iter().filter(same).find(|other| other.number < goes.number);
        assert!(self.world_config.turns || passed.is_none(), "seed {}: it passed an older one", self.seed);
    }
}

/// True if two requests need a window in common.
pub(super) fn share_window(one: &[Claim], other: &[Claim]) -> bool {
    one.iter().any(|claim| other.iter().any(|it| it.limit == claim.limit && it.key == claim.key))
}

/// Settles an item of the oracle, as the specification words it.
pub(super) fn settle_item(item: &mut OracleItem, limits: &[Limit], point: SettlePoint, now: Time) {
    if item.settled.is_some() || (point == SettlePoint::Sent && item.answered) {
        return;
    }
    let guard = limits[item.limit as usize].rate.as_ref().map_or(Duration::ZERO, |rate| rate.guard);
    item.settled = Some(if point == SettlePoint::Failed { now + guard.max(Duration::from_secs(1)) } else { now });
}

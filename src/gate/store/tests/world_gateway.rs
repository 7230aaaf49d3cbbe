//! Simulated gateway: asks its locker, sends granted requests, and keeps the store informed.

use std::collections::HashMap;

use super::world::{ANSWERED, Load, MS, SECOND, World};
use super::world_mutants::WorldMutant;
use super::world_store::CallWords;
use super::world_story::Trap;
use crate::gate::store::clock_jump::Sample;
use crate::gate::store::last_contact::LastContact;
use crate::gate::store::script_call::Command;
use crate::locker::{
    Ask, AskKind, Caller, Claim, Grant, Key, Limit, LimitId, Locker, SettlePoint, SlotGrant, SyncRequest, Ticket,
    Verdict,
};
use crate::time::Time;

/// Time after which a refused request is asked for again.
const ASK_AGAIN: u64 = 20 * MS;

/// A simulated gateway. Times are nanoseconds of the simulation's clock.
pub(super) struct WorldGateway {
    pub(super) locker: Locker,
    pub(super) limits: Vec<Limit>,
    /// Nanoseconds by which its clock is ahead.
    pub(super) ahead: u64,
    pub(super) process: String,
    pub(super) sessions: u64,
    /// Number of the store to which it has connected.
    pub(super) store: u64,
    pub(super) is_connected: bool,
    pub(super) call: Option<OpenCall>,
    pub(super) calls: u64,
    pub(super) heartbeat_due: u64,
    pub(super) retry: u64,
    pub(super) contact: LastContact,
    pub(super) sample: Option<Sample>,
    pub(super) epoch_start: i64,
    pub(super) suspect_epoch: Option<i64>,
    /// Last answered call, for a mutant.
    pub(super) answered: Option<(SyncRequest, Vec<SlotGrant>, Time, Time)>,
    /// End of its partition from the store.
    pub(super) cut: u64,
    /// True if another partition begins after its next hello.
    pub(super) cut_again: bool,
    /// End of the time in which its requests leave at the last moment.
    pub(super) late_until: u64,
    /// True while it stops: no new requests.
    pub(super) is_stopping: bool,
    /// Time of the next question to the locker.
    pub(super) ask_at: u64,
    /// Waiters, with their kind of request.
    pub(super) waiting: HashMap<Ticket, usize>,
    /// Granted requests with the times at which they were granted and are sent; sent requests with
    /// the times of their answers.
    pub(super) leaving: Vec<LeavingRequest>,
    pub(super) answering: Vec<(u64, Grant)>,
}

/// A granted request.
pub(super) struct LeavingRequest {
    pub(super) granted: u64,
    pub(super) at: u64,
    pub(super) grant: Grant,
}

/// A call to the store without a reply yet.
pub(super) struct OpenCall {
    pub(super) number: u64,
    pub(super) command: Command,
    pub(super) sync: SyncRequest,
    pub(super) began: Time,
    pub(super) till: u64,
}

/// A message between a gateway and the store.
pub(super) struct Message {
    pub(super) at: u64,
    pub(super) gateway: usize,
    pub(super) process: String,
    pub(super) number: u64,
    /// A call, or a reply.
    pub(super) content: Result<CallWords, Vec<i64>>,
}

impl World {
    pub(super) fn new_gateway(&mut self, number: usize) -> WorldGateway {
        let ahead = self.dice.below(SECOND);
        let limits = self.gateways.get(number).map_or_else(|| self.limits.clone(), |before| before.limits.clone());
        let mut locker = Locker::new(limits.clone());
        locker.close_sharing(Time::from_nanos(self.now + ahead));
        WorldGateway {
            locker,
            limits,
            ahead,
            process: format!("p{number}x{}", self.dice.below(1 << 40)),
            sessions: 0,
            store: 0,
            is_connected: false,
            call: None,
            calls: 0,
            heartbeat_due: 0,
            retry: self.now,
            contact: LastContact::default(),
            sample: None,
            epoch_start: -1,
            suspect_epoch: None,
            answered: None,
            cut: 0,
            cut_again: false,
            late_until: 0,
            is_stopping: false,
            ask_at: self.now,
            waiting: HashMap::new(),
            leaving: Vec::new(),
            answering: Vec::new(),
        }
    }

    /// The present time of a gateway's clock.
    pub(super) fn time_of(&self, number: usize) -> Time {
        Time::from_nanos(self.now + self.gateways[number].ahead)
    }

    /// Time of the gateway's next event.
    pub(super) fn next_of_gateway(&self, number: usize) -> u64 {
        let gateway = &self.gateways[number];
        let own = |at: Time| (at.as_nanos()).saturating_sub(gateway.ahead);
        let leaving = gateway.leaving.iter().map(|request| request.at).min();
        let answering = gateway.answering.iter().map(|(at, _)| *at).min();
        let locker = gateway.locker.poll_timeout().map(own);
        let store = match &gateway.call {
            Some(call) => call.till + 1,
            None if !gateway.is_connected => gateway.retry,
            None => gateway.heartbeat_due.min(gateway.locker.sync_due().map_or(u64::MAX, own)),
        };
        let asks = if self.settings.load == Load::Flood && !gateway.is_stopping { gateway.ask_at } else { u64::MAX };
        leaving.into_iter().chain(answering).chain(locker).chain([store, asks]).min().unwrap_or(u64::MAX)
    }

    pub(super) fn poll_gateway(&mut self, number: usize) {
        let now = self.time_of(number);
        self.gateways[number].locker.handle_timeout(now);
        self.flood(number);
        self.send(number);
        self.poll_verdicts(number);
        self.poll_store(number);
        self.poll_verdicts(number);
    }

    /// Keeps more requests waiting than slots can open.
    fn flood(&mut self, number: usize) {
        let gateway = &mut self.gateways[number];
        if self.settings.load != Load::Flood || gateway.is_stopping || gateway.ask_at > self.now {
            return;
        }
        gateway.ask_at = u64::MAX;
        for kind in 0..self.settings.claims.len() {
            for _ in 0..16 {
                if self.gateways[number].waiting.values().filter(|other| **other == kind).count() >= 7 {
                    break;
                }
                self.ask(number, kind);
            }
        }
    }

    /// Asks the locker for a request of a kind.
    pub(super) fn ask(&mut self, number: usize, kind: usize) {
        let is_calm = self.now > self.settings.times()[1];
        let claims: Vec<Claim> = self.settings.claims[kind]
            .iter()
            .map(|limit| Claim {
                limit: LimitId(*limit),
                key: Key::WHOLE,
                cost: 1 + u32::from(!is_calm && *limit != 3 && self.dice.one_in(12)),
            })
            .collect();
        let caller = Caller(self.dice.below(3));
        let now = self.time_of(number);
        let ask = Ask { claims: &claims, caller, urgency: 3, max_wait: None, arrived: None, kind: AskKind::New };
        match self.gateways[number].locker.ask(&ask, now) {
            Verdict::Go(grant) => self.on_grant(number, grant),
            Verdict::Wait(ticket, _) => drop(self.gateways[number].waiting.insert(ticket, kind)),
            Verdict::Sorry(_) => {
                let gateway = &mut self.gateways[number];
                gateway.ask_at = gateway.ask_at.min(self.now + ASK_AGAIN);
            }
        }
        self.poll_verdicts(number);
    }

    pub(super) fn poll_verdicts(&mut self, number: usize) {
        while let Some((ticket, verdict)) = self.gateways[number].locker.poll_verdict() {
            let gateway = &mut self.gateways[number];
            gateway.waiting.remove(&ticket);
            if let Verdict::Go(grant) = verdict {
                gateway.ask_at = gateway.ask_at.min(self.now + 1);
                self.on_grant(number, grant);
            } else {
                gateway.ask_at = gateway.ask_at.min(self.now + ASK_AGAIN);
            }
        }
    }

    /// Draws the time at which a granted request leaves.
    pub(super) fn on_grant(&mut self, number: usize, grant: Grant) {
        let (gateway, dice) = (&self.gateways[number], &mut self.dice);
        let until = grant.until().as_nanos().saturating_sub(gateway.ahead);
        // A fraction may be used for longer than a request may take to connect.
        let is_late = gateway.late_until > self.now && until < self.now + 1800 * MS;
        let at = match dice.below(8) {
            0..5 if is_late => until.saturating_sub(1 + dice.below(MS)),
            // Later than it may: a request that has not left by then must be given back.
            5 | 6 if is_late => until + dice.below(self.settings.span + SECOND),
            0 if self.now < self.settings.times()[1] => self.now + dice.below(400 * MS),
            _ => self.now + dice.below(300_000),
        };
        let request = LeavingRequest { granted: self.now, at: at.max(self.now), grant };
        if self.mutant == Some(WorldMutant::SettlesAtThePermit) {
            let now = self.time_of(number);
            let LeavingRequest { granted, at, mut grant } = request;
            self.gateways[number].locker.settle(&mut grant, SettlePoint::Sent, now);
            self.gateways[number].leaving.push(LeavingRequest { granted, at, grant });
        } else {
            self.gateways[number].leaving.push(request);
        }
        self.spring(Trap::Swap, number);
        self.spring(Trap::Reset, number);
    }

    /// Sends requests that are due, unless they are late, and settles answered ones.
    fn send(&mut self, number: usize) {
        let now = self.time_of(number);
        let ignores_leases = self.mutant == Some(WorldMutant::NoLease);
        let is_faulty = self.now < self.settings.times()[1];
        let mut has_sent = false;
        for mut request in std::mem::take(&mut self.gateways[number].leaving) {
            if request.at > self.now {
                self.gateways[number].leaving.push(request);
            } else if !ignores_leases && now >= request.grant.until() || (is_faulty && self.dice.one_in(30)) {
                self.gateways[number].locker.give_back(request.grant, now);
            } else {
                self.gateways[number].locker.settle(&mut request.grant, SettlePoint::Sent, now);
                self.arrive(number, request);
                has_sent = true;
            }
        }
        for (at, mut grant) in std::mem::take(&mut self.gateways[number].answering) {
            let gateway = &mut self.gateways[number];
            if at > self.now {
                gateway.answering.push((at, grant));
            } else {
                gateway.locker.settle(&mut grant, SettlePoint::Answered, now);
                gateway.locker.finish(grant, now);
            }
        }
        if has_sent {
            self.spring(Trap::Kill, number);
        }
    }

    /// A sent request arrives at the origin at once, and is answered later.
    fn arrive(&mut self, number: usize, request: LeavingRequest) {
        let LeavingRequest { granted, grant, .. } = request;
        // The last request of a gateway that is killed arrives as late as it may.
        let is_last = grant.awaits_answer() && self.is_set(Trap::Kill, number);
        let longest = if self.dice.one_in(8) { 1100 * MS } else { 25 * MS };
        let answer = self.now + if is_last { 1100 * MS } else { self.dice.below(longest) };
        // An origin that counts answers sees the request at a time in between.
        let seen = answer - if is_last { 0 } else { self.dice.below(answer - self.now + 1) };
        for limit in grant.limits() {
            let at = if limit.0 as usize == ANSWERED { seen } else { self.now };
            self.origin.arrive(limit.0 as usize, grant.cost_of(limit), granted, at);
        }
        if grant.holds_flight() {
            self.origin.begin_flight(number, self.now, answer);
        }
        self.gateways[number].answering.push((answer, grant));
    }
}

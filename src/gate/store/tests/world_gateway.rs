//! Simulated gateway: asks its locker, sends granted requests, and calls the store.

use std::time::Duration;

use super::arguments;
use super::world::{
    CALL_TIMEOUT, CLAIMS, Call, END, FAULTS_END, HEARTBEAT, MAX_SETTLE_TIME, MEASURE_START, MS, Message, RETRY, World,
};
use crate::gate::store::fallback::fallback_mode;
use crate::gate::store::script_call::{self, ClientId, Command};
use crate::gate::store::{PRESENCE, WhenLost};
use crate::locker::{
    Ask, AskKind, Caller, Claim, Grant, Key, LEASE, LimitId, SettlePoint, SharingMode, SyncRequest, SyncTrigger,
    Verdict,
};
use crate::time::Time;

impl World {
    /// Lets a request arrive at a gateway, sometimes.
    pub(super) fn arrive(&mut self, number: usize) {
        let busy = if self.is_calm() { 4 } else { [3, 6, 20][number] };
        if !self.dice.one_in(busy) {
            return;
        }
        let is_calm = self.is_calm();
        let claims: Vec<Claim> = CLAIMS[self.dice.below(if is_calm { 3 } else { 7 }) as usize]
            .iter()
            .map(|limit| Claim {
                limit: LimitId(*limit),
                key: Key::WHOLE,
                cost: 1 + u32::from(!is_calm && *limit != 3 && self.dice.one_in(9)),
            })
            .collect();
        let caller = Caller(self.dice.below(3));
        let gateway = &mut self.gateways[number];
        let now = Time::from_nanos(self.now + gateway.ahead);
        let ask = Ask { claims: &claims, caller, urgency: 3, max_wait: None, arrived: None, kind: AskKind::New };
        match gateway.locker.ask(&ask, now) {
            Verdict::Go(grant) => self.on_grant(number, grant),
            Verdict::Wait(ticket, _) => drop(gateway.waiting.insert(ticket, 0)),
            Verdict::Sorry(_) => {}
        }
        self.poll(number);
    }

    pub(super) fn on_grant(&mut self, number: usize, grant: Grant) {
        let delay = match self.dice.below(24) {
            0..6 if self.is_severed(number) => self.time_until_fraction_is_given_away(number),
            0 if !self.is_calm() => self.dice.below(400 * MS),
            1 if !self.is_calm() && self.dice.one_in(4) => self.dice.below(1800 * MS),
            _ => self.dice.below(300_000),
        };
        self.gateways[number].leaving.push((self.now + delay, grant));
    }

    /// Nanoseconds until the store may give the fraction of an unreachable gateway to others, and a
    /// bit more; 0 if that is longer than a request may take to connect.
    fn time_until_fraction_is_given_away(&mut self, number: usize) -> u64 {
        let (gateway, bit) = (&self.gateways[number], self.dice.below(300 * MS));
        let WhenLost::Share { share_for, .. } = (self.when_lost)(number) else { return 0 };
        let given_away =
            gateway.contact.last().map(|last| last + share_for + PRESENCE + LEASE + Duration::from_millis(60));
        let now = Time::from_nanos(self.now + gateway.ahead);
        let left = given_away.map_or(0, |at| u64::try_from(at.since(now).as_nanos()).unwrap()) + bit;
        if left < 1800 * MS { left } else { 0 }
    }

    pub(super) fn poll(&mut self, number: usize) {
        while let Some((ticket, verdict)) = self.gateways[number].locker.poll_verdict() {
            self.gateways[number].waiting.remove(&ticket);
            if let Verdict::Go(grant) = verdict {
                self.on_grant(number, grant);
            }
        }
    }

    /// Sends requests that are due, unless they are late, and settles answered ones.
    pub(super) fn leave(&mut self, number: usize) {
        let now = Time::from_nanos(self.now + self.gateways[number].ahead);
        self.gateways[number].locker.handle_timeout(now);
        for (at, mut grant) in std::mem::take(&mut self.gateways[number].leaving) {
            let gateway = &mut self.gateways[number];
            if at > self.now {
                gateway.leaving.push((at, grant));
            } else if now >= grant.until() || (self.now < MEASURE_START - 1000 * MS && self.dice.one_in(30)) {
                gateway.locker.give_back(grant, now);
            } else {
                gateway.locker.settle(&mut grant, SettlePoint::Sent, now);
                let answer = self.now + self.dice.below(25 * MS);
                // An origin that counts answers sees the request at a time in between.
                let seen = self.now + self.dice.below(answer - self.now + 1);
                for slot in grant.limits() {
                    let at = if slot.0 == 1 { seen } else { self.now };
                    self.arrivals[slot.0 as usize].extend(vec![at; grant.cost_of(slot) as usize]);
                }
                self.flights.extend(grant.holds_flight().then_some((self.now, 1)));
                self.gateways[number].answering.push((answer, grant));
            }
        }
        for (at, mut grant) in std::mem::take(&mut self.gateways[number].answering) {
            let gateway = &mut self.gateways[number];
            if at > self.now {
                gateway.answering.push((at, grant));
            } else {
                self.flights.extend(grant.holds_flight().then_some((self.now, -1)));
                gateway.locker.settle(&mut grant, SettlePoint::Answered, now);
                gateway.locker.finish(grant, now);
            }
        }
        self.poll(number);
    }

    /// Does the work of the store thread: calls, timeouts, reconnects and fallbacks.
    pub(super) fn poll_store(&mut self, number: usize) {
        let (now, real) = (Time::from_nanos(self.now + self.gateways[number].ahead), self.now);
        let gateway = &mut self.gateways[number];
        if gateway.call.as_ref().is_some_and(|call| call.till < real) {
            self.on_session_lost(number);
        } else if gateway.call.is_some() {
        } else if !gateway.is_connected {
            self.update_fallbacks(number, now);
            if self.gateways[number].retry <= real && self.gateways[number].cut < real && self.stopped < real {
                self.gateways[number].sessions += 1;
                self.call(number, Command::Hello, SyncRequest::default());
            }
        } else {
            let is_heartbeat = gateway.heartbeat_due <= real;
            if is_heartbeat || gateway.locker.has_sync() {
                gateway.heartbeat_due = if is_heartbeat { real + HEARTBEAT } else { gateway.heartbeat_due };
                let sync =
                    gateway.locker.take_sync(if is_heartbeat { SyncTrigger::Heartbeat } else { SyncTrigger::Due }, now);
                self.call(number, Command::Sync, sync);
            }
        }
        self.poll(number);
    }

    pub(super) fn update_fallbacks(&mut self, number: usize, now: Time) {
        let when_lost = (self.when_lost)(number);
        let gateway = &mut self.gateways[number];
        for (index, limit) in self.limits.iter().enumerate() {
            let last = gateway.contact.last();
            let mode = fallback_mode(&when_lost, limit, last, Some(MAX_SETTLE_TIME), now);
            if mode != SharingMode::Blocked || last.is_some() {
                gateway.locker.set_sharing_mode(Some(LimitId(index as u32)), mode, now);
            }
        }
    }

    pub(super) fn call(&mut self, number: usize, command: Command, sync: SyncRequest) {
        let gateway = &mut self.gateways[number];
        let began = Time::from_nanos(self.now + gateway.ahead);
        let client_id = ClientId {
            id: self.stores.to_string(),
            process: gateway.process.clone(),
            session: format!("{}.{}", gateway.process, gateway.sessions),
            suspect_epoch: None,
            trusts_empty: false,
            shares: match (self.when_lost)(number) {
                WhenLost::Share { gateways, name, share_for } => Some((name, gateways.get(), share_for)),
                WhenLost::Refuse | WhenLost::Allow => None,
            },
            clock: Some(0),
        };
        let content = arguments("g", &client_id, command, &sync, began, &self.limits);
        gateway.calls += 1;
        let number_of_call = gateway.calls;
        gateway.call = Some(Call { number: number_of_call, command, sync, began, till: self.now + CALL_TIMEOUT });
        let process = gateway.process.clone();
        let is_lost = gateway.cut > self.now || (self.now < FAULTS_END && self.dice.one_in(700));
        if !is_lost {
            let at = self.now + 1_000 + self.dice.below(200_000);
            self.messages.push(Message { at, gateway: number, process, number: number_of_call, content: Ok(content) });
        }
    }

    pub(super) fn deliver(&mut self) {
        for mut message in std::mem::take(&mut self.messages) {
            if message.at > self.now || (message.content.is_ok() && self.stopped > self.now) {
                self.messages.push(message);
                continue;
            }
            match message.content {
                Ok((keys, mut args)) => {
                    args[0] = (self.clock + self.now / 1000).to_string();
                    message.content = Err(self.store.call(&keys, &args));
                    message.at = self.now + 1_000 + self.dice.below(200_000);
                    let is_lost = self.gateways[message.gateway].cut > self.now
                        || (self.now < FAULTS_END && self.dice.one_in(700));
                    if !is_lost {
                        self.messages.push(message);
                    }
                }
                Err(answer) => self.receive(message.gateway, &message.process, message.number, &answer),
            }
        }
    }

    pub(super) fn receive(&mut self, number: usize, process: &str, call: u64, answer: &[i64]) {
        let gateway = &mut self.gateways[number];
        let now = Time::from_nanos(self.now + gateway.ahead);
        if gateway.process != process || gateway.call.as_ref().is_none_or(|known| known.number != call) {
            return;
        }
        let Some(known) = gateway.call.take() else { return };
        let value = redis::Value::Array(answer.iter().copied().map(redis::Value::Int).collect());
        match script_call::read(&value, &known.sync) {
            Ok(answer) => {
                gateway.contact.answered(known.command, now);
                if known.command == Command::Hello {
                    gateway.is_connected = true;
                    gateway.locker.open_sharing(now);
                    if self.is_severed(number) {
                        self.gateways[number].cut = END;
                    }
                } else {
                    gateway.locker.sync_answered(&known.sync, &answer.grants, known.began, now, now);
                }
            }
            Err(_) => {
                gateway.call = Some(known);
                self.on_session_lost(number);
            }
        }
        self.poll(number);
    }

    pub(super) fn on_session_lost(&mut self, number: usize) {
        let gateway = &mut self.gateways[number];
        let now = Time::from_nanos(self.now + gateway.ahead);
        if let Some(call) = gateway.call.take() {
            gateway.locker.sync_lost(call.sync, now);
        }
        if gateway.is_connected {
            gateway.is_connected = false;
            gateway.locker.close_sharing(now);
        }
        gateway.retry = self.now + RETRY;
    }
}

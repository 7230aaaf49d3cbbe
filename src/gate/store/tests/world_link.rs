//! Link between the gateways of a simulated world and its store: calls, messages, sessions and
//! fallbacks, as the store thread of a real gateway makes them.

use std::time::Duration;

use super::arguments;
use super::world::{MAX_SETTLE_TIME, MS, World};
use super::world_gateway::{Message, OpenCall};
use super::world_mutants::WorldMutant;
use crate::gate::store::WhenLost;
use crate::gate::store::clock_jump::{Sample, clock_jump};
use crate::gate::store::fallback::fallback_mode;
use crate::gate::store::script_call::{self, ClientId, Command, ScriptReply};
use crate::locker::{LimitId, SharingMode, SyncRequest, SyncTrigger};
use crate::time::Time;

const CALL_TIMEOUT: u64 = 250 * MS;
const HEARTBEAT: u64 = 150 * MS;
const RETRY: u64 = 100 * MS;

/// Places in the arguments of a call.
const PRESENCE_ARG: usize = 7;
const HORIZON_MOST_ARG: usize = 8;
const HORIZON_OWN_ARG: usize = 10;

impl World {
    /// Does the work of the store thread: calls, timeouts, reconnects and fallbacks.
    pub(super) fn poll_store(&mut self, number: usize) {
        let now = self.time_of(number);
        let gateway = &mut self.gateways[number];
        if gateway.call.as_ref().is_some_and(|call| call.till < self.now) {
            self.on_session_lost(number);
        } else if gateway.call.is_some() {
        } else if !gateway.is_connected {
            if gateway.retry <= self.now {
                gateway.retry = self.now + RETRY;
                self.update_fallbacks(number);
                if self.gateways[number].cut < self.now && self.store.halted < self.now {
                    self.gateways[number].sessions += 1;
                    self.gateways[number].store = self.store.number;
                    self.call(number, Command::Hello, SyncRequest::default());
                }
            }
        } else if gateway.is_stopping && gateway.leaving.is_empty() && gateway.answering.is_empty() {
            let sync = gateway.locker.sign_off(now);
            self.call(number, Command::Bye, sync);
        } else {
            let is_heartbeat = gateway.heartbeat_due <= self.now;
            if is_heartbeat || gateway.locker.has_sync() {
                gateway.heartbeat_due = if is_heartbeat { self.now + HEARTBEAT } else { gateway.heartbeat_due };
                let trigger = if is_heartbeat { SyncTrigger::Heartbeat } else { SyncTrigger::Due };
                let sync = gateway.locker.take_sync(trigger, now);
                self.call(number, Command::Sync, sync);
            }
        }
    }

    fn update_fallbacks(&mut self, number: usize) {
        let now = self.time_of(number);
        let mut when_lost = self.settings.when_lost(number);
        if let (WhenLost::Share { share_for, .. }, Some(WorldMutant::FractionWithoutEnd)) =
            (&mut when_lost, self.mutant)
        {
            *share_for *= 2;
        }
        let gateway = &mut self.gateways[number];
        for (index, limit) in gateway.limits.clone().iter().enumerate() {
            let mut last = gateway.contact.last();
            if self.mutant == Some(WorldMutant::FractionAtOnce) {
                last = last.map(|last| last - Duration::from_secs(3));
            }
            let mode = fallback_mode(&when_lost, limit, last, Some(MAX_SETTLE_TIME), now);
            if mode != SharingMode::Blocked || last.is_some() {
                gateway.locker.set_sharing_mode(Some(LimitId(index as u32)), mode, now);
            }
        }
    }

    fn call(&mut self, number: usize, command: Command, sync: SyncRequest) {
        let now = self.time_of(number);
        let when_lost = self.settings.when_lost(number);
        let gateway = &mut self.gateways[number];
        let client_id = ClientId {
            id: gateway.store.to_string(),
            process: gateway.process.clone(),
            session: format!("{}.{}", gateway.process, gateway.sessions),
            suspect_epoch: gateway.suspect_epoch,
            trusts_empty: self.settings.trusts_empty,
            shares: match when_lost {
                WhenLost::Share { gateways, name, share_for } => Some((name, gateways.get(), share_for)),
                WhenLost::Refuse | WhenLost::Allow => None,
            },
            clock: Some(0),
        };
        let mut words = arguments("g", &client_id, command, &sync, now, &gateway.limits);
        words.1[PRESENCE_ARG] = self.settings.presence.to_string();
        words.1[HORIZON_MOST_ARG] = self.settings.horizon.to_string();
        let own: u64 = words.1[HORIZON_OWN_ARG].parse().unwrap();
        words.1[HORIZON_OWN_ARG] = own.min(self.settings.horizon).to_string();
        gateway.calls += 1;
        let (call, process) = (gateway.calls, gateway.process.clone());
        gateway.call = Some(OpenCall { number: call, command, sync, began: now, till: self.now + CALL_TIMEOUT });
        self.post(number, process, call, Ok(words));
    }

    /// Sends a message, unless it is lost.
    fn post(
        &mut self,
        gateway: usize,
        process: String,
        number: u64,
        content: Result<super::world_store::CallWords, Vec<i64>>,
    ) {
        let is_faulty = self.now < self.settings.times()[1];
        if self.gateways[gateway].cut <= self.now && !(is_faulty && self.dice.one_in(700)) {
            let at = self.now + 1_000 + self.dice.below(200_000);
            self.messages.push(Message { at, gateway, process, number, content });
        }
    }

    /// Delivers the messages that are due: calls to the store, replies to gateways.
    pub(super) fn deliver(&mut self) {
        for message in std::mem::take(&mut self.messages) {
            if message.at > self.now || (message.content.is_ok() && self.store.halted > self.now) {
                self.messages.push(message);
                continue;
            }
            let Message { gateway, process, number, content, .. } = message;
            match content {
                Ok(mut words) => {
                    let reply = self.store.call(&mut words, self.now);
                    let is_sync = self.gateways[gateway].call.as_ref().is_none_or(|call| call.command == Command::Sync);
                    if reply[0] == 0 && is_sync && self.gateways[gateway].process == process {
                        self.origin.on_report(gateway, self.now, self.now + self.settings.presence * 1000);
                    }
                    self.post(gateway, process, number, Err(reply));
                }
                Err(reply) => self.receive(gateway, &process, number, &reply),
            }
        }
    }

    fn receive(&mut self, number: usize, process: &str, call: u64, reply: &[i64]) {
        let now = self.time_of(number);
        let gateway = &mut self.gateways[number];
        if gateway.process != process || gateway.call.as_ref().is_none_or(|known| known.number != call) {
            return;
        }
        let Some(known) = gateway.call.take() else { return };
        let value = redis::Value::Array(reply.iter().copied().map(redis::Value::Int).collect());
        let answer =
            script_call::read(&value, &known.sync).ok().filter(|answer| self.verify(number, answer, known.began));
        let Some(answer) = answer else {
            self.gateways[number].call = Some(known);
            self.on_session_lost(number);
            return;
        };
        let gateway = &mut self.gateways[number];
        let is_contact = self.mutant == Some(WorldMutant::HelloIsContact);
        gateway.contact.answered(if is_contact { Command::Sync } else { known.command }, now);
        gateway.epoch_start = answer.epoch_start;
        match known.command {
            Command::Hello => {
                (gateway.is_connected, gateway.suspect_epoch) = (true, None);
                gateway.locker.open_sharing(now);
                if std::mem::take(&mut gateway.cut_again) {
                    gateway.cut = self.settings.times()[1];
                }
                if let (Some(WorldMutant::SharesKept), Some((sync, grants, began, ended))) =
                    (self.mutant, gateway.answered.take())
                {
                    gateway.locker.sync_answered(&sync, &grants, began, ended, now);
                }
            }
            Command::Sync => {
                gateway.locker.set_reported_spans(&answer.spans(&known.sync));
                gateway.locker.sync_answered(&known.sync, &answer.grants, known.began, now, now);
                gateway.answered = Some((known.sync, answer.grants, known.began, now));
            }
            Command::Bye => {
                let gateway = self.new_gateway(number);
                self.gateways[number] = gateway;
            }
        }
        self.poll_verdicts(number);
    }

    /// Checks a reply: it is void after a jump of the store's clock.
    fn verify(&mut self, number: usize, reply: &ScriptReply, began: Time) -> bool {
        let ended = self.time_of(number);
        let gateway = &mut self.gateways[number];
        let sample = Sample { id: gateway.store.to_string(), now: reply.now, began, ended };
        let before = gateway.sample.replace(sample.clone()).filter(|before| before.id == sample.id);
        let is_right = before.is_none_or(|before| clock_jump(&before, &sample) == 0);
        if !is_right {
            gateway.suspect_epoch = Some(reply.epoch_start);
        }
        is_right
    }

    pub(super) fn on_session_lost(&mut self, number: usize) {
        let now = self.time_of(number);
        let gateway = &mut self.gateways[number];
        if let Some(call) = gateway.call.take()
            && self.mutant != Some(WorldMutant::LostReportsForgotten)
        {
            gateway.locker.sync_lost(call.sync, now);
        }
        if gateway.is_connected {
            gateway.is_connected = false;
            gateway.locker.close_sharing(now);
        }
        if gateway.is_stopping {
            // It has nothing under way, and ends without a bye.
            let gateway = self.new_gateway(number);
            self.gateways[number] = gateway;
        }
        self.gateways[number].retry = self.now + RETRY;
    }
}

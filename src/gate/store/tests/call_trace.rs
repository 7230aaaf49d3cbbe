//! Call traces: random calls by three gateways, with the replies and the states that the model
//! gives. A trace depends on its seed alone, so one trace serves for any number of scripts.
//!
//! Half of all calls are made at or near an instant at which the model's state changes. In most
//! traces the gateways settle and return only slots that they were granted, as real ones do, so
//! that windows are full and each slot matters; in the others they report anything.

use std::collections::BTreeMap;
use std::time::Duration;

use super::model::Model;
use super::model_params::LimitParams;
use super::model_state::{HORIZONS, KeyContent};
use super::trace_params::{base_params, call_params, gateway_params, trace_limits};
use super::{Dice, arguments};
use crate::gate::store::script_call::{self, ClientId, Command};
use crate::locker::{
    Key, LEASE, Limit, LimitId, SharedKind, SlotGrant, SlotRequest, SyncRequest, WindowParams, WindowReport,
};
use crate::time::Time;

/// A full minute shortly after the start of a trace, by the store's clock, in µs of Unix time.
const BEGIN: u64 = 1_795_000_020_000_000;
const SECOND: u64 = 1_000_000;
const STEPS: usize = 120;
/// Time between calls, in µs: mostly one of the first four.
const STEP_LENGTHS: [u64; 6] = [0, 1_000, 5_000, 20_000, 400_000, 1_200_000];
/// Distances from an instant of the model, in µs.
const OFFSETS: [i64; 8] = [-1001, -1000, -999, -1, 0, 1, 999, 1000];

/// One call of a trace.
pub(super) struct TraceStep {
    /// Commands of a gateway of another version, executed before the call.
    pub(super) foreign: Vec<Vec<String>>,
    pub(super) keys: Vec<String>,
    pub(super) args: Vec<String>,
    /// Reply of the model.
    pub(super) reply: Vec<i64>,
    /// Content of each of `keys` after the call, in the model.
    pub(super) content: Vec<KeyContent>,
    /// Least time for which each window must be kept, in µs.
    pub(super) needed_for: Vec<i64>,
    /// The call, for messages.
    pub(super) what: String,
}

/// Way in which the gateways of a trace report.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Conduct {
    /// As real gateways: only granted slots settle.
    Honest,
    /// Honest, with very many settles in one window.
    Busy,
    /// Any counts.
    Wild,
}

/// Slots and flights that a gateway holds in a window.
#[derive(Clone, Copy, Default)]
struct HeldCounts {
    slots: u32,
    flights: u32,
    /// True if the store knows the window under the gateway's session.
    is_known: bool,
    /// Clock at the grant of the oldest slots.
    granted: u64,
}

struct TraceGateway {
    sessions: u64,
    is_connected: bool,
    limits: Vec<Limit>,
    /// Fallback settings: number of gateways, and `share_for`.
    shares: Option<(u32, Duration)>,
    params: Vec<WindowParams>,
    held: BTreeMap<(usize, u128), HeldCounts>,
}

struct TraceWriter {
    seed: u64,
    conduct: Conduct,
    dice: Dice,
    model: Model,
    clock: u64,
    store: u64,
    gateways: Vec<TraceGateway>,
    /// Window at whose instant the present call is made.
    aimed: Option<String>,
    /// Gateway that makes no calls for a while; none of this number means none.
    silent: usize,
}

/// The trace of a seed.
pub(super) fn call_trace(seed: u64) -> Vec<TraceStep> {
    let mut dice = Dice(seed);
    let conduct = match seed % 6 {
        5 => Conduct::Wild,
        4 => Conduct::Busy,
        _ => Conduct::Honest,
    };
    let base = base_params(&mut dice, seed, conduct == Conduct::Busy);
    // A calendar period ends soon; in half of the traces while all gateways are present.
    let clock = BEGIN - if seed % 2 == 1 { SECOND - dice.below(SECOND / 2) } else { dice.below(6 * SECOND) };
    let model = Model::default();
    let mut writer =
        TraceWriter { seed, conduct, dice, model, clock, store: 0, gateways: Vec::new(), aimed: None, silent: 3 };
    for _ in 0..3 {
        let shares = writer.settings();
        let (limits, held) = (trace_limits(), BTreeMap::new());
        let params = gateway_params(&mut writer.dice, &base);
        writer.gateways.push(TraceGateway { sessions: 0, is_connected: false, limits, shares, params, held });
    }
    (0..STEPS).map(|_| writer.step()).collect()
}

impl TraceWriter {
    /// Fallback settings of a gateway; mostly the same ones.
    fn settings(&mut self) -> Option<(u32, Duration)> {
        let usual = if self.seed % 8 == 3 { 2 } else { 3 };
        let (parts, lasts) = (self.dice.pick(1, &[usual, 2, 4]), self.dice.pick(1, &[2, 1, 5]));
        (!self.seed.is_multiple_of(2) && !self.dice.one_in(8)).then_some((parts, Duration::from_secs(lasts)))
    }

    fn step(&mut self) -> TraceStep {
        let foreign = self.foreign_commands();
        self.advance_clock();
        let rarely = if self.conduct == Conduct::Busy { 2000 } else { 250 };
        self.store += u64::from(self.dice.one_in(rarely));
        if self.dice.one_in(25) {
            self.silent = self.dice.below(5) as usize;
        }
        let gateway = (0..3).map(|_| self.dice.below(3) as usize).find(|number| *number != self.silent).unwrap_or(0);
        let command = self.command(gateway);
        let suspect_epoch = (command == Command::Hello && self.dice.one_in(16) || self.dice.one_in(rarely))
            .then(|| self.model.epoch_start() + i64::from(self.dice.one_in(3)));
        if suspect_epoch.is_some() || command == Command::Hello {
            // A new epoch at the microsecond at which the present one began would be the same one.
            self.clock = self.clock.max(u64::try_from(self.model.epoch_start()).unwrap_or(0) + 1);
        }
        let process = format!("process{gateway}");
        // A call of the session before, which arrives late.
        let sessions = self.gateways[gateway].sessions;
        let is_delayed = command == Command::Sync && sessions > 1 && self.dice.one_in(40);
        let client_id = ClientId {
            id: format!("store {}", self.store),
            session: format!("{process}.{}", self.gateways[gateway].sessions - u64::from(is_delayed)),
            process,
            suspect_epoch,
            trusts_empty: self.conduct == Conduct::Busy || (self.seed / 2).is_multiple_of(2),
            shares: self.gateways[gateway].shares.map(|(parts, lasts)| (format!("gateway {gateway}"), parts, lasts)),
            clock: Some(self.clock),
        };
        let began = Time::from_nanos(self.clock * 1000);
        let held = self.gateways[gateway].held.clone();
        let sync = if command == Command::Hello { SyncRequest::default() } else { self.sync(gateway, began) };
        let (keys, args) = arguments("g", &client_id, command, &sync, began, &self.gateways[gateway].limits);
        let reply = self.model.call(&keys, &args);
        if is_delayed {
            self.gateways[gateway].held = held;
        } else {
            self.apply(gateway, command, &reply, &sync, held);
        }
        let mut content: Vec<KeyContent> = self.model.group_content().into();
        content.extend(keys[4..].iter().step_by(2).flat_map(|key| self.model.window_content(key)));
        let needed_for = keys[4..].iter().step_by(2).map(|key| self.model.needed_for(key)).collect();
        let what = format!("{command:?} {client_id:?} {sync:?}");
        TraceStep { foreign, keys, args, reply, content, needed_for, what }
    }

    fn command(&mut self, gateway: usize) -> Command {
        let (dice, known) = (&mut self.dice, &mut self.gateways[gateway]);
        let command = match dice.below(60) {
            0 | 1 => Command::Hello,
            2 => Command::Bye,
            _ if !known.is_connected => Command::Hello,
            _ => Command::Sync,
        };
        if command == Command::Hello {
            known.sessions += 1;
            known.held.values_mut().for_each(|held| held.is_known = false);
        }
        if dice.one_in(60) {
            known.limits[dice.below(5) as usize].keyed_by =
                ["", "host", "caller: other"][dice.below(3) as usize].into();
        }
        if command == Command::Hello && dice.one_in(12) {
            let settings = self.settings();
            self.gateways[gateway].shares = settings;
        }
        command
    }

    /// Moves the clock: half the time to an instant of the model, or near it.
    fn advance_clock(&mut self) {
        let dice = &mut self.dice;
        let clock = self.clock as i64;
        let is_busy = self.conduct == Conduct::Busy;
        self.aimed = None;
        if dice.one_in(2) {
            let reach = dice.pick(4, &[20_000, 100_000, 400_000, 400_000, 3_000_000, 70_000_000]);
            let window = self.model.windows.keys().nth(dice.below(self.model.windows.len() as u64) as usize);
            let (window, instants) = match window {
                Some(key) if !dice.one_in(4) => (Some(key.clone()), self.model.window_instants(key)),
                Some(_) | None => (None, self.model.session_instants(LEASE.as_micros() as i64)),
            };
            let is_near = |at: &i64| (clock - 1000..clock + if is_busy { reach / 10 } else { reach }).contains(at);
            let near: Vec<i64> = instants.into_iter().filter(is_near).collect();
            if !near.is_empty() {
                self.aimed = window;
                let at = near[dice.below(near.len() as u64) as usize];
                self.clock = (at + OFFSETS[dice.below(OFFSETS.len() as u64) as usize]) as u64;
                return;
            }
        }
        let steps = if is_busy { [0, 300, 1_000, 3_000, 20_000, 400_000] } else { STEP_LENGTHS };
        self.clock += dice.pick(4, &steps) + dice.below(2);
        if is_busy && dice.one_in(60) {
            // Very many slots open at once.
            self.clock += 2 * SECOND;
        }
        if self.seed % 2 == 1 && self.clock < BEGIN && dice.one_in(10) {
            self.clock = BEGIN;
        }
        if dice.one_in(40) {
            self.clock -= dice.below(50_000);
        }
        if dice.one_in(400) {
            self.clock += 86_400 * SECOND + dice.below(3 * SECOND);
        }
    }

    /// Rarely: state that a gateway of another version has left.
    fn foreign_commands(&mut self) -> Vec<Vec<String>> {
        let texts = |words: &[&str]| vec![words.iter().map(|word| (*word).to_owned()).collect()];
        match self.dice.below(if self.seed % 6 == 3 { 120 } else { 2000 }) {
            0 => {
                self.model.other_version = self.model.id.is_some().then(|| "another".to_owned());
                if self.model.id.is_some() { texts(&["HSET", "{g}:meta", "v", "another"]) } else { Vec::new() }
            }
            1 => {
                self.model.first_version = Some("1".to_owned());
                texts(&["HSET", "{g}:house", "v", "1"])
            }
            2 | 3 => {
                let number = self.dice.below(3) as usize;
                let session = format!("process{number}.{}", self.gateways[number].sessions);
                let Some((key, window)) = self.model.windows.iter_mut().next() else { return Vec::new() };
                let params = LimitParams { unreadable: Some("what:none".to_owned()), ..LimitParams::default() };
                window.shares.entry(session.clone()).or_default().params = Some(params);
                texts(&["HSET", key, &format!("r:{session}"), "what:none"])
            }
            _ => Vec::new(),
        }
    }

    fn sync(&mut self, gateway: usize, began: Time) -> SyncRequest {
        let horizon = Duration::from_micros(HORIZONS[self.dice.below(3) as usize] as u64);
        let mut sync = SyncRequest { horizon, ..SyncRequest::default() };
        let aimed = self.aimed.clone();
        let mut aim = None;
        for limit in 0..self.gateways[gateway].params.len() {
            let mut key = u128::from(self.conduct != Conduct::Busy && self.dice.one_in(6));
            if let Some(aimed) =
                aimed.as_ref().and_then(|aimed| aimed.strip_prefix(&format!("{{g}}:window:limit {limit}:")))
            {
                key = u128::from(aimed.ends_with('1'));
                aim = Some(sync.windows.len());
            } else if self.dice.one_in(2) {
                continue;
            }
            let report = self.report(gateway, (limit, key), began);
            sync.windows.push(report);
        }
        let dice = &mut self.dice;
        let count = sync.windows.len() as u64;
        for _ in 0..if count > 0 { dice.below(3) } else { 0 } {
            let from = aim.filter(|_| !dice.one_in(3)).unwrap_or_else(|| dice.below(count) as usize);
            let most = if self.conduct == Conduct::Busy { 300 } else { 8 };
            let requests = dice.below(most) as u32;
            let mut request = SlotRequest { group: None, requests, prefetch: 0, windows: Default::default() };
            for place in from..if dice.one_in(2) { count as usize } else { from + 1 } {
                let is_flights = sync.windows[place].params.kind == SharedKind::Flights;
                request.windows.push((place, if is_flights { 0 } else { 1 + (dice.below(8) / 6) as u32 }));
            }
            if request.windows.len() == 1 && dice.one_in(3) {
                request.prefetch = dice.below(30) as u32;
            }
            sync.slot_requests.push(request);
        }
        sync
    }

    /// A report of one window; an honest one changes what the gateway holds.
    fn report(&mut self, gateway: usize, (limit, key): (usize, u128), began: Time) -> WindowReport {
        let dice = &mut self.dice;
        let params = call_params(dice, &self.gateways[gateway].params[limit], self.clock);
        let held = self.gateways[gateway].held.entry((limit, key)).or_default();
        let is_wild = self.conduct == Conduct::Wild;
        let is_busy = self.conduct == Conduct::Busy;
        let most = if is_busy { 60 } else { 3 };
        let mut settled: Vec<(Time, u32)> = Vec::new();
        for _ in 0..if dice.one_in(3) { 0 } else { dice.below(most + 1) } {
            let left = if is_wild { 2 } else { held.slots };
            let count = if is_busy || dice.one_in(2) { left.min(1) } else { dice.below(u64::from(left) + 1) as u32 };
            if count > 0 {
                let oldest = if is_wild { 290_000 } else { self.clock.saturating_sub(held.granted).min(300_000) };
                // In a busy window some settles are reported after very many later ones.
                let oldest = if is_busy && dice.one_in(4) { 1_000_000 } else { oldest };
                let age = Duration::from_micros(dice.below(oldest / 10 + 1) * 10);
                settled.push((began - age, count));
                held.slots -= count.min(held.slots);
            }
        }
        settled.sort_unstable();
        let unused = if dice.one_in(6) { dice.below(u64::from(held.slots) + 1) as u32 } else { 0 };
        let returned = if is_wild && dice.one_in(5) { dice.below(3) as u32 } else { unused };
        let landed = if is_wild { dice.below(2) as u32 } else { dice.below(u64::from(held.flights) + 1) as u32 };
        held.slots -= returned.min(held.slots);
        held.flights -= landed.min(held.flights);
        let is_new = !std::mem::replace(&mut held.is_known, true) && !is_wild || dice.one_in(24);
        let pause = match dice.below(240) {
            0 => Duration::from_secs(3600),
            1..9 => Duration::from_millis(dice.below(500)),
            _ => Duration::ZERO,
        };
        WindowReport {
            window: 0,
            generation: 0,
            limit: LimitId(limit as u32),
            key: Key(key),
            params,
            is_new,
            held: if is_wild { dice.below(4) as u32 } else { held.slots },
            flying: if is_wild { dice.below(3) as u32 } else { held.flights },
            waiting: dice.below(if is_busy { 300 } else { 12 }),
            paused: if pause.is_zero() { Time::START } else { began + pause },
            settled,
            returned,
            landed,
        }
    }

    /// Applies a reply to what the gateway holds; `before` is what it held before the call.
    fn apply(
        &mut self,
        gateway: usize,
        command: Command,
        reply: &[i64],
        sync: &SyncRequest,
        before: BTreeMap<(usize, u128), HeldCounts>,
    ) {
        let known = &mut self.gateways[gateway];
        known.is_connected = reply[0] == 0 && command != Command::Bye;
        let value = redis::Value::Array(reply.iter().copied().map(redis::Value::Int).collect());
        let Ok(answer) = script_call::read(&value, sync) else {
            known.held = before;
            return;
        };
        for (request, grant) in sync.slot_requests.iter().zip(&answer.grants) {
            for (place, cost) in &request.windows {
                let report = &sync.windows[*place];
                let SlotGrant { groups, prefetch, .. } = grant;
                let requests: u32 = groups.iter().map(|(_, count)| count).sum();
                let held = known.held.entry((report.limit.0 as usize, report.key.0)).or_default();
                if held.slots == 0 {
                    held.granted = self.clock;
                }
                held.slots += requests * cost + prefetch;
                held.flights += if report.params.in_flight.is_some() { requests } else { 0 };
            }
        }
    }
}

//! Model of the script: a store in memory with the same arguments and replies. It counts naively
//! where the script is fast.

use std::collections::{BTreeMap, BTreeSet};

use super::model_params::{LimitParams, is_other};
use super::model_window::{BLOCKED, OpenWindow, Period, Window, grant_slots};
use super::world_mutants::WorldMutant;

/// Version of the data format.
pub(super) const VERSION: &str = "2";
/// Time after which the script drops a session that is gone, in µs.
const DAY: i64 = 86_400_000_000;

/// A store in memory. Times are µs of its clock.
#[derive(Clone, Default, Debug)]
pub(super) struct Model {
    pub(super) id: Option<String>,
    /// Version of the data format, if it is not that of the script; and the one under the key of
    /// version 1.
    pub(super) other_version: Option<String>,
    pub(super) first_version: Option<String>,
    pub(super) epoch_start: i64,
    pub(super) last: i64,
    /// Time until which each session counts as present.
    pub(super) present: BTreeMap<String, i64>,
    pub(super) named: BTreeMap<String, NamedGateway>,
    pub(super) windows: BTreeMap<String, Window>,
    /// By limit: time since which its `key` is in use, the session that first had it, and the
    /// `key`.
    pub(super) keyings: BTreeMap<String, (i64, String, String)>,
    /// Rule that is broken on purpose.
    pub(super) mutant: Option<WorldMutant>,
}

/// A gateway that may use its fraction during an outage.
#[derive(Clone, Copy, Debug)]
pub(super) struct NamedGateway {
    /// Time until which it counts as present; 0: it has signed off; 1: no call since its hello yet.
    pub(super) till: i64,
    /// Time since which it is present without a gap.
    pub(super) since: i64,
    /// Longest use of its fraction, and the number of fractions.
    pub(super) lasts: i64,
    pub(super) parts: i64,
}

/// Arguments of a call that concern the calling gateway, and the time of the call.
pub(super) struct CallArgs {
    pub(super) now: i64,
    pub(super) process: String,
    pub(super) session: String,
    pub(super) is_bye: bool,
    pub(super) horizon: i64,
    pub(super) horizon_most: i64,
    pub(super) lease: i64,
    pub(super) presence: i64,
    pub(super) name: String,
    pub(super) gateways: i64,
    pub(super) share_for: i64,
}

struct ArgReader<'a>(std::slice::Iter<'a, String>);

impl ArgReader<'_> {
    fn text(&mut self) -> String {
        self.0.next().expect("another argument").clone()
    }

    fn number(&mut self) -> i64 {
        self.text().parse().expect("a whole number")
    }
}

impl Model {
    /// Start of the store's epoch.
    pub(super) fn epoch_start(&self) -> i64 {
        self.epoch_start
    }

    pub(super) fn has(&self, mutant: WorldMutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Executes a call as EVALSHA does; returns the reply.
    pub(super) fn call(&mut self, keys: &[String], args: &[String]) -> Vec<i64> {
        let mut reader = ArgReader(args.iter());
        let clock = reader.number();
        let (id, process, session, command) = (reader.text(), reader.text(), reader.text(), reader.text());
        let (suspect_epoch, trusts_empty) = (reader.number(), reader.number() == 1);
        let (presence, horizon_most, lease) = (reader.number(), reader.number(), reader.number());
        let horizon = reader.number();
        let (name, gateways, share_for) = (reader.text(), reader.number(), reader.number());
        let is_hello = command == "hello";
        let is_other_version = self.id.is_some() && self.other_version.is_some()
            || is_hello && self.first_version.as_ref().is_some_and(|version| version != VERSION);
        if is_other_version && self.present.values().any(|till| *till >= clock) {
            return vec![4];
        }
        let epoch_start = match &self.id {
            _ if is_other_version && !is_hello => return vec![1],
            _ if is_other_version => Some(clock),
            None if !is_hello => return vec![1],
            None => Some(if trusts_empty { 0 } else { clock }),
            Some(known) if *known != id && self.has(WorldMutant::IdentityIgnored) => None,
            Some(known) if *known != id && !is_hello => return vec![2],
            Some(known) if *known != id => Some(clock),
            Some(_) if self.has(WorldMutant::DoubtIgnored) => None,
            Some(_) if suspect_epoch >= 0 && suspect_epoch == self.epoch_start => Some(clock),
            Some(_) => None,
        };
        if let Some(epoch_start) = epoch_start {
            let first_version = Some(VERSION.to_owned());
            let mutant = self.mutant;
            *self = Model { id: Some(id), first_version, epoch_start, last: clock, mutant, ..Model::default() };
        }
        let now = clock.max(self.last);
        self.last = now;
        if is_hello {
            self.present.retain(|_, till| *till > now - DAY);
        }
        let own = number_of(&session, &process);
        let has_another = self.present.iter().any(|(other, till)| *till >= now && number_of(other, &process) > own);
        if !is_hello && (has_another || self.present.get(&session).is_none_or(|till| *till < now)) {
            return vec![1];
        }
        let is_bye = command == "bye";
        let args = CallArgs {
            now,
            process,
            session,
            is_bye,
            horizon,
            horizon_most,
            lease,
            presence,
            name,
            gateways,
            share_for,
        };
        if gateways > 0 && !self.note_name(&args, if is_bye { 0 } else { now + presence }, is_hello) {
            return vec![3];
        }
        self.present.insert(args.session.clone(), if is_bye { now - 1 } else { now + presence });
        self.sync(&args, keys, &mut reader)
    }

    /// Notes the gateway's name and presence; returns false if there are too many names.
    fn note_name(&mut self, args: &CallArgs, till: i64, is_hello: bool) -> bool {
        let (now, parts, lasts) = (args.now, args.gateways, args.share_for);
        let before = match self.named.get(&args.name) {
            None if self.named.len() as i64 >= parts => return false,
            None => NamedGateway { till: 1, since: 0, lasts, parts },
            Some(known) => *known,
        };
        let mine = match (before, is_hello) {
            (NamedGateway { till: 1, .. }, true) => NamedGateway { lasts, parts, ..before },
            (NamedGateway { till: 0, .. }, true) => NamedGateway { since: 0, ..before },
            (_, true) => before,
            (_, false) if !self.named.contains_key(&args.name) => NamedGateway { till, ..before },
            (NamedGateway { till: 0, .. }, false) => NamedGateway { till, since: 0, lasts, parts },
            (NamedGateway { till: 1, .. }, false) => {
                NamedGateway { till, since: if self.epoch_start > 0 { now } else { 0 }, lasts, parts }
            }
            (known, false) => {
                NamedGateway { till, since: if known.till < now { now } else { known.since }, lasts, parts }
            }
        };
        self.named.insert(args.name.clone(), mine);
        true
    }

    /// Number of slots of `all` that are reserved for gateways that may send without reports.
    fn reserved(&self, args: &CallArgs, all: i64, span: i64) -> i64 {
        let now = args.now;
        let is_unseen = |one: &&NamedGateway| match one.till {
            0 | 1 => false,
            _ if self.has(WorldMutant::FractionsGivenAway) => false,
            till if till < now && self.has(WorldMutant::FractionFreeAtItsEnd) => now < till + one.lasts,
            till if till < now => now < till + one.lasts + args.lease + span,
            _ if self.has(WorldMutant::FractionFreeOnReturn) => false,
            _ => one.since > 0 && now < one.since + span,
        };
        let known: i64 = self.named.values().filter(is_unseen).map(|one| all / one.parts).sum();
        let own = (args.gateways > 0).then_some(args.gateways);
        let parts = || self.named.values().map(|one| one.parts).chain(own);
        let longest = self.named.values().map(|one| one.lasts).max().unwrap_or(0).max(args.share_for);
        let spoken = self.named.values().filter(|one| one.till != 1).count() as i64;
        let unknown = (parts().max().unwrap_or(0) - spoken).max(0);
        let young = !self.has(WorldMutant::UnknownFractionsGivenAway)
            && !self.has(WorldMutant::FractionsGivenAway)
            && self.epoch_start > 0
            && now < self.epoch_start + longest + args.lease + span;
        known + if young { unknown * (all / parts().min().unwrap_or(1)) } else { 0 }
    }

    /// Returns true if another gateway has other settings of the fallback.
    fn settings_mismatch(&self, args: &CallArgs) -> bool {
        self.named.iter().filter(|(name, _)| **name != args.name).any(|(_, one)| {
            let counts = one.till == 1 || one.till > 1 && args.now < one.till + one.lasts + args.lease;
            counts && (one.lasts, one.parts) != (args.share_for, args.gateways)
        })
    }

    fn sync(&mut self, args: &CallArgs, keys: &[String], reader: &mut ArgReader<'_>) -> Vec<i64> {
        let count = reader.number();
        let mut open: Vec<OpenWindow> = Vec::new();
        for index in 0..count as usize {
            let mut window = self.open(&keys[4 + 2 * index], args, reader);
            let span = window.window.span + window.params.linger;
            let left = |all: i64| all - self.reserved(args, all, span);
            (window.room, window.most_flying) = (left(window.params.requests), left(window.params.in_flight));
            open.push(window);
        }
        let mut answer = vec![0, args.now, self.epoch_start, i64::from(self.settings_mismatch(args)), 0];
        for (window, place) in open.iter().zip(1..).filter(|(window, _)| !window.causes.is_empty()) {
            answer[4] += 1;
            answer.extend([place, window.causes.iter().sum(), window.window.span]);
        }
        let alive = self.present.values().filter(|till| **till >= args.now).count() as i64;
        for _ in 0..reader.number() {
            let (most, wanted) = (reader.number(), reader.number());
            let parts: Vec<(usize, i64)> =
                (0..reader.number()).map(|_| (reader.number() as usize - 1, reader.number())).collect();
            grant_slots(&mut open, args, &parts, (most, wanted), alive, &mut answer);
        }
        for mut window in open {
            let free = window.free();
            window.window.free_since = if free > 0 { window.window.free_since.or(Some(args.now)) } else { None };
            let own = window.window.shares.entry(args.session.clone()).or_default();
            if args.is_bye {
                (own.flying, own.waiting) = (0, 0);
            }
            self.windows.insert(window.key, window.window);
        }
        answer
    }

    /// Time since which the limit's windows have their `key`, and true if that is the caller's: it
    /// is not while a present gateway has another one.
    fn keyed_since(&mut self, limit: &str, keyed_by: &str, args: &CallArgs) -> (i64, bool) {
        let is_other = |session: &String| is_other(&self.present, args, session);
        let (since, whose) = match self.keyings.get(limit) {
            None => (0, None),
            Some((since, whose, known)) if known == keyed_by => (*since, Some(whose)),
            Some((_, whose, _)) if !is_other(whose) => (args.now, None),
            Some((since, ..)) => return (*since, false),
        };
        // The caller takes over if the session that first had this `key` is gone.
        if !whose.is_some_and(is_other) {
            self.keyings.insert(limit.to_owned(), (since, args.session.clone(), keyed_by.to_owned()));
        }
        (since, true)
    }

    fn open(&mut self, key: &str, args: &CallArgs, reader: &mut ArgReader<'_>) -> OpenWindow {
        let (is_new, kind, requests, span) = (reader.number() == 1, reader.text(), reader.number(), reader.number());
        let (quantum, interval, burst) = (reader.number(), reader.number(), reader.number());
        let (in_flight, linger) = (reader.number(), reader.number());
        let bounds = [reader.number(), reader.number(), reader.number()];
        let (calendar, limit, keyed_by) = (reader.text(), reader.text(), reader.text());
        let before = self.windows.get(key).cloned();
        let is_known = before.is_some();
        let mut open = OpenWindow {
            key: key.to_owned(),
            window: before.unwrap_or_default(),
            params: LimitParams {
                requests,
                span,
                in_flight,
                kind,
                interval,
                burst,
                linger,
                calendar,
                unreadable: None,
            },
            quantum,
            bounds,
            horizon: 0,
            late: 0,
            unlogged: Vec::new(),
            mutant: self.mutant,
            causes: BTreeSet::new(),
            room: 0,
            most_flying: 0,
        };
        let report = open.merge_params(&self.present, args);
        let (span, linger) = (open.params.span, open.params.linger);
        let floor_is_span = self.has(WorldMutant::FloorIsSpan);
        let closed = if floor_is_span { span } else { args.horizon_most + args.lease + linger + span };
        let (since, has_this_key) = self.keyed_since(&limit, &keyed_by, args);
        if !has_this_key {
            open.causes.extend([512, BLOCKED]);
        }
        if since > 0 {
            open.window.floor = open.window.floor.max(since + closed);
        }
        if is_known && open.window.kind != open.params.kind {
            open.window.log.clear();
            open.window.settled = 0;
            open.window.period = Period::default();
            open.window.floor = open.window.floor.max(args.now + span);
        } else if is_known && span > open.window.span {
            open.window.floor = open.window.floor.max(args.now + span - open.window.span);
        }
        (open.window.kind, open.window.span) = (open.params.kind.clone(), span);
        if self.epoch_start > 0 {
            open.window.floor = open.window.floor.max(self.epoch_start + closed);
        }
        open.horizon = args.horizon.min(span / 4);
        if report.kind == "calendar" && open.window.kind == "calendar" {
            open.find_period(&self.present, args, &report);
        }
        open.settle_dead(&self.present, args, is_new);
        self.apply_report(&mut open, args, is_new, reader);
        open.expire(args.now);
        open
    }

    /// Applies the caller's report of a window. `is_new`: the report is complete.
    fn apply_report(&self, open: &mut OpenWindow, args: &CallArgs, is_new: bool, reader: &mut ArgReader<'_>) {
        let mut own = open.window.shares.get(&args.session).cloned().unwrap_or_default();
        let (held, flying) = (reader.number(), reader.number());
        if is_new {
            own.held = if self.has(WorldMutant::NewSessionHoldsNothing) { 0 } else { held };
            own.flying = if self.has(WorldMutant::NewSessionFliesNothing) { 0 } else { flying };
        }
        own.waiting = reader.number();
        let pause = args.now + reader.number();
        if !self.has(WorldMutant::PauseForgotten) {
            open.window.paused = open.window.paused.max(pause);
        }
        let (returned, landed) = (reader.number(), reader.number());
        if !is_new {
            (own.held, own.flying) = ((own.held - returned).max(0), (own.flying - landed).max(0));
        }
        for _ in 0..reader.number() {
            let (age, count) = (reader.number(), reader.number());
            let age = if self.has(WorldMutant::SettlesEarly) { 2 * age } else { age };
            open.settle(args.now + 1 - age + open.late, count);
            if !is_new {
                own.held = (own.held - count).max(0);
            }
        }
        open.window.shares.insert(args.session.clone(), own);
        open.write_log();
    }
}

/// The number in a session name of this process; `None` for another process.
pub(super) fn number_of(session: &str, process: &str) -> Option<u64> {
    session.strip_prefix(process)?.strip_prefix('.')?.parse().ok()
}

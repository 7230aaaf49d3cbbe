//! What the script is to do, once more and in plain words: a store in memory that takes the same arguments and gives the
//! same answers. It counts naively, where the script is quick.

use std::collections::{BTreeMap, BTreeSet};

use super::model_terms::{Terms, is_other};
use super::model_window::{Open, Period, SHUT, Window, take};

/// A store.
#[derive(Clone, Default, Debug)]
pub(super) struct Model {
    id: Option<String>,
    epoch_start: i64,
    last: i64,
    /// Until when an epoch counts as there.
    present: BTreeMap<String, i64>,
    named: BTreeMap<String, Named>,
    windows: BTreeMap<String, Window>,
    /// Limit -> since when, by whom it was said, and by what its windows are told apart.
    keyings: BTreeMap<String, (i64, String, String)>,
}

/// A gateway that may go on with its part.
#[derive(Clone, Copy, Debug)]
struct Named {
    /// Until when it was there last; 0: it has signed off; 1: it has not spoken yet.
    till: i64,
    /// Since when without a gap.
    since: i64,
    /// For how long it goes on when it is cut off, and with which part.
    lasts: i64,
    parts: i64,
}

/// Who calls, and when.
pub(super) struct Caller {
    pub(super) now: i64,
    pub(super) process: String,
    pub(super) session: String,
    pub(super) is_bye: bool,
    pub(super) horizon: i64,
    pub(super) horizon_most: i64,
    pub(super) lease: i64,
    pub(super) name: String,
    pub(super) gateways: i64,
    pub(super) share_for: i64,
}

struct Words<'a>(std::slice::Iter<'a, String>);

impl Words<'_> {
    fn word(&mut self) -> String {
        self.0.next().expect("another argument").clone()
    }

    fn number(&mut self) -> i64 {
        self.word().parse().expect("a whole number")
    }
}

impl Model {
    /// Since when it counts.
    pub(super) fn epoch_start(&self) -> i64 {
        self.epoch_start
    }

    /// As EVALSHA.
    pub(super) fn call(&mut self, keys: &[String], args: &[String]) -> Vec<i64> {
        let mut words = Words(args.iter());
        let given = words.number();
        let (id, process, session, command) = (words.word(), words.word(), words.word(), words.word());
        let (suspect_epoch, trusts_empty) = (words.number(), words.number() == 1);
        let (presence, horizon_most, lease) = (words.number(), words.number(), words.number());
        let horizon = words.number();
        let (name, gateways, share_for) = (words.word(), words.number(), words.number());
        let is_hello = command == "hello";
        let epoch_start = match &self.id {
            None if !is_hello => return vec![1],
            None => Some(if trusts_empty { 0 } else { given }),
            Some(known) if *known != id && !is_hello => return vec![2],
            Some(known) if *known != id => Some(given),
            Some(_) if suspect_epoch >= 0 && suspect_epoch == self.epoch_start => Some(given),
            Some(_) => None,
        };
        if let Some(epoch_start) = epoch_start {
            let windows = std::mem::take(&mut self.windows);
            *self = Model { id: Some(id), epoch_start, last: given, windows, ..Model::default() };
            self.windows.clear();
            if !is_hello {
                return vec![1];
            }
        }
        let now = given.max(self.last);
        self.last = now;
        let own = number_of(&session, &process);
        let has_another = self.present.iter().any(|(other, till)| *till >= now && number_of(other, &process) > own);
        if !is_hello && (has_another || self.present.get(&session).is_none_or(|till| *till < now)) {
            return vec![1];
        }
        let is_bye = command == "bye";
        let caller = Caller { now, process, session, is_bye, horizon, horizon_most, lease, name, gateways, share_for };
        if gateways > 0 && !self.name(&caller, if is_bye { 0 } else { now + presence }, is_hello) {
            return vec![3];
        }
        self.present.insert(caller.session.clone(), if is_bye { now - 1 } else { now + presence });
        self.sync(&caller, keys, &mut words)
    }

    /// Notes that a name is there; `false`: there are too many.
    fn name(&mut self, caller: &Caller, till: i64, is_hello: bool) -> bool {
        let (now, parts, lasts) = (caller.now, caller.gateways, caller.share_for);
        let before = match self.named.get(&caller.name) {
            None if self.named.len() as i64 >= parts => return false,
            None => Named { till: 1, since: 0, lasts, parts },
            Some(known) => *known,
        };
        let mine = match (before, is_hello) {
            (Named { till: 1, .. }, true) => Named { lasts, parts, ..before },
            (Named { till: 0, .. }, true) => Named { since: 0, ..before },
            (_, true) => before,
            (_, false) if !self.named.contains_key(&caller.name) => Named { till, ..before },
            (Named { till: 0, .. }, false) => Named { till, since: 0, lasts, parts },
            (Named { till: 1, .. }, false) => {
                Named { till, since: if self.epoch_start > 0 { now } else { 0 }, lasts, parts }
            }
            (known, false) => Named { till, since: if known.till < now { now } else { known.since }, lasts, parts },
        };
        self.named.insert(caller.name.clone(), mine);
        true
    }

    /// How many of `all` are left alone for gateways that may be sending unseen.
    fn withheld(&self, caller: &Caller, all: i64, span: i64) -> i64 {
        let now = caller.now;
        let is_unseen = |one: &&Named| match one.till {
            0 | 1 => false,
            till if till < now => now < till + one.lasts + caller.lease + span,
            _ => one.since > 0 && now < one.since + span,
        };
        let known: i64 = self.named.values().filter(is_unseen).map(|one| all / one.parts).sum();
        let own = (caller.gateways > 0).then_some(caller.gateways);
        let parts = || self.named.values().map(|one| one.parts).chain(own);
        let longest = self.named.values().map(|one| one.lasts).max().unwrap_or(0).max(caller.share_for);
        let spoken = self.named.values().filter(|one| one.till != 1).count() as i64;
        let unknown = (parts().max().unwrap_or(0) - spoken).max(0);
        let young = self.epoch_start > 0 && now < self.epoch_start + longest + caller.lease + span;
        known + if young { unknown * (all / parts().min().unwrap_or(1)) } else { 0 }
    }

    /// Whether another gateway says something else of gateways that are cut off.
    fn settings_mismatch(&self, caller: &Caller) -> bool {
        self.named.iter().filter(|(name, _)| **name != caller.name).any(|(_, one)| {
            let counts = one.till == 1 || one.till > 1 && caller.now < one.till + one.lasts + caller.lease;
            counts && (one.lasts, one.parts) != (caller.share_for, caller.gateways)
        })
    }

    fn sync(&mut self, caller: &Caller, keys: &[String], words: &mut Words<'_>) -> Vec<i64> {
        let count = words.number();
        let mut open: Vec<Open> = Vec::new();
        for index in 0..count as usize {
            let mut window = self.open(&keys[4 + 2 * index], caller, words);
            let span = window.window.span + window.params.linger;
            let left = |all: i64| all - self.withheld(caller, all, span);
            (window.room, window.most_flying) = (left(window.params.requests), left(window.params.in_flight));
            open.push(window);
        }
        let mut answer = vec![0, caller.now, self.epoch_start, i64::from(self.settings_mismatch(caller)), 0];
        for (window, place) in open.iter().zip(1..).filter(|(window, _)| !window.causes.is_empty()) {
            answer[4] += 1;
            answer.extend([place, window.causes.iter().sum(), window.window.span]);
        }
        let alive = self.present.values().filter(|till| **till >= caller.now).count() as i64;
        for _ in 0..words.number() {
            let (most, wanted) = (words.number(), words.number());
            let parts: Vec<(usize, i64)> =
                (0..words.number()).map(|_| (words.number() as usize - 1, words.number())).collect();
            take(&mut open, caller, &parts, (most, wanted), alive, &mut answer);
        }
        for mut window in open {
            let free = window.free();
            window.window.free_since = if free > 0 { window.window.free_since.or(Some(caller.now)) } else { None };
            let own = window.window.parts.entry(caller.session.clone()).or_default();
            if caller.is_bye {
                (own.flying, own.waiting) = (0, 0);
            }
            self.windows.insert(window.key, window.window);
        }
        answer
    }

    /// Since when a limit's windows are told apart as the caller does; nothing: others that are there do otherwise.
    fn keyed_since(&mut self, limit: &str, keyed: &str, caller: &Caller) -> Option<i64> {
        let is_other = |session: &String| is_other(&self.present, caller, session);
        let (since, whose) = match self.keyings.get(limit) {
            None => (0, None),
            Some((since, whose, known)) if known == keyed => (*since, Some(whose)),
            Some((_, whose, _)) if !is_other(whose) => (caller.now, None),
            Some(_) => return None,
        };
        // It says so from here on, if the one that did is gone.
        if !whose.is_some_and(is_other) {
            self.keyings.insert(limit.to_owned(), (since, caller.session.clone(), keyed.to_owned()));
        }
        Some(since)
    }

    fn open(&mut self, key: &str, caller: &Caller, words: &mut Words<'_>) -> Open {
        let (fresh, kind, requests, span) = (words.number() == 1, words.word(), words.number(), words.number());
        let (quantum, interval, burst) = (words.number(), words.number(), words.number());
        let (in_flight, linger) = (words.number(), words.number());
        let bounds = [words.number(), words.number(), words.number()];
        let (calendar, limit, keyed) = (words.word(), words.word(), words.word());
        let before = self.windows.get(key).cloned();
        let is_known = before.is_some();
        let mut open = Open {
            key: key.to_owned(),
            window: before.unwrap_or_default(),
            params: Terms { requests, span, in_flight, kind, interval, burst, linger, calendar },
            quantum,
            bounds,
            horizon: 0,
            late: 0,
            fresh: Vec::new(),
            causes: BTreeSet::new(),
            room: 0,
            most_flying: 0,
        };
        let report = open.agree(&self.present, caller);
        let (span, linger) = (open.params.span, open.params.linger);
        let closed = caller.horizon_most + caller.lease + linger + span;
        match self.keyed_since(&limit, &keyed, caller) {
            None => open.causes.extend([512, SHUT]),
            Some(0) => {}
            Some(since) => open.window.floor = open.window.floor.max(since + closed),
        }
        if is_known && open.window.kind != open.params.kind {
            open.window.log.clear();
            open.window.settled = 0;
            open.window.period = Period::default();
            open.window.floor = open.window.floor.max(caller.now + span);
        } else if is_known && span > open.window.span {
            open.window.floor = open.window.floor.max(caller.now + span - open.window.span);
        }
        (open.window.kind, open.window.span) = (open.params.kind.clone(), span);
        if self.epoch_start > 0 {
            open.window.floor = open.window.floor.max(self.epoch_start + closed);
        }
        open.horizon = caller.horizon.min(span / 4);
        if report.kind == "calendar" && open.window.kind == "calendar" {
            open.find_period(&self.present, caller, &report);
        }
        open.bury(&self.present, caller, fresh);
        let mut own = open.window.parts.get(&caller.session).cloned().unwrap_or_default();
        let (held, flying) = (words.number(), words.number());
        if fresh {
            (own.held, own.flying) = (held, flying);
        }
        own.waiting = words.number();
        open.window.paused = open.window.paused.max(caller.now + words.number());
        let (returned, landed) = (words.number(), words.number());
        if !fresh {
            (own.held, own.flying) = ((own.held - returned).max(0), (own.flying - landed).max(0));
        }
        for _ in 0..words.number() {
            let (age, count) = (words.number(), words.number());
            open.settle(caller.now + 1 - age + open.late, count);
            if !fresh {
                own.held = (own.held - count).max(0);
            }
        }
        open.window.parts.insert(caller.session.clone(), own);
        open.write_log();
        open.expire(caller.now);
        open
    }
}

/// The number of a process's name; nothing if it is another's.
pub(super) fn number_of(session: &str, process: &str) -> Option<u64> {
    session.strip_prefix(process)?.strip_prefix('.')?.parse().ok()
}

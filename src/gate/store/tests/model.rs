//! What the script is to do, once more and in plain words: a store in memory that takes the same arguments and gives the
//! same answers. It counts naively, where the script is quick.

use std::collections::BTreeMap;

use super::model_window::{Open, Window, take};

/// A store.
#[derive(Clone, Default, Debug)]
pub(super) struct Model {
    id: Option<String>,
    born: i64,
    last: i64,
    /// Until when an epoch counts as there.
    present: BTreeMap<String, i64>,
    /// Until when a name was there last (0: it has signed off), and since when without a gap.
    named: BTreeMap<String, (i64, i64)>,
    windows: BTreeMap<String, Window>,
}

/// Who calls, and when.
pub(super) struct Caller {
    pub(super) now: i64,
    pub(super) process: String,
    pub(super) epoch: String,
    pub(super) is_bye: bool,
    pub(super) horizon: i64,
    pub(super) horizon_most: i64,
    pub(super) lease: i64,
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
    pub(super) fn born(&self) -> i64 {
        self.born
    }

    /// As EVALSHA.
    pub(super) fn call(&mut self, keys: &[String], args: &[String]) -> Vec<i64> {
        let mut words = Words(args.iter());
        let given = words.number();
        let (id, process, epoch, verb) = (words.word(), words.word(), words.word(), words.word());
        let (doubted, trusts_empty) = (words.number(), words.number() == 1);
        let (presence, horizon_most, lease) = (words.number(), words.number(), words.number());
        let horizon = words.number();
        let (name, gateways, share_for) = (words.word(), words.number(), words.number());
        let is_hello = verb == "hello";
        let born = match &self.id {
            None if !is_hello => return vec![1],
            None => Some(if trusts_empty { 0 } else { given }),
            Some(known) if *known != id && !is_hello => return vec![2],
            Some(known) if *known != id => Some(given),
            Some(_) if doubted >= 0 && doubted == self.born => Some(given),
            Some(_) => None,
        };
        if let Some(born) = born {
            let windows = std::mem::take(&mut self.windows);
            *self = Model { id: Some(id), born, last: given, windows, ..Model::default() };
            self.windows.clear();
            if !is_hello {
                return vec![1];
            }
        }
        let now = given.max(self.last);
        self.last = now;
        let own = number_of(&epoch, &process);
        let has_another = self.present.iter().any(|(other, till)| *till >= now && number_of(other, &process) > own);
        if !is_hello && (has_another || self.present.get(&epoch).is_none_or(|till| *till < now)) {
            return vec![1];
        }
        let is_bye = verb == "bye";
        if gateways > 0 && !self.name(&name, gateways, if is_bye { 0 } else { now + presence }, now, is_hello) {
            return vec![3];
        }
        if is_bye {
            self.present.insert(epoch.clone(), now - 1);
        } else {
            self.present.insert(epoch.clone(), now + presence);
        }
        let caller = Caller { now, process, epoch, is_bye, horizon, horizon_most, lease, gateways, share_for };
        self.exchange(&caller, keys, &mut words)
    }

    /// Notes that a name is there; `false`: there are too many.
    fn name(&mut self, name: &str, gateways: i64, till: i64, now: i64, is_hello: bool) -> bool {
        let (before, since) = match self.named.get(name) {
            None if self.named.len() as i64 >= gateways => return false,
            None => (1, 0),
            Some((0, _)) => (0, 0),
            Some((1, _)) if !is_hello => (1, if self.born > 0 { now } else { 0 }),
            Some((before, _)) if *before < now && !is_hello => (*before, now),
            Some(known) => *known,
        };
        self.named.insert(name.to_owned(), (if is_hello { before } else { till }, since));
        true
    }

    /// How many gateways may be sending unseen.
    fn unseen(&self, caller: &Caller, span: i64) -> i64 {
        if caller.gateways == 0 {
            return 0;
        }
        let now = caller.now;
        let is_unseen = |(till, since): &(i64, i64)| match *till {
            0 | 1 => false,
            till if till < now => now < till + caller.share_for + caller.lease + span,
            _ => *since > 0 && now < since + span,
        };
        let known = self.named.values().filter(|one| is_unseen(one)).count() as i64;
        let spoken = self.named.values().filter(|(till, _)| *till != 1).count() as i64;
        let young = self.born > 0 && now < self.born + caller.share_for + caller.lease + span;
        known + if young { (caller.gateways - spoken).max(0) } else { 0 }
    }

    fn exchange(&mut self, caller: &Caller, keys: &[String], words: &mut Words<'_>) -> Vec<i64> {
        let count = words.number();
        let mut open: Vec<Open> = Vec::new();
        for index in 0..count as usize {
            let mut window = self.open(&keys[2 + 2 * index], caller, words);
            let unseen = self.unseen(caller, window.window.span + window.linger);
            let part = |all: i64| if caller.gateways > 0 { unseen * (all / caller.gateways) } else { 0 };
            window.room = window.requests - part(window.requests);
            window.most_flying = window.in_flight - part(window.in_flight);
            open.push(window);
        }
        let mixed = open.iter().rposition(|window| window.mixed).map_or(0, |place| place as i64 + 1);
        let mut answer = vec![0, caller.now, self.born, mixed];
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
            let own = window.window.parts.entry(caller.epoch.clone()).or_default();
            if caller.is_bye {
                (own.flying, own.waiting) = (0, 0);
            }
            self.windows.insert(window.key, window.window);
        }
        answer
    }

    fn open(&mut self, key: &str, caller: &Caller, words: &mut Words<'_>) -> Open {
        let (fresh, told, requests, span) = (words.number() == 1, words.word(), words.number(), words.number());
        let (quantum, interval, burst) = (words.number(), words.number(), words.number());
        let (in_flight, linger) = (words.number(), words.number());
        let bounds = [words.number(), words.number(), words.number()];
        let before = self.windows.get(key).cloned();
        let is_known = before.is_some();
        let mut open = Open {
            key: key.to_owned(),
            window: before.unwrap_or_default(),
            requests,
            quantum,
            interval,
            burst,
            in_flight,
            linger,
            bounds,
            horizon: 0,
            fresh: Vec::new(),
            mixed: false,
            shut: false,
            room: 0,
            most_flying: 0,
        };
        let (span, kind) = open.agree(&self.present, caller, (requests, span, in_flight), told);
        if is_known && open.window.kind != kind {
            open.window.log.clear();
            open.window.settled = 0;
            open.window.floor = open.window.floor.max(caller.now + span);
        } else if is_known && span > open.window.span {
            open.window.floor = open.window.floor.max(caller.now + span - open.window.span);
        }
        (open.window.kind, open.window.span) = (kind, span);
        if self.born > 0 {
            open.window.floor = open.window.floor.max(self.born + caller.horizon_most + caller.lease + linger + span);
        }
        open.horizon = caller.horizon.min(span / 4);
        if open.window.kind == "calendar" {
            // The last period that has begun.
            if let Some(start) = bounds.iter().copied().filter(|start| *start <= caller.now).max()
                && start > open.window.period
            {
                (open.window.period, open.window.settled) = (start, 0);
            }
            if caller.now >= bounds[2] {
                (open.shut, open.mixed) = (true, true);
            }
        }
        open.bury(&self.present, caller, fresh);
        let mut own = open.window.parts.get(&caller.epoch).cloned().unwrap_or_default();
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
            open.settle(caller.now + 1 - age, count);
            if !fresh {
                own.held = (own.held - count).max(0);
            }
        }
        open.window.parts.insert(caller.epoch.clone(), own);
        open.write_log();
        open.expire(caller.now);
        open
    }
}

/// The number of a process's name; nothing if it is another's.
pub(super) fn number_of(epoch: &str, process: &str) -> Option<u64> {
    epoch.strip_prefix(process)?.strip_prefix('.')?.parse().ok()
}

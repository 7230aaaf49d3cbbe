//! Counter snapshot: all state of a locker, for restart, crash recovery and upgrade.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use super::Locker;
use super::api::LimitId;
use super::limit::Limit;
use super::limit_table::LimitTable;
use super::wall_clock::{WallClock, WallReading, WallSample};
use super::window::{UnknownSlots, Window, WindowRule};
use super::window_record::{LateSlots, WindowRecord};
use super::window_table::WindowTable;
use crate::time::Time;

/// All counters and limits of a locker.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Snapshot {
    /// All limits, by `LimitId`.
    pub limits: Vec<LimitSnapshot>,
    /// Records of all windows that are not blank, and blank ones of the windows that have a record
    /// in the journal, so that the process that goes on with its file removes these.
    pub windows: Vec<WindowRecord>,
    /// Recent readings of the wall clock.
    pub readings: Vec<WallReading>,
}

/// State of one limit, apart from its windows.
#[derive(Clone, PartialEq, Debug)]
pub struct LimitSnapshot {
    /// Definition of the limit.
    pub limit: Limit,
    /// True if the limit is part of the latest configuration.
    pub in_force: bool,
    /// Time from which on every count is known.
    pub since: Time,
    /// Slots that each window may have taken beyond its record: latest settle time and number;
    /// oldest first.
    pub unknown: Vec<(Time, u32)>,
    /// As `unknown`, but they count only once the limit is neither shared nor a dry run.
    pub suspended: Vec<(Time, u32)>,
    /// Flights of an earlier rule that counted from the answer: the time until which they may be
    /// under way, and for how long after an end of the process the origin may still count them.
    pub lingers: Option<(Time, Duration)>,
}

/// Way in which the earlier locker ended: decides how complete its snapshot is, and whether its
/// requests go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// Upgrade: complete, and requests under way go on and are reported later (see
    /// [`Locker::handle_remote`]).
    HandOver,
    /// Orderly stop: complete, written to disk at the end.
    Orderly,
    /// Crash: contains everything that must be written to the journal before its use.
    Crash,
    /// Crash after failed writes: less than that.
    NotPersisted,
}

impl LimitTable {
    /// Snapshots of all limits, by `LimitId`.
    pub(super) fn snapshots(&self) -> Vec<LimitSnapshot> {
        let plain = |unknown: &[UnknownSlots]| unknown.iter().map(|unknown| (unknown.at, unknown.slots)).collect();
        let limit_snapshot = |(limit, rule): (&Limit, &WindowRule)| LimitSnapshot {
            limit: limit.clone(),
            in_force: true,
            since: rule.since,
            unknown: plain(&rule.unknown),
            suspended: plain(&rule.suspended),
            lingers: rule.lingers,
        };
        let mut all: Vec<LimitSnapshot> = self.all.iter().zip(&self.rules).map(limit_snapshot).collect();
        for (id, limit_snapshot) in (0..).map(LimitId).zip(&mut all) {
            limit_snapshot.in_force = self.is_in_force(id);
        }
        all
    }
}

impl Snapshot {
    /// Snapshot of these limits and windows. `late`: the slots of each window that settle by
    /// themselves, and at what time.
    pub(super) fn of(
        limits: &LimitTable,
        table: &mut WindowTable,
        mut late: HashMap<u32, Vec<(Time, u32)>>,
        wall: &WallClock,
        now: Time,
    ) -> Snapshot {
        let mut windows = Vec::new();
        for id in &limits.ids {
            let rule = &limits.rules[id.at()];
            for index in table.of_limit(*id) {
                let window = table.window_unnoted(index);
                window.expire(rule, now);
                if !window.is_blank(rule, now) || window.is_persisted() {
                    let mut late = late.remove(&index).unwrap_or_default();
                    late.sort_unstable();
                    let settling: u32 = late.iter().map(|(_, cost)| cost).sum();
                    let open = window.unsettled.saturating_sub(settling);
                    windows.push(WindowRecord { late, ..window.record(rule, open, usize::MAX) });
                }
            }
        }
        let dropped = table.dropped.iter().filter(|(limit, key)| table.find(*limit, *key).is_none());
        windows.extend(dropped.map(|(limit, key)| WindowRecord::blank(*limit, *key)));
        Snapshot { limits: limits.snapshots(), windows, readings: wall.readings() }
    }
}

impl Locker {
    /// Complete snapshot at `now`. Unsettled slots count as open, except those of failed attempts,
    /// which have a known settle time.
    pub fn snapshot(&mut self, now: Time) -> Snapshot {
        let now = self.advance(now);
        let mut late: HashMap<u32, Vec<(Time, u32)>> = HashMap::new();
        for Reverse(later) in &self.late_settles {
            late.entry(later.window).or_default().push((later.at, later.cost));
        }
        if !self.is_persisting() {
            // No journal has records of theirs: the next process need not know them either.
            self.counters.table.dropped = Vec::new();
        }
        Snapshot::of(&self.counters.limits, &mut self.counters.table, late, &self.wall, now)
    }

    /// A locker that continues from the snapshot of an earlier one. Slots that were open settle at
    /// `now`, and a linger later if their limit counts from the response; after a hand-over they stay
    /// open, since the old process still settles them.
    pub fn restore(snapshot: Snapshot, shutdown: Shutdown, wall: WallSample, now: Time) -> Locker {
        let mut locker = Locker::new(Vec::new());
        locker.wall = WallClock::restore(snapshot.readings, wall, now);
        locker.last = now;
        for (limit_snapshot, id) in snapshot.limits.into_iter().zip(0..) {
            locker.restore_limit(LimitId(id), limit_snapshot, shutdown, now);
        }
        for record in snapshot.windows {
            locker.restore_window(record, shutdown, now);
        }
        locker.update_due();
        locker
    }

    /// Adds a limit from a snapshot, with the slots that the shutdown has made unknown.
    fn restore_limit(&mut self, id: LimitId, limit_snapshot: LimitSnapshot, shutdown: Shutdown, now: Time) {
        let LimitSnapshot { limit, in_force, since, unknown, suspended, lingers } = limit_snapshot;
        // A limit that is no longer in force was turned into a dry run; nothing has been sent under it since.
        let is_written_here = !(limit.shared || limit.dry_run && in_force);
        self.add(limit);
        if !in_force {
            self.counters.limits.retired.insert(id);
        }
        let rule = &mut self.counters.limits.rules[id.at()];
        rule.since = since;
        rule.lingers = lingers;
        let settled = mutant!(rule.settled_at_end(now), "a crash ends answers on their way", now);
        // The requests of a process end with it, unless it hands over.
        let latest = if shutdown == Shutdown::HandOver { Time::NEVER } else { settled };
        let restored = |unknown: Vec<(Time, u32)>| {
            unknown.into_iter().map(|(at, slots)| UnknownSlots { at: at.min(latest), slots }).collect()
        };
        (rule.unknown, rule.suspended) = (restored(unknown), restored(suspended));
        rule.forget_unknown(now);
        let lost = match mutant!(shutdown, "unknown slots are not counted after a crash", Shutdown::Orderly) {
            Shutdown::HandOver | Shutdown::Orderly => None,
            // The journal knows all of a long window, except the allowance that every new key starts with.
            Shutdown::Crash if rule.is_long() && is_written_here => {
                let block = mutant!(rule.block, "the prewritten block is not counted after a crash", 0);
                Some(UnknownSlots { at: settled, slots: block })
            }
            Shutdown::Crash | Shutdown::NotPersisted => Some(UnknownSlots::all(settled)),
        };
        match lost.filter(|lost| lost.slots > 0 && rule.counts_slots()) {
            Some(lost) if is_written_here => rule.add_unknown(lost, now),
            // The store lost nothing in the gateway's crash, and a dry run delays nothing.
            Some(lost) => rule.suspend_unknown(lost, now),
            None => {}
        }
    }

    /// Inserts a window of a process that goes on, and holds what is open in it.
    fn restore_with_flights(&mut self, mut record: WindowRecord, now: Time) {
        let (limit, key, late) = (record.limit, record.key, std::mem::take(&mut record.late));
        record.open += late.iter().map(|(_, cost)| cost).sum::<u32>();
        self.put_copied(record, now);
        late.into_iter().for_each(|(at, cost)| self.settle_copied(LateSlots { limit, key, at, cost }, now));
    }

    /// Inserts a window from its record, unless nothing of it counts any more.
    fn restore_window(&mut self, mut record: WindowRecord, shutdown: Shutdown, now: Time) {
        let Some(rule) = self.counters.limits.rules.get_mut(record.limit.at()) else { return };
        let settled = rule.settled_at_end(now);
        if shutdown == Shutdown::Crash && record.open > 0 && rule.is_long() && !rule.shared && !rule.dry_run {
            // A record of an orderly stop may have outlived its window, and hide a block that the next one of its key has used.
            // A page names a block in any case.
            record.open = record.open.max(rule.block);
        }
        record.cap_slots();
        let window = match shutdown {
            Shutdown::HandOver => return self.restore_with_flights(record, now),
            Shutdown::Orderly => Window::restored(&record, rule, [].iter(), settled, now),
            // A crash loses nothing of a persisted window; but its record may be older than the unknown slots.
            Shutdown::Crash | Shutdown::NotPersisted => {
                let unknown = rule.unknown.iter().filter(|unknown| unknown.is_all());
                Window::restored(&record, rule, unknown, settled, now)
            }
        };
        // Failed attempts settled as long ago as their times say. A window that is kept for one of which nothing counts would
        // hide what its key may have used since its last window was dropped.
        record.late.retain(|(at, cost)| {
            let settled_then =
                WindowRecord { log: vec![(*at, *cost)], ..WindowRecord::blank(record.limit, record.key) };
            !Window::restored(&settled_then, rule, [].iter(), settled, now).is_blank(rule, now)
        });
        if window.is_blank(rule, now) && record.late.is_empty() {
            // The journal may hold its record, which a crash must not find once the key has a window again.
            self.counters.table.dropped.push((record.limit, record.key));
            return;
        }
        rule.live += 1;
        let index = self.counters.table.insert(window);
        self.counters.table.window_mut(index).set_persisted();
        for (at, cost) in record.late {
            let at = at.max(now);
            mutant!("failed attempts are forgotten at a restart", continue);
            let window = self.counters.table.window_mut(index);
            window.unsettled += cost;
            let generation = window.generation;
            self.settle_at(at, index, generation, cost);
        }
    }
}

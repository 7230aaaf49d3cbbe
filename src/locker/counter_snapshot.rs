//! All that a locker has counted, to be taken over by another one: after a stop, a crash, or in a new process.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use super::Locker;
use super::api::LimitId;
use super::limit::Limit;
use super::wall_clock::{WallClock, WallReading, WallSample};
use super::window::{UnknownSlots, Window};
use super::window_record::WindowRecord;
use crate::time::Time;

/// What a locker knows.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Snapshot {
    /// Every limit, by `LimitId`.
    pub limits: Vec<LimitSnapshot>,
    /// What each window has counted.
    pub windows: Vec<WindowRecord>,
    /// The readings of the wall clock of late.
    pub readings: Vec<WallReading>,
}

/// What is known of a limit as a whole.
#[derive(Clone, PartialEq, Debug)]
pub struct LimitSnapshot {
    /// The limit itself.
    pub limit: Limit,
    /// Whether it was one of those that were given last.
    pub in_force: bool,
    /// Since when all that was counted is known.
    pub since: Time,
    /// Slots that each window may have taken besides those that it knows of, and when they settled at the latest; oldest first.
    pub unknown: Vec<(Time, u32)>,
    /// The same, but only for when it is neither shared nor a dry run any more.
    pub suspended: Vec<(Time, u32)>,
    /// Until when requests may be under way that count from their answer by an earlier rule, and how long after an end they
    /// may still be counted.
    pub lingers: Option<(Time, Duration)>,
}

/// How much the one before knew at its end, and what of it goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// Everything; and its requests go on, and will be told of (see [`Locker::handle_remote`]).
    HandOver,
    /// Everything: it stopped and wrote all of it down.
    Orderly,
    /// What it had to write down before it was used.
    Crash,
    /// Less than that: it could not write.
    NotPersisted,
}

impl Locker {
    /// What a crash must find of its limits: as [`Locker::snapshot`] says of them, and that those count as full whose windows
    /// have yet to be written.
    pub fn crash_limit_snapshots(&self) -> Vec<LimitSnapshot> {
        let mut all = self.limit_snapshots();
        for (id, limit_snapshot) in (0..).map(LimitId).zip(&mut all) {
            limit_snapshot.unknown.extend(self.full_until(id).map(|until| (until, UnknownSlots::all(until).slots)));
        }
        all
    }

    fn limit_snapshots(&self) -> Vec<LimitSnapshot> {
        let plain = |unknown: &[UnknownSlots]| unknown.iter().map(|unknown| (unknown.at, unknown.slots)).collect();
        let limit_snapshot = |(limit, rule): (&Limit, &super::WindowRule)| LimitSnapshot {
            limit: limit.clone(),
            in_force: true,
            since: rule.since,
            unknown: plain(&rule.unknown),
            suspended: plain(&rule.suspended),
            lingers: rule.lingers,
        };
        let mut all: Vec<LimitSnapshot> = self.limits.iter().zip(&self.rules).map(limit_snapshot).collect();
        for (id, limit_snapshot) in (0..).map(LimitId).zip(&mut all) {
            limit_snapshot.in_force = self.is_in_force(id);
        }
        all
    }

    /// All that it knows. What is not settled counts as open, but for failed attempts, of which it is known when they
    /// settle.
    pub fn snapshot(&mut self, now: Time) -> Snapshot {
        let now = self.advance(now);
        let limits = self.limit_snapshots();
        let mut windows = Vec::new();
        let mut late: HashMap<u32, Vec<(Time, u32)>> = HashMap::new();
        for Reverse(later) in &self.late_settles {
            late.entry(later.window).or_default().push((later.at, later.cost));
        }
        for id in &self.limit_ids {
            let rule = &self.rules[id.at()];
            for window in self.table.of_limit(*id) {
                self.table.window_mut(window).expire(rule, now);
                if !self.table.window(window).is_blank(rule, now) {
                    let mut late = late.remove(&window).unwrap_or_default();
                    late.sort_unstable();
                    let settling: u32 = late.iter().map(|(_, cost)| cost).sum();
                    let open = self.table.window(window).unsettled.saturating_sub(settling);
                    let mut record = self.window_record(window, open, usize::MAX);
                    record.late = late;
                    windows.push(record);
                }
            }
        }
        Snapshot { limits, windows, readings: self.readings() }
    }

    /// A locker that goes on where another one ended. What was open when that one ended counts as if it had settled now.
    pub fn restore(snapshot: Snapshot, shutdown: Shutdown, wall: WallSample, now: Time) -> Locker {
        let mut locker = Locker::new(Vec::new());
        locker.wall = WallClock::restore(snapshot.readings, wall, now);
        locker.last = now;
        for (index, limit_snapshot) in snapshot.limits.into_iter().enumerate() {
            locker.restore_limit(LimitId(index as u32), limit_snapshot, shutdown, now);
        }
        for record in snapshot.windows {
            locker.restore_window(record, shutdown, now);
        }
        locker.update_due();
        locker
    }

    fn restore_limit(&mut self, id: LimitId, limit_snapshot: LimitSnapshot, shutdown: Shutdown, now: Time) {
        let LimitSnapshot { limit, in_force, since, unknown, suspended, lingers } = limit_snapshot;
        // A limit that is no longer in force has sent nothing since it was, and has become a dry run.
        let is_written_here = !(limit.shared || limit.dry_run && in_force);
        self.add(limit);
        if !in_force {
            self.retired.insert(id);
        }
        let rule = &mut self.rules[id.at()];
        rule.since = since;
        rule.lingers = lingers;
        let settled = rule.settled_at_end(now);
        // With the process its requests have ended.
        let latest = if shutdown == Shutdown::HandOver { Time::NEVER } else { settled };
        let restored = |unknown: Vec<(Time, u32)>| {
            unknown.into_iter().map(|(at, slots)| UnknownSlots { at: at.min(latest), slots }).collect()
        };
        (rule.unknown, rule.suspended) = (restored(unknown), restored(suspended));
        rule.forget_unknown(now);
        let lost = match shutdown {
            Shutdown::HandOver | Shutdown::Orderly => None,
            // All that is known of a long window is written down, but for the slots that a key begins with.
            Shutdown::Crash if rule.is_long() && is_written_here => {
                Some(UnknownSlots { at: settled, slots: rule.block })
            }
            Shutdown::Crash | Shutdown::NotPersisted => Some(UnknownSlots::all(settled)),
        };
        match lost.filter(|lost| lost.slots > 0 && rule.counts_slots()) {
            Some(lost) if is_written_here => rule.add_unknown(lost, now),
            // The store has not lost anything with the gateway, and a dry run keeps nothing back.
            Some(lost) => rule.suspend_unknown(lost, now),
            None => {}
        }
    }

    fn restore_window(&mut self, record: WindowRecord, shutdown: Shutdown, now: Time) {
        let Some(rule) = self.rules.get_mut(record.limit.at()) else { return };
        let settled = rule.settled_at_end(now);
        let window = match shutdown {
            // Their logs hold by now all that was unknown then.
            Shutdown::HandOver => Window::handed_over(&record, rule, now),
            Shutdown::Orderly => Window::restored(&record, rule, [].iter(), settled, now),
            // Of a window that is written down a crash loses nothing; but the page may be older than what was unknown.
            Shutdown::Crash | Shutdown::NotPersisted => {
                let unknown = rule.unknown.iter().filter(|unknown| unknown.is_all());
                Window::restored(&record, rule, unknown, settled, now)
            }
        };
        if window.is_blank(rule, now) && record.late.is_empty() {
            return;
        }
        if shutdown == Shutdown::HandOver && (record.open, record.flying) != (0, 0) {
            self.remote_holdings.insert((record.limit, record.key), (record.open, record.flying));
        }
        rule.live += 1;
        let index = self.table.insert(window);
        self.table.window_mut(index).set_persisted();
        for (at, cost) in record.late {
            let at = at.max(now);
            let window = self.table.window_mut(index);
            window.unsettled += cost;
            let generation = window.generation;
            self.settle_at(at, index, generation, cost);
        }
    }
}

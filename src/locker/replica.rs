//! Replica: the receiving side of a live copy ([`live_copy`](super::live_copy)).

use super::Locker;
use super::counter_snapshot::{LimitSnapshot, Shutdown, Snapshot};
use super::live_copy::{CopyRest, CopySlice};
use super::remote_holdings::Holding;
use super::wall_clock::{WallClock, WallSample};
use super::window::{UnknownSlots, Window};
use super::window_record::{LateSlots, WindowRecord};
use crate::time::Time;

/// A locker in the making, with the windows of a process that still counts in them.
///
/// It decides nothing, and nothing happens in it by itself, before [`Replica::finish`] has made a
/// locker of it. What is open in its windows is held by that other process.
#[derive(Debug)]
pub struct Replica(Locker);

impl Replica {
    /// A replica without windows. `head` is of [`Locker::begin_copy`].
    pub fn begin(head: Snapshot, wall: WallSample, now: Time) -> Replica {
        Replica(Locker::restore(head, Shutdown::HandOver, wall, now))
    }

    /// The locker in the making, to compare it.
    #[cfg(test)]
    pub(super) fn locker(&mut self) -> &mut Locker {
        &mut self.0
    }

    /// Applies the next slice. Windows of limits that `head` did not name are left out.
    pub fn apply(&mut self, slice: CopySlice, now: Time) {
        let locker = &mut self.0;
        for (limit, key) in slice.dropped {
            if let Some(index) = locker.counters.table.find(limit, key) {
                locker.counters.table.vacate(index, &mut locker.counters.limits.rules);
            }
            locker.remote_holdings.restore(limit, key, Holding::default());
        }
        slice.windows.into_iter().for_each(|record| locker.put_copied(record, now));
    }

    /// Makes the locker that continues from here. `None` if the limits are not those of the
    /// beginning.
    pub fn finish(mut self, rest: CopyRest, wall: WallSample, now: Time) -> Option<Locker> {
        let CopyRest { head, slice, late, stale_records } = rest;
        let is_same = head.limits.iter().map(|known| &known.limit).eq(self.0.limits());
        if !is_same {
            return None;
        }
        self.apply(slice, now);
        let mut locker = self.0;
        locker.last = now;
        locker.wall = WallClock::restore(head.readings, wall, now);
        for (limit_snapshot, rule) in head.limits.into_iter().zip(&mut locker.counters.limits.rules) {
            let LimitSnapshot { limit: _, in_force: _, since, unknown, suspended, lingers } = limit_snapshot;
            let slots = |(at, slots)| UnknownSlots { at, slots };
            rule.since = since;
            rule.lingers = lingers;
            rule.unknown = unknown.into_iter().map(slots).collect();
            rule.suspended = suspended.into_iter().map(slots).collect();
            rule.forget_unknown(now);
        }
        locker.counters.limits.roll(&locker.wall, now);
        locker.next_roll = locker.counters.limits.next_roll();
        late.into_iter().for_each(|late| locker.settle_copied(late, now));
        // A key that has a window again has a record that the other process has kept up to date, or one of these.
        let table = &mut locker.counters.table;
        let mut dropped = std::mem::take(&mut table.dropped);
        dropped.retain(|(limit, key)| table.find(*limit, *key).is_none());
        dropped.extend(stale_records);
        table.dropped = dropped;
        locker.update_due();
        Some(locker)
    }
}

impl Locker {
    /// Puts a copied window into the place of its earlier copy, and drops it if nothing of it
    /// counts. The other process holds what is open in it.
    pub(super) fn put_copied(&mut self, mut record: WindowRecord, now: Time) {
        record.cap_slots();
        let WindowRecord { limit, key, open, flying, .. } = record;
        let Some(rule) = self.counters.limits.rules.get_mut(limit.at()) else { return };
        // The log contains the unknown slots already.
        let mut window = Window::handed_over(&record, rule, now);
        self.remote_holdings.restore(limit, key, Holding { open, flying });
        let found = self.counters.table.find(limit, key);
        if window.is_blank(rule, now) {
            if let Some(index) = found {
                self.counters.table.vacate(index, &mut self.counters.limits.rules);
            }
            // The journal may hold its record, which a crash must not find once the key has a window again.
            self.counters.table.dropped.push((limit, key));
            return;
        }
        window.set_persisted();
        match found {
            Some(index) => self.counters.table.replace(index, window),
            None => {
                rule.live += 1;
                self.counters.table.insert(window);
            }
        }
    }

    /// Lets slots of a copied window settle by themselves: the other process does not report them.
    pub(super) fn settle_copied(&mut self, late: LateSlots, now: Time) {
        let LateSlots { limit, key, at, cost } = late;
        let Some(index) = self.counters.table.find(limit, key) else { return };
        if self.remote_holdings.take(limit, key, Holding { open: cost, flying: 0 }) {
            self.settle_at(at.max(now), index, self.counters.table.peek(index).generation, cost);
        }
    }
}

//! Live copy: another process gets all windows while this one still counts in them.
//!
//! A walk over the table copies each window once, a slice at a time. From then on a window that
//! changes is noted by its key, and copied again: only a few are left at the moment at which the
//! other process takes over, however many there are. A key is read when its turn comes, not when it
//! is noted: its window may have changed again, have been dropped or be another by then.

use super::Locker;
use super::api::{Key, LimitId};
use super::copy_progress::CopyProgress;
use super::counter_snapshot::Snapshot;
use super::counters::Counters;
use super::window::{Window, WindowRule};
use super::window_record::{LateSlots, WindowRecord};
use crate::time::Time;

/// Places of the table, or changed keys, per slice: some 100 µs of work. Tests use a few, so that
/// much happens within one copy.
const SLICE: u32 = if cfg!(test) { 4 } else { 1024 };

/// Maximum number of log entries per slice, beyond those of its last window: a window with a long
/// log counts for many.
const SLICE_ENTRIES: usize = 8192;

/// Windows of one step of a live copy.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct CopySlice {
    /// Records as of now. `open` includes the slots that settle by themselves, and `late` is empty.
    /// Blank ones are of windows that have a record in the journal, which must be removed.
    pub windows: Vec<WindowRecord>,
    /// Windows that were copied before and of which nothing counts any more.
    pub dropped: Vec<(LimitId, Key)>,
}

/// Last part of a live copy: with it the copy is complete.
#[derive(Clone, PartialEq, Debug)]
pub struct CopyRest {
    /// Limits and readings of the wall clock, without windows.
    pub head: Snapshot,
    /// Windows that have changed since they were copied.
    pub slice: CopySlice,
    /// All slots that settle by themselves.
    pub late: Vec<LateSlots>,
    /// Keys whose record in the journal is of a window that was dropped, and must be removed. One that
    /// has a window again has counted no more in it than a key without a record may.
    pub stale_records: Vec<(LimitId, Key)>,
}

/// Part of a slice that a window has become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Added {
    /// A record with so many log entries.
    Entries(usize),
    /// Nothing.
    Blank,
}

impl CopySlice {
    /// Adds a window, unless nothing of it counts any more and the journal has no record of it.
    fn add(&mut self, rule: &WindowRule, window: &mut Window, now: Time) -> Added {
        window.expire(rule, now);
        if window.is_blank(rule, now) && !window.is_persisted() {
            return Added::Blank;
        }
        let record = window.record(rule, window.unsettled, usize::MAX);
        let entries = record.log.len();
        self.windows.push(record);
        Added::Entries(entries)
    }
}

impl Counters {
    /// Takes the next slice; `None` if the copy is void.
    fn copy_slice(&mut self, now: Time) -> Option<CopySlice> {
        // Taken out meanwhile: a look at a window is no change.
        let mut copy = self.table.copy.take().filter(|copy| copy.revision == self.limits.revision)?;
        let mut slice = CopySlice::default();
        match copy.walk {
            Some(from) => copy.walk = self.copy_places(&mut slice, from, now),
            None => self.copy_changed(&mut slice, &mut copy, now),
        }
        self.table.copy = Some(copy);
        Some(slice)
    }

    /// Copies the windows of the next places. Returns the place at which the walk continues.
    fn copy_places(&mut self, slice: &mut CopySlice, from: u32, now: Time) -> Option<u32> {
        let (places, more) = self.table.windows_in(from, SLICE);
        let mut entries = 0;
        for (index, limit) in places {
            if entries > SLICE_ENTRIES {
                return Some(index);
            }
            if let Added::Entries(more) = slice.add(&self.limits.rules[limit.at()], self.table.window_mut(index), now) {
                entries += more;
            }
        }
        more.then_some(from.saturating_add(SLICE))
    }

    /// Copies the windows of the next changed keys.
    fn copy_changed(&mut self, slice: &mut CopySlice, copy: &mut CopyProgress, now: Time) {
        let mut entries = 0;
        for _ in 0..SLICE {
            if entries > SLICE_ENTRIES {
                return;
            }
            let Some((limit, key)) = copy.changed.pop_front() else { return };
            let Some(index) = self.table.find(limit, key) else {
                slice.dropped.push((limit, key));
                continue;
            };
            copy.unmark(index);
            match slice.add(&self.limits.rules[limit.at()], self.table.window_mut(index), now) {
                Added::Entries(more) => entries += more,
                Added::Blank => slice.dropped.push((limit, key)),
            }
        }
    }
}

impl Locker {
    /// Begins a live copy of all windows, and ends an earlier one. Returns what the other process
    /// needs first: limits and readings of the wall clock, without windows.
    pub fn begin_copy(&mut self, now: Time) -> Snapshot {
        self.advance(now);
        let revision = self.counters.limits.revision;
        self.counters.table.copy = Some(Box::new(CopyProgress::new(revision)));
        self.copy_head()
    }

    /// Takes the next windows of the copy. `None` if it is void: the limits or the wall clock have
    /// changed since its beginning.
    pub fn copy_slice(&mut self, now: Time) -> Option<CopySlice> {
        let now = self.advance(now);
        self.counters.copy_slice(now)
    }

    /// Number of windows that have changed since they were copied; `None` during the walk, and
    /// without a copy.
    pub fn copy_left(&self) -> Option<usize> {
        let copy = self.counters.table.copy.as_ref()?;
        copy.walk.is_none().then_some(copy.changed.len())
    }

    /// Ends the copy with all that is left of it. `None` if it is void. Nothing that changes here
    /// afterwards is in it.
    pub fn finish_copy(&mut self, now: Time) -> Option<CopyRest> {
        let mut slice = self.copy_slice(now)?;
        while self.copy_left() != Some(0) {
            let CopySlice { windows, dropped } = self.copy_slice(now)?;
            slice.windows.extend(windows);
            slice.dropped.extend(dropped);
        }
        self.end_copy();
        // Without a journal no record is there to remove.
        let stale_records = if self.is_persisting() { self.counters.table.dropped.clone() } else { Vec::new() };
        Some(CopyRest { head: self.copy_head(), slice, late: self.late_slots(), stale_records })
    }

    /// Ends the copy, if there is one.
    pub fn end_copy(&mut self) {
        self.counters.table.copy = None;
    }

    /// Limits and readings.
    fn copy_head(&self) -> Snapshot {
        Snapshot { limits: self.counters.limits.snapshots(), windows: Vec::new(), readings: self.wall.readings() }
    }

    /// Slots that settle by themselves, with the keys of their windows.
    fn late_slots(&self) -> Vec<LateSlots> {
        let slots = self.late_settles.iter().filter_map(|late| {
            let late = late.0;
            let window = self.counters.table.get(late.window).filter(|window| window.generation == late.generation)?;
            Some(LateSlots { limit: window.limit, key: window.key, at: late.at, cost: late.cost })
        });
        slots.collect()
    }
}

//! Persistence: the work list of the journal, so that a crash forgets no slot.
//!
//! The locker does no disk I/O. It returns the records to write (`poll_records`), and the journal
//! reports them as written (`records_written`); until then a window of a long limit (over
//! 10 s, not shared) grants no slot that is not written, except while everything is written anew.

use std::collections::{BTreeMap, VecDeque};

use super::api::{Key, LimitId};
use super::limit_table::LimitTable;
use super::window::{Window, WindowRule};
use super::window_lists::ListCursor;
use super::window_record::WindowRecord;
use super::window_table::WindowTable;
use crate::time::Time;

/// Of a longer log than that, neighbouring settle times are written as one, the later: it holds
/// back a little longer after a crash (at most a 128th of the span), and a record stays below 2
/// KiB.
const MAX_LOG: usize = 128;

/// Record for the journal to write.
#[derive(Clone, PartialEq, Debug)]
pub enum JournalRecord {
    /// The limits have changed: the journal writes `Locker::crash_limit_snapshots`, without windows.
    Limits,
    /// The state of a window that a crash must find.
    Window(WindowRecord, WriteToken),
    /// A window was dropped: its record must be removed.
    Dropped(LimitId, Key),
}

/// Token of a page, which the journal returns once the page is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteToken {
    /// Index of the window in the table.
    window: u32,
    /// Generation of the window: it may be dropped before the page is written.
    generation: u32,
    /// Term of the rule: a page of an earlier term grants nothing.
    term: u32,
}

/// State of the disk when writing begins, and how slots are granted until the disk says all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JournalStart {
    /// All windows: the journal writes a snapshot of them ([`Locker::begin_snapshot`]), before the
    /// first request. As with [`JournalStart::Resume`], a slot of a window is written down before it
    /// is granted; but nothing is left that had to be removed.
    ///
    /// [`Locker::begin_snapshot`]: super::Locker::begin_snapshot
    Fresh,
    /// Nothing that counts, and what is written is not believed before all of it is
    /// ([`Locker::is_catching_up`](super::Locker::is_catching_up)). Until a window's first page it
    /// gives out slots as it did, and from then on what is written.
    CatchUp,
    /// All that was counted: by the process before, or by this one until the disk failed. A slot of
    /// a window is written down before it is granted.
    Resume,
}

/// The work list of the journal.
///
/// Owns the lists of limits and windows to write, and for each limit with unwritten windows the
/// time until which it counts as full after a crash. Invariants: a window of a persisted limit is
/// returned once more after each of its requests; the limits are returned before their windows;
/// catching up ends after all windows were returned.
#[derive(Debug, Default)]
pub(super) struct WriteQueue {
    /// True if slots are written down before they are taken.
    is_on: bool,
    /// True if the limits differ from those that are written down.
    limits: bool,
    /// Windows that need a page: index and generation, in the order of their requests.
    windows: VecDeque<(u32, u32)>,
    /// Limits that need a page of each of their windows; the scan is in the first of them.
    scan: VecDeque<LimitId>,
    /// Limits that joined these while other pages are believed already, and until when what they
    /// counted before may settle: as long as their windows are not written, a crash must count as
    /// full.
    counts_as_full: BTreeMap<LimitId, Time>,
    /// True from a start with `JournalStart::CatchUp` until all windows were named once.
    is_catching_up: bool,
    /// True if the next window is one of the scan, not one of which more was asked for.
    scan_turn: bool,
}

impl WriteQueue {
    /// From here on slots of long windows are written down before they are taken; the limits first.
    /// This holds at once, by the rules of the limits: windows that have not had a page in this
    /// term have no credit, or with [`JournalStart::CatchUp`] need none yet. Neither can be told
    /// from the outside half-way, so nothing goes wrong if a request asks in between. Returns the
    /// limits that need a review of their waiters.
    pub(super) fn begin(
        &mut self,
        limits: &mut LimitTable,
        table: &mut WindowTable,
        begin: JournalStart,
    ) -> Vec<LimitId> {
        let mut review = Vec::new();
        let before = std::mem::replace(self, WriteQueue { is_on: true, limits: true, ..WriteQueue::default() });
        match begin {
            // Windows that had no page while the disk failed have none now.
            JournalStart::Resume => {
                (self.scan, self.counts_as_full) = (before.scan, before.counts_as_full);
                mutant!("windows without a page are believed when the disk works again", self.counts_as_full.clear());
            }
            // Nothing of what is gone is left in what is written anew.
            JournalStart::Fresh | JournalStart::CatchUp => table.dropped.clear(),
        }
        for id in &limits.ids {
            let rule = &mut limits.rules[id.at()];
            let was = rule.persisted;
            rule.persisted = should_persist(rule);
            if was || rule.persisted {
                // Terms of other limits are those of the store: its grants stay.
                rule.begin_term();
            }
            rule.catches_up = rule.persisted && begin == JournalStart::CatchUp;
            match (rule.persisted, begin) {
                (false, _) => {}
                (true, JournalStart::CatchUp) => self.scan.push_back(*id),
                // Waiters for what was asked to be written before ask again.
                (true, JournalStart::Fresh | JournalStart::Resume) => review.push(*id),
            }
        }
        let catches_up = begin == JournalStart::CatchUp && !self.scan.is_empty();
        self.is_catching_up = mutant!(catches_up, "a journal that catches up is believed", false);
        self.begin_scan(table);
        review
    }

    /// Ends the journal, as nothing can be written down any more: slots are taken without a write
    /// from here on. Returns the limits that need a review of their waiters.
    pub(super) fn end(&mut self, limits: &mut LimitTable) -> Vec<LimitId> {
        let mut review = Vec::new();
        *self = WriteQueue::default();
        for id in &limits.ids {
            let rule = &mut limits.rules[id.at()];
            if std::mem::take(&mut rule.persisted) {
                rule.begin_term();
                review.push(*id);
            }
        }
        review
    }

    /// True if slots of long windows are written down before they are taken.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// True while catching up: written pages are not believed before all of them are written.
    pub(super) fn is_catching_up(&self) -> bool {
        self.is_catching_up
    }

    /// Sets `persisted` in the rule of a limit that is new or changed, and queues its windows if it
    /// is. `until`: time by which all slots that its windows granted before have settled. `block`:
    /// slots per block that the former rule wrote ahead.
    pub(super) fn update_limit(
        &mut self,
        limits: &mut LimitTable,
        table: &mut WindowTable,
        id: LimitId,
        until: Time,
        block: u32,
    ) {
        let rule = &mut limits.rules[id.at()];
        let was = std::mem::replace(&mut rule.persisted, false);
        // The disk says that it is written until the limits are there as they are now, and a crash before that believes it.
        let is_believed = was && !rule.shared && !rule.dry_run && rule.counts_slots();
        rule.persisted = self.is_on && (should_persist(rule) || is_believed);
        // Keys without a page may have taken a block by the rule of before, which a crash by this one would not count.
        if was == rule.persisted && (!was || block <= rule.block) {
            return;
        }
        let (is_recorded, live) = (rule.persisted, rule.live);
        rule.begin_term();
        self.counts_as_full.remove(&id);
        if is_recorded && live > 0 {
            self.counts_as_full.insert(id, until);
            mutant!("unwritten windows are believed", self.counts_as_full.remove(&id));
            self.scan.push_back(id);
            if self.scan.len() == 1 {
                self.begin_scan(table);
            }
        }
    }

    /// Time until which slots of a limit may settle that are not on the disk; `None` if a crash may
    /// rely on its pages.
    pub(super) fn full_until(&self, id: LimitId) -> Option<Time> {
        self.counts_as_full.get(&id).copied()
    }

    /// True if any limit has pages that are not written yet: after a crash it must count as full.
    pub(super) fn has_unwritten_windows(&self) -> bool {
        !self.counts_as_full.is_empty()
    }

    /// True if drops of windows or pages of the scan are still to be fetched by the journal.
    pub(super) fn has_unwritten_drops(&self, table: &WindowTable) -> bool {
        self.is_on && !(table.dropped.is_empty() && self.scan.is_empty())
    }

    /// True if a call of `poll_records` may return a record.
    pub(super) fn has_records(&self, table: &WindowTable) -> bool {
        let WriteQueue { is_on, limits, windows, scan, .. } = self;
        *is_on && (*limits || !windows.is_empty() || !scan.is_empty() || !table.dropped.is_empty())
    }

    /// Takes the next records to write, in order, after a look at `most` candidates. The result may
    /// be empty although more candidates follow: `has_records` is the end condition.
    pub(super) fn poll_records(
        &mut self,
        limits: &mut LimitTable,
        table: &mut WindowTable,
        most: usize,
        now: Time,
    ) -> Vec<JournalRecord> {
        let mut records = Vec::new();
        for _ in 0..most {
            if !self.has_records(table) {
                break;
            }
            records.extend(self.next_record(limits, table, now));
        }
        records
    }

    /// Looks at the next candidate, and returns its record if it must be written down.
    fn next_record(&mut self, limits: &mut LimitTable, table: &mut WindowTable, now: Time) -> Option<JournalRecord> {
        if std::mem::take(&mut self.limits) {
            return Some(JournalRecord::Limits);
        }
        if let Some((limit, key)) = table.dropped.pop() {
            // Its key may have a window again, which has asked or will ask to be written down itself.
            return Some(JournalRecord::Dropped(limit, key));
        }
        // Both go on, however much there is of either.
        self.scan_turn = !self.scan_turn && !self.scan.is_empty();
        if !self.scan_turn
            && let Some((index, generation)) = self.windows.pop_front()
        {
            let window = table.current(index, generation)?;
            let rule = &limits.rules[window.limit.at()];
            // A window of a limit that is no longer written down needs no page.
            return rule.persisted.then(|| page(window, index, rule, now));
        }
        if self.scan.is_empty() {
            return None;
        }
        let Some(index) = table.lists.step(ListCursor::Journal) else {
            self.end_scan(limits, table);
            return None;
        };
        let window = table.window_unnoted(index);
        let rule = &limits.rules[window.limit.at()];
        // One that is bound has a page, or has asked for one.
        (rule.persisted && window.is_unwritten(rule)).then(|| page(window, index, rule, now))
    }

    /// Starts the scan of the windows of the first limit, if there is one.
    fn begin_scan(&mut self, table: &mut WindowTable) {
        if let Some(limit) = self.scan.front() {
            table.lists.begin(ListCursor::Journal, *limit);
        }
    }

    /// All windows of the first limit have been named.
    fn end_scan(&mut self, limits: &mut LimitTable, table: &mut WindowTable) {
        let Some(limit) = self.scan.pop_front() else { return };
        self.begin_scan(table);
        // It may be there once more, because it was another's to write for a while.
        if !self.scan.contains(&limit) && self.counts_as_full.remove(&limit).is_some() {
            // After the pages: it says that they are all there is to know.
            self.limits = true;
        }
        if self.scan.is_empty() {
            self.is_catching_up = false;
            limits.ids.iter().for_each(|id| limits.rules[id.at()].catches_up = false);
        }
    }

    /// Applies a written page: the slots of its block may be granted. Returns its window; `None` if
    /// the window or the term of its rule has changed since. Queues the next write if the page is
    /// outdated already.
    pub(super) fn record_written(
        &mut self,
        limits: &LimitTable,
        table: &mut WindowTable,
        written: WriteToken,
    ) -> Option<u32> {
        let WriteToken { window: index, generation, term } = written;
        let window = table.current(index, generation)?;
        let rule = &limits.rules[window.limit.at()];
        if mutant!(term, "a page of an earlier term grants slots", rule.term) != rule.term {
            return None;
        }
        if window.end_write(rule) || window.needs_more_prewritten(rule) {
            self.request_write(limits, table, index);
        }
        Some(index)
    }

    /// The limits are written down as they are now: keys of which nothing is written may begin with
    /// a block. Returns the limits that need a review of their waiters.
    pub(super) fn limits_written(&mut self, limits: &mut LimitTable) -> Vec<LimitId> {
        let mut review = Vec::new();
        if self.limits {
            return review;
        }
        for id in &limits.ids {
            let rule = &mut limits.rules[id.at()];
            if rule.persisted && !should_persist(rule) {
                rule.persisted = false;
                rule.begin_term();
                self.counts_as_full.remove(id);
                review.push(*id);
                continue;
            }
            rule.initial_prewritten = if rule.persisted { rule.block } else { 0 };
        }
        review
    }

    /// Queues a window for a page with more slots, once. Does nothing for a limit that is not
    /// persisted, or, while catching up, for a window that the scan will reach.
    pub(super) fn request_write(&mut self, limits: &LimitTable, table: &mut WindowTable, index: u32) {
        let window = table.window_mut(index);
        let rule = &limits.rules[window.limit.at()];
        if rule.persisted && !is_covered_by_scan(window, rule) && window.request_write(rule) {
            self.windows.push_back((index, window.generation));
        }
    }

    /// Queues a window for a page of its present state, as after a change of its pause.
    pub(super) fn request_rewrite(&mut self, limits: &LimitTable, table: &mut WindowTable, index: u32) {
        let window = table.window_mut(index);
        let rule = &limits.rules[window.limit.at()];
        if rule.persisted && !is_covered_by_scan(window, rule) && window.request_rewrite(rule) {
            self.windows.push_back((index, window.generation));
        }
    }

    /// Queues the limits for another write, if the journal is on.
    pub(super) fn request_limits_write(&mut self) {
        self.limits = self.is_on;
    }
}

/// Makes the page of a window and begins its write. The page counts the next block, or the slots
/// that waiters need if those are more, as taken.
fn page(window: &mut Window, index: u32, rule: &WindowRule, now: Time) -> JournalRecord {
    window.expire(rule, now);
    // Waiters can go as soon as there is room; more than N at one time never can.
    let waiting = window.queue().map_or(0, |queue| u32::try_from(queue.slots).unwrap_or(u32::MAX));
    let wanted = waiting.min(window.room(rule));
    let open = window.begin_write(rule, wanted);
    let written = WriteToken { window: index, generation: window.generation, term: rule.term };
    JournalRecord::Window(WindowRecord { flying: 0, ..window.record(rule, open, MAX_LOG) }, written)
}

/// Returns true if the scan will write a window in its turn; until then nothing binds it.
fn is_covered_by_scan(window: &Window, rule: &WindowRule) -> bool {
    rule.catches_up && window.is_unwritten(rule)
}

/// Returns true if a limit's slots are written down here. Slots of a shared limit are written down
/// in the store.
fn should_persist(rule: &WindowRule) -> bool {
    rule.is_long() && !rule.dry_run && !rule.shared
}

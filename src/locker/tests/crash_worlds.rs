//! Random worlds with a disk: writes succeed, fail or stall, and the locker crashes at any moment.

use proptest::prelude::*;

use super::generators::{WorldConfig, cases};
use super::locker_world::{LockerWorld, settle_item};
use super::*;

impl LockerWorld {
    /// Begins to write up to `most` records.
    fn begin_writing(&mut self, most: u64) {
        if !self.disk.fails {
            self.disk.batch.extend(self.locker.poll_records(most as usize, self.now));
        }
    }

    /// Completes the write under way.
    fn commit(&mut self) {
        if std::mem::take(&mut self.disk.starts_over) {
            self.disk.records.clear();
        }
        for record in std::mem::take(&mut self.disk.batch) {
            self.disk.put(&record, &self.locker);
            match record {
                JournalRecord::Limits => self.locker.limits_written(),
                JournalRecord::Window(_, written) => self.locker.records_written([written], self.now),
                JournalRecord::Dropped(..) => {}
            }
        }
        // Complete again once every polled record is written.
        self.disk.is_incomplete &= self.disk.fails || self.locker.is_catching_up();
        self.drain_verdicts();
    }

    pub(super) fn write_all(&mut self) {
        self.disk_recovers();
        self.commit();
        while self.locker.has_records() {
            self.begin_writing(10);
            self.commit();
        }
    }

    /// Begins with a disk to which all windows are written at once.
    fn begin_persisting(&mut self) {
        (self.disk.fails, self.disk.is_incomplete, self.disk.starts_over) = (false, false, false);
        self.locker.begin_persisting(JournalStart::Fresh, self.now);
        self.drain_verdicts();
        let snapshot = self.snapshot_in_slices();
        self.disk.replace(&snapshot);
        // The limits are written before the first grant.
        self.write_all();
    }

    /// Begins with the disk that an orderly stop has left, under the same limits.
    fn continue_persisting(&mut self) {
        self.locker.begin_persisting(JournalStart::Resume, self.now);
        self.drain_verdicts();
        self.write_all();
    }

    /// Snapshot as the journal takes it.
    fn snapshot_in_slices(&mut self) -> Snapshot {
        let (mut snapshot, mut scan) = self.locker.begin_snapshot(self.now);
        let places = self.rng.range(1, 9) as u32;
        while let Some(windows) = self.locker.snapshot_slice(&mut scan, places, self.now) {
            snapshot.windows.extend(windows);
        }
        snapshot
    }

    /// Writes fail from here on. Either the disk can be marked incomplete, and the locker goes on
    /// without it; or it cannot, and the locker is not notified.
    fn disk_fails(&mut self) {
        if self.disk.is_incomplete || !self.rng.one_in(3) {
            return self.lose_disk();
        }
        self.disk.batch.clear();
        self.disk.fails = true;
    }

    /// The disk fails and is marked incomplete; the locker goes on without it.
    fn lose_disk(&mut self) {
        self.disk.batch.clear();
        (self.disk.fails, self.disk.is_incomplete) = (true, true);
        self.locker.end_persisting(self.now);
        self.drain_verdicts();
    }

    /// Writes succeed again.
    fn disk_recovers(&mut self) {
        if !std::mem::take(&mut self.disk.fails) {
            return;
        }
        self.disk.starts_over = self.disk.is_incomplete;
        let begin = if self.disk.is_incomplete { JournalStart::CatchUp } else { JournalStart::Resume };
        self.locker.begin_persisting(begin, self.now);
        self.drain_verdicts();
    }

    /// Crashes while the disk fails or catches up, soon after the failure: earlier requests are
    /// written, later ones are not.
    fn crash_unpersisted(&mut self) {
        self.write_all();
        self.lose_disk();
        self.busy_steps();
        if self.rng.one_in(3) {
            // The disk is back, and what it lacks is being written.
            self.disk_recovers();
            for _ in 0..self.rng.range(1, 4) {
                self.begin_writing(1);
                self.commit();
            }
        }
        self.crash();
    }

    /// Some steps within a short time.
    fn busy_steps(&mut self) {
        for _ in 0..self.rng.range(1, 12) {
            let now = self.now + Duration::from_millis(self.rng.range(0, 20));
            self.now = now;
            self.locker.handle_timeout(now);
            self.drain_verdicts();
            self.random_step(now);
            self.drain_verdicts();
            self.check_invariants();
        }
    }

    /// The process crashes, and another one continues, at once or later.
    fn crash(&mut self) {
        if self.rng.one_in(2) {
            // The write completed, but the locker did not learn of it.
            if std::mem::take(&mut self.disk.starts_over) {
                self.disk.records.clear();
            }
            for record in std::mem::take(&mut self.disk.batch) {
                self.disk.put(&record, &self.locker);
            }
        }
        self.disk.batch.clear();
        self.end_of_all_requests();
        for item in self.oracle.items.iter_mut().filter(|item| !item.answered) {
            // A request with an incomplete head at the crash is never sent.
            item.settled = item.settled.map(|at| at.min(self.now));
        }
        // Pauses are not part of the guarantee.
        self.oracle.pauses.clear();
        let end = if self.disk.is_incomplete { Shutdown::NotPersisted } else { Shutdown::Crash };
        let snapshot = Snapshot {
            limits: self.disk.limits.clone(),
            windows: self.disk.records.values().cloned().collect(),
            readings: self.locker.readings(),
        };
        self.restart_from(snapshot, end);
    }

    /// Orderly stop, and another process continues: nothing is lost.
    fn stop(&mut self) {
        self.commit();
        self.waiting.clear();
        while self.rng.one_in(2)
            && let Some(sent) = self.sent.pop()
        {
            for item in &sent.items {
                let item = &mut self.oracle.items[*item];
                item.flying = false;
                if item.settled.is_none() {
                    item.cost = 0;
                    item.settled = Some(self.now);
                }
            }
            self.locker.give_back(sent.grant, self.now);
        }
        let snapshot = self.snapshot_in_slices();
        self.end_of_all_requests();
        self.disk.batch.clear();
        self.disk.replace(&snapshot);
        self.restart_from(snapshot, Shutdown::Orderly);
    }

    /// Ends the requests under way with the process; they may have been sent before.
    fn end_of_all_requests(&mut self) {
        self.waiting.clear();
        let limits = self.locker.limits().to_vec();
        let remote = std::mem::take(&mut self.remote);
        for item in self.sent.drain(..).flat_map(|sent| sent.items).chain(remote) {
            let item = &mut self.oracle.items[item];
            item.flying = false;
            let linger = limits[item.limit as usize].linger();
            item.settled.get_or_insert(if item.answered { self.now + linger } else { self.now });
        }
    }

    /// Another process continues: at once, later, or after all counts have expired; possibly with
    /// other limits.
    fn restart_from(&mut self, snapshot: Snapshot, end: Shutdown) {
        let limits = self.locker.limits().to_vec();
        let is_over = self.rng.one_in(4);
        if is_over {
            self.now = self.now + Duration::from_secs(200);
        } else if self.rng.one_in(2) {
            self.now = self.now + Duration::from_millis(self.rng.range(0, 200));
        }
        // Requests that ended with the process settled at its end, not later.
        self.now = self.now + Duration::from_nanos(1);
        self.locker = Locker::restore(snapshot, end, WALL, self.now);
        self.left = None;
        assert_eq!(self.locker.limits(), limits, "seed {}", self.seed);
        self.oracle.history.restart(&limits, self.oracle.items.len(), self.now);
        self.blur();
        if is_over {
            self.check_only_unknown_counts(end);
        }
        let changes = self.rng.one_in(4);
        if changes {
            self.change();
            self.drain_verdicts();
        }
        // A disk that had failed holds what the stop has written.
        (self.disk.fails, self.disk.is_incomplete, self.disk.starts_over) = (false, false, false);
        match end == Shutdown::Orderly && !changes && !self.rng.one_in(4) {
            true => self.continue_persisting(),
            false => self.begin_persisting(),
        }
    }

    /// Asserts that after a long time only the slots that the shutdown left unknown are counted.
    fn check_only_unknown_counts(&mut self, end: Shutdown) {
        for (id, limit) in (0..).zip(self.locker.limits().to_vec()) {
            let Some(rate) = limit.rate else { continue };
            let is_long = (rate.per + rate.guard).as_nanos() > 40_000_000;
            let unknown = match end {
                Shutdown::Orderly | Shutdown::HandOver => 0,
                // Tests write a third of N ahead.
                Shutdown::Crash if is_long => rate.requests / 3,
                Shutdown::Crash | Shutdown::NotPersisted => rate.requests,
            };
            let taken = self.locker.usage(LimitId(id), Key(99), self.now).taken;
            assert_eq!(taken, unknown, "seed {}: {:?} after {end:?}", self.seed, rate.kind);
        }
    }

    /// Another process takes over: the requests under way stay with this one, which tells the other
    /// how they end.
    fn be_taken_over(&mut self) {
        self.commit();
        self.waiting.clear();
        let snapshot = self.locker.snapshot(self.now);
        let is_incomplete = self.disk.is_incomplete || self.locker.has_unwritten_windows();
        self.remote.extend(self.sent.drain(..).flat_map(|sent| sent.items));
        self.locker = Locker::restore(snapshot, Shutdown::HandOver, WALL, self.now);
        self.left = None;
        if is_incomplete {
            (self.disk.is_incomplete, self.disk.starts_over) = (true, true);
            self.locker.begin_persisting(JournalStart::CatchUp, self.now);
        } else {
            self.locker.begin_persisting(JournalStart::Resume, self.now);
        }
        self.drain_verdicts();
    }

    /// A message of the process before this one, about one of its requests; at times it has died.
    fn remote_step(&mut self) {
        if self.remote.is_empty() {
            return;
        }
        if self.rng.one_in(8) {
            self.locker.remote_lost(self.now);
            for item in std::mem::take(&mut self.remote) {
                let item = &mut self.oracle.items[item];
                item.flying = false;
                settle_item(item, self.locker.limits(), SettlePoint::Failed, self.now);
            }
            return self.drain_verdicts();
        }
        let picked = self.rng.range(0, self.remote.len() as u64) as usize;
        let index = self.remote.swap_remove(picked);
        let item = &mut self.oracle.items[index];
        let (limit, key, cost) = (LimitId(item.limit), Key(item.key), item.cost as u32);
        if item.settled.is_none() && cost > 0 {
            let returned = self.rng.one_in(3);
            item.settled = Some(self.now);
            let event = match returned {
                true => Event::GiveBack { limit, key, cost },
                false => Event::Settle { limit, key, cost, at: self.now },
            };
            item.cost = if returned { 0 } else { item.cost };
            self.locker.handle_remote(&event, self.now);
        }
        if std::mem::take(&mut self.oracle.items[index].flying) {
            self.locker.handle_remote(&Event::Land { limit, key }, self.now);
        }
        self.drain_verdicts();
    }

    /// Runs the world with crashes; with `changes`, rules change too.
    pub(super) fn run_with_crashes(mut self, changes: bool) -> u64 {
        // A request with room may have to be written first.
        self.waits_for_others = true;
        self.begin_persisting();
        for _ in 0..self.world_config.steps {
            let now = self.advance_time();
            self.locker.handle_timeout(now);
            self.drain_verdicts();
            match self.rng.range(0, 13) {
                0..2 => {
                    let most = self.rng.range(1, 4);
                    self.begin_writing(most);
                }
                2..4 => self.commit(),
                4 if self.rng.one_in(12) => self.crash(),
                5 if self.rng.one_in(12) => self.stop(),
                9 if !self.disk.fails && self.rng.one_in(12) => self.be_taken_over(),
                9 | 10 if !self.remote.is_empty() => self.remote_step(),
                6 if self.disk.fails && self.rng.one_in(4) => self.disk_recovers(),
                6 if !self.disk.fails && self.rng.one_in(12) => self.disk_fails(),
                7 if !self.disk.fails && self.rng.one_in(3) => self.crash_unpersisted(),
                8 if changes && !self.disk.fails && self.rng.one_in(12) => {
                    self.change();
                    self.drain_verdicts();
                    self.write_all();
                }
                _ => self.random_step(now),
            }
            self.drain_verdicts();
            self.check_invariants();
        }
        while !self.remote.is_empty() {
            self.remote_step();
        }
        self.run_until_idle();
        self.assert_promise();
        self.granted
    }
}

pub(super) const CRASHING: WorldConfig = WorldConfig {
    limits: 2,
    fixed: 1,
    calendar: 1,
    changes: false,
    turns: true,
    holds: false,
    steps: 600,
    ..WorldConfig::PLAIN
};

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_locker_that_dies_at_any_moment_never_lets_more_go_than_it_may(seed: u64) {
        LockerWorld::new(seed, CRASHING).run_with_crashes(false);
    }

    #[test]
    fn a_locker_whose_rules_change_and_that_dies_at_any_moment_lets_no_more_go_than_the_last_rule_says(seed: u64) {
        LockerWorld::new(seed, CRASHING).run_with_crashes(true);
    }
}

#[test]
fn lockers_that_die_let_many_go_between() {
    let granted: u64 = (0..30).map(|seed| LockerWorld::new(seed, CRASHING).run_with_crashes(false)).sum();
    assert!(granted > 1000, "{granted}: worlds in which nothing happens prove nothing");
}

/// A world that once broke the promise: a key's window was dropped, and another one took slots before the record was removed.
#[test]
fn a_record_that_outlives_its_window_hides_no_slot_of_the_next_one() {
    LockerWorld::new(14_691_486_499_720_323_416, CRASHING).run_with_crashes(false);
}

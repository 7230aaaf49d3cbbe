//! Random worlds with a disk: what is written down is lost or kept by chance, and the locker dies at any moment.

use std::collections::HashMap;

use proptest::prelude::*;

use super::dice::{Nature, config};
use super::world::World;
use super::*;

/// What is written down.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) limits: Vec<Known>,
    pub(super) pages: HashMap<(u32, u128), Page>,
    /// What is being written: all of it will be there, or none.
    batch: Vec<Record>,
}

impl Disk {
    pub(super) fn put(&mut self, record: &Record, locker: &Locker) {
        match record {
            Record::Limits => self.limits = locker.known(),
            Record::Window(page, _) => drop(self.pages.insert((page.limit.0, page.key.0), page.clone())),
            Record::Gone(limit, key) => drop(self.pages.remove(&(limit.0, key.0))),
        }
    }
}

impl World {
    /// Takes up to so many of the things that are to be written.
    fn begin_writing(&mut self, most: u64) {
        for _ in 0..most {
            let Some(record) = self.locker.poll_record(self.now) else { break };
            self.disk.batch.push(record);
        }
    }

    /// What is being written is there.
    fn commit(&mut self) {
        for record in std::mem::take(&mut self.disk.batch) {
            self.disk.put(&record, &self.locker);
            match record {
                Record::Limits => self.locker.limits_recorded(),
                Record::Window(_, written) => self.locker.recorded(written, self.now),
                Record::Gone(..) => {}
            }
        }
        self.listen();
    }

    pub(super) fn write_all(&mut self) {
        self.commit();
        while self.locker.has_records() {
            self.begin_writing(10);
            self.commit();
        }
    }

    fn begin_recording(&mut self) {
        self.locker.begin_recording(self.now);
        self.listen();
        // The limits are there before the first grant.
        self.write_all();
    }

    /// The process dies, and another one goes on, at once or later.
    fn die(&mut self) {
        if self.dice.one_in(2) {
            // It was written, but nobody heard of it.
            for record in std::mem::take(&mut self.disk.batch) {
                self.disk.put(&record, &self.locker);
            }
        }
        self.disk.batch.clear();
        self.waiting.clear();
        let limits = self.locker.limits().to_vec();
        for sent in self.sent.drain(..) {
            for item in sent.items {
                let item = &mut self.oracle.items[item];
                item.flying = false;
                // Whether it went out before the end nobody knows.
                let linger = limits[item.limit as usize].linger();
                item.settled.get_or_insert(if item.answered { self.now + linger } else { self.now });
            }
        }
        for item in self.oracle.items.iter_mut().filter(|item| !item.answered) {
            // A head that did not leave as a whole before the end never will.
            item.settled = item.settled.map(|at| at.min(self.now));
        }
        if self.dice.one_in(2) {
            self.now = self.now + Duration::from_millis(self.dice.roll(0, 200));
        }
        // Pauses are not part of the promise.
        self.oracle.pauses.clear();
        let estate = Estate {
            limits: self.disk.limits.clone(),
            windows: self.disk.pages.values().cloned().collect(),
            ..Estate::default()
        };
        self.locker = Locker::inherit(estate, End::Crash, WALL, self.now);
        assert_eq!(self.locker.limits(), limits, "seed {}", self.seed);
        self.begin_recording();
    }

    /// It ends in order, and another one goes on: nothing is lost and nobody waits longer.
    fn stop_and_go_on(&mut self) {
        self.commit();
        self.waiting.clear();
        while let Some(sent) = self.sent.pop() {
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
        let estate = self.locker.estate(self.now);
        self.locker = Locker::inherit(estate, End::Orderly, WALL, self.now);
        self.disk.pages.clear();
        self.begin_recording();
    }

    fn live_dangerously(mut self) -> u64 {
        // What is known after a crash is less than what the oracle knows, but never more is let go.
        self.changed = true;
        self.begin_recording();
        for _ in 0..self.nature.steps {
            let now = self.time_goes_on();
            self.locker.handle_timeout(now);
            self.listen();
            match self.dice.roll(0, 12) {
                0..2 => {
                    let most = self.dice.roll(1, 4);
                    self.begin_writing(most);
                }
                2..4 => self.commit(),
                4 if self.dice.one_in(12) => self.die(),
                5 if self.dice.one_in(12) => self.stop_and_go_on(),
                _ => self.something_happens(now),
            }
            self.listen();
            self.judge();
        }
        self.come_to_rest();
        self.promise_holds();
        self.granted
    }
}

const NATURE: Nature = Nature { limits: 2, fixed: 1, changes: false, turns: true, steps: 600 };

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_locker_that_dies_at_any_moment_never_lets_more_go_than_it_may(seed: u64) {
        World::new(seed, NATURE).live_dangerously();
    }
}

#[test]
fn lockers_that_die_let_many_go_between() {
    let granted: u64 = (0..30).map(|seed| World::new(seed, NATURE).live_dangerously()).sum();
    assert!(granted > 1000, "{granted}: worlds in which nothing happens prove nothing");
}

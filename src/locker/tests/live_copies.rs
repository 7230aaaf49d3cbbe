//! Live copies: a random world of many keys changes while its windows are copied, and after each step the copy with its
//! changes says what a snapshot says.

use proptest::prelude::*;

use super::generators::{SeededRng, cases};
use super::persisting::{long, write_all};
use super::*;
use crate::locker::window_table::WindowTable;

/// Keys of each limit: several chunks of windows, and many slices.
const KEYS: u64 = 40;

/// Everything that can change a window: requests and their ends, waiters, pauses, the journal, the time, and the requests
/// of a process before this one.
struct CopyWorld {
    rng: SeededRng,
    locker: Locker,
    now: Time,
    grants: Vec<Grant>,
    tickets: Vec<Ticket>,
    /// Slots held by an earlier process.
    remote: Vec<GrantedSlots>,
    written: Vec<WriteToken>,
}

fn limits() -> Vec<Limit> {
    let answered = |mut limit: Limit| {
        limit.rate.as_mut().unwrap().counts = Counts::Answered;
        limit
    };
    vec![
        limit(3, 50, Kind::Sliding),
        answered(limit(4, 80, Kind::Smooth { burst: 2 })),
        limit(2, 60, Kind::Fixed),
        Limit { in_flight: Some(2), ..limit(50, 70, Kind::Sliding) },
        Limit { in_flight: Some(2), rate: None, ..limit(1, 70, Kind::Sliding) },
        // Written down before it is granted.
        limit(200, 20_000, Kind::Sliding),
        limit(9, 60_000, Kind::Calendar { unit: Unit::Minute, zone: jiff::tz::TimeZone::UTC }),
        Limit { when_full: WhenFull::Refuse, ..limit(2, 40, Kind::Sliding) },
        Limit { dry_run: true, ..limit(1, 40, Kind::Sliding) },
        Limit { shared: true, ..limit(5, 90, Kind::Sliding) },
    ]
}

impl CopyWorld {
    fn new(seed: u64) -> CopyWorld {
        let mut locker = Locker::in_chunks(3, limits());
        locker.set_wall(WALL, Time::START);
        locker.begin_persisting(JournalStart::Fresh, Time::START);
        let (grants, tickets) = (Vec::new(), Vec::new());
        let (remote, written) = (Vec::new(), Vec::new());
        CopyWorld { rng: SeededRng::new(seed), locker, now: ms(100), grants, tickets, remote, written }
    }

    fn claim(&mut self) -> Claim {
        let (limit, key) = (self.rng.range(0, limits().len() as u64), self.rng.range(0, KEYS));
        claim(limit as u32, u128::from(key), self.rng.range(1, 3) as u32)
    }

    fn step(&mut self) {
        match self.rng.range(0, 20) {
            0 => self.now = self.now + Duration::from_millis(self.rng.range(1, 200)),
            1 => self.now = self.now + Duration::from_micros(self.rng.range(1, 5_000)),
            _ => {}
        }
        self.locker.handle_timeout(self.now);
        let now = self.now;
        match self.rng.range(0, 16) {
            0..6 => self.ask(),
            6 | 7 => {
                let point =
                    [SettlePoint::Sent, SettlePoint::Answered, SettlePoint::Failed][self.rng.range(0, 3) as usize];
                if let Some(mut grant) = self.take_grant() {
                    self.locker.settle(&mut grant, point, now);
                    self.grants.push(grant);
                }
            }
            8 => drop(self.take_grant().map(|grant| self.locker.give_back(grant, now))),
            9 => drop(self.take_grant().map(|grant| self.locker.finish(grant, now))),
            10 => {
                let Claim { limit, key, .. } = self.claim();
                self.locker.pause(limit, key, now + Duration::from_millis(self.rng.range(0, 300)), now);
            }
            11 => drop(self.tickets.pop().map(|ticket| self.locker.leave(ticket, now))),
            12 => self.journal(),
            13 => {
                let grant = self.take_grant();
                self.remote.extend(grant.map(|grant| self.locker.delegate(grant)).unwrap_or_default());
            }
            14 => self.remote_event(),
            _ => drop(self.locker.scan_stats(&mut StatsScan::default(), now)),
        }
        while let Some((ticket, verdict)) = self.locker.poll_verdict() {
            self.tickets.retain(|waiting| *waiting != ticket);
            self.grants.extend(match verdict {
                Verdict::Go(grant) => Some(grant),
                Verdict::Sorry(_) | Verdict::Wait(..) => None,
            });
        }
    }

    fn ask(&mut self) {
        let mut claims: Vec<Claim> = (0..self.rng.range(1, 3)).map(|_| self.claim()).collect();
        claims.sort_by_key(|claim| claim.limit);
        claims.dedup_by_key(|claim| claim.limit);
        match self.locker.ask(&ask(&claims, self.rng.range(0, 3)), self.now) {
            Verdict::Go(grant) => self.grants.push(grant),
            Verdict::Wait(ticket, _) => self.tickets.push(ticket),
            Verdict::Sorry(_) => {}
        }
    }

    fn take_grant(&mut self) -> Option<Grant> {
        let count = self.grants.len() as u64;
        (count > 0).then(|| self.grants.swap_remove(self.rng.range(0, count) as usize))
    }

    fn journal(&mut self) {
        if self.rng.one_in(2) {
            self.locker.limits_written();
            self.locker.records_written(self.written.drain(..), self.now);
        }
        self.written.extend(self.locker.poll_records(5, self.now).into_iter().filter_map(|record| match record {
            JournalRecord::Window(_, token) => Some(token),
            JournalRecord::Limits | JournalRecord::Dropped(..) => None,
        }));
    }

    fn remote_event(&mut self) {
        if self.rng.one_in(20) {
            self.remote.clear();
            return self.locker.remote_lost(self.now);
        }
        let Some(GrantedSlots { limit, key, cost, flying, .. }) = self.remote.pop() else { return };
        let at = self.now + Duration::from_millis(self.rng.range(0, 2) * 30);
        let end = match self.rng.range(0, 3) {
            0 => Event::GiveBack { limit, key, cost },
            _ => Event::Settle { limit, key, cost, at },
        };
        self.locker.handle_remote(&end, self.now);
        if flying {
            self.locker.handle_remote(&Event::Land { limit, key }, self.now);
        }
    }

    /// Applies all that has changed since the last call, and compares the copy with a snapshot.
    fn assert_equal(&mut self, replica: &mut Replica, seed: u64) {
        while self.locker.copy_left() != Some(0) {
            replica.apply(self.locker.copy_slice(self.now).unwrap(), self.now);
        }
        let (here, there) = (states(&mut self.locker, self.now), states(replica.locker(), self.now));
        assert_eq!(there, here, "seed {seed}");
    }
}

/// All that counts in each window.
fn states(locker: &mut Locker, now: Time) -> Vec<WindowRecord> {
    let ahead = |at: Time| if at > now { at } else { Time::START };
    let mut windows = locker.snapshot(now).windows;
    for window in &mut windows {
        window.open += std::mem::take(&mut window.late).iter().map(|(_, cost)| cost).sum::<u32>();
        (window.tat, window.paused) = (ahead(window.tat), ahead(window.paused));
    }
    // A window with nothing but waiters comes with these.
    windows.retain(|window| {
        let WindowRecord { log, open, flying, tat, paused, .. } = window;
        !log.is_empty() || (*open, *flying) != (0, 0) || (*tat).max(*paused) > Time::START
    });
    windows.sort_by_key(|window| (window.limit, window.key));
    windows
}

/// Runs a world with a copy. Returns the number of windows at its end.
fn copied(seed: u64) -> usize {
    let mut world = CopyWorld::new(seed);
    (0..300).for_each(|_| world.step());
    let mut replica = Replica::begin(world.locker.begin_copy(world.now), WALL, world.now);
    // The walk, with changes before and behind it.
    while world.locker.copy_left().is_none() {
        (0..world.rng.range(0, 8)).for_each(|_| world.step());
        replica.apply(world.locker.copy_slice(world.now).unwrap(), world.now);
    }
    world.assert_equal(&mut replica, seed);
    for _ in 0..300 {
        for _ in 0..world.rng.range(1, 4) {
            world.step();
            if world.rng.one_in(3) {
                replica.apply(world.locker.copy_slice(world.now).unwrap(), world.now);
            }
        }
        world.assert_equal(&mut replica, seed);
    }
    (0..30).for_each(|_| world.step());
    let rest = world.locker.finish_copy(world.now).unwrap();
    let mut next = replica.finish(rest, WALL, world.now).unwrap();
    let here = states(&mut world.locker, world.now);
    assert_eq!(states(&mut next, world.now), here, "seed {seed}");
    here.len()
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_copy_with_all_its_changes_says_what_a_snapshot_says(seed: u64) {
        copied(seed);
    }
}

#[test]
fn worlds_that_are_copied_have_many_windows() {
    let windows: usize = (0..10).map(copied).sum();
    assert!(windows > 500, "{windows}: worlds in which nothing happens prove nothing");
}

/// A locker with one slot taken of each of so many keys.
fn with_keys(keys: u32) -> Locker {
    let mut locker = Locker::in_chunks(3, vec![limit(2, 1000, Kind::Sliding)]);
    for key in 0..keys {
        assert!(send(&mut locker, &ask(&[claim(0, key.into(), 1)], 1), ms(0)).is_ok());
    }
    locker
}

#[test]
fn a_key_that_is_dropped_and_comes_back_at_another_place_is_copied_as_it_is() {
    let mut locker = with_keys(20);
    let mut replica = Replica::begin(locker.begin_copy(ms(1)), WALL, ms(1));
    // All are copied but the last places.
    (0..4).for_each(|_| replica.apply(locker.copy_slice(ms(1)).unwrap(), ms(1)));
    let mut now = ms(1000);
    while locker.live_keys() > 0 {
        now = locker.poll_timeout().unwrap();
        locker.handle_timeout(now);
    }
    for key in [30, 31, 3] {
        assert!(send(&mut locker, &ask(&[claim(0, key, 1)], 1), now).is_ok());
    }
    let rest = locker.finish_copy(now).unwrap();
    let mut next = replica.finish(rest, WALL, now).unwrap();
    assert_eq!(states(&mut next, now), states(&mut locker, now));
    assert_eq!(next.live_keys(), 3);
}

#[test]
fn a_slice_looks_at_few_places_however_many_windows_there_are() {
    let mut locker = with_keys(1000);
    locker.begin_copy(ms(1));
    let places = |table: &WindowTable| table.look_count.take();
    places(&locker.counters.table);
    while locker.copy_left().is_none() {
        let slice = locker.copy_slice(ms(1)).unwrap();
        assert!(slice.windows.len() <= 4 && places(&locker.counters.table) <= 4);
    }
    for key in 0..500 {
        assert!(send(&mut locker, &ask(&[claim(0, key, 1)], 1), ms(2)).is_ok());
    }
    assert_eq!(locker.copy_left(), Some(500));
    places(&locker.counters.table);
    assert_eq!(locker.copy_slice(ms(2)).unwrap().windows.len(), 4);
    assert!(places(&locker.counters.table) <= 8, "each is found and read");
}

#[test]
fn a_look_at_a_window_does_not_copy_it_again() {
    let mut locker = with_keys(50);
    locker.begin_copy(ms(1));
    while locker.copy_left().is_none() {
        locker.copy_slice(ms(1)).unwrap();
    }
    let mut scan = StatsScan::default();
    while locker.scan_stats(&mut scan, ms(2)) {}
    locker.handle_timeout(ms(600));
    locker.snapshot(ms(600));
    assert_eq!(locker.copy_left(), Some(0));
}

#[test]
fn a_change_of_the_limits_voids_the_copy_and_another_may_begin() {
    let mut locker = with_keys(10);
    locker.begin_copy(ms(1));
    assert!(locker.copy_slice(ms(1)).is_some());
    let limits = locker.limits().to_vec();
    assert!(!locker.reload(limits, Duration::ZERO, ms(2)).is_change());
    assert!(locker.copy_slice(ms(2)).is_some(), "nothing has changed");
    change(&mut locker, LimitId(0), limit(5, 1000, Kind::Sliding), ms(3));
    assert!(locker.copy_slice(ms(3)).is_none() && locker.finish_copy(ms(3)).is_none());
    locker.begin_copy(ms(4));
    assert_eq!(locker.finish_copy(ms(4)).unwrap().slice.windows.len(), 10);
}

#[test]
fn a_replica_of_other_limits_becomes_no_locker() {
    let mut locker = with_keys(1);
    let replica = Replica::begin(locker.begin_copy(ms(1)), WALL, ms(1));
    change(&mut locker, LimitId(0), limit(5, 1000, Kind::Sliding), ms(2));
    locker.begin_copy(ms(2));
    assert!(replica.finish(locker.finish_copy(ms(2)).unwrap(), WALL, ms(2)).is_none());
}

#[test]
fn a_record_whose_key_has_another_window_is_removed_after_a_live_copy_and_that_of_the_window_is_not() {
    let (mut locker, later) = (Locker::new(vec![long(30)]), ms(2_000));
    locker.begin_persisting(JournalStart::Fresh, ms(0));
    write_all(&mut locker, ms(0));
    let use_up = |locker: &mut Locker, key, now| {
        (0..6).for_each(|_| assert!(send(locker, &ask(&[claim(0, key, 1)], 1), now).is_ok()));
        write_all(locker, now);
    };
    (0..3).for_each(|key| use_up(&mut locker, key, ms(0)));
    let mut copied = Replica::begin(locker.begin_copy(later), WALL, later);
    while locker.copy_left().is_none() {
        copied.apply(locker.copy_slice(later).unwrap(), later);
    }
    // The first key is used again, and written; the second is dropped, and used again before its record is removed.
    use_up(&mut locker, 0, later);
    let second = locker.counters.table.find(LimitId(0), Key(1)).unwrap();
    locker.counters.table.remove(second, &mut locker.counters.limits.rules);
    assert!(send(&mut locker, &ask(&[claim(0, 1, 1)], 1), later).is_ok());
    let mut next = copied.finish(locker.finish_copy(later).unwrap(), WALL, later).unwrap();
    next.begin_persisting(JournalStart::Resume, later);
    let mut removed: Vec<u128> = std::iter::from_fn(|| next.poll_record(later))
        .filter_map(|record| if let JournalRecord::Dropped(_, key) = record { Some(key.0) } else { None })
        .collect();
    removed.sort_unstable();
    assert_eq!(removed, [1, 2]);
}

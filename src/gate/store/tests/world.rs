//! Simulation of gateways (their lockers) and a store (the model) under faults: lost and delayed
//! messages, network partitions, killed gateways, restarted and replaced stores. A simulated origin
//! checks the times of all requests.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::ops::Range;
use std::time::Duration;

use super::Dice;
use super::model::Model;
use crate::gate::store::WhenLost;
use crate::gate::store::last_contact::LastContact;
use crate::gate::store::script_call::Command;
use crate::locker::{Counts, Grant, Kind, Limit, Locker, Priority, Rate, ShareBy, SyncRequest, Ticket, WhenFull};
use crate::time::Time;

pub(super) const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
/// The store's clock at the start of the simulation, in µs of Unix time.
const WALL: u64 = 1_795_000_000_000_000;
pub(super) const CALL_TIMEOUT: u64 = 250 * MS;
pub(super) const HEARTBEAT: u64 = 150 * MS;
pub(super) const RETRY: u64 = 100 * MS;
/// Longest time from a permit to its settle.
pub(super) const MAX_SETTLE_TIME: Duration = Duration::from_millis(1400);
/// End of the faults, start of the throughput measurement, and end of the simulation; in
/// nanoseconds.
pub(super) const FAULTS_END: u64 = 4 * SECOND;
pub(super) const MEASURE_START: u64 = 9 * SECOND;
pub(super) const END: u64 = 10 * SECOND;

fn limits() -> Vec<Limit> {
    let limit = |name: &str, requests, per: u64, kind, counts| Limit {
        name: name.into(),
        keyed_by: "".into(),
        rate: Some(Rate { requests, per: Duration::from_millis(per), guard: Duration::ZERO, kind, counts }),
        in_flight: None,
        when_full: WhenFull::Wait,
        max_wait: Duration::from_millis(700),
        max_waiting: 30,
        share_by: ShareBy::Caller,
        priority: Priority::WithinCaller,
        max_keys: 10,
        dry_run: false,
        shared: true,
    };
    let mut capped = limit("capped", 1000, 10, Kind::Sliding, Counts::Sent);
    (capped.rate, capped.in_flight) = (None, Some(3));
    vec![
        limit("sent", 6, 60, Kind::Sliding, Counts::Sent),
        limit("answered", 3, 100, Kind::Sliding, Counts::Answered),
        limit("smooth", 9, 90, Kind::Smooth { burst: 2 }, Counts::Sent),
        capped,
        limit("long", 12, 2500, Kind::Sliding, Counts::Sent),
    ]
}

/// Limits that a request claims together.
pub(super) const CLAIMS: [&[u32]; 7] = [&[0], &[2], &[3], &[4], &[0], &[0, 1], &[2, 0]];

/// A simulated gateway. Times are nanoseconds of the simulation's clock.
pub(super) struct Gateway {
    pub(super) locker: Locker,
    /// Nanoseconds by which its clock is ahead.
    pub(super) ahead: u64,
    pub(super) process: String,
    pub(super) sessions: u64,
    pub(super) is_connected: bool,
    pub(super) call: Option<Call>,
    pub(super) calls: u64,
    pub(super) heartbeat_due: u64,
    pub(super) retry: u64,
    pub(super) contact: LastContact,
    /// End of its partition from the store.
    pub(super) cut: u64,
    pub(super) waiting: HashMap<Ticket, u32>,
    /// Granted requests with the times at which they are sent; sent requests with the times of
    /// their answers.
    pub(super) leaving: Vec<(u64, Grant)>,
    pub(super) answering: Vec<(u64, Grant)>,
}

/// A call to the store without a reply yet.
pub(super) struct Call {
    pub(super) number: u64,
    pub(super) command: Command,
    pub(super) sync: SyncRequest,
    pub(super) began: Time,
    pub(super) till: u64,
}

/// A message between a gateway and the store.
pub(super) struct Message {
    pub(super) at: u64,
    pub(super) gateway: usize,
    pub(super) process: String,
    pub(super) number: u64,
    /// A call (keys and arguments), or a reply.
    pub(super) content: Result<(Vec<String>, Vec<String>), Vec<i64>>,
}

/// The simulation.
pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) now: u64,
    pub(super) when_lost: fn(usize) -> WhenLost,
    pub(super) limits: Vec<Limit>,
    pub(super) gateways: Vec<Gateway>,
    pub(super) messages: Vec<Message>,
    pub(super) store: Model,
    pub(super) snapshot: Model,
    pub(super) stores: u64,
    pub(super) clock: u64,
    /// Time until which the store handles no call.
    pub(super) stopped: u64,
    /// A gateway, the start and the length of its partition; afterwards one hello gets through, and
    /// nothing more.
    severed: Option<(usize, u64, u64)>,
    /// Arrival times at the origin, for each limit.
    pub(super) arrivals: Vec<Vec<u64>>,
    pub(super) flights: Vec<(u64, i32)>,
}

impl World {
    fn new(seed: u64, when_lost: fn(usize) -> WhenLost) -> World {
        let mut dice = Dice(seed);
        let limits = limits();
        let clock = WALL + dice.below(SECOND);
        let mut world = World {
            dice,
            now: SECOND,
            when_lost,
            gateways: Vec::new(),
            messages: Vec::new(),
            store: Model::default(),
            snapshot: Model::default(),
            stores: 0,
            clock,
            stopped: 0,
            severed: None,
            arrivals: vec![Vec::new(); limits.len()],
            flights: Vec::new(),
            limits,
        };
        for number in 0..3 {
            let gateway = world.new_gateway(number);
            world.gateways.push(gateway);
        }
        world
    }

    pub(super) fn new_gateway(&mut self, number: usize) -> Gateway {
        let ahead = self.dice.below(SECOND);
        let mut locker = Locker::new(self.limits.clone());
        locker.close_sharing(Time::from_nanos(self.now + ahead));
        Gateway {
            locker,
            ahead,
            process: format!("p{number}x{}", self.dice.below(1 << 40)),
            sessions: 0,
            is_connected: false,
            call: None,
            calls: 0,
            heartbeat_due: 0,
            retry: self.now,
            contact: LastContact::default(),
            cut: 0,
            waiting: HashMap::new(),
            leaving: Vec::new(),
            answering: Vec::new(),
        }
    }

    fn run(&mut self) {
        while self.now < END {
            self.now += 2_000 + self.dice.below(150_000);
            if self.now < FAULTS_END {
                self.inject_faults();
            }
            if let Some((number, at, long)) = self.severed.filter(|(_, at, _)| *at < self.now) {
                self.gateways[number].cut = self.gateways[number].cut.max(at + long);
            }
            self.deliver();
            for number in 0..self.gateways.len() {
                self.arrive(number);
                self.leave(number);
                self.poll_store(number);
            }
        }
    }

    fn inject_faults(&mut self) {
        if self.dice.one_in(1000) {
            self.snapshot = self.store.clone();
        }
        if self.dice.one_in(5000) {
            // A restart: empty, from an old snapshot, or with all data; and with another clock.
            self.stores += 1;
            self.store = match self.dice.below(3) {
                0 => Model::default(),
                1 => self.snapshot.clone(),
                _ => self.store.clone(),
            };
            self.clock = WALL + self.dice.below(SECOND);
            self.stopped = self.now + self.dice.below(600 * MS);
        }
        if self.dice.one_in(7000) {
            self.store = Model::default();
        }
        if self.dice.one_in(8000) {
            self.stopped = self.now + self.dice.below(900 * MS);
        }
        if self.dice.one_in(9000) {
            self.clock -= self.dice.below(100_000);
        }
        let number = self.dice.below(3) as usize;
        if self.dice.one_in(3000) {
            self.gateways[number].cut = self.now + self.dice.below(2500 * MS);
        }
        if self.dice.one_in(6000) && !self.is_severed(number) {
            // The gateway is killed: requests that it has sent are answered, others are never sent.
            let before = std::mem::take(&mut self.gateways[number].answering);
            self.flights.extend(before.iter().filter(|(_, grant)| grant.holds_flight()).map(|_| (self.now, -1)));
            self.gateways[number] = self.new_gateway(number);
        }
    }

    /// Returns true if nothing disturbs the throughput measurement any more.
    pub(super) fn is_calm(&self) -> bool {
        self.now > MEASURE_START - SECOND
    }

    /// Returns true if the partition of the severed gateway has begun.
    pub(super) fn is_severed(&self, number: usize) -> bool {
        self.severed.is_some_and(|(severed, at, _)| severed == number && at < self.now)
    }

    /// Requests of a limit during the measurement, as a fraction of the possible number.
    fn used(&self, limit: usize) -> f64 {
        let Some(rate) = &self.limits[limit].rate else { return 1.0 };
        let went = self.arrivals[limit].iter().filter(|at| **at >= MEASURE_START).count();
        went as f64 * rate.per.as_nanos() as f64 / f64::from(rate.requests) / (END - MEASURE_START) as f64
    }

    /// The first request of a smooth limit that violates its interval and burst, and the
    /// nanoseconds by which it was early.
    fn too_close(&mut self, limit: usize) -> Option<(u64, u64)> {
        let Some(Rate { requests, per, kind: Kind::Smooth { burst }, .. }) = self.limits[limit].rate else {
            return None;
        };
        let distance = u64::try_from(per.as_nanos()).unwrap() / u64::from(requests);
        self.arrivals[limit].sort_unstable();
        let mut mark = 0;
        self.arrivals[limit].iter().find_map(|at| {
            let early = (mark + distance).saturating_sub(at + u64::from(burst) * distance);
            mark = mark.max(*at) + distance;
            (early > 0).then_some((*at, early))
        })
    }

    /// The first request that violates `requests` per span, and its distance in nanoseconds.
    fn too_early(&mut self, limit: usize) -> Option<(u64, u64)> {
        let rate = self.limits[limit].rate.as_ref()?;
        let (most, span) = (rate.requests as usize, u64::try_from(rate.per.as_nanos()).unwrap());
        self.arrivals[limit].sort_unstable();
        let pairs = self.arrivals[limit].windows(most + 1);
        pairs.map(|pair| (pair[most], pair[most] - pair[0])).find(|(_, apart)| *apart < span)
    }
}

/// Runs a simulation for each seed and checks all limits, and the throughput at the end.
fn check_worlds(seeds: Range<u64>, when_lost: fn(usize) -> WhenLost, prepare: fn(&mut World)) {
    let more = if std::env::var_os("LOCKGATE_SLOW").is_some() { 4 } else { 1 };
    for seed in seeds.start..seeds.start + more * (seeds.end - seeds.start) {
        let mut world = World::new(seed, when_lost);
        prepare(&mut world);
        world.run();
        for limit in 0..5 {
            assert_eq!(world.too_early(limit), None, "seed {seed}: {}", world.limits[limit].name);
            // Each fraction has a burst of its own.
            if when_lost(0) == WhenLost::Refuse {
                assert_eq!(world.too_close(limit), None, "seed {seed}: {}", world.limits[limit].name);
            }
        }
        assert!(world.used(0) > 0.85, "seed {seed}: only {} of the limit was used at the end", world.used(0));
        assert!(world.used(2) > 0.80, "seed {seed}: only {} of the smooth limit was used at the end", world.used(2));
    }
}

#[test]
fn no_more_than_n_in_t_whatever_becomes_of_store_lines_and_gateways() {
    check_worlds(0..6, |_| WhenLost::Refuse, |_| {});
}

#[test]
fn no_more_than_n_in_t_where_gateways_go_on_with_their_parts() {
    check_worlds(100..106, |number| share(number, Duration::from_secs(3600)), |_| {});
}

#[test]
fn no_more_than_n_in_t_where_a_gateway_stays_cut_off_and_its_part_ends() {
    check_worlds(200..203, short_share, |world| sever(world, END));
}

#[test]
fn no_more_than_n_in_t_where_of_a_gateway_that_is_cut_off_a_hello_gets_through() {
    check_worlds(300..303, short_share, |world| sever(world, 1500 * MS));
}

/// Severs a gateway after the faults have ended: a store that was replaced later would reserve the
/// fraction for longer.
fn sever(world: &mut World, long: u64) {
    let number = world.dice.below(3) as usize;
    world.severed = Some((number, FAULTS_END + world.dice.below(200 * MS), long));
}

/// Settings with a `share_for` little longer than the time until a fraction may be used.
fn short_share(number: usize) -> WhenLost {
    share(number, Duration::from_millis(3200))
}

fn share(number: usize, share_for: Duration) -> WhenLost {
    WhenLost::Share { gateways: NonZeroU32::new(3).unwrap(), name: format!("gateway {number}"), share_for }
}

//! Simulated world: gateways (their lockers), a store and an origin under a story of faults. Time
//! goes from event to event.
//!
//! Each world draws its own limits and its own bounds of the protocol, so that each of the terms
//! that keep a limit is the one that matters in some worlds: spans far longer than the presence of
//! a gateway, no horizon, an epoch without a floor.

use std::num::NonZeroU32;
use std::time::Duration;

use super::Dice;
use super::world_gateway::{Message, WorldGateway};
use super::world_judge::Origin;
use super::world_mutants::WorldMutant;
use super::world_store::{Backend, WorldStore};
use super::world_story::Story;
use crate::gate::store::WhenLost;
use crate::locker::{Counts, Kind, LEASE, Limit, MAX_HORIZON, Priority, Rate, ShareBy, WhenFull};

pub(super) const MS: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1000 * MS;
pub(super) const GATEWAYS: usize = 3;
/// Longest time from a permit to its settle.
pub(super) const MAX_SETTLE_TIME: Duration = Duration::from_millis(1600);
/// Place of the limit that counts answers, and of those whose rate a reload may change.
pub(super) const ANSWERED: usize = 1;
pub(super) const RELOADED: [usize; 2] = [0, 5];

/// Load of all gateways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Load {
    /// Each gateway always has more waiters than slots can open.
    Flood,
    /// One request at a time, at most 2 ms before a slot opens.
    Probe,
}

/// Settings of a world, drawn from its seed. Durations are in ns unless noted.
#[derive(Debug)]
pub(super) struct WorldSettings {
    /// T of the main limit.
    pub(super) span: u64,
    /// Bounds that the store uses, in µs: presence, longest horizon.
    pub(super) presence: u64,
    pub(super) horizon: u64,
    pub(super) trusts_empty: bool,
    pub(super) load: Load,
    /// Longest use of a fraction; `None`: refuse.
    pub(super) share_for: Option<Duration>,
    /// Limits that a request claims together, for each kind of request.
    pub(super) claims: Vec<&'static [u32]>,
}

/// Claims of which a world draws: the main ones, and others.
const MAIN_CLAIMS: [&[u32]; 8] = [&[0], &[5], &[1], &[2], &[3], &[4], &[0], &[1]];
const MORE_CLAIMS: [&[u32]; 6] = [&[0, 1], &[2, 0], &[3], &[0, 3], &[5, 0], &[1]];

impl WorldSettings {
    fn draw(dice: &mut Dice) -> WorldSettings {
        let micros = |duration: Duration| duration.as_micros() as u64;
        let is_tight = dice.one_in(2);
        let horizon = if is_tight { [0, 0, 5_000][dice.below(3) as usize] } else { micros(MAX_HORIZON) };
        let load = if dice.one_in(4) { Load::Probe } else { Load::Flood };
        let mut claims = vec![MAIN_CLAIMS[dice.below(8) as usize]];
        if load == Load::Flood && dice.one_in(2) {
            claims.push(MORE_CLAIMS[dice.below(6) as usize]);
        }
        let span = [60, 400, 2000, 2000, 4000][dice.below(5) as usize] * MS;
        let share_for = match dice.below(4) {
            0 => Some(3600 * SECOND),
            1 => Some(span + 3200 * MS),
            _ => None,
        };
        WorldSettings {
            span,
            // In a tight world not longer than it takes to use a grant. The time after which a
            // fraction may be used follows from the real one.
            presence: if is_tight { micros(LEASE) + horizon + 100_000 } else { 1_000_000 },
            horizon,
            trusts_empty: dice.one_in(3),
            load,
            share_for: share_for.map(Duration::from_nanos),
            claims,
        }
    }

    /// Start and end of the faults, and start and end of the measurement of the use.
    ///
    /// The use is measured in short spans; other worlds end when the last fault no longer matters.
    pub(super) fn times(&self) -> [u64; 4] {
        let short_fraction = self.share_for.map_or(0, |time| time.as_nanos() as u64).min(8 * SECOND);
        let end = SECOND + 3 * (self.span.min(2 * SECOND) + 1200 * MS) + 2 * short_fraction;
        let calm = end + 2 * self.span + 3500 * MS;
        let last = if self.is_measured() { calm + (4 * self.span).max(SECOND) } else { end + self.span + SECOND };
        [SECOND + 300 * MS, end, calm, last]
    }

    /// True if the use of the first limit is measured after the faults. A request that also waits
    /// for another limit keeps its place in this one, so no such request may be there.
    fn is_measured(&self) -> bool {
        let is_alone = !self.claims[1..].iter().any(|claims| claims.contains(&0));
        self.load == Load::Flood && self.claims[0] == [0] && is_alone && self.span < SECOND
    }

    fn limits(&self, dice: &mut Dice) -> Vec<Limit> {
        let limit = |name: &str, requests: u64, per: u64, kind, counts| Limit {
            name: name.into(),
            keyed_by: "".into(),
            rate: Some(Rate {
                requests: requests as u32,
                per: Duration::from_nanos(per),
                guard: Duration::ZERO,
                kind,
                counts,
            }),
            in_flight: None,
            when_full: WhenFull::Wait,
            max_wait: Duration::from_secs(60),
            max_waiting: 30,
            share_by: ShareBy::Caller,
            priority: Priority::WithinCaller,
            max_keys: 10,
            dry_run: false,
            shared: true,
        };
        let span = self.span;
        let mut capped = limit("capped", 1000, 10, Kind::Sliding, Counts::Sent);
        (capped.rate, capped.in_flight) = (None, Some(3));
        vec![
            limit("sent", 3 + dice.below(4), span, Kind::Sliding, Counts::Sent),
            limit("answered", 3, span, Kind::Sliding, Counts::Answered),
            limit("smooth", 9, span, Kind::Smooth { burst: 2 }, Counts::Sent),
            capped,
            limit("fixed", 4, span, Kind::Fixed, Counts::Sent),
            limit("long", 12, 2500 * MS, Kind::Sliding, Counts::Sent),
        ]
    }

    pub(super) fn when_lost(&self, number: usize) -> WhenLost {
        let gateways = NonZeroU32::new(GATEWAYS as u32).unwrap();
        match self.share_for {
            None => WhenLost::Refuse,
            Some(share_for) => WhenLost::Share { gateways, name: format!("gateway {number}"), share_for },
        }
    }
}

/// The simulation. Times are nanoseconds of its clock.
pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) now: u64,
    pub(super) settings: WorldSettings,
    pub(super) mutant: Option<WorldMutant>,
    pub(super) limits: Vec<Limit>,
    pub(super) gateways: Vec<WorldGateway>,
    pub(super) messages: Vec<Message>,
    pub(super) store: WorldStore,
    pub(super) origin: Origin,
    pub(super) story: Story,
    /// Time of the next lone request.
    pub(super) next_probe: u64,
}

impl World {
    /// The world of a seed.
    pub(super) fn new(seed: u64, mutant: Option<WorldMutant>, backend: Backend) -> World {
        let mut dice = Dice(seed);
        let settings = WorldSettings::draw(&mut dice);
        let limits = settings.limits(&mut dice);
        let store = WorldStore::new(backend, &mut dice);
        let origin = Origin::new(&limits, GATEWAYS);
        let story = Story::draw(&mut dice, &settings);
        let mut world = World {
            dice,
            now: SECOND,
            settings,
            mutant,
            limits,
            gateways: Vec::new(),
            messages: Vec::new(),
            store,
            origin,
            story,
            next_probe: SECOND + 500 * MS,
        };
        for number in 0..GATEWAYS {
            let gateway = world.new_gateway(number);
            world.gateways.push(gateway);
        }
        world
    }

    /// Its settings and attacks, for messages.
    pub(super) fn description(&self) -> String {
        format!("{:?}, {:?}", self.settings, self.story)
    }

    /// Runs the world to its end; returns the first violation.
    pub(super) fn run(&mut self) -> Option<String> {
        let [_, _, calm, end] = self.settings.times();
        while self.now < end {
            self.now = self.next_event().max(self.now + 1).min(end);
            self.play_story();
            self.deliver();
            for number in 0..GATEWAYS {
                if self.next_of_gateway(number) <= self.now {
                    self.poll_gateway(number);
                }
            }
            self.probe();
        }
        let violation = self.origin.violation();
        // Each fraction has a burst of its own.
        let is_whole = self.settings.share_for.is_none();
        violation.or_else(|| self.origin.too_close(2).filter(|_| is_whole)).or_else(|| self.unused(calm, end))
    }

    /// The use of the first limit, if it is too low after the faults.
    fn unused(&self, calm: u64, end: u64) -> Option<String> {
        if !self.settings.is_measured() || self.mutant.is_some() || !self.origin.has_one_rate(0) {
            return None;
        }
        let used = self.origin.used(0, calm, end);
        (used < 0.7).then(|| format!("only {used} of limit 0 was used at the end"))
    }

    fn next_event(&self) -> u64 {
        let messages = self.messages.iter().map(|message| match &message.content {
            Ok(_) => message.at.max(self.store.halted),
            Err(_) => message.at,
        });
        let gateways = (0..GATEWAYS).map(|number| self.next_of_gateway(number));
        let probe = if self.settings.load == Load::Probe { self.next_probe } else { u64::MAX };
        messages.chain(gateways).chain([probe, self.story.next()]).min().unwrap_or(u64::MAX)
    }

    /// In a world of lone requests: lets one arrive shortly before the next slot opens.
    fn probe(&mut self) {
        if self.settings.load != Load::Probe || self.next_probe > self.now {
            return;
        }
        let main = self.settings.claims[0][0] as usize;
        let number = self.dice.below(GATEWAYS as u64) as usize;
        let rate = self.limits[main].rate.as_ref();
        let (requests, span) = rate.map_or((3, 20 * MS), |rate| (rate.requests as usize, rate.per.as_nanos() as u64));
        let arrivals = &self.origin.arrivals[main];
        let opens = arrivals.len().checked_sub(requests).map_or(0, |place| arrivals[place] + span);
        let early = self.dice.below(2 * MS);
        if self.gateways[number].waiting.is_empty() {
            self.ask(number, 0);
        }
        let soonest = self.now + self.dice.below(MS) + 1;
        self.next_probe = if opens > soonest { opens.saturating_sub(early).max(soonest) } else { soonest };
    }
}

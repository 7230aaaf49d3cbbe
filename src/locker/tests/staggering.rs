//! Tests of the openings that refused requests are told: each another one, so that they do not come
//! back together.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use proptest::prelude::*;

use super::generators::SeededRng;
use super::*;

/// Callers that come back when they were told to, until they have gone.
struct Herd {
    locker: Locker,
    /// Time at which each caller comes next.
    coming: BinaryHeap<Reverse<(Time, usize)>>,
    waiting: HashMap<Ticket, usize>,
    claims: Vec<Vec<Claim>>,
    /// Number of requests of each caller.
    tries: Vec<u32>,
    /// Time at which the last one went.
    end: Time,
}

impl Herd {
    /// As many callers as there are claims and arrivals.
    fn new(limits: Vec<Limit>, callers: impl IntoIterator<Item = (Time, Vec<Claim>)>) -> Herd {
        let mut herd = Herd {
            locker: Locker::new(limits),
            coming: BinaryHeap::new(),
            waiting: HashMap::new(),
            claims: Vec::new(),
            tries: Vec::new(),
            end: Time::START,
        };
        for (at, claims) in callers {
            herd.coming.push(Reverse((at, herd.claims.len())));
            herd.claims.push(claims);
            herd.tries.push(0);
        }
        herd
    }

    /// Lets all come and come back until all have gone. `delay`: how long after the time it was told
    /// a caller comes, by the time that it should wait.
    fn run(mut self, mut delay: impl FnMut(Duration) -> Duration) -> Herd {
        while !self.coming.is_empty() || !self.waiting.is_empty() {
            let next = self.coming.peek().map_or(Time::NEVER, |Reverse((at, _))| *at);
            let due = self.locker.poll_timeout().unwrap_or(Time::NEVER);
            let now = next.min(due);
            if due <= next {
                self.locker.handle_timeout(due);
            } else if let Some(Reverse((_, caller))) = self.coming.pop() {
                self.tries[caller] += 1;
                assert!(self.tries[caller] <= 100, "caller {caller} never goes");
                let ask = Ask { caller: Caller(caller as u64), ..ask(&self.claims[caller], 0) };
                match self.locker.ask(&ask, now) {
                    Verdict::Wait(ticket, _) => _ = self.waiting.insert(ticket, caller),
                    verdict @ (Verdict::Go(_) | Verdict::Sorry(_)) => self.decided(caller, verdict, &mut delay, now),
                }
            }
            while let Some((ticket, verdict)) = self.locker.poll_verdict() {
                let caller = self.waiting.remove(&ticket).expect("it waits");
                self.decided(caller, verdict, &mut delay, now);
            }
        }
        self
    }

    fn decided(&mut self, caller: usize, verdict: Verdict, delay: &mut impl FnMut(Duration) -> Duration, now: Time) {
        match verdict {
            Verdict::Go(mut grant) => {
                self.locker.settle(&mut grant, SettlePoint::Answered, now);
                self.locker.finish(grant, now);
                self.end = now;
            }
            Verdict::Sorry(sorry) => {
                self.coming.push(Reverse((sorry.until + delay(sorry.until.since(now)), caller)));
            }
            Verdict::Wait(..) => unreachable!("it has waited"),
        }
    }

    fn requests(&self) -> u32 {
        self.tries.iter().sum()
    }
}

fn refusing(requests: u32, per: u64, kind: Kind) -> Limit {
    Limit { when_full: WhenFull::Refuse, ..limit(requests, per, kind) }
}

/// Callers of one window that come a tenth of a millisecond after another.
fn callers(count: u64) -> impl Iterator<Item = (Time, Vec<Claim>)> {
    (0..count).map(|caller| (Time::from_nanos(caller * 100_000), vec![claim(0, 0, 1)]))
}

fn on_time(_: Duration) -> Duration {
    Duration::ZERO
}

/// Time to the next whole second, for a caller that reads Retry-After.
fn to_whole_second(wait: Duration) -> Duration {
    Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)) - wait
}

/// The opening that a refused request of one slot is told.
fn told(locker: &mut Locker, key: u128, now: Time) -> Time {
    match locker.ask(&ask(&[claim(0, key, 1)], 1), now) {
        Verdict::Sorry(sorry) => sorry.until,
        verdict @ (Verdict::Go(_) | Verdict::Wait(..)) => panic!("{verdict:?}"),
    }
}

/// A locker of one limit whose slots are all used at the start, under two keys.
fn used_up(limit: Limit) -> Locker {
    let requests = limit.rate.as_ref().map_or(0, |rate| rate.requests);
    let mut locker = Locker::new(vec![limit]);
    for key in 0..2 {
        for _ in 0..requests {
            assert!(send(&mut locker, &ask(&[claim(0, key, 1)], 1), ms(0)).is_ok());
        }
    }
    locker
}

#[test]
pub(super) fn fifty_refused_callers_that_come_back_as_told_are_refused_once_each() {
    for kind in [Kind::Sliding, Kind::Fixed, Kind::Smooth { burst: 5 }] {
        let herd = Herd::new(vec![refusing(5, 1000, kind.clone())], callers(50)).run(on_time);
        assert_eq!(herd.requests(), 95, "{kind:?}: {:?}", herd.tries);
        assert!(herd.end >= ms(9000) && herd.end <= ms(10_100), "{kind:?}: {:?}", herd.end);
    }
}

#[test]
fn callers_that_read_whole_seconds_are_staggered_too() {
    let herd = Herd::new(vec![refusing(5, 1000, Kind::Sliding)], callers(50)).run(to_whole_second);
    assert!(herd.requests() <= 110, "{:?}", herd.tries);
    assert!(herd.end <= ms(12_000), "{:?}", herd.end);
    let mut locker = used_up(refusing(5, 1000, Kind::Sliding));
    let mut of_second = HashMap::new();
    for caller in 0..45 {
        let now = Time::from_nanos(1 + caller);
        let wait = told(&mut locker, 0, now).since(now);
        *of_second.entry((wait + to_whole_second(wait)).as_secs()).or_insert(0) += 1;
    }
    assert!(of_second.values().all(|callers| *callers <= 5), "{of_second:?}");
}

#[test]
fn callers_that_come_a_little_late_are_seldom_refused_again() {
    let mut rng = SeededRng::new(1);
    let herd = Herd::new(vec![refusing(5, 1000, Kind::Sliding)], callers(50))
        .run(|_| Duration::from_micros(rng.range(0, 8000)));
    assert!(herd.requests() <= 110, "{:?}", herd.tries);
    assert!(herd.end <= ms(11_000), "{:?}", herd.end);
}

proptest! {
    #![proptest_config(super::generators::cases())]

    #[test]
    fn every_refused_caller_that_comes_back_as_told_goes_then(seed: u64) {
        let mut rng = SeededRng::new(seed);
        let (requests, per, count) = (rng.range(1, 12), rng.range(50, 500), rng.range(2, 60));
        for kind in [Kind::Sliding, Kind::Fixed, Kind::Smooth { burst: 3 }] {
            let herd = Herd::new(vec![refusing(requests as u32, per, kind.clone())], callers(count)).run(on_time);
            assert!(herd.tries.iter().all(|tries| *tries <= 2), "seed {seed} {kind:?}: {:?}", herd.tries);
            // A turn takes a hundredth longer, and `smooth` spreads the last one.
            let turns = (count - 1) / requests + 1;
            assert!(herd.end <= ms(turns * per * 102 / 100 + 10), "seed {seed} {kind:?}: {:?}", herd.end);
        }
    }

    #[test]
    fn callers_at_random_times_and_costs_ask_little_more_than_twice(seed: u64) {
        let mut rng = SeededRng::new(seed);
        let requests = rng.range(3, 12);
        let mut now = 0;
        let callers: Vec<_> = (0..60)
            .map(|_| {
                now += rng.range(0, 10);
                (ms(now), vec![claim(0, 0, rng.range(1, 4) as u32)])
            })
            .collect();
        let herd = Herd::new(vec![refusing(requests as u32, 300, Kind::Sliding)], callers).run(on_time);
        assert!(herd.requests() <= 60 * 3, "seed {seed}: {:?}", herd.tries);
    }
}

#[test]
fn an_opening_that_was_told_is_not_kept() {
    let mut locker = used_up(refusing(2, 1000, Kind::Sliding));
    for _ in 0..10 {
        told(&mut locker, 0, ms(1));
    }
    for _ in 0..2 {
        assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 2), ms(1000)).is_ok(), "the first that asks has the slot");
    }
}

#[test]
fn openings_are_forgotten_when_their_time_has_come() {
    let mut locker = used_up(refusing(2, 1000, Kind::Sliding));
    let last = (0..8).map(|_| told(&mut locker, 0, ms(1))).last();
    assert_eq!(last, Some(ms(4030)));
    // Nobody comes back, and others use all slots later on.
    for _ in 0..2 {
        assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 2), ms(4030)).is_ok());
    }
    assert_eq!(told(&mut locker, 0, ms(4031)), ms(5030));
}

#[test]
fn no_one_is_told_more_than_ten_spans_or_half_a_minute_however_many_are_refused() {
    for (per, horizon) in [(1000, 30_000), (10_000, 100_000), (60_000, 300_000), (3_600_000, 300_000)] {
        let mut locker = used_up(refusing(5, per, Kind::Sliding));
        let openings: Vec<Time> = (0..10_000).map(|_| told(&mut locker, 0, ms(1))).collect();
        assert!(openings.iter().all(|at| *at >= ms(per) && *at <= ms(per + horizon)), "{per} ms");
        // Callers beyond are spread over the same openings.
        let at_first = openings.iter().filter(|at| **at == ms(per)).count() as u64;
        let turns = horizon * 100 / (per * 101) + 1;
        assert!(at_first <= 10_000 / turns + 10, "{per} ms: {at_first} of 10000 at the first of {turns} turns");
    }
}

#[test]
fn each_key_has_openings_of_its_own() {
    let mut locker = used_up(refusing(1, 1000, Kind::Sliding));
    for _ in 0..5 {
        told(&mut locker, 0, ms(1));
    }
    assert_eq!(told(&mut locker, 1, ms(1)), ms(1000));
}

#[test]
fn a_key_is_remembered_as_long_as_an_opening_of_it_was_told() {
    let mut locker = used_up(refusing(1, 100, Kind::Sliding));
    for _ in 0..20 {
        told(&mut locker, 0, ms(1));
    }
    while let Some(at) = locker.poll_timeout().filter(|at| *at <= ms(1500)) {
        locker.handle_timeout(at);
    }
    assert_eq!(locker.live_keys(), 1, "the one of which openings were told");
    assert!(send(&mut locker, &ask(&[claim(0, 0, 1)], 1), ms(1500)).is_ok());
    assert_eq!(told(&mut locker, 0, ms(1501)), ms(2206), "behind the six that come from 1514 to 2019 ms");
    while let Some(at) = locker.poll_timeout().filter(|at| *at <= ms(60_000)) {
        locker.handle_timeout(at);
    }
    assert_eq!(locker.live_keys(), 0);
}

#[test]
fn who_is_refused_for_a_long_line_is_told_an_opening_behind_it() {
    let rule = Limit { max_wait: Duration::from_millis(2000), ..limit(5, 1000, Kind::Sliding) };
    let herd = Herd::new(vec![rule], callers(50)).run(on_time);
    // Five go, ten wait, and 35 come back.
    assert_eq!(herd.requests(), 85, "{:?}", herd.tries);
    assert!(herd.end <= ms(9200), "{:?}", herd.end);
}

#[test]
fn who_finds_a_full_line_is_told_an_opening_of_its_own() {
    let rule = Limit { max_waiting: 3, ..limit(5, 1000, Kind::Sliding) };
    let herd = Herd::new(vec![rule], callers(50)).run(on_time);
    assert!(herd.requests() <= 110, "{:?}", herd.tries);
    assert!(herd.end <= ms(10_200), "{:?}", herd.end);
}

#[test]
fn under_two_limits_callers_are_staggered_by_the_one_that_refuses() {
    let limits = vec![refusing(5, 100, Kind::Sliding), refusing(20, 2000, Kind::Sliding)];
    let both = || vec![claim(0, 0, 1), claim(1, 0, 1)];
    let herd = Herd::new(limits, (0..60).map(|at| (Time::from_nanos(at * 1000), both()))).run(on_time);
    assert!(herd.requests() <= 60 * 3, "{:?}", herd.tries);
    assert!(herd.end <= ms(5000), "{:?}", herd.end);
}

#[test]
fn a_gateway_of_several_staggers_by_the_share_that_it_was_granted() {
    let mut locker = Locker::new(vec![Limit { shared: true, ..refusing(6, 1000, Kind::Sliding) }]);
    locker.open_sharing(ms(0));
    let after = |millis| Duration::from_millis(millis);
    let granted = SlotGrant { groups: [(after(0), 1)].into_iter().collect(), opens_then: true, ..SlotGrant::default() };
    let refused = SlotGrant {
        next_in: Some(after(1000)),
        opens_then: true,
        blocked_for: std::iter::repeat_n(after(1000), 2).collect(),
        ..SlotGrant::default()
    };
    for (cost, answer) in [(2, granted), (1, refused)] {
        let verdict = locker.ask(&ask(&[claim(0, 0, cost)], 1), ms(0));
        assert!(matches!(verdict, Verdict::Wait(..)), "the store is asked: {verdict:?}");
        let sync = locker.take_sync(SyncTrigger::Due, ms(0));
        locker.sync_answered(&sync, &[answer], ms(0), ms(0), ms(0));
        for (_, verdict) in drain(&mut locker) {
            if let Verdict::Go(mut grant) = verdict {
                locker.settle(&mut grant, SettlePoint::Sent, ms(0));
            }
        }
    }
    let openings: Vec<Time> = (0..5).map(|_| told(&mut locker, 0, ms(1))).collect();
    assert_eq!(
        openings,
        [1000, 2010, 2010, 3020, 3020].map(ms),
        "the second and so on: two per span, as it was granted"
    );
}

//! Properties of waiting, in random worlds that are run twice: younger waiters never delay the
//! claimant, and a waiter that leaves makes no other go later.

use std::collections::HashMap;

use super::generators::SeededRng;
use super::*;

/// A request that asks at a time, and leaves the queue at another.
#[derive(Clone, Debug)]
struct Arrival {
    at: Time,
    claims: Vec<Claim>,
    leaves: Time,
}

/// Time at which each of these requests goes, in the order given; `None` for one that leaves before.
/// Each settles at its grant.
fn grant_times(limits: &[Limit], arrivals: &[Arrival]) -> Vec<Option<Time>> {
    let mut locker = Locker::new(limits.to_vec());
    let mut times = vec![None; arrivals.len()];
    let mut tickets: HashMap<Ticket, usize> = HashMap::new();
    let mut next = 0;
    loop {
        let arrival = arrivals.get(next).map(|arrival| arrival.at);
        let leaving = tickets
            .iter()
            .map(|(ticket, number)| (arrivals[*number].leaves, *number, *ticket))
            .min_by_key(|(at, number, _)| (*at, *number));
        let due = locker.poll_timeout().filter(|_| locker.waiting() > 0);
        let Some(now) =
            [arrival, leaving.map(|(at, ..)| at).filter(|at| *at < Time::NEVER), due].into_iter().flatten().min()
        else {
            return times;
        };
        locker.handle_timeout(now);
        if let Some((_, number, ticket)) = leaving.filter(|(at, ..)| *at <= now) {
            tickets.remove(&ticket);
            locker.leave(ticket, now);
            assert!(times[number].is_none());
        } else if arrival == Some(now) {
            match locker.ask(&ask(&arrivals[next].claims, 1), now) {
                Verdict::Go(grant) => went(&mut locker, grant, &mut times[next], now),
                Verdict::Wait(ticket, _) => drop(tickets.insert(ticket, next)),
                Verdict::Sorry(sorry) => panic!("{sorry:?}"),
            }
            next += 1;
        }
        while let Some((ticket, verdict)) = locker.poll_verdict() {
            let (Some(number), Verdict::Go(grant)) = (tickets.remove(&ticket), verdict) else {
                continue;
            };
            went(&mut locker, grant, &mut times[number], now);
        }
    }
}

fn went(locker: &mut Locker, mut grant: Grant, time: &mut Option<Time>, now: Time) {
    locker.settle(&mut grant, SettlePoint::Answered, now);
    locker.finish(grant, now);
    *time = Some(now);
}

/// Up to three limits, first come, first served.
fn limits(rng: &mut SeededRng, kinds: &[Kind]) -> Vec<Limit> {
    let mut rule = || Limit {
        share_by: ShareBy::Nobody,
        priority: Priority::None,
        max_wait: Duration::from_secs(1_000_000),
        ..limit(rng.range(1, 5) as u32, rng.range(50, 400), kinds[rng.range(0, kinds.len() as u64) as usize].clone())
    };
    (0..3).map(|_| rule()).collect()
}

/// Requests in the order of their arrival, each for a slot or more of some of the limits.
fn arrivals(rng: &mut SeededRng, limits: &[Limit], most: u64) -> Vec<Arrival> {
    let mut now = Time::START;
    let mut all = Vec::new();
    for _ in 0..rng.range(5, 60) {
        now = now + Duration::from_millis(rng.range(0, 40));
        let first = rng.range(0, limits.len() as u64);
        let count = rng.range(1, most + 1);
        let mut claims: Vec<Claim> = Vec::new();
        for limit in (first..first + count).map(|limit| (limit % limits.len() as u64) as u32) {
            let requests = limits[limit as usize].rate.as_ref().map_or(1, |rate| rate.requests);
            claims.push(claim(limit, 0, rng.range(1, u64::from(requests) + 1) as u32));
        }
        claims.sort_by_key(|claim| claim.limit);
        all.push(Arrival { at: now, claims, leaves: Time::NEVER });
    }
    all
}

/// P5 and I7: with all waiters younger than the claimant gone, it goes earlier by one span at most.
/// (Between a grant and its settle no opening is known, and a younger waiter may slip through.)
pub(super) fn claimant_is_not_delayed_by_younger_waiters(seed: u64) {
    let mut rng = SeededRng::new(seed);
    let limits = limits(&mut rng, &[Kind::Sliding, Kind::Sliding, Kind::Smooth { burst: 2 }]);
    let arrivals = arrivals(&mut rng, &limits, 2);
    let Some(claimant) = arrivals.iter().position(|arrival| arrival.claims.len() > 1) else { return };
    let with = grant_times(&limits, &arrivals)[claimant].expect("all go at last");
    let without = grant_times(&limits, &arrivals[..=claimant])[claimant].expect("all go at last");
    let spans = limits.iter().flat_map(|limit| &limit.rate).map(|rate| rate.per);
    let bound = without + spans.max().unwrap_or_default();
    assert!(with <= bound, "seed {seed}: it goes at {with:?}, and at {without:?} without younger ones");
}

/// P4 and I6: where all wait for one window, a waiter that leaves makes no other go later.
pub(super) fn leaving_waiter_makes_no_other_later(seed: u64) {
    let mut rng = SeededRng::new(seed);
    let limits = limits(&mut rng, &[Kind::Sliding, Kind::Fixed, Kind::Smooth { burst: 2 }])[..1].to_vec();
    let mut arrivals = arrivals(&mut rng, &limits, 1);
    let stays = grant_times(&limits, &arrivals);
    let leaver = rng.range(0, arrivals.len() as u64) as usize;
    arrivals[leaver].leaves = arrivals[leaver].at + Duration::from_millis(rng.range(0, 500));
    let leaves = grant_times(&limits, &arrivals);
    for (number, (stays, leaves)) in stays.iter().zip(&leaves).enumerate().filter(|(number, _)| *number != leaver) {
        assert!(leaves.is_some() && leaves <= stays, "seed {seed}: {number} at {leaves:?}, not {stays:?}");
    }
    let gone = leaves[leaver].is_none();
    assert!(!gone || stays[leaver] >= Some(arrivals[leaver].leaves), "seed {seed}: it went before it left");
}

#[test]
fn with_all_younger_waiters_gone_a_claimant_goes_earlier_by_a_span_at_most() {
    (0..600).for_each(claimant_is_not_delayed_by_younger_waiters);
}

#[test]
fn a_waiter_that_leaves_makes_no_other_later() {
    (0..600).for_each(leaving_waiter_makes_no_other_later);
}

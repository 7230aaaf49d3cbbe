//! Tests of urgency: compared within a caller, across all callers, or not at all.

use std::collections::HashMap;

use super::generators::SeededRng;
use super::order::{drive, wait};
use super::*;

const CLAIMS: &[Claim] = &[Claim { limit: LimitId(0), key: Key(0), cost: 1 }];

fn urgent(urgency: u8, caller: u64) -> Ask<'static> {
    Ask { urgency, ..ask(CLAIMS, caller) }
}

/// Order in which requests of these urgencies and callers go, if they arrive one after the other.
fn order(rule: Limit, requests: &[(u8, u64)]) -> Vec<(u8, u64)> {
    let mut locker = Locker::new(vec![rule]);
    assert!(send(&mut locker, &ask(CLAIMS, 9), ms(0)).is_ok());
    let mut known = HashMap::new();
    for (at, (urgency, caller)) in (1..).zip(requests) {
        known.insert(wait(&mut locker, &urgent(*urgency, *caller), ms(at)), (*urgency, *caller));
    }
    let mut order = Vec::new();
    drive(&mut locker, ms(100_000), |_, ticket, _| order.push(known[&ticket]));
    assert_eq!(order.len(), requests.len());
    assert!(locker.queue.is_empty());
    order
}

fn by(priority: Priority) -> Limit {
    Limit { priority, ..limit(1, 100, Kind::Sliding) }
}

#[test]
fn a_flood_of_urgent_requests_holds_no_other_caller_up() {
    let requests = [(0, 1), (0, 1), (0, 1), (0, 1), (3, 2), (3, 2)];
    assert_eq!(order(by(Priority::WithinCaller), &requests), [(0, 1), (3, 2), (0, 1), (3, 2), (0, 1), (0, 1)]);
    assert_eq!(order(by(Priority::Strict), &requests), requests);
}

#[test]
fn the_more_urgent_of_a_callers_requests_goes_in_the_first_of_its_turns() {
    let requests = [(7, 1), (3, 1), (3, 2), (3, 2), (0, 1), (3, 1)];
    let went = order(by(Priority::WithinCaller), &requests);
    assert_eq!(went, [(0, 1), (3, 2), (3, 1), (3, 2), (3, 1), (7, 1)]);
    let went = order(Limit { share_by: ShareBy::Nobody, ..by(Priority::WithinCaller) }, &requests);
    assert_eq!(went, [(0, 1), (3, 1), (3, 2), (3, 2), (3, 1), (7, 1)], "in the places of its caller's arrivals");
}

#[test]
fn where_there_is_no_priority_a_caller_is_served_as_it_asks() {
    let requests = [(7, 1), (3, 1), (0, 1), (3, 2)];
    assert_eq!(order(by(Priority::None), &requests), [(7, 1), (3, 2), (3, 1), (0, 1)]);
}

/// All requests of a caller pass the first limit; their second claim is one of two keys of the second limit.
#[test]
fn a_more_urgent_request_goes_first_though_it_needs_another_window_too() {
    let mut locker = Locker::new(vec![limit(1, 100, Kind::Sliding), limit(5, 100, Kind::Sliding)]);
    assert!(send(&mut locker, &ask(CLAIMS, 9), ms(0)).is_ok());
    let to = |key| [claim(0, 0, 1), claim(1, key, 1)];
    let slow: Vec<Ticket> = (1..4).map(|at| wait(&mut locker, &Ask { urgency: 7, ..ask(&to(1), 1) }, ms(at))).collect();
    let fast = wait(&mut locker, &Ask { urgency: 0, ..ask(&to(2), 1) }, ms(5));
    let other = wait(&mut locker, &ask(&to(1), 2), ms(6));
    let mut order = Vec::new();
    drive(&mut locker, ms(10_000), |_, ticket, _| order.push(ticket));
    assert_eq!(order, [fast, other, slow[0], slow[1], slow[2]]);
    assert!(locker.queue.is_empty());
}

#[test]
fn a_more_urgent_request_that_another_window_keeps_back_costs_its_caller_no_turn() {
    let mut locker = Locker::new(vec![limit(1, 100, Kind::Sliding), limit(1, 5000, Kind::Sliding)]);
    assert!(send(&mut locker, &ask(&[claim(0, 0, 1), claim(1, 2, 1)], 9), ms(0)).is_ok());
    let slow = wait(&mut locker, &Ask { urgency: 7, ..ask(CLAIMS, 1) }, ms(1));
    let shut = wait(&mut locker, &Ask { urgency: 0, ..ask(&[claim(0, 0, 1), claim(1, 2, 1)], 1) }, ms(2));
    let mut went = Vec::new();
    drive(&mut locker, ms(10_000), |_, ticket, at| went.push((ticket, at)));
    assert_eq!(went, [(slow, ms(100)), (shut, ms(5000))]);
}

#[test]
fn a_more_urgent_request_goes_in_the_turn_of_a_cheaper_one_and_pays_for_it() {
    let mut locker = Locker::new(vec![limit(3, 100, Kind::Sliding)]);
    assert!(send(&mut locker, &ask(&[claim(0, 0, 3)], 9), ms(0)).is_ok());
    let cheap = wait(&mut locker, &Ask { urgency: 7, ..ask(CLAIMS, 1) }, ms(1));
    let others = [2, 3, 4, 5, 6].map(|at| wait(&mut locker, &ask(CLAIMS, 2), ms(at)));
    let costly = wait(&mut locker, &Ask { urgency: 0, ..ask(&[claim(0, 0, 3)], 1) }, ms(7));
    let mut order = Vec::new();
    drive(&mut locker, ms(10_000), |_, ticket, _| order.push(ticket));
    assert_eq!(order, [costly, others[0], others[1], others[2], others[3], cheap, others[4]]);
}

#[test]
fn callers_have_their_share_whatever_urgencies_and_costs_they_state() {
    for seed in 0..300 {
        let mut rng = SeededRng::new(seed);
        let mut locker = Locker::new(vec![limit(5, 100, Kind::Sliding)]);
        assert!(send(&mut locker, &ask(&[claim(0, 0, 5)], 9), ms(0)).is_ok());
        let mut known = HashMap::new();
        let mut left = [0u64; 2];
        for _ in 0..60 {
            let (caller, cost, urgency) = (rng.range(0, 2), rng.range(1, 5), rng.range(0, 8) as u8);
            let ticket = wait(&mut locker, &Ask { urgency, ..ask(&[claim(0, 0, cost as u32)], caller) }, ms(0));
            known.insert(ticket, (caller as usize, cost));
            left[caller as usize] += 1;
        }
        let mut had = [0u64; 2];
        drive(&mut locker, ms(1_000_000), |_, ticket, _| {
            let (caller, cost) = known[&ticket];
            let backlogged = left[0] > 0 && left[1] > 0;
            had[caller] += cost;
            left[caller] -= 1;
            assert!(!backlogged || had[0].abs_diff(had[1]) <= 4, "seed {seed}: {had:?}");
        });
        assert_eq!(left, [0, 0], "seed {seed}");
    }
}

#[test]
fn a_callers_requests_of_one_urgency_go_in_the_order_of_their_arrival() {
    for seed in 0..300 {
        let mut rng = SeededRng::new(seed);
        let share_by = if seed % 3 == 0 { ShareBy::Nobody } else { ShareBy::Caller };
        let mut locker = Locker::new(vec![Limit { share_by, ..by(Priority::WithinCaller) }]);
        assert!(send(&mut locker, &ask(CLAIMS, 9), ms(0)).is_ok());
        let mut waiting: Vec<(Ticket, u64, u8)> = Vec::new();
        let mut now = 1;
        for _ in 0..80 {
            now += rng.range(0, 60);
            drive(&mut locker, ms(now), |_, ticket, _| check_order(&mut waiting, ticket, seed));
            if rng.one_in(6) && !waiting.is_empty() {
                let (left, ..) = waiting.remove(rng.range(0, waiting.len() as u64) as usize);
                locker.leave(left, ms(now));
                continue;
            }
            let (caller, urgency) = (rng.range(0, 3), rng.range(2, 5) as u8);
            match locker.ask(&urgent(urgency, caller), ms(now)) {
                Verdict::Wait(ticket, _) => waiting.push((ticket, caller, urgency)),
                Verdict::Go(mut grant) => locker.settle(&mut grant, SettlePoint::Sent, ms(now)),
                Verdict::Sorry(sorry) => panic!("seed {seed}: {sorry:?}"),
            }
        }
        drive(&mut locker, ms(1_000_000), |_, ticket, _| check_order(&mut waiting, ticket, seed));
        assert!(waiting.is_empty() && locker.queue.is_empty(), "seed {seed}");
    }
}

/// Order in which two callers go that had ten waiters each, after all but one of the first have left.
fn order_after_nine_left(rule: Limit) -> Vec<u64> {
    let mut locker = Locker::new(vec![rule]);
    assert!(send(&mut locker, &ask(CLAIMS, 9), ms(0)).is_ok());
    let of_first: Vec<Ticket> = (0..10).map(|_| wait(&mut locker, &ask(CLAIMS, 1), ms(1))).collect();
    (0..10).for_each(|_| _ = wait(&mut locker, &ask(CLAIMS, 2), ms(2)));
    of_first[..9].iter().for_each(|ticket| locker.leave(*ticket, ms(3)));
    let mut order = Vec::new();
    drive(&mut locker, ms(100_000), |_, ticket, _| order.push(if ticket == of_first[9] { 1 } else { 2 }));
    order
}

#[test]
fn a_caller_whose_first_waiters_leave_keeps_its_turns() {
    for priority in [Priority::None, Priority::WithinCaller, Priority::Strict] {
        let order = order_after_nine_left(by(priority));
        assert_eq!(order.iter().position(|caller| *caller == 1), Some(0), "{priority:?}: {order:?}");
        assert_eq!(order.len(), 11);
    }
}

#[test]
fn a_caller_with_impatient_clients_has_its_share_beside_one_with_patient_ones() {
    let mut locker = Locker::new(vec![limit(1, 1000, Kind::Sliding)]);
    assert!(send(&mut locker, &ask(CLAIMS, 9), ms(0)).is_ok());
    // Ten clients, of which each hangs up after five seconds, and asks again.
    let mut impatient = std::collections::VecDeque::new();
    (0..10).for_each(|_| _ = wait(&mut locker, &ask(CLAIMS, 2), ms(0)));
    let mut had = [0u32; 2];
    for half_second in 1..400 {
        let now = ms(half_second * 500);
        let mut went = Vec::new();
        drive(&mut locker, now, |locker, ticket, at| {
            let caller = usize::from(!impatient.contains(&ticket));
            if caller == 1 {
                wait(locker, &ask(CLAIMS, 2), at);
            }
            went.push(ticket);
            had[caller] += 1;
        });
        impatient.retain(|ticket| !went.contains(ticket));
        if impatient.len() == 10 {
            locker.leave(impatient.pop_front().unwrap(), now);
        }
        impatient.push_back(wait(&mut locker, &ask(CLAIMS, 1), now));
    }
    assert!(had[0].abs_diff(had[1]) <= 1, "{had:?}");
}

/// Asserts that no waiter of the same caller is more urgent, and that no equally urgent one arrived before.
fn check_order(waiting: &mut Vec<(Ticket, u64, u8)>, ticket: Ticket, seed: u64) {
    let at = waiting.iter().position(|(known, ..)| *known == ticket).expect("it waits");
    let (_, caller, urgency) = waiting[at];
    let passed = |(place, other): (usize, &(Ticket, u64, u8))| {
        other.1 == caller && (other.2 < urgency || other.2 == urgency && place < at)
    };
    assert!(!waiting.iter().enumerate().any(passed), "seed {seed}: {:?} passes others of its caller's", waiting[at]);
    waiting.remove(at);
}

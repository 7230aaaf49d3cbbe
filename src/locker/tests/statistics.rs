//! Tests of statistics: what metrics and the dashboard say of limits, keys and callers.

use super::order::wait;
use super::*;

/// Number of keys, each with a window: more than a scan looks at in one step.
const KEYS: u128 = 5000;

/// The key whose slots are all used.
const FULL: u128 = 4321;

/// A limit of three slots an hour with many keys, and one of two flights.
fn busy() -> Locker {
    let slots =
        Limit { max_wait: Duration::from_secs(10_000_000), max_waiting: 10_000, ..limit(3, 3_600_000, Kind::Sliding) };
    let flights = Limit { rate: None, in_flight: Some(2), ..limit(1, 1000, Kind::Sliding) };
    let mut locker = Locker::new(vec![slots, flights]);
    for key in 0..KEYS {
        assert!(send(&mut locker, &ask(&[claim(0, key, 1)], 1), ms(0)).is_ok());
    }
    assert!(send(&mut locker, &ask(&[claim(0, FULL, 2)], 1), ms(5)).is_ok());
    locker
}

fn statistics(locker: &mut Locker, now: Time) -> (usize, Vec<LimitStats>) {
    let mut scan = StatsScan::default();
    let mut steps = 1;
    while locker.scan_stats(&mut scan, now) {
        steps += 1;
    }
    (steps, locker.finish_stats(scan, now))
}

#[test]
fn statistics_count_the_keys_waiters_and_flights_of_each_limit_and_name_its_fullest_key() {
    let mut locker = busy();
    let flights = [(7, 1), (8, 2), (9, 1)];
    for (key, count) in flights {
        for _ in 0..count {
            assert!(matches!(locker.ask(&ask(&[claim(1, key, 1)], 1), ms(10)), Verdict::Go(_)));
        }
    }
    for _ in 0..2 {
        wait(&mut locker, &ask(&[claim(0, FULL, 1)], 1), ms(10));
    }
    let slots_full = Usage { taken: 3, flying: 0, waiting: 2, opens: Some(ms(3_600_000)) };
    let flights_full = Usage { taken: 0, flying: 2, waiting: 0, opens: None };
    let (steps, stats) = statistics(&mut locker, ms(20));
    assert!(steps > 1, "one step looks at all keys");
    assert_eq!(
        stats,
        [
            LimitStats { keys: 5000, waiting: 2, flying: 0, fullest: Some((Key(FULL), slots_full)) },
            LimitStats { keys: 3, waiting: 0, flying: 4, fullest: Some((Key(8), flights_full)) },
        ]
    );
}

#[test]
fn the_fullest_window_is_the_one_nearest_to_one_of_its_bounds() {
    let mut locker = Locker::new(vec![Limit { in_flight: Some(2), ..limit(1000, 3_600_000, Kind::Sliding) }]);
    (0..5).for_each(|_| assert!(send(&mut locker, &ask(&[claim(0, 1, 1)], 1), ms(0)).is_ok()));
    let Verdict::Go(_under_way) = locker.ask(&ask(&[claim(0, 2, 1)], 1), ms(0)) else { panic!("it is free") };
    let (_, stats) = statistics(&mut locker, ms(1));
    assert_eq!(stats[0].fullest.map(|(key, _)| key), Some(Key(2)), "one of two in flight, beside 5 of 1000 slots");
}

#[test]
fn slots_that_have_opened_since_are_not_in_the_statistics() {
    let mut locker = busy();
    let (_, stats) = statistics(&mut locker, ms(3_600_001));
    let usage = Usage { taken: 2, flying: 0, waiting: 0, opens: Some(ms(3_600_001)) };
    assert_eq!(stats[0].fullest, Some((Key(FULL), usage)));
    assert_eq!(stats[1], LimitStats { keys: 0, waiting: 0, flying: 0, fullest: None });
}

#[test]
fn the_detail_of_a_key_says_when_its_slots_open() {
    let mut locker = busy();
    let detail = locker.limit_detail(LimitId(0), Some(Key(FULL)), ms(20));
    assert_eq!(detail.usage.map(|usage| usage.taken), Some(3));
    assert_eq!(detail.openings, [(ms(3_600_000), 1), (ms(3_600_005), 2)]);
    let unknown = locker.limit_detail(LimitId(0), Some(Key(KEYS)), ms(20));
    assert_eq!((unknown.usage.map(|usage| usage.taken), unknown.openings), (Some(0), Vec::new()));
    assert_eq!(locker.limit_detail(LimitId(0), None, ms(20)), LimitDetail::default());
}

#[test]
fn callers_are_named_by_the_number_of_their_waiters_at_one_limit_the_largest_first() {
    let mut locker = busy();
    for (caller, count) in [(1, 100), (2, 3000), (3, 1)] {
        for _ in 0..count {
            wait(&mut locker, &ask(&[claim(0, FULL, 1)], caller), ms(10));
        }
    }
    for _ in 0..3 {
        let _ = locker.ask(&ask(&[claim(1, 7, 1)], 4), ms(10));
    }
    let counted = |limit| {
        let mut scan = CallerScan::of(LimitId(limit));
        while locker.scan_callers(&mut scan) {}
        scan.finish()
    };
    assert_eq!(counted(0), [(Caller(2), 3000), (Caller(1), 100), (Caller(3), 1)]);
    assert_eq!(counted(1), [(Caller(4), 1)]);
}

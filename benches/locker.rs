//! The locker beside governor, in one run: hot key, keyed hot key, two threads, a million keys, refusal.
//!
//! governor decides and is done; the locker decides, and is told when the request was sent. Both are
//! charged for all of it. The locker is handed the time; so is governor (its fake clock), so that
//! neither is measured by the price of reading a clock.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use governor::clock::FakeRelativeClock;
use governor::{Quota, RateLimiter};
use lockgate::locker::{
    Ask, AskKind, Caller, Claim, Counts, Key, Kind, Limit, LimitId, Locker, Priority, Rate, SettlePoint, ShareBy,
    Verdict, WhenFull,
};
use lockgate::time::Time;

const MILLION: u64 = 1_000_000;

fn limit(requests: u32, per: Duration) -> Limit {
    Limit {
        name: "bench".into(),
        keyed_by: "".into(),
        rate: Some(Rate { requests, per, guard: Duration::ZERO, kind: Kind::Sliding, counts: Counts::Sent }),
        in_flight: None,
        when_full: WhenFull::Refuse,
        max_wait: Duration::from_secs(30),
        max_waiting: 1000,
        share_by: ShareBy::Caller,
        priority: Priority::WithinCaller,
        max_keys: usize::MAX,
        dry_run: false,
        shared: false,
    }
}

/// A key as the gateway makes them: 128 well mixed bits.
fn key(number: u64) -> Key {
    let mut bits = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    };
    Key(u128::from(next()) << 64 | u128::from(next()))
}

/// One request: asked, and sent if it may go.
#[inline]
fn decide(locker: &mut Locker, key: Key, now: Time) -> bool {
    let claims = [Claim { limit: LimitId(0), key, cost: 1 }];
    let ask = Ask { claims: &claims, caller: Caller(1), urgency: 3, max_wait: None, arrived: None, kind: AskKind::New };
    match locker.ask(&ask, now) {
        Verdict::Go(mut grant) => {
            locker.settle(&mut grant, SettlePoint::Sent, now);
            true
        }
        Verdict::Wait(..) | Verdict::Sorry(_) => false,
    }
}

/// A quota that never refuses at the pace of a benchmark, and what the locker is given for the same.
fn wide() -> (Limit, Quota) {
    let quota = Quota::per_second(NonZeroU32::new(1_000_000_000).expect("not zero"));
    (limit(10_000_000, Duration::from_millis(1)), quota)
}

/// The time goes on by 100 ns a request, so that slots open as fast as they are taken.
struct Steps(u64);

impl Steps {
    fn next(&mut self) -> Time {
        self.0 += 100;
        Time::from_nanos(self.0)
    }
}

fn hot_key(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one thread, one key");
    let (rule, quota) = wide();
    let mut locker = Locker::new(vec![rule]);
    let mut steps = Steps(0);
    group.bench_function("locker, a limit as a whole", |bench| {
        bench.iter(|| black_box(decide(&mut locker, Key::WHOLE, steps.next())));
    });
    let mut locker = Locker::new(vec![limit(5, Duration::from_nanos(500))]);
    group.bench_function("locker, 5 slots, each used again as it opens", |bench| {
        bench.iter(|| black_box(decide(&mut locker, Key::WHOLE, steps.next())));
    });
    let locker = Mutex::new(Locker::new(vec![wide().0]));
    group.bench_function("locker, behind a mutex, two visits", |bench| {
        bench.iter(|| black_box(visit_twice(&locker, Key::WHOLE, steps.next())));
    });
    let clock = FakeRelativeClock::default();
    let direct = RateLimiter::direct_with_clock(quota, clock.clone());
    group.bench_function("governor, direct", |bench| {
        bench.iter(|| {
            clock.advance(Duration::from_nanos(100));
            black_box(direct.check().is_ok())
        });
    });
    let keyed = RateLimiter::dashmap_with_clock(quota, clock.clone());
    group.bench_function("governor, keyed", |bench| {
        bench.iter(|| {
            clock.advance(Duration::from_nanos(100));
            black_box(keyed.check_key(&7u64).is_ok())
        });
    });
    let clocked = RateLimiter::direct(quota);
    group.bench_function("governor, direct, with its own clock", |bench| {
        bench.iter(|| black_box(clocked.check().is_ok()));
    });
    group.finish();
}

/// As the gate does it: one lock to ask, another to settle.
fn visit_twice(locker: &Mutex<Locker>, key: Key, now: Time) -> bool {
    let claims = [Claim { limit: LimitId(0), key, cost: 1 }];
    let ask = Ask { claims: &claims, caller: Caller(1), urgency: 3, max_wait: None, arrived: None, kind: AskKind::New };
    let verdict = locker.lock().expect("no panic").ask(&ask, now);
    match verdict {
        Verdict::Go(mut grant) => {
            locker.lock().expect("no panic").settle(&mut grant, SettlePoint::Sent, now);
            true
        }
        Verdict::Wait(..) | Verdict::Sorry(_) => false,
    }
}

/// Runs `work` on two threads at once, `each` times, and returns how long the slower took.
fn two_threads<W: Fn(u64) + Sync>(each: u64, work: W) -> Duration {
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        let run = || {
            barrier.wait();
            #[allow(clippy::disallowed_methods, reason = "a benchmark reads the clock around what it times")]
            let began = Instant::now();
            (0..each).for_each(&work);
            began.elapsed()
        };
        let one = scope.spawn(run);
        let other = scope.spawn(run);
        one.join().expect("no panic").max(other.join().expect("no panic"))
    })
}

fn contended(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("two threads, one key (time per decision and thread)");
    let (rule, quota) = wide();
    let locker = Arc::new(Mutex::new(Locker::new(vec![rule])));
    group.bench_function("locker, behind a mutex, two visits", |bench| {
        bench.iter_custom(|each| {
            two_threads(each, |step| _ = black_box(visit_twice(&locker, Key::WHOLE, Time::from_nanos(step * 100))))
        });
    });
    let direct = RateLimiter::direct(quota);
    group.bench_function("governor, direct", |bench| {
        bench.iter_custom(|each| two_threads(each, |_| _ = black_box(direct.check().is_ok())));
    });
    let keyed = RateLimiter::dashmap(quota);
    group.bench_function("governor, keyed", |bench| {
        bench.iter_custom(|each| two_threads(each, |_| _ = black_box(keyed.check_key(&7u64).is_ok())));
    });
    group.finish();
}

fn refusal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("refusal");
    let mut locker = Locker::new(vec![limit(5, Duration::from_secs(60))]);
    while decide(&mut locker, Key::WHOLE, Time::START) {}
    group.bench_function("locker", |bench| {
        bench.iter(|| black_box(decide(&mut locker, Key::WHOLE, Time::from_nanos(1))));
    });
    let quota = Quota::per_hour(NonZeroU32::MIN);
    let direct = RateLimiter::direct_with_clock(quota, FakeRelativeClock::default());
    let keyed = RateLimiter::dashmap_with_clock(quota, FakeRelativeClock::default());
    while direct.check().is_ok() {}
    while keyed.check_key(&7u64).is_ok() {}
    group.bench_function("governor, direct", |bench| bench.iter(|| black_box(direct.check().is_ok())));
    group.bench_function("governor, keyed", |bench| bench.iter(|| black_box(keyed.check_key(&7u64).is_ok())));
    group.finish();
}

/// Memory that the process has in use, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}

/// The keys of a million callers, in an order that no cache foresees.
fn picks() -> impl FnMut() -> Key {
    let mut random = 0u64;
    move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        key((random >> 33) % MILLION)
    }
}

/// Five per 800 ms and key, as governor words it.
fn five() -> Quota {
    let period = Quota::with_period(Duration::from_millis(160)).expect("not zero");
    period.allow_burst(NonZeroU32::new(5).expect("not zero"))
}

fn million_keys(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a million keys, at random, a million decisions a second");
    let mut pick = picks();
    let mut locker = Locker::new(vec![limit(5, Duration::from_millis(800))]);
    let mut steps = Steps(0);
    let mut next = move || {
        steps.0 += 900;
        steps.next()
    };
    for number in 0..MILLION {
        decide(&mut locker, key(number), next());
    }
    group.bench_function("locker", |bench| {
        bench.iter(|| {
            let now = next();
            if locker.poll_timeout().is_some_and(|at| at <= now) {
                locker.handle_timeout(now);
            }
            black_box(decide(&mut locker, pick(), now))
        });
    });
    drop(locker);
    let clock = FakeRelativeClock::default();
    let keyed = RateLimiter::dashmap_with_clock(five(), clock.clone());
    for number in 0..MILLION {
        let _ = keyed.check_key(&key(number).0);
    }
    group.bench_function("governor, keyed", |bench| {
        bench.iter(|| {
            clock.advance(Duration::from_micros(1));
            black_box(keyed.check_key(&pick().0).is_ok())
        });
    });
    group.finish();
}

/// Bytes per key while a million are live, with one settle each and with five, and after all are idle.
fn measure_locker() {
    for settles in [1u64, 5] {
        let before = resident();
        let mut locker = Locker::new(vec![limit(5, Duration::from_millis(800))]);
        for round in 0..settles {
            for number in 0..MILLION {
                decide(&mut locker, key(number), Time::from_nanos(1 + round));
            }
        }
        let live = (resident() - before) / MILLION;
        while let Some(at) = locker.poll_timeout() {
            locker.handle_timeout(at);
        }
        let kept = resident().saturating_sub(before) / MILLION;
        println!("locker, {settles} settles a key: {live} B per key while live, {kept} B per key once all are idle");
    }
}

fn measure_governor() {
    let before = resident();
    let clock = FakeRelativeClock::default();
    let keyed = RateLimiter::dashmap_with_clock(five(), clock.clone());
    for number in 0..MILLION {
        let _ = keyed.check_key(&key(number).0);
    }
    let live = (resident() - before) / MILLION;
    clock.advance(Duration::from_secs(10));
    keyed.retain_recent();
    keyed.shrink_to_fit();
    let kept = resident().saturating_sub(before) / MILLION;
    println!("governor: {live} B per key while live, {kept} B per key once told to forget and to shrink");
}

/// Each in a process of its own: what one frees, the other would use again.
fn memory() {
    let Ok(me) = std::env::current_exe() else { return };
    for what in ["locker", "governor"] {
        let run = std::process::Command::new(&me).env("LOCKGATE_MEASURE", what).status();
        assert!(run.is_ok_and(|status| status.success()), "{what} could not be measured");
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_millis(500))
        .sample_size(30);
    targets = hot_key, contended, refusal, million_keys
}

fn main() {
    match std::env::var("LOCKGATE_MEASURE").as_deref() {
        Ok("locker") => measure_locker(),
        Ok("governor") => measure_governor(),
        _ => {
            memory();
            benches();
            Criterion::default().configure_from_args().final_summary();
        }
    }
}

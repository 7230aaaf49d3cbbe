//! How late a waiter is polled after its slot has opened, beside a tokio timer in the same run; and what an ask costs
//! when two threads ask.
//!
//! `cargo bench --bench gate`. The figures for lateness mean something on an idle machine only.

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use lockgate::gate::clock::Clock;
use lockgate::gate::{Answer, Gate, Patience, Permit};
use lockgate::locker::{Caller, Claim, Counts, Key, Kind, Limit, LimitId, Priority, Rate, ShareBy, WhenFull};

/// Not a whole number of milliseconds, so that the openings fall anywhere between two ticks of tokio's timer.
const SPAN: Duration = Duration::from_micros(3_370);
const OPENINGS: usize = 500;
const ASKS: u32 = 1_000_000;

fn main() {
    println!("slot opening → waiter polled, {OPENINGS} openings each, in turns with tokio::time::sleep_until");
    lateness("timer and waiter on one thread", Driven::Here);
    lateness("timer on another thread", Driven::Elsewhere);
    println!("asks, {ASKS} a thread, best of 5");
    costs();
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Driven {
    Here,
    Elsewhere,
}

fn lateness(name: &str, driven: Driven) {
    let gate = gate(1, SPAN);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let here = runtime();
    let driving = Arc::clone(&gate).drive();
    let elsewhere = match driven {
        Driven::Here => {
            here.spawn(driving);
            None
        }
        Driven::Elsewhere => Some(std::thread::spawn(move || runtime().block_on(driving))),
    };
    let (mut ours, mut tokios) = here.block_on(openings(&gate));
    drop(here);
    drop(gate);
    if let Some(elsewhere) = elsewhere {
        elsewhere.join().expect("the timer's thread ends").expect("the timer works");
    }
    print_row(name, "gate", &mut ours);
    print_row(name, "tokio", &mut tokios);
}

async fn openings(gate: &Arc<Gate>) -> (Vec<Duration>, Vec<Duration>) {
    let (clock, claims) = (gate.clock(), [CLAIM]);
    let (mut ours, mut tokios) = (Vec::new(), Vec::new());
    let mut flight = go(gate).depart();
    for _ in 0..OPENINGS {
        let opens = flight.sent() + SPAN;
        let permit = match gate.ask(&claims, CALLER, Patience::default()) {
            Answer::Go(permit) => permit,
            Answer::Wait(waiting) => waiting.await.unwrap_or_else(|refused| panic!("{refused:?}")),
            Answer::Sorry(refused) => panic!("{refused:?}"),
        };
        ours.push(clock.now().since(opens));
        let due = clock.now() + SPAN;
        tokio::time::sleep_until(clock.instant(due).into()).await;
        tokios.push(clock.now().since(due));
        flight = permit.depart();
    }
    (ours, tokios)
}

fn print_row(name: &str, whose: &str, samples: &mut [Duration]) {
    samples.sort();
    let micros = |share: f64| {
        let index = ((samples.len() - 1) as f64 * share).round() as usize;
        samples[index].as_secs_f64() * 1e6
    };
    let (p50, p90, p99, most) = (micros(0.5), micros(0.9), micros(0.99), micros(1.0));
    println!("  {name:<32} {whose:<6} p50 {p50:>7.1} µs   p90 {p90:>7.1} µs   p99 {p99:>7.1} µs   max {most:>7.1} µs");
}

fn costs() {
    let given_back = |gate: &Arc<Gate>| drop(go(gate));
    let sent = |gate: &Arc<Gate>| {
        go(gate).depart().sent();
    };
    let refused = |gate: &Arc<Gate>| {
        black_box(matches!(gate.ask(&[CLAIM], CALLER, Patience::default()), Answer::Sorry(_)));
    };
    let empty = |gate: &Arc<Gate>| {
        black_box(matches!(gate.ask(&[], CALLER, Patience::default()), Answer::Go(_)));
    };
    let second = Duration::from_secs(1);
    for threads in [1, 2] {
        cost("no claims", threads, 1, second, empty);
        cost("ask, give back", threads, 10_000_000, second, given_back);
        cost("ask, depart, sent, end", threads, 10_000_000, Duration::from_millis(1), sent);
        cost("refused", threads, 1, Duration::from_secs(3600), refused);
    }
}

/// Nanoseconds for each operation as one thread sees it.
fn cost(name: &str, threads: u32, requests: u32, per: Duration, operation: impl Fn(&Arc<Gate>) + Copy + Sync) {
    let best = (0..5).map(|_| {
        let gate = gate(requests, per);
        let taken = (requests == 1).then(|| go(&gate).depart());
        let start = Barrier::new(threads as usize);
        let spans = std::thread::scope(|scope| {
            let one = || {
                start.wait();
                let begun = gate.clock().now();
                (0..ASKS).for_each(|_| operation(&gate));
                gate.clock().now().since(begun)
            };
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
            running.into_iter().map(|thread| thread.join().expect("it does not panic")).max()
        });
        drop(taken);
        spans.unwrap_or_default()
    });
    let nanos = best.min().unwrap_or_default().as_secs_f64() * 1e9 / f64::from(ASKS);
    println!("  {name:<32} {threads} thread(s) {nanos:>7.1} ns");
}

const CALLER: Caller = Caller(1);
const CLAIM: Claim = Claim { limit: LimitId(0), key: Key::WHOLE, cost: 1 };

fn go(gate: &Arc<Gate>) -> Permit {
    match gate.ask(&[CLAIM], CALLER, Patience::default()) {
        Answer::Go(permit) => permit,
        Answer::Wait(_) | Answer::Sorry(_) => panic!("a slot is free"),
    }
}

fn gate(requests: u32, per: Duration) -> Arc<Gate> {
    let rate = Rate { requests, per, guard: Duration::ZERO, kind: Kind::Sliding, counts: Counts::Sent };
    let when_full = if per > Duration::from_secs(60) { WhenFull::Refuse } else { WhenFull::Wait };
    let limit = Limit {
        name: "bench".into(),
        keyed_by: "".into(),
        rate: Some(rate),
        in_flight: None,
        when_full,
        max_wait: Duration::from_secs(30),
        max_waiting: 1000,
        share_by: ShareBy::Nobody,
        priority: Priority::WithinCaller,
        max_keys: 1000,
        dry_run: false,
        shared: false,
    };
    Gate::new(vec![limit], Clock::start())
}

//! Tests of the gate under a manual clock; where the timer itself is tested, under the real clock.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake};

use super::clock::Hand;
use super::*;
use crate::locker::{Counts, Kind, Priority, Rate, RefusalReason, ShareBy, Unit, Usage, WhenFull};

mod close;
mod driven;
mod interleavings;
mod lease;
mod limiter;
mod longest_step;
mod permit;
mod reload_gate;
mod time;
mod timer;
mod wait_slots;

impl Gate {
    /// Poisons the lock, as a panic of the locker would.
    pub(crate) fn poison_for_test(&self) {
        let fault = std::panic::AssertUnwindSafe(|| self.step(self.clock.now(), |_| panic!("a fault")));
        assert!(std::panic::catch_unwind(fault).is_err());
    }
}

const CALLER: Caller = Caller(1);
/// Timeout that is long enough for a slow machine; reached only by a failing test.
const AGES: Duration = Duration::from_secs(30);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn at(millis: u64) -> Time {
    Time::START + ms(millis)
}

fn limit(requests: u32, per: Duration) -> Limit {
    let rate = Rate { requests, per, guard: Duration::ZERO, kind: Kind::Sliding, counts: Counts::Sent };
    Limit {
        // One name for each rate, since the limits of a gate need different names.
        name: format!("test {} ms", per.as_millis()).into(),
        keyed_by: "".into(),
        rate: Some(rate),
        in_flight: None,
        when_full: WhenFull::Wait,
        max_wait: Duration::from_secs(86_400),
        max_waiting: 1000,
        share_by: ShareBy::Nobody,
        priority: Priority::WithinCaller,
        max_keys: 1000,
        dry_run: false,
        shared: false,
    }
}

/// Final decision of the gate, after the wait if there is one.
pub(super) async fn decision(answer: Answer) -> Result<Permit, Refused> {
    match answer {
        Answer::Go(permit) => Ok(permit),
        Answer::Wait(waiting) => waiting.await,
        Answer::Sorry(refused) => Err(refused),
    }
}

fn claim(limit: u32) -> Claim {
    Claim { limit: LimitId(limit), key: Key::WHOLE, cost: 1 }
}

/// Gate with a manual clock.
struct World {
    gate: Arc<Gate>,
    hand: &'static Hand,
}

impl World {
    fn new(limits: Vec<Limit>) -> World {
        let (clock, hand) = Clock::manual();
        World { gate: Gate::new(limits, clock), hand }
    }

    /// World with one limit of one request per 100 ms, with its only slot used at the start.
    fn closed_for_100_ms() -> World {
        let world = World::new(vec![limit(1, ms(100))]);
        world.go().depart().sent();
        world
    }

    fn ask(&self, limit: u32) -> Answer {
        self.gate.ask(&[claim(limit)], CALLER, self.patience())
    }

    /// Default wait preferences, at the present revision.
    fn patience(&self) -> Patience {
        Patience { revision: self.gate.lock().revision, ..Patience::default() }
    }

    fn go(&self) -> Permit {
        match self.ask(0) {
            Answer::Go(permit) => permit,
            Answer::Wait(_) => panic!("it must wait"),
            Answer::Sorry(refused) => panic!("{refused:?}"),
        }
    }

    fn wait(&self, limit: u32) -> Waiter {
        match self.ask(limit) {
            Answer::Wait(waiting) => Waiter { waiting, waker: Arc::default() },
            Answer::Go(_) => panic!("it may go at once"),
            Answer::Sorry(refused) => panic!("{refused:?}"),
        }
    }

    fn refused(&self) -> Refused {
        match self.ask(0) {
            Answer::Sorry(refused) => refused,
            Answer::Go(_) | Answer::Wait(_) => panic!("it is not refused"),
        }
    }

    /// Advances the clock, and fires the timer.
    fn pass(&self, span: Duration) {
        self.hand.pass(span);
        self.gate.expire();
    }

    fn usage(&self) -> Usage {
        self.gate.lock().locker.usage(LimitId(0), Key::WHOLE, self.hand.now())
    }
}

/// Waker that counts its calls.
#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Queued request, polled by hand.
struct Waiter {
    waiting: Waiting,
    waker: Arc<CountingWaker>,
}

impl Waiter {
    fn poll(&mut self) -> Poll<Result<Permit, Refused>> {
        let waker = Arc::clone(&self.waker).into();
        pin!(&mut self.waiting).poll(&mut Context::from_waker(&waker))
    }

    fn waits(&mut self) -> bool {
        self.poll().is_pending()
    }

    fn wakes(&self) -> usize {
        self.waker.0.load(Ordering::SeqCst)
    }

    fn go(mut self) -> Permit {
        match self.poll() {
            Poll::Ready(Ok(permit)) => permit,
            Poll::Ready(Err(refused)) => panic!("{refused:?}"),
            Poll::Pending => panic!("it still waits"),
        }
    }

    fn refused(mut self) -> Refused {
        match self.poll() {
            Poll::Ready(Err(refused)) => refused,
            Poll::Ready(Ok(_)) => panic!("it may go"),
            Poll::Pending => panic!("it still waits"),
        }
    }
}

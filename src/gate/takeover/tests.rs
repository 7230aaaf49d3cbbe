//! Tests of the upgrade: two gates, each with its own clock, over a real pair of sockets.

mod copies;
mod journals;
mod mutants;

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::*;
use crate::gate::clock::Clock;
use crate::gate::journal::{AfterCrash, JournalHealth};
use crate::gate::{Answer, Flight, Gate, Patience, Refused, Settings, Waiting};
use crate::locker::{
    Caller, Claim, Counts, Key, Kind, Limit, LimitId, Priority, Rate, RefusalReason, ShareBy, WhenFull,
};
use crate::net::drain::Drain;

const HOUR: Duration = Duration::from_secs(3600);

/// Limit of `requests` per hour, and `in_flight` at once.
fn limit(requests: u32, in_flight: u32) -> Limit {
    Limit {
        name: "test".into(),
        keyed_by: "".into(),
        rate: Some(Rate { requests, per: HOUR, guard: Duration::ZERO, kind: Kind::Sliding, counts: Counts::Sent }),
        in_flight: Some(in_flight),
        when_full: WhenFull::Wait,
        max_wait: 2 * HOUR,
        max_waiting: 1000,
        share_by: ShareBy::Nobody,
        priority: Priority::WithinCaller,
        max_keys: 1000,
        dry_run: false,
        shared: false,
    }
}

fn settings(limits: &[Limit]) -> Settings {
    Settings { limits: limits.to_vec(), state: None, store: None }
}

fn ask(gate: &Arc<Gate>) -> Answer {
    let claims = [Claim { limit: LimitId(0), key: Key::WHOLE, cost: 1 }];
    gate.ask(&claims, Caller(1), Patience::default())
}

/// Request that is granted and sent at once.
#[track_caller]
fn go(gate: &Arc<Gate>) -> Flight {
    let Answer::Go(permit) = ask(gate) else { panic!("it should have gone at once") };
    let mut flight = permit.depart();
    flight.sent();
    flight
}

#[track_caller]
fn wait(gate: &Arc<Gate>) -> Waiting {
    match ask(gate) {
        Answer::Wait(waiting) => waiting,
        Answer::Go(_) => panic!("it should have waited"),
        Answer::Sorry(refused) => panic!("it should have waited: {refused:?}"),
    }
}

/// Verdict on a waiter; `None` while it waits.
fn look(waiting: &mut Waiting) -> Option<Result<Flight, Refused>> {
    match pin!(waiting).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => None,
        Poll::Ready(verdict) => Some(verdict.map(|permit| {
            let mut flight = permit.depart();
            flight.sent();
            flight
        })),
    }
}

#[track_caller]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    // A fault of the table of mutants need not be waited for as long as a slow machine.
    let most = if crate::mutant::testing::is_any_on() { 500 } else { 60_000 };
    for _ in 0..most {
        if let Some(seen) = look() {
            return seen;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("{what} did not come to pass");
}

/// Asserts that the waiter stays undecided for a while.
#[track_caller]
fn stays(waiting: &mut Waiting) {
    for _ in 0..10 {
        assert!(look(waiting).is_none(), "it should still wait");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Runs the new process in a thread.
fn spawn_new_process(socket: FdSocket, settings: Settings, drain: &Drain) -> JoinHandle<Result<Arc<Gate>, Error>> {
    let drain = drain.clone();
    thread::spawn(crate::mutant::testing::carry(move || {
        let mut new = NewProcess::connect(socket)?;
        let gate = new.gate(&settings, Clock::start())?;
        new.inherit(&gate, settings.limits, Duration::ZERO)?;
        new.take(&gate, drain.process_guard())?;
        Ok(gate)
    }))
}

#[track_caller]
fn hand_over(old: &Arc<Gate>, settings: Settings, drain: &Drain) -> Arc<Gate> {
    let (here, there) = FdSocket::pair().unwrap();
    let new = spawn_new_process(FdSocket::from(there), settings, drain);
    let given = old.hand_over(here, &[]);
    let new = new.join().unwrap().unwrap();
    given.unwrap();
    new
}

#[test]
fn what_is_counted_in_line_and_under_way_moves_to_the_new_process() {
    let limits = [limit(4, 2)];
    let old = Gate::new(limits.to_vec(), Clock::start());
    let (first, second) = (go(&old), go(&old));
    let mut early = wait(&old);
    let drain = Drain::new();
    let new = hand_over(&old, settings(&limits), &drain);
    let mut late = wait(&new);
    drop(first);
    let third = eventually("its turn", || look(&mut early)).unwrap();
    stays(&mut late);
    drop(second);
    let fourth = eventually("its turn", || look(&mut late)).unwrap();
    drop((third, fourth));
    // All four slots of the hour are taken, two by each process.
    let (mut here, mut there) = (wait(&old), wait(&new));
    stays(&mut here);
    stays(&mut there);
    assert_eq!(drain.connections(), 1);
    drop(here);
    old.stop();
    drop(old);
    drain.start_lame_duck();
    eventually("the end of the old one", || (drain.connections() == 0).then_some(()));
}

#[test]
fn a_refusal_and_a_leaving_reach_the_other_process() {
    let limits = [Limit { max_waiting: 1, ..limit(1, 1) }];
    let old = Gate::new(limits.to_vec(), Clock::start());
    let _flight = go(&old);
    let new = hand_over(&old, settings(&limits), &Drain::new());
    let waits = wait(&new);
    let mut refused = wait(&old);
    let Err(Refused::Sorry(sorry)) = eventually("the refusal", || look(&mut refused)) else { panic!("it waits") };
    assert_eq!((sorry.reason, sorry.limit), (RefusalReason::QueueFull, LimitId(0)));
    assert!(sorry.until > old.clock().now() + HOUR / 2, "{sorry:?}");
    drop(waits);
    let mut waits = wait(&old);
    stays(&mut waits);
    drop(waits);
    // Only now the queue has room for this one.
    eventually("a place in the queue", || match ask(&new) {
        Answer::Wait(_) => Some(()),
        Answer::Go(_) => panic!("the hour is full"),
        Answer::Sorry(_) => None,
    });
}

#[test]
fn until_it_has_taken_over_the_new_process_may_fail_and_nothing_has_changed() {
    let limits = [limit(3, 1)];
    let old = Gate::new(limits.to_vec(), Clock::start());
    let flight = go(&old);
    let mut waits = wait(&old);
    for stage in 0..4 {
        let (here, there) = FdSocket::pair().unwrap();
        let limits = limits.to_vec();
        let fails = thread::spawn(move || {
            let socket = FdSocket::from(there);
            if stage == 0 {
                return;
            }
            let mut new = NewProcess::connect(socket).unwrap();
            let gate = new.gate(&settings(&limits), Clock::start()).unwrap();
            if stage >= 2 {
                new.inherit(&gate, limits, Duration::ZERO).unwrap();
            }
            if stage == 3 {
                new.complete(&gate).unwrap();
            }
        });
        let error = old.hand_over(here, &[]).unwrap_err();
        assert!(matches!(error, Error::NoAnswer(_)), "{error}");
        fails.join().unwrap();
    }
    stays(&mut waits);
    drop(flight);
    drop(look(&mut waits).expect("its turn").unwrap());
    // A later upgrade succeeds.
    let new = hand_over(&old, settings(&limits), &Drain::new());
    drop(go(&new));
    stays(&mut wait(&old));
    assert!(matches!(old.hand_over(FdSocket::pair().unwrap().0, &[]), Err(Error::AlreadyHandedOver)));
}

#[test]
fn if_the_new_process_dies_the_old_one_refuses() {
    let limits = [limit(1, 1)];
    let old = Gate::new(limits.to_vec(), Clock::start());
    let flight = go(&old);
    let mut before = wait(&old);
    let new = hand_over(&old, settings(&limits), &Drain::new());
    let mut after = wait(&old);
    new.old_process.get().unwrap().shutdown();
    for waiting in [&mut before, &mut after] {
        let verdict = eventually("a refusal", || look(waiting));
        assert!(matches!(verdict, Err(Refused::Closing { .. })));
    }
    assert!(matches!(ask(&old), Answer::Sorry(Refused::Closing { .. })));
    drop(flight);
    old.stop();
}

#[test]
fn if_the_old_process_dies_what_it_had_under_way_ends() {
    let limits = [limit(10, 1)];
    let old = Gate::new(limits.to_vec(), Clock::start());
    let flight = go(&old);
    let waiters = wait(&old);
    let new = hand_over(&old, settings(&limits), &Drain::new());
    let mut waits = wait(&new);
    stays(&mut waits);
    new.old_process.get().unwrap().shutdown();
    drop(eventually("its turn", || look(&mut waits)).unwrap());
    drop((flight, waiters));
}

#[test]
fn a_third_process_takes_over_while_the_first_still_has_requests() {
    let limits = [limit(10, 1)];
    let first = Gate::new(limits.to_vec(), Clock::start());
    let flight = go(&first);
    let mut waits = wait(&first);
    let drain = Drain::new();
    let second = hand_over(&first, settings(&limits), &drain);
    let third = hand_over(&second, settings(&limits), &drain);
    let mut last = wait(&third);
    drop(flight);
    let flight = eventually("its turn", || look(&mut waits)).unwrap();
    stays(&mut last);
    let mut waits = wait(&second);
    drop(flight);
    let flight = eventually("its turn", || look(&mut last)).unwrap();
    stays(&mut waits);
    drop(flight);
    let _held = eventually("its turn", || look(&mut waits)).unwrap();
    // After the third process died, requests forwarded to it are refused, over any number of hops.
    let mut orphan = wait(&first);
    third.old_process.get().unwrap().shutdown();
    assert!(matches!(eventually("a refusal", || look(&mut orphan)), Err(Refused::Closing { .. })));
}

#[test]
fn the_new_process_goes_on_with_other_limits_and_counts_what_the_old_one_counted() {
    let old = Gate::new(vec![limit(5, 5)], Clock::start());
    let flights = [go(&old), go(&old), go(&old)];
    let new = hand_over(&old, settings(&[limit(4, 5)]), &Drain::new());
    let fourth = go(&new);
    stays(&mut wait(&new));
    drop((flights, fourth));
    stays(&mut wait(&new));
}

#[test]
fn another_form_of_the_hand_over_is_refused_before_anything_is_believed() {
    let (here, there) = FdSocket::pair().unwrap();
    here.send(&[9, 0, 0, 0, 1, 2, 3], &[]).unwrap();
    let error = NewProcess::connect(FdSocket::from(there)).map(drop).unwrap_err();
    assert!(error.to_string().contains("its version is 9"), "{error}");
}

#[test]
fn who_was_let_in_line_stays_in_line_however_it_would_be_received_now() {
    let old = Gate::new(vec![limit(10, 1)], Clock::start());
    let flight = go(&old);
    let (mut first, mut second) = (wait(&old), wait(&old));
    let _new = hand_over(&old, settings(&[Limit { max_waiting: 1, ..limit(10, 1) }]), &Drain::new());
    let mut third = wait(&old);
    assert!(matches!(eventually("a refusal", || look(&mut third)), Err(Refused::Sorry(_))), "the queue is full");
    drop(flight);
    drop(eventually("its turn", || look(&mut first)).unwrap());
    drop(eventually("its turn", || look(&mut second)).unwrap());
}

#[test]
fn callers_take_turns_as_if_nothing_had_been() {
    let limits = [Limit { share_by: ShareBy::Caller, ..limit(1000, 1) }];
    let old = Gate::new(limits.to_vec(), Clock::start());
    let claims = [Claim { limit: LimitId(0), key: Key::WHOLE, cost: 1 }];
    let flight = go(&old);
    let mut mapping: Vec<(u64, Waiting)> = Vec::new();
    for caller in [7, 7, 7, 7, 8] {
        let Answer::Wait(waiting) = old.ask(&claims, Caller(caller), Patience::default()) else {
            panic!("one is under way")
        };
        mapping.push((caller, waiting));
    }
    let _new = hand_over(&old, settings(&limits), &Drain::new());
    drop(flight);
    let mut went = Vec::new();
    while !mapping.is_empty() {
        let at = eventually("a turn", || {
            mapping.iter_mut().position(|(_, waiting)| look(waiting).map(|flight| drop(flight.unwrap())).is_some())
        });
        went.push(mapping.remove(at).0);
    }
    assert_eq!(went, [7, 8, 7, 7, 7]);
}

#[test]
fn a_gate_that_has_stopped_grants_nothing_to_the_process_before() {
    let dir = std::env::temp_dir().join(format!("lockgate-stopped-{}", std::process::id()));
    std::fs::remove_dir_all(&dir).ok();
    let state = journal::Settings { dir: dir.clone(), after_crash: AfterCrash::Remember };
    let settings = Settings { limits: vec![limit(2, 1)], state: Some(state), store: None };
    let old = Gate::open(settings.clone(), Clock::start()).unwrap().0;
    old.start_journal().unwrap();
    let first = match ask(&old) {
        Answer::Go(permit) => permit.depart(),
        Answer::Wait(mut waiting) => eventually("its turn", || look(&mut waiting)).unwrap(),
        Answer::Sorry(refused) => panic!("{refused:?}"),
    };
    let mut waits = wait(&old);
    let new = hand_over(&old, settings, &Drain::new());
    new.stop();
    drop(first);
    assert!(matches!(eventually("a refusal", || look(&mut waits)), Err(Refused::Closing { .. })));
    std::fs::remove_dir_all(&dir).ok();
}

//! Wake-ups under many orders of the threads' steps: none is lost, and a dropped waiter passes its own on.
//!
//! The files with wake-ups are compiled a second time here, with shuttle's locks and threads. A lost wake-up ends as a
//! deadlock, which shuttle reports with the schedule that led to it (`shuttle::replay`). Its waits never time out.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Waker};

use rustix::time::timerfd_gettime;
use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use self::clock::Clock;
use self::sync::{Arc, Condvar, Mutex, MutexGuard, thread};
use self::thread_signal::{DeferredThread, ExitGuard, PendingSignals, ThreadSignal};
use self::timer::{Arming, Timer};
use self::wait_slots::{WaitSlots, Waiting};
use super::*;
use crate::locker::{AskKind, Grant, Locker};

mod clock {
    use rustix::time::Timespec;

    use super::{Time, thread};

    /// The clock, with a change of the thread before the system call that sets the timer.
    #[derive(Clone, Copy)]
    pub(super) struct Clock(pub(super) crate::gate::clock::Clock);

    impl Clock {
        pub(super) fn kernel_time(self, time: Time) -> Timespec {
            thread::yield_now();
            self.0.kernel_time(time)
        }
    }
}

mod sync {
    pub(super) use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
    pub(super) use shuttle::thread;
}

#[allow(clippy::duplicate_mod, dead_code, reason = "the tests need a part of it, on other locks")]
#[path = "../thread_signal.rs"]
mod thread_signal;
#[allow(clippy::duplicate_mod, dead_code, reason = "the tests need a part of it, on other locks")]
#[path = "../timer.rs"]
mod timer;
#[allow(clippy::duplicate_mod, dead_code, reason = "the tests need a part of it, on other locks")]
#[path = "../wait_slots.rs"]
mod wait_slots;

/// Schedules per test: random ones, and as many that change the thread at three points only (PCT), which finds rare orders.
const SCHEDULES: usize = 500;

fn in_many_orders(world: fn()) {
    shuttle::check_random(world, SCHEDULES);
    shuttle::check_pct(world, SCHEDULES, 3);
}

/// The gate of `wait_slots`, around a real locker; its steps are those of [`Gate::step_locked`](crate::gate::Gate).
pub struct Gate {
    state: Mutex<State>,
    clock: Hand,
}

struct State {
    locker: Locker,
    wait_slots: WaitSlots,
    wakers: Vec<Waker>,
}

/// Clock of a world in which no time passes: a slot opens when it is given back.
struct Hand;

impl Hand {
    fn now(&self) -> Time {
        at(1)
    }
}

/// A granted slot, given back by its drop.
pub struct Permit(Arc<Gate>, Option<Grant>);

impl Permit {
    fn granted(gate: Arc<Gate>, grant: Grant, _at: Time) -> Permit {
        Permit(gate, Some(grant))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let grant = self.1.take().expect("it is dropped once");
        self.0.step_in_drop(at(1), |state| state.locker.give_back(grant, at(1)));
    }
}

impl Gate {
    fn new() -> Arc<Gate> {
        let locker = Locker::new(vec![limit(1, ms(100_000))]);
        let state = State { locker, wait_slots: WaitSlots::default(), wakers: Vec::new() };
        Arc::new(Gate { state: Mutex::new(state), clock: Hand })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn step_in_drop<R>(&self, now: Time, input: impl FnOnce(&mut State) -> R) -> Option<R> {
        let mut state = self.lock();
        let result = input(&mut state);
        while let Some((ticket, verdict)) = state.locker.poll_verdict() {
            let Verdict::Go(grant) = verdict else { panic!("{verdict:?}") };
            let decided = state.wait_slots.decide(ticket, Ok(grant), now);
            state.wakers.extend(decided.expect("its future waits"));
        }
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Some(result)
    }

    fn ask(self: &Arc<Self>, caller: u64) -> Result<Permit, Waiting> {
        let claims = [claim(0)];
        let ask = Ask {
            claims: &claims,
            caller: Caller(caller),
            urgency: 3,
            max_wait: None,
            arrived: None,
            kind: AskKind::New,
        };
        let asked = self.step_in_drop(at(1), |state| match state.locker.ask(&ask, at(1)) {
            Verdict::Go(grant) => Ok(grant),
            Verdict::Wait(ticket, forecast) => Err((state.wait_slots.enter(ticket, forecast), forecast)),
            Verdict::Sorry(sorry) => panic!("{sorry:?}"),
        });
        match asked.expect("it is always done") {
            Ok(grant) => Ok(Permit::granted(Arc::clone(self), grant, at(1))),
            Err((slot, forecast)) => Err(Waiting::at(Arc::clone(self), slot, forecast)),
        }
    }

    /// A permit, after as many reloads as come before it.
    fn acquire(self: &Arc<Self>, caller: u64) -> Permit {
        loop {
            let mut waiting = match self.ask(caller) {
                Ok(permit) => return permit,
                Err(waiting) => Box::pin(waiting),
            };
            // The first poll is of another task than the next.
            let decided = match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(decided) => decided,
                Poll::Pending => block_on(waiting),
            };
            match decided {
                Ok(permit) => return permit,
                Err(refused) => assert_eq!(refused, Refused::Reask),
            }
        }
    }

    /// As a reload: every waiter is told to ask again.
    fn reask_all(&self) {
        self.step_in_drop(at(1), |state| {
            let all = state.wait_slots.expected_after(None);
            for ticket in &all {
                let decided = state.wait_slots.decide(*ticket, Err(Refused::Reask), at(1));
                state.wakers.extend(decided.unwrap());
            }
            all.into_iter().for_each(|ticket| state.locker.leave(ticket, at(1)));
        });
    }
}

#[test]
fn every_waiter_is_granted_in_its_turn_though_others_leave_and_all_are_asked_again() {
    in_many_orders(|| {
        let (gate, held) = (Gate::new(), Arc::new(AtomicU32::new(0)));
        let waiter = |caller| {
            let (gate, held) = (Arc::clone(&gate), Arc::clone(&held));
            thread::spawn(move || {
                let permit = gate.acquire(caller);
                assert_eq!(held.fetch_add(1, Ordering::SeqCst), 0, "two hold the only slot");
                thread::yield_now();
                held.fetch_sub(1, Ordering::SeqCst);
                drop(permit);
            })
        };
        let leaver = |caller| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let Err(waiting) = gate.ask(caller) else { return };
                // Polled once, and dropped: queued, or granted meanwhile.
                let mut waiting = pin!(waiting);
                block_on(poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_ready())));
            })
        };
        let reload = Arc::clone(&gate);
        let threads =
            [waiter(1), leaver(2), waiter(3), thread::spawn(move || reload.reask_all()), leaver(1), waiter(1)];
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let mut state = gate.lock();
        assert!(state.wait_slots.is_empty() && state.locker.waiting() == 0);
        let taken = state.locker.usage(LimitId(0), Key::WHOLE, at(1)).taken;
        assert_eq!(taken, 0, "each slot was given back");
    });
}

/// Work of a thread, under the gate's lock in real life.
#[derive(Default)]
struct Work {
    left: u32,
    done: u32,
    pending: PendingSignals,
}

#[test]
fn a_thread_does_all_work_that_it_is_notified_of_and_ends_when_it_is_stopped() {
    in_many_orders(|| {
        let (work, finished) = (Arc::new(Mutex::new(Work::default())), Arc::new(Condvar::new()));
        let (signal, has_ended) = (Arc::new(ThreadSignal::default()), Arc::new(AtomicBool::new(false)));
        let (of_thread, to_end) =
            ((Arc::clone(&work), Arc::clone(&finished), Arc::clone(&signal)), Arc::clone(&has_ended));
        let deferred = DeferredThread::new("worker", move || {
            let (work, finished, signal) = of_thread;
            let _guard = ExitGuard::new(&signal);
            let _last = OnDrop(to_end);
            loop {
                let mut found = work.lock().unwrap();
                found.pending.journal = false;
                let taken = std::mem::take(&mut found.left);
                drop(found);
                work.lock().unwrap().done += taken;
                finished.notify_all();
                if !signal.wait(None) {
                    return;
                }
            }
        });
        deferred.unwrap().start();
        let add = || {
            let (work, signal) = (Arc::clone(&work), Arc::clone(&signal));
            thread::spawn(move || {
                for _ in 0..2 {
                    let mut found = work.lock().unwrap();
                    found.left += 1;
                    let is_due = !std::mem::replace(&mut found.pending.journal, true);
                    drop(found);
                    if is_due {
                        signal.notify();
                    }
                }
            })
        };
        let adding = [add(), add()];
        let mut found = work.lock().unwrap();
        while found.done < 4 {
            found = finished.wait(found).unwrap();
        }
        drop(found);
        adding.into_iter().for_each(|thread| thread.join().unwrap());
        signal.stop();
        assert!(has_ended.load(Ordering::SeqCst), "the thread has dropped all that it owned");
    });
}

/// Set when a thread drops what it owns.
struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_thread_that_is_stopped_while_it_works_ends_and_one_that_is_never_started_does_nothing() {
    in_many_orders(|| {
        let (signal, rounds) = (Arc::new(ThreadSignal::default()), Arc::new(AtomicU32::new(0)));
        let of_thread = (Arc::clone(&signal), Arc::clone(&rounds));
        let work = move || {
            let (signal, rounds) = of_thread;
            let _guard = ExitGuard::new(&signal);
            while signal.wait(None) {
                rounds.fetch_add(1, Ordering::SeqCst);
            }
            assert!(signal.is_stopping());
        };
        DeferredThread::new("worker", work).unwrap().start();
        drop(DeferredThread::new("idle", || panic!("it was never started")).unwrap());
        let notifier = Arc::clone(&signal);
        let notifying = thread::spawn(move || notifier.notify());
        signal.stop();
        notifying.join().unwrap();
        assert!(rounds.load(Ordering::SeqCst) <= 1, "one notification is one round");
    });
}

#[test]
fn the_newest_setting_of_the_timer_holds_in_whatever_order_they_arrive_and_the_last_firing_in_any() {
    in_many_orders(|| {
        let (timer, armings, clock) =
            (Arc::new(Timer::default()), Arc::new(Mutex::new(0)), Clock(super::Clock::start()));
        let descriptor = timer.descriptor().unwrap();
        let arm = || {
            let (timer, armings, clock) = (Arc::clone(&timer), Arc::clone(&armings), clock);
            thread::spawn(move || {
                let mut number = armings.lock().unwrap();
                *number += 1;
                let arming = Arming { number: *number, at: clock.0.now() + Duration::from_secs(3600 * (9 - *number)) };
                drop(number);
                timer.arm(arming, &clock);
            })
        };
        let all = [arm(), arm(), arm()];
        all.into_iter().for_each(|thread| thread.join().unwrap());
        let left = || timerfd_gettime(&descriptor).unwrap().it_value;
        assert_eq!((left().tv_sec + 60) / 3600, 6, "the third setting is for six hours");

        let last = Arc::clone(&timer);
        let all = [arm(), thread::spawn(move || last.fire_now()), arm()];
        all.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((left().tv_sec, left().tv_nsec), (0, 0), "it has fired");
    });
}

//! Tests under the real clock and timer.

use super::*;

fn real(limits: Vec<Limit>) -> Arc<Gate> {
    Gate::new(limits, Clock::start())
}

async fn permit(gate: &Arc<Gate>, limit: u32) -> Permit {
    let asked = decision(gate.ask(&[claim(limit)], CALLER, Patience::default()));
    tokio::time::timeout(AGES, asked).await.expect("it was not woken").expect("it is not refused")
}

#[tokio::test]
async fn waiters_go_when_their_slots_open_and_not_before() {
    let gate = real(vec![limit(1, ms(20))]);
    tokio::spawn(Arc::clone(&gate).drive());
    let mut before: Option<Time> = None;
    for _ in 0..5 {
        let permit = permit(&gate, 0).await;
        assert!(before.is_none_or(|before| permit.granted_at().since(before) >= ms(20)));
        let mut flight = permit.depart();
        before = Some(gate.clock().now());
        flight.sent();
    }
}

#[tokio::test]
async fn a_gate_that_is_driven_late_does_what_is_due_first() {
    let gate = real(vec![limit(1, ms(1))]);
    permit(&gate, 0).await.depart().sent();
    let waiting = tokio::spawn({
        let gate = Arc::clone(&gate);
        async move { permit(&gate, 0).await }
    });
    tokio::task::yield_now().await;
    tokio::spawn(Arc::clone(&gate).drive());
    drop(waiting.await.unwrap());
}

#[tokio::test]
async fn an_opening_earlier_than_the_next_one_known_is_not_missed() {
    let gate = real(vec![limit(1, Duration::from_secs(3600)), limit(1, ms(5))]);
    tokio::spawn(Arc::clone(&gate).drive());
    permit(&gate, 0).await.depart().sent();
    let claims = [claim(0)];
    let mut far = std::pin::pin!(decision(gate.ask(&claims, CALLER, Patience::default())));
    assert!(far.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
    tokio::task::yield_now().await;
    permit(&gate, 1).await.depart().sent();
    drop(permit(&gate, 1).await);
}

#[tokio::test]
async fn driving_ends_when_all_others_have_dropped_the_gate() {
    let gate = real(vec![limit(1, Duration::from_secs(3600))]);
    let driving = tokio::spawn(Arc::clone(&gate).drive());
    permit(&gate, 0).await.depart().sent();
    tokio::task::yield_now().await;
    drop(gate);
    tokio::time::timeout(AGES, driving).await.expect("it goes on").unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_promise_holds_between_threads_through_drops_at_any_moment() {
    const N: usize = 5;
    const SPAN: Duration = ms(4);
    let gate = real(vec![limit(N as u32, SPAN)]);
    tokio::spawn(Arc::clone(&gate).drive());
    let tasks: Vec<_> = (0..8).map(|task| tokio::spawn(one_task(Arc::clone(&gate), task))).collect();
    let mut granted: Vec<Time> = Vec::new();
    for task in tasks {
        granted.extend(task.await.unwrap());
    }
    granted.sort();
    assert_eq!(granted.len(), 8 * 20);
    for (earlier, later) in granted.iter().zip(&granted[N..]) {
        assert!(later.since(*earlier) >= SPAN, "{earlier:?} {later:?}");
    }
    let usage = gate.lock().locker.usage(LimitId(0), Key::WHOLE, gate.clock().now());
    assert_eq!((usage.waiting, usage.flying), (0, 0));
}

/// Sends twenty requests, and between them drops others while queued, granted or departed.
async fn one_task(gate: Arc<Gate>, task: usize) -> Vec<Time> {
    let mut granted = Vec::new();
    for round in 0..20 {
        match (task + round) % 4 {
            0 => drop(gate.ask(&[claim(0)], CALLER, Patience::default())),
            1 => {
                let asked = decision(gate.ask(&[claim(0)], CALLER, Patience::default()));
                drop(tokio::time::timeout(ms(1), asked).await);
            }
            2 => drop(permit(&gate, 0).await.depart().nothing_left()),
            _ => {}
        }
        let permit = permit(&gate, 0).await;
        granted.push(permit.granted_at());
        permit.depart().sent();
    }
    granted
}

#[tokio::test]
async fn a_panic_under_the_lock_ends_driving_at_once() {
    let gate = real(vec![limit(1, Duration::from_secs(3600))]);
    let driving = tokio::spawn(Arc::clone(&gate).drive());
    tokio::task::yield_now().await;
    let broken =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| gate.step(gate.clock().now(), |_| panic!("a fault"))));
    assert!(broken.is_err());
    let ended = tokio::time::timeout(AGES, driving).await.expect("the driver was not told");
    assert!(ended.is_err_and(|error| error.is_panic()));
}

#[tokio::test]
async fn a_permit_that_is_dropped_by_a_panic_elsewhere_is_given_back_and_ends_nothing() {
    let gate = real(vec![limit(1, Duration::from_secs(3600))]);
    let driving = tokio::spawn(Arc::clone(&gate).drive());
    let broken = tokio::spawn({
        let gate = Arc::clone(&gate);
        async move {
            let _permit = permit(&gate, 0).await;
            panic!("a fault of its own")
        }
    });
    assert!(broken.await.is_err_and(|error| error.is_panic()));
    drop(permit(&gate, 0).await);
    tokio::task::yield_now().await;
    assert!(!driving.is_finished());
}

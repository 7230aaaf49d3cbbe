//! Copies of windows that change meanwhile, the end of either process at each step of a copy, and its silence.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Weak, mpsc};

use super::*;
use crate::gate::WaiterPolicy;
use crate::gate::takeover::copy_format::WireCopy;
use crate::gate::takeover::wire_format::HandoverStep;
use crate::gate::thread_signal::{ExitGuard, ThreadSignal};

/// More than one slice, and more than are left for the last part.
const KEYS: u64 = 300;

fn ask_key(gate: &Arc<Gate>, key: u64) -> Answer {
    let claims = [Claim { limit: LimitId(0), key: Key(key.into()), cost: 1 }];
    gate.ask(&claims, Caller(1), Patience::default())
}

/// Limit of `requests` per hour and key that refuses the others at once.
fn refusing(requests: u32) -> Limit {
    Limit { when_full: WhenFull::Refuse, in_flight: None, ..limit(requests, 1) }
}

/// Takes one slot of a key, if one is free: by a request that is sent, or by one that fails.
fn take(gate: &Arc<Gate>, key: u64) -> Option<()> {
    match ask_key(gate, key) {
        Answer::Go(permit) => {
            let mut flight = permit.depart();
            if key.is_multiple_of(2) {
                flight.sent();
            }
            Some(())
        }
        Answer::Sorry(_) => None,
        Answer::Wait(_) => panic!("this limit refuses"),
    }
}

/// Takes slots of all keys, round and round, until the gate forwards. Returns how many it got of each.
fn take_until_handed_over(gate: &Arc<Gate>) -> HashMap<u64, u32> {
    let mut taken = HashMap::new();
    for key in (0..KEYS).cycle() {
        match ask_key(gate, key) {
            Answer::Go(permit) => {
                drop(permit.depart());
                *taken.entry(key).or_default() += 1;
            }
            Answer::Sorry(_) => {}
            Answer::Wait(_) => break,
        }
        // The lock is not fair, and the copy must come to its turn on a busy machine.
        if key.is_multiple_of(16) {
            thread::yield_now();
        }
    }
    taken
}

#[test]
fn a_slot_that_is_taken_while_its_window_is_copied_is_taken_in_the_new_process() {
    const SLOTS: u32 = 200;
    let limits = [refusing(SLOTS)];
    for _ in 0..3 {
        let old = Gate::new(limits.to_vec(), Clock::start());
        (0..KEYS).for_each(|key| take(&old, key).unwrap());
        let mut taken: HashMap<u64, u32> = (0..KEYS).map(|key| (key, 1)).collect();
        let new = thread::scope(|scope| {
            let takers: Vec<_> = (0..3).map(|_| scope.spawn(|| take_until_handed_over(&old))).collect();
            let new = hand_over(&old, settings(&limits), &Drain::new());
            for (key, count) in takers.into_iter().flat_map(|taker| taker.join().unwrap()) {
                *taken.entry(key).or_default() += count;
            }
            new
        });
        for (key, before) in taken {
            let mut after = 0;
            // The slot of a taker that left without an answer comes back a little later.
            eventually("the last slot", || {
                after += u32::try_from(std::iter::from_fn(|| take(&new, key)).count()).unwrap();
                (before + after >= SLOTS).then_some(())
            });
            assert_eq!(before + after, SLOTS, "{before} in the old process, {after} in the new one");
        }
    }
}

#[test]
fn a_copy_begins_anew_when_the_limits_change_and_ends_with_the_last_of_them() {
    let limits = [refusing(3)];
    let old = Gate::new(limits.to_vec(), Clock::start());
    (0..KEYS).for_each(|key| take(&old, key).unwrap());
    let (here, there) = FdSocket::pair().unwrap();
    let (there, reloads) = (FdSocket::from(there), Arc::clone(&old));
    // A new process for which each beginning of the copy brings another reload.
    let new = thread::spawn(move || {
        there.receive().unwrap().unwrap();
        send(&there, &HandoverStep::Ready).unwrap();
        let (mut beginnings, mut limit) = (0, refusing(3));
        while let Ok(Some(message)) = try_recv::<WireCopy>(&there) {
            match message {
                WireCopy::Begin(_) => {
                    beginnings += 1;
                    limit.max_wait += Duration::from_secs(1);
                    reloads.reload(vec![limit.clone()], Duration::ZERO, WaiterPolicy::Stay, |_, _| ());
                }
                WireCopy::Prepare => send(&there, &HandoverStep::Prepared).unwrap(),
                WireCopy::Slice(_) | WireCopy::Rest(_) => {}
            }
        }
        beginnings
    });
    let error = old.hand_over(here, &[]).unwrap_err();
    assert!(matches!(error, Error::Changed), "{error}");
    assert!((1..=3).contains(&new.join().unwrap()));
    let limits = old.limits().to_vec();
    let new = hand_over(&old, settings(&limits), &Drain::new());
    (0..KEYS).for_each(|key| assert_eq!(std::iter::from_fn(|| take(&new, key)).count(), 2));
}

/// Passes messages between two processes, and cuts the connection after so many of them. Returns how many it has passed.
fn relay(old: &FdSocket, new: &FdSocket, most: usize) -> usize {
    let passed = AtomicUsize::new(0);
    let pass = |from: &FdSocket, to: &FdSocket| {
        while let Ok(Some((message, _))) = from.receive() {
            if passed.fetch_add(1, Ordering::SeqCst) >= most || to.send(&message, &[]).is_err() {
                break;
            }
        }
        from.shutdown();
        to.shutdown();
    };
    thread::scope(|scope| {
        scope.spawn(|| pass(old, new));
        pass(new, old);
    });
    passed.into_inner().min(most)
}

#[test]
fn either_process_goes_on_alone_wherever_the_connection_ends() {
    let limits = [refusing(40)];
    let old = Gate::new(limits.to_vec(), Clock::start());
    // Requests that were sent: of others the slots settle by themselves later, which would be one more message.
    let keys = || (0..24).step_by(2);
    for most in 0.. {
        keys().for_each(|key| take(&old, key).unwrap());
        let ((here, old_end), (relayed, new_end)) = (FdSocket::pair().unwrap(), FdSocket::pair().unwrap());
        let relayed = thread::spawn(move || relay(&FdSocket::from(old_end), &relayed, most));
        let new = spawn_new_process(FdSocket::from(new_end), settings(&limits), &Drain::new());
        let given = old.hand_over(here, &[]);
        let new = new.join().unwrap();
        if given.is_ok() {
            // `Go` was sent. If it has not arrived, neither grants: this one refuses.
            assert!(most > 8, "the connection ended too early: {most}");
            let Ok(new) = new else {
                let refused = eventually("a refusal", || match ask_key(&old, 0) {
                    Answer::Sorry(refused) => Some(refused),
                    Answer::Go(_) | Answer::Wait(_) => None,
                });
                assert!(matches!(refused, Refused::Closing { .. }), "{refused:?}");
                return;
            };
            panic!("`Go` has arrived though it was cut off: {} limits", new.limits().len());
        }
        assert!(new.is_err(), "both processes grant after {most} messages");
        assert_eq!(relayed.join().unwrap(), most);
        // Nothing has changed: the old process grants, and knows of no copy.
        keys().for_each(|key| take(&old, key).unwrap());
    }
}

#[test]
pub(super) fn a_permit_of_a_process_that_is_gone_does_not_hold() {
    let limits = [limit(10, 5)];
    let old = Gate::new(limits.to_vec(), Clock::start());
    let Answer::Go(before) = ask(&old) else { panic!("it is free") };
    let new = hand_over(&old, settings(&limits), &Drain::new());
    let mut waits = wait(&old);
    let after = eventually("its turn", || look(&mut waits)).unwrap();
    assert!(before.is_good() && after.is_good());
    new.old_process.get().unwrap().shutdown();
    eventually("the end", || (!before.is_good()).then_some(()));
    assert!(!after.is_good());
}

/// Main function of a thread that receives.
type Receive = fn(&Weak<Gate>, &FdSocket, &Arc<ThreadSignal>);

#[test]
fn silence_of_a_process_is_not_its_end() {
    const TIMEOUT: Duration = Duration::from_millis(1);
    let receivers: [(&str, Receive); 2] = [
        ("of the new process", old_process::recv_from_new),
        ("of the old process", |gate, socket, signal| {
            let (release, _released) = mpsc::channel();
            new_process::recv_from_old(gate, socket, signal, &release, Drain::new().process_guard());
        }),
    ];
    for (silence, receive) in receivers {
        let gate = Gate::new(vec![limit(1, 1)], Clock::start());
        let (here, there) = FdSocket::pair().unwrap();
        here.set_timeouts(Some(TIMEOUT), Some(TIMEOUT)).unwrap();
        let (gate, signal) = (Arc::downgrade(&gate), Arc::new(ThreadSignal::default()));
        // Stands for the end of the sending thread: the receiving one waits for it before it ends.
        drop(ExitGuard::new(&signal));
        let receiver = thread::spawn(move || receive(&gate, &here, &signal));
        thread::sleep(TIMEOUT * 50);
        assert!(!receiver.is_finished(), "the silence {silence} was taken for its end");
        drop(there);
        receiver.join().unwrap();
    }
}

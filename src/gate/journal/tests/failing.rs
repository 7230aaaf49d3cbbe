//! Failing disks: marked as incomplete or not markable, and recovered.

use super::*;
use crate::gate::Refused;
use crate::gate::tests::decision;
use crate::locker::RefusalReason;

/// Replaces the file by something that cannot be opened as one, and returns the path of the real file.
fn break_file(place: &TestFolder) -> PathBuf {
    let aside = place.0.join("aside");
    fs::rename(place.file(), &aside).unwrap();
    fs::create_dir(place.file()).unwrap();
    aside
}

fn mend_file(place: &TestFolder) {
    fs::remove_dir(place.file()).unwrap();
    fs::rename(place.0.join("aside"), place.file()).unwrap();
}

/// Replaces the mark by something that `remove_file` does not remove, so that the folder stays marked as complete.
fn nail_mark(place: &TestFolder) {
    fs::remove_file(place.0.join(COMPLETE_MARK)).unwrap();
    fs::create_dir(place.0.join(COMPLETE_MARK)).unwrap();
}

fn free_mark(place: &TestFolder) {
    fs::remove_dir(place.0.join(COMPLETE_MARK)).unwrap();
    fs::write(place.0.join(COMPLETE_MARK), "").unwrap();
}

/// Simulates a failed write, as the writer thread handles it.
fn fail(gate: &Arc<Gate>) {
    Arc::clone(gate.journal.get().unwrap()).fail_for_test(gate);
}

/// Number of requests granted of at most `most`, one after the other, until the first refusal. A request that waits for
/// the disk is refused after a second.
fn goes(gate: &Arc<Gate>, key: u128, most: usize) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let driving = tokio::spawn(Arc::clone(gate).drive());
        let mut gone = 0;
        while gone < most {
            let Ok(permit) = decision(gate.ask(&claim(key), Caller(1), Patience::default())).await else { break };
            permit.depart().sent();
            gone += 1;
        }
        driving.abort();
        gone
    })
}

/// Reason of the refusal of a request.
#[track_caller]
fn refused(gate: &Arc<Gate>, key: u128) -> RefusalReason {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let driving = tokio::spawn(Arc::clone(gate).drive());
        let answer = decision(gate.ask(&claim(key), Caller(1), Patience::default())).await;
        driving.abort();
        match answer {
            Err(Refused::Sorry(sorry)) => sorry.reason,
            other => panic!("{:?}", other.map(drop)),
        }
    })
}

#[track_caller]
fn becomes(gate: &Arc<Gate>, health: JournalHealth) {
    // The writer tries again each second.
    for _ in 0..1000 {
        if gate.journal_health() == health {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it is {:?}, and never was {health:?}", gate.journal_health());
}

#[test]
fn what_was_used_without_a_disk_is_not_believed_after_a_crash() {
    let place = TestFolder::new("blind");
    let gate = open(&place.settings(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!(go(&gate, 1, 1), 1);
    let aside = break_file(&place);
    fail(&gate);
    assert_eq!(gate.journal_health(), JournalHealth::Degraded);
    assert_eq!(go(&gate, 1, 3), 1, "it goes on");
    let copy = TestFolder::new("blind-copy");
    fs::create_dir_all(&copy.0).unwrap();
    fs::copy(&aside, copy.file()).unwrap();
    let next = open(&copy.settings(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!((go(&next, 1, 1), go(&next, 2, 1)), (0, 0), "all windows are full");
    assert_eq!(gate.journal_health(), JournalHealth::Degraded);
    mend_file(&place);
    becomes(&gate, JournalHealth::Ok);
    kill(gate);
    let gate = open(&place.settings(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!((usage(&gate, 1).taken, go(&gate, 2, 1)), (2, 1), "what it did meanwhile is written");
}

#[test]
fn a_disk_that_cannot_even_be_marked_lets_nothing_go_that_is_not_written() {
    let place = TestFolder::new("held");
    let gate = open(&place.settings(), vec![limit(30, HOUR)]).unwrap();
    assert_eq!(go(&gate, 1, 3), 3);
    break_file(&place);
    nail_mark(&place);
    fail(&gate);
    assert_eq!(gate.journal_health(), JournalHealth::Blocked);
    let gone = 3 + goes(&gate, 1, 30);
    assert!(gone < 30, "{gone}: what was written by then may be used, and no more");
    assert_eq!(refused(&gate, 1), RefusalReason::Unwritten);
    // After a crash with a repaired disk, nothing tells that it ever failed.
    let copy = TestFolder::new("held-copy");
    fs::create_dir_all(&copy.0).unwrap();
    fs::copy(place.0.join("aside"), copy.file()).unwrap();
    fs::write(copy.0.join(COMPLETE_MARK), "").unwrap();
    let next = open(&copy.settings(), vec![limit(30, HOUR)]).unwrap();
    let taken = usage(&next, 1).taken as usize;
    assert!(taken >= gone, "{taken} of {gone} are known");
    assert!(go(&next, 2, 30) > 0, "what it knows is all: other keys are not full");
    // This gateway continues as soon as the disk accepts writes.
    mend_file(&place);
    free_mark(&place);
    becomes(&gate, JournalHealth::Ok);
    assert_eq!(gone + goes(&gate, 1, 31), 30);
    kill(gate);
    let gate = open(&place.settings(), vec![limit(30, HOUR)]).unwrap();
    assert!(usage(&gate, 1).taken >= 30);
}

#[test]
fn a_disk_that_could_not_be_marked_and_is_full_then_stops_nobody_any_more() {
    let place = TestFolder::new("held-then-blind");
    let gate = open(&place.settings(), vec![limit(2, HOUR)]).unwrap();
    break_file(&place);
    nail_mark(&place);
    fail(&gate);
    assert_eq!((gate.journal_health(), goes(&gate, 1, 1)), (JournalHealth::Blocked, 0));
    free_mark(&place);
    becomes(&gate, JournalHealth::Degraded);
    assert_eq!(goes(&gate, 1, 3), 2);
    assert!(!place.0.join(COMPLETE_MARK).exists());
}

#[test]
fn a_disk_on_which_the_mark_could_not_be_seen_to_go_is_marked_again_when_all_is_written() {
    let place = TestFolder::new("held-unmarked");
    let gate = open(&place.settings(), vec![limit(30, HOUR)]).unwrap();
    break_file(&place);
    nail_mark(&place);
    fail(&gate);
    assert_eq!(gate.journal_health(), JournalHealth::Blocked);
    fs::remove_dir(place.0.join(COMPLETE_MARK)).unwrap();
    mend_file(&place);
    becomes(&gate, JournalHealth::Ok);
    assert!(place.0.join(COMPLETE_MARK).exists(), "or the next crash closes all windows");
}

#[test]
fn a_mark_of_before_is_gone_where_nothing_is_believed_after_a_crash() {
    let place = TestFolder::new("forgets-mark");
    kill(open(&place.settings(), vec![limit(2, HOUR)]).unwrap());
    assert!(place.0.join(COMPLETE_MARK).exists());
    let gate = open(&place.forgetting(), vec![limit(2, HOUR)]).unwrap();
    assert!(!place.0.join(COMPLETE_MARK).exists());
    break_file(&place);
    fail(&gate);
    assert_eq!(go(&gate, 1, 3), 2);
    kill(gate);
    mend_file(&place);
    let gate = open(&place.settings(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!(go(&gate, 1, 1), 0, "all windows are full");
}

#[test]
fn where_nothing_is_believed_after_a_crash_a_disk_stops_nobody_and_is_never_marked_as_whole() {
    let place = TestFolder::new("forgets");
    let gate = open(&place.forgetting(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!(go(&gate, 1, 1), 1);
    assert!(!place.0.join(COMPLETE_MARK).exists());
    fs::create_dir(place.0.join(COMPLETE_MARK)).unwrap();
    break_file(&place);
    fail(&gate);
    assert_eq!((gate.journal_health(), go(&gate, 1, 2)), (JournalHealth::Degraded, 1));
    mend_file(&place);
    fs::remove_dir(place.0.join(COMPLETE_MARK)).unwrap();
    becomes(&gate, JournalHealth::Ok);
    kill(gate);
    // The setting has changed meanwhile: counts that were not to be trusted still are not.
    let gate = open(&place.settings(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!(go(&gate, 2, 1), 0, "all windows are full");
}

#[test]
fn many_windows_are_written_anew_while_requests_go() {
    let place = TestFolder::new("many");
    let keys = 3 * 512;
    let many = Limit { max_keys: 10_000, ..limit(9, HOUR) };
    let gate = open(&place.settings(), vec![many.clone()]).unwrap();
    break_file(&place);
    fail(&gate);
    (0..keys).for_each(|key| assert_eq!(go(&gate, key, 2), 2));
    mend_file(&place);
    let mut gone: Vec<u32> = vec![2; keys as usize];
    let mut rounds = 0;
    while gate.journal_health() != JournalHealth::Ok {
        let key = rounds * 7 % keys;
        if gone[key as usize] < 9 {
            assert_eq!(go(&gate, key, 1), 1, "nobody waits for more than its own window");
            gone[key as usize] += 1;
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
        rounds += 1;
        assert!(rounds < 60_000, "it is never whole");
    }
    kill(gate);
    let gate = open(&place.settings(), vec![many]).unwrap();
    for (key, gone) in (0..).zip(&gone) {
        let taken = usage(&gate, key).taken;
        assert!(
            (*gone..=gone + 3 + 1).contains(&taken),
            "key {key}: {taken} of {gone} known, and a block at most besides"
        );
    }
}

//! Failing disks: marked as incomplete or not markable, and recovered.

use super::*;
use crate::gate::Refused;
use crate::gate::tests::decision;
use crate::locker::RefusalReason;

/// Replaces the file by something that cannot be opened as one, and returns the path of the real file.
pub(super) fn break_file(folder: &TestFolder) -> PathBuf {
    let aside = folder.0.join("aside");
    fs::rename(folder.file(), &aside).unwrap();
    fs::create_dir(folder.file()).unwrap();
    aside
}

fn mend_file(folder: &TestFolder) {
    fs::remove_dir(folder.file()).unwrap();
    fs::rename(folder.0.join("aside"), folder.file()).unwrap();
}

/// Replaces the mark by something that `remove_file` does not remove, so that the folder stays marked as complete.
pub(super) fn nail_mark(folder: &TestFolder) {
    fs::remove_file(folder.0.join(COMPLETE_MARK)).unwrap();
    fs::create_dir(folder.0.join(COMPLETE_MARK)).unwrap();
}

fn free_mark(folder: &TestFolder) {
    fs::remove_dir(folder.0.join(COMPLETE_MARK)).unwrap();
    fs::write(folder.0.join(COMPLETE_MARK), "").unwrap();
}

/// Simulates a failed write, as the writer thread handles it.
pub(super) fn fail(gate: &Arc<Gate>) {
    Arc::clone(gate.journal.get().unwrap()).fail_for_test(gate);
}

/// Time that a request waits for a disk that fails; a slow disk that works takes less.
fn disk_patience() -> Patience {
    Patience { max_wait: Some(Duration::from_secs(3)), ..Patience::default() }
}

/// Number of requests granted of at most `most`, one after the other, until the first refusal. A request that waits for
/// the disk is refused after a while.
pub(super) fn goes(gate: &Arc<Gate>, key: u128, most: usize) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let driving = tokio::spawn(Arc::clone(gate).drive());
        let mut granted = 0;
        while granted < most {
            let Ok(permit) = decision(gate.ask(&claim(key), Caller(1), disk_patience())).await else { break };
            permit.depart().sent();
            granted += 1;
        }
        driving.abort();
        granted
    })
}

/// Reason of the refusal of a request.
#[track_caller]
fn refused(gate: &Arc<Gate>, key: u128) -> RefusalReason {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let driving = tokio::spawn(Arc::clone(gate).drive());
        let answer = decision(gate.ask(&claim(key), Caller(1), disk_patience())).await;
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
    for _ in 0..6000 {
        if gate.journal_health() == health {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it is {:?}, and never was {health:?}", gate.journal_health());
}

#[test]
fn what_was_used_without_a_disk_is_not_believed_after_a_crash() {
    let folder = TestFolder::new("blind");
    let gate = open(&folder.settings(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!(go(&gate, 1, 1), 1);
    let aside = break_file(&folder);
    fail(&gate);
    assert_eq!(gate.journal_health(), JournalHealth::Degraded);
    assert_eq!(go(&gate, 1, 3), 1, "it goes on");
    let copy = TestFolder::new("blind-copy");
    fs::create_dir_all(&copy.0).unwrap();
    fs::copy(&aside, copy.file()).unwrap();
    let next = open(&copy.settings(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!((go(&next, 1, 1), go(&next, 2, 1)), (0, 0), "all windows are full");
    assert_eq!(gate.journal_health(), JournalHealth::Degraded);
    mend_file(&folder);
    becomes(&gate, JournalHealth::Ok);
    kill(gate);
    let gate = open(&folder.settings(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!((usage(&gate, 1).taken, go(&gate, 2, 1)), (2, 1), "what it did meanwhile is written");
}

#[test]
fn a_disk_that_cannot_even_be_marked_lets_nothing_go_that_is_not_written() {
    let folder = TestFolder::new("held");
    let gate = open(&folder.settings(), vec![limit(30, HOUR)]).unwrap();
    assert_eq!(go(&gate, 1, 3), 3);
    break_file(&folder);
    nail_mark(&folder);
    fail(&gate);
    assert_eq!(gate.journal_health(), JournalHealth::Blocked);
    let granted = 3 + goes(&gate, 1, 30);
    assert!(granted < 30, "{granted}: what was written by then may be used, and no more");
    assert_eq!(refused(&gate, 1), RefusalReason::Unwritten);
    // After a crash with a repaired disk, nothing tells that it ever failed.
    let copy = TestFolder::new("held-copy");
    fs::create_dir_all(&copy.0).unwrap();
    fs::copy(folder.0.join("aside"), copy.file()).unwrap();
    fs::write(copy.0.join(COMPLETE_MARK), "").unwrap();
    let next = open(&copy.settings(), vec![limit(30, HOUR)]).unwrap();
    let taken = usage(&next, 1).taken as usize;
    assert!(taken >= granted, "{taken} of {granted} are known");
    assert!(go(&next, 2, 30) > 0, "what it knows is all: other keys are not full");
    // This gateway continues as soon as the disk accepts writes.
    mend_file(&folder);
    free_mark(&folder);
    becomes(&gate, JournalHealth::Ok);
    assert_eq!(granted + goes(&gate, 1, 31), 30);
    kill(gate);
    let gate = open(&folder.settings(), vec![limit(30, HOUR)]).unwrap();
    assert!(usage(&gate, 1).taken >= 30);
}

#[test]
fn a_disk_that_could_not_be_marked_and_is_full_then_stops_nobody_any_more() {
    let folder = TestFolder::new("held-then-blind");
    let gate = open(&folder.settings(), vec![limit(2, HOUR)]).unwrap();
    break_file(&folder);
    nail_mark(&folder);
    fail(&gate);
    assert_eq!((gate.journal_health(), goes(&gate, 1, 1)), (JournalHealth::Blocked, 0));
    free_mark(&folder);
    becomes(&gate, JournalHealth::Degraded);
    assert_eq!(goes(&gate, 1, 3), 2);
    assert!(!folder.0.join(COMPLETE_MARK).exists());
}

#[test]
fn a_disk_on_which_the_mark_could_not_be_seen_to_go_is_marked_again_when_all_is_written() {
    let folder = TestFolder::new("held-unmarked");
    let gate = open(&folder.settings(), vec![limit(30, HOUR)]).unwrap();
    break_file(&folder);
    nail_mark(&folder);
    fail(&gate);
    assert_eq!(gate.journal_health(), JournalHealth::Blocked);
    fs::remove_dir(folder.0.join(COMPLETE_MARK)).unwrap();
    mend_file(&folder);
    becomes(&gate, JournalHealth::Ok);
    assert!(folder.0.join(COMPLETE_MARK).exists(), "or the next crash closes all windows");
}

#[test]
fn a_mark_of_before_is_gone_where_nothing_is_believed_after_a_crash() {
    let folder = TestFolder::new("forgets-mark");
    kill(open(&folder.settings(), vec![limit(2, HOUR)]).unwrap());
    assert!(folder.0.join(COMPLETE_MARK).exists());
    let gate = open(&folder.forgetting(), vec![limit(2, HOUR)]).unwrap();
    assert!(!folder.0.join(COMPLETE_MARK).exists());
    break_file(&folder);
    fail(&gate);
    assert_eq!(go(&gate, 1, 3), 2);
    kill(gate);
    mend_file(&folder);
    let gate = open(&folder.settings(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!(go(&gate, 1, 1), 0, "all windows are full");
}

#[test]
fn where_nothing_is_believed_after_a_crash_a_disk_stops_nobody_and_is_never_marked_as_whole() {
    let folder = TestFolder::new("forgets");
    let gate = open(&folder.forgetting(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!(go(&gate, 1, 1), 1);
    assert!(!folder.0.join(COMPLETE_MARK).exists());
    fs::create_dir(folder.0.join(COMPLETE_MARK)).unwrap();
    break_file(&folder);
    fail(&gate);
    assert_eq!((gate.journal_health(), go(&gate, 1, 2)), (JournalHealth::Degraded, 1));
    mend_file(&folder);
    fs::remove_dir(folder.0.join(COMPLETE_MARK)).unwrap();
    becomes(&gate, JournalHealth::Ok);
    kill(gate);
    // The setting has changed meanwhile: counts that were not to be trusted still are not.
    let gate = open(&folder.settings(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!(go(&gate, 2, 1), 0, "all windows are full");
}

#[test]
fn many_windows_are_written_anew_while_requests_go() {
    let folder = TestFolder::new("many");
    let keys = 3 * 512;
    let many = Limit { max_keys: 10_000, ..limit(9, HOUR) };
    let gate = open(&folder.settings(), vec![many.clone()]).unwrap();
    break_file(&folder);
    fail(&gate);
    (0..keys).for_each(|key| assert_eq!(go(&gate, key, 2), 2));
    mend_file(&folder);
    let mut granted: Vec<u32> = vec![2; keys as usize];
    let mut rounds = 0;
    while gate.journal_health() != JournalHealth::Ok {
        let key = rounds * 7 % keys;
        if granted[key as usize] < 9 {
            assert_eq!(go(&gate, key, 1), 1, "a request waits for its own window only");
            granted[key as usize] += 1;
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
        rounds += 1;
        assert!(rounds < 60_000, "it is never whole");
    }
    kill(gate);
    let gate = open(&folder.settings(), vec![many]).unwrap();
    for (key, granted) in (0..).zip(&granted) {
        let taken = usage(&gate, key).taken;
        assert!(
            (*granted..=granted + 3 + 1).contains(&taken),
            "key {key}: {taken} of {granted} known, and a block at most besides"
        );
    }
}

//! A disk that fails, is marked or cannot be, and takes something again.

use super::*;

/// The file cannot be opened any more: what is no file cannot. Returns where it is.
fn break_file(place: &Place) -> PathBuf {
    let aside = place.0.join("aside");
    fs::rename(place.file(), &aside).unwrap();
    fs::create_dir(place.file()).unwrap();
    aside
}

fn mend_file(place: &Place) {
    fs::remove_dir(place.file()).unwrap();
    fs::rename(place.0.join("aside"), place.file()).unwrap();
}

/// As when a write fails: the thread that writes does the same.
fn fail(gate: &Arc<Gate>) {
    Arc::clone(gate.journal.get().unwrap()).fail_for_test(gate);
}

#[track_caller]
fn becomes(gate: &Arc<Gate>, health: Health) {
    // The disk is tried again each second.
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
    let place = Place::new("blind");
    let gate = open(&place.settings(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!(go(&gate, 1, 1), 1);
    let aside = break_file(&place);
    fail(&gate);
    assert_eq!(gate.journal_health(), Health::Blind);
    assert_eq!(go(&gate, 1, 3), 1, "it goes on");
    let copy = Place::new("blind-copy");
    fs::create_dir_all(&copy.0).unwrap();
    fs::copy(&aside, copy.file()).unwrap();
    let next = open(&copy.settings(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!((go(&next, 1, 1), go(&next, 2, 1)), (0, 0), "all windows are full");
    assert_eq!(gate.journal_health(), Health::Blind);
    mend_file(&place);
    becomes(&gate, Health::Whole);
    kill(gate);
    let gate = open(&place.settings(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!((usage(&gate, 1).taken, go(&gate, 2, 1)), (2, 1), "what it did meanwhile is written");
}

#[test]
fn many_windows_are_written_anew_while_requests_go() {
    let place = Place::new("many");
    let keys = 3 * 512;
    let many = Limit { max_keys: 10_000, ..limit(9, HOUR) };
    let gate = open(&place.settings(), vec![many.clone()]).unwrap();
    break_file(&place);
    fail(&gate);
    (0..keys).for_each(|key| assert_eq!(go(&gate, key, 2), 2));
    mend_file(&place);
    let mut gone: Vec<u32> = vec![2; keys as usize];
    let mut rounds = 0;
    while gate.journal_health() != Health::Whole {
        let key = rounds * 7 % keys;
        if gone[key as usize] < 9 {
            assert_eq!(go(&gate, key, 1), 1, "nobody waits for more than its own page");
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

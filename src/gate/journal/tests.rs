//! State folder: ownership, restored counts, crashes and failing disks.

mod chains;
mod failing;
mod mutants;
mod power_loss;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::*;
use crate::gate::{Answer, Gate, Patience};
use crate::locker::{Caller, Claim, Counts, Key, Kind, Limit, LimitId, Priority, Rate, ShareBy, Unit, Usage, WhenFull};

/// State folder of one test, removed at its end.
struct TestFolder(PathBuf);

impl TestFolder {
    fn new(test: &str) -> TestFolder {
        // A unique number, since two tests may choose the same name.
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let folder =
            TestFolder(std::env::temp_dir().join(format!("lockgate-state-{}-{number}-{test}", std::process::id())));
        fs::remove_dir_all(&folder.0).ok();
        folder
    }

    fn settings(&self) -> Settings {
        Settings { dir: self.0.clone(), after_crash: AfterCrash::Remember }
    }

    fn forgetting(&self) -> Settings {
        Settings { after_crash: AfterCrash::Forget, ..self.settings() }
    }

    fn file(&self) -> PathBuf {
        self.0.join(FILE)
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o700)).ok();
        fs::remove_dir_all(&self.0).ok();
    }
}

fn limit(requests: u32, per: Duration) -> Limit {
    Limit {
        name: "test".into(),
        keyed_by: "host".into(),
        rate: Some(Rate { requests, per, guard: Duration::ZERO, kind: Kind::Sliding, counts: Counts::Sent }),
        in_flight: None,
        when_full: WhenFull::Refuse,
        // A slow disk refuses no request of a test that does not say so.
        max_wait: HOUR,
        max_waiting: 1000,
        share_by: ShareBy::Nobody,
        priority: Priority::WithinCaller,
        max_keys: 1000,
        dry_run: false,
        shared: false,
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// Period of a short window: in tests, windows of 40 ms are too short to be written. (A block is a third of N, so of
/// two slots each is written by itself.)
const SHORT: Duration = Duration::from_millis(40);

fn open(settings: &Settings, limits: Vec<Limit>) -> Result<Arc<Gate>, Error> {
    open_at(Clock::start(), settings, limits)
}

fn open_at(clock: Clock, settings: &Settings, limits: Vec<Limit>) -> Result<Arc<Gate>, Error> {
    let settings = crate::gate::Settings { limits, state: Some(settings.clone()), store: None };
    let (gate, _) = Gate::open(settings, clock)?;
    gate.start_journal()?;
    Ok(gate)
}

fn claim(key: u128) -> [Claim; 1] {
    [Claim { limit: LimitId(0), key: Key(key), cost: 1 }]
}

/// Number of requests granted of `asked`, each sent at once. A request waits until its slot is written, if need be.
fn go(gate: &Arc<Gate>, key: u128, asked: usize) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let go = |_| {
        let claims = claim(key);
        let permit = match gate.ask(&claims, Caller(1), Patience::default()) {
            Answer::Go(permit) => Ok(permit),
            Answer::Wait(waiting) => runtime.block_on(waiting),
            Answer::Sorry(refused) => Err(refused),
        };
        permit.map(|permit| permit.depart().sent()).is_ok()
    };
    (0..asked).map(go).filter(|granted| *granted).count()
}

fn usage(gate: &Arc<Gate>, key: u128) -> Usage {
    gate.lock().locker.usage(LimitId(0), Key(key), gate.clock().now())
}

/// Simulates a crash: nothing more is written, and the lock is released.
fn kill(gate: Arc<Gate>) {
    let lock = gate.journal.get().unwrap().folder.dir.join(LOCK);
    drop(gate);
    // The writer thread ends when it sees that the gate is gone.
    for _ in 0..12_000 {
        if Handle::open(&lock).unwrap().try_lock().is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the thread that writes did not end");
}

#[test]
fn after_a_crash_a_long_window_knows_what_it_let_go() {
    let folder = TestFolder::new("crash");
    let gate = open(&folder.settings(), vec![limit(2, HOUR)]).unwrap();
    let seed = gate.seed();
    assert_eq!(go(&gate, 1, 1), 1);
    assert_eq!(gate.journal_health(), JournalHealth::Ok);
    kill(gate);
    let gate = open(&folder.settings(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!(gate.seed(), seed, "or no key would be found again");
    assert_eq!(usage(&gate, 1).taken, 1);
    assert_eq!(go(&gate, 1, 3), 1);
    assert_eq!(go(&gate, 2, 3), 2, "of so few slots none is lost");
}

#[test]
fn a_crash_costs_a_block_of_a_large_window_at_most() {
    let folder = TestFolder::new("block");
    for round in 0..3 {
        let gate = open(&folder.settings(), vec![limit(9_000, HOUR)]).unwrap();
        let before = usage(&gate, 1).taken;
        assert_eq!(go(&gate, 1, 100), 100);
        kill(gate);
        let gate = open(&folder.settings(), vec![limit(9_000, HOUR)]).unwrap();
        let lost = usage(&gate, 1).taken - before - 100;
        assert!(lost <= 3000, "round {round}: {lost}");
        gate.stop();
        kill(gate);
    }
}

#[test]
fn a_first_start_does_not_wait_and_a_crash_closes_a_short_window_for_its_span() {
    let (folder, (clock, hand)) = (TestFolder::new("short"), Clock::manual());
    hand.pass(HOUR);
    let gate = open_at(clock, &folder.settings(), vec![limit(2, SHORT)]).unwrap();
    assert_eq!(go(&gate, 1, 2), 2);
    kill(gate);
    hand.pass(SHORT / 2);
    let gate = open_at(clock, &folder.settings(), vec![limit(2, SHORT)]).unwrap();
    for key in [1, 2] {
        assert_eq!(usage(&gate, key).opens, Some(clock.now() + SHORT));
    }
    hand.pass(SHORT);
    assert_eq!((go(&gate, 1, 3), go(&gate, 2, 3)), (2, 2));
}

#[test]
fn an_orderly_stop_loses_nothing_and_delays_nothing() {
    let (folder, (clock, hand)) = (TestFolder::new("stop"), Clock::manual());
    hand.pass(HOUR);
    let gate = open_at(clock, &folder.settings(), vec![limit(2, SHORT)]).unwrap();
    assert_eq!(go(&gate, 1, 1), 1);
    gate.stop();
    kill(gate);
    hand.pass(SHORT / 2);
    let gate = open_at(clock, &folder.settings(), vec![limit(2, SHORT)]).unwrap();
    assert_eq!((usage(&gate, 1).taken, usage(&gate, 2).taken), (1, 0));
    assert_eq!((go(&gate, 1, 2), go(&gate, 2, 3)), (1, 2));
    kill(gate);
    let gate = open_at(clock, &folder.settings(), vec![limit(2, SHORT)]).unwrap();
    assert_eq!(usage(&gate, 3).taken, 2, "the stop before the last does not count");
}

#[test]
fn limits_that_changed_while_nobody_ran_are_as_if_the_file_had_been_read_again() {
    let folder = TestFolder::new("changed");
    let gate = open(&folder.settings(), vec![limit(1, HOUR)]).unwrap();
    assert_eq!(go(&gate, 1, 1), 1);
    kill(gate);
    let other = Limit { name: "other".into(), ..limit(1, HOUR) };
    let gate = open(&folder.settings(), vec![other.clone(), limit(2, HOUR)]).unwrap();
    let limits = gate.limits();
    assert_eq!(limits.iter().map(|limit| &*limit.name).collect::<Vec<_>>(), ["test", "other"]);
    assert_eq!(go(&gate, 1, 3), 1);
    kill(gate);
    let gate = open(&folder.settings(), vec![other]).unwrap();
    assert!(!gate.is_in_force(LimitId(0)) && gate.is_in_force(LimitId(1)));
}

#[test]
fn with_after_crash_forget_a_crash_is_a_first_start_and_a_stop_is_not() {
    let folder = TestFolder::new("forget");
    let gate = open(&folder.forgetting(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!(go(&gate, 1, 2), 2);
    kill(gate);
    let gate = open(&folder.forgetting(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!(go(&gate, 1, 9), 2);
    gate.stop();
    kill(gate);
    let gate = open(&folder.forgetting(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!(go(&gate, 1, 1), 0);
}

#[test]
fn one_gateway_at_a_time_has_the_folder_and_the_second_is_told_who() {
    let folder = TestFolder::new("held");
    let gate = open(&folder.settings(), vec![limit(5, HOUR)]).unwrap();
    for settings in [folder.settings(), folder.forgetting()] {
        let error = open(&settings, vec![limit(5, HOUR)]).map(|_| ()).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(&format!("(process {})", std::process::id()))
                && message.contains(folder.0.to_str().unwrap()),
            "{message}"
        );
    }
    kill(gate);
    assert!(open(&folder.settings(), vec![limit(5, HOUR)]).is_ok());
}

#[test]
fn a_folder_that_cannot_be_used_is_named_or_done_without() {
    let folder = TestFolder::new("a-file");
    fs::write(&folder.0, "in the way").unwrap();
    let message = open(&folder.settings(), vec![limit(5, HOUR)]).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains(folder.0.to_str().unwrap()) && message.contains("after_crash = \"forget\""), "{message}");
    assert!(message.contains("a file is in its place"), "{message}");
    let gate = open(&folder.forgetting(), vec![limit(5, HOUR)]).unwrap();
    assert_eq!((gate.journal_health(), go(&gate, 1, 6)), (JournalHealth::Off, 5));
    fs::remove_file(&folder.0).unwrap();
}

#[test]
fn a_file_of_somebody_elses_or_of_a_newer_version_is_told_with_the_choice() {
    let folder = TestFolder::new("foreign");
    fs::create_dir_all(&folder.0).unwrap();
    for (content, why) in [(&b"not a database at all"[..], "cannot be read"), (&[0; 8192], "cannot be read")] {
        fs::write(folder.file(), content).unwrap();
        let message = open(&folder.settings(), vec![limit(5, HOUR)]).map(|_| ()).unwrap_err().to_string();
        assert!(
            message.contains(why) && message.contains(FILE) && message.contains("after_crash = \"forget\""),
            "{message}"
        );
    }
    assert!(open(&folder.forgetting(), vec![limit(5, HOUR)]).is_ok());
    assert_eq!(fs::read(folder.0.join("journal.redb.unread")).unwrap(), [0; 8192], "it is kept");

    let folder = TestFolder::new("newer");
    fs::create_dir_all(&folder.0).unwrap();
    let database = redb::Database::create(folder.file()).unwrap();
    let transaction = database.begin_write().unwrap();
    let whole: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("whole");
    let newer = postcard::to_stdvec(&(codec::DISK_VERSION + 1)).unwrap();
    transaction.open_table(whole).unwrap().insert("form", newer.as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let message = open(&folder.settings(), vec![limit(5, HOUR)]).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("newer lockgate"), "{message}");
}

#[test]
fn a_file_that_is_cut_anywhere_is_never_believed_for_more_than_it_says() {
    let folder = TestFolder::new("cut");
    let gate = open(&folder.settings(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!(go(&gate, 1, 2), 2);
    kill(gate);
    let whole = fs::read(folder.file()).unwrap();
    // Cuts at every byte of the last block, and one in each other block.
    let cuts = (whole.len() - 4096..whole.len()).chain((0..whole.len()).step_by(4096));
    let (mut refused, mut read) = (0, 0);
    for cut in cuts {
        fs::write(folder.file(), &whole[..cut]).unwrap();
        match open(&folder.settings(), vec![limit(2, HOUR)]) {
            Err(Error::Damaged { path, .. }) => {
                assert_eq!(path, folder.file());
                refused += 1;
            }
            Err(error) => panic!("cut at {cut}: {error}"),
            Ok(gate) => {
                // An empty file is a first start: it holds no counts to trust.
                assert!(cut == 0 || usage(&gate, 1).taken >= 2, "cut at {cut}: {:?}", usage(&gate, 1));
                kill(gate);
                read += 1;
            }
        }
    }
    assert!(refused >= 4096, "{refused} refused, {read} read");
}

#[test]
fn bytes_that_were_changed_are_found_or_were_of_no_account() {
    let folder = TestFolder::new("changed-bytes");
    let gate = open(&folder.settings(), vec![limit(2, HOUR)]).unwrap();
    assert_eq!(go(&gate, 1, 2), 2);
    kill(gate);
    let whole = fs::read(folder.file()).unwrap();
    for at in (0..whole.len()).step_by(997) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        fs::write(folder.file(), &damaged).unwrap();
        match open(&folder.settings(), vec![limit(2, HOUR)]) {
            Err(Error::Damaged { .. } | Error::Newer { .. }) => {}
            Err(error) => panic!("byte {at}: {error}"),
            Ok(gate) => {
                assert!(usage(&gate, 1).taken >= 2, "byte {at}: {:?}", usage(&gate, 1));
                kill(gate);
            }
        }
    }
}

#[test]
fn a_wall_clock_that_is_set_while_no_gateway_runs_opens_no_day() {
    let zone = jiff::tz::TimeZone::UTC;
    let mut day = limit(2, HOUR * 24);
    day.rate.as_mut().unwrap().kind = Kind::Calendar { unit: Unit::Day, zone };
    for stops in [false, true] {
        let (folder, (clock, hand)) = (TestFolder::new("calendar"), Clock::manual());
        let start = || open_at(clock, &folder.settings(), vec![day.clone()]).unwrap();
        let gate = start();
        assert_eq!(go(&gate, 1, 2), 2);
        if stops {
            gate.stop();
        }
        kill(gate);
        hand.set_wall_ahead(HOUR * 30);
        let gate = start();
        assert_eq!(usage(&gate, 1).taken, 2, "a day has not passed");
        kill(gate);
        // The clock has been right for a day by now.
        hand.pass(HOUR * 25);
        let gate = start();
        assert_eq!(usage(&gate, 1).taken, 0);
        kill(gate);
    }
}

#[test]
fn a_start_that_never_began_to_write_leaves_the_folder_as_it_was() {
    let folder = TestFolder::new("not-begun");
    let settings = |limits| crate::gate::Settings { limits, state: Some(folder.settings()), store: None };
    let gate = open(&folder.settings(), vec![limit(2, SHORT)]).unwrap();
    assert_eq!(go(&gate, 1, 1), 1);
    gate.stop();
    kill(gate);
    for _ in 0..2 {
        // Simulates a start that fails after the open.
        drop(Gate::open(settings(vec![limit(2, SHORT)]), Clock::start()).unwrap());
    }
    // This start fails to mark the folder as complete after the file says that a process runs: it restores the file.
    fs::remove_file(folder.0.join(COMPLETE_MARK)).unwrap();
    fs::create_dir(folder.0.join(COMPLETE_MARK)).unwrap();
    let error = open(&folder.settings(), vec![limit(2, SHORT)]).map(drop).unwrap_err();
    assert!(matches!(error, Error::Unusable { .. }), "{error}");
    fs::remove_dir(folder.0.join(COMPLETE_MARK)).unwrap();
    let gate = open(&folder.settings(), vec![limit(2, SHORT)]).unwrap();
    assert_eq!(usage(&gate, 2).taken, 0, "the stop was orderly");
}

#[test]
fn a_limit_that_is_gone_is_forgotten_by_the_file_when_nothing_of_it_counts() {
    let (folder, (clock, hand)) = (TestFolder::new("retired"), Clock::manual());
    let named = |name: &str| Limit { name: name.into(), ..limit(2, HOUR) };
    let names = |gate: &Arc<Gate>| gate.limits().iter().map(|limit| limit.name.to_string()).collect::<Vec<_>>();
    let gate = open_at(clock, &folder.settings(), vec![named("one"), named("other")]).unwrap();
    assert_eq!(go(&gate, 1, 1), 1);
    kill(gate);
    let start = || open_at(clock, &folder.settings(), vec![named("other")]).unwrap();
    let gate = start();
    assert_eq!(names(&gate), ["one", "other"], "one of its slots counts");
    gate.stop();
    kill(gate);
    hand.pass(2 * HOUR);
    for left in [vec!["", "other"], vec!["other"]] {
        let gate = start();
        assert_eq!(names(&gate), left);
        kill(gate);
    }
}

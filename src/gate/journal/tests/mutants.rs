//! Table of mutants of the journal: each fault, and the test that sees it; and the tests that were
//! made for one of them.

use super::failing::{break_file, fail, goes, nail_mark};
use super::*;
use crate::gate::journal::boot_time::{self, BootStamp, TimeMapping};
use crate::gate::journal::codec::{DiskLimitSnapshot, DiskWindow};
use crate::locker::{LimitSnapshot, WindowRecord};
use crate::mutant::testing::{MutantKiller, MutantRow, assert_all_killed};
use crate::time::Time;

const fn test(name: &'static str, run: fn(u64)) -> MutantKiller {
    MutantKiller { name, cases: 1, run }
}

const ONE_BOOT: MutantKiller = test("within_a_boot_a_time_is_found_again_where_it_was", |_| {
    boot_time::tests::within_a_boot_a_time_is_found_again_where_it_was();
});
const NEW_BOOT: MutantKiller = test("over_a_boot_the_wall_clock_tells_how_much_time_has_passed", |_| {
    boot_time::tests::over_a_boot_the_wall_clock_tells_how_much_time_has_passed();
});
const SET_BACK: MutantKiller = test("a_wall_clock_that_was_set_back_opens_nothing_early", |_| {
    boot_time::tests::a_wall_clock_that_was_set_back_opens_nothing_early();
});
const READ_AGAIN: MutantKiller =
    test("counts_are_read_as_they_were_written", |_| counts_are_read_as_they_were_written());
const SHORT_WINDOW: MutantKiller =
    test("a_first_start_does_not_wait_and_a_crash_closes_a_short_window_for_its_span", |_| {
        a_first_start_does_not_wait_and_a_crash_closes_a_short_window_for_its_span();
    });
const UNMARKED: MutantKiller = test("after_a_failed_write_a_crash_closes_all_windows", |_| {
    after_a_failed_write_a_crash_closes_all_windows();
});
const NAILED: MutantKiller = test("a_disk_that_cannot_be_marked_lets_only_written_slots_go", |_| {
    a_disk_that_cannot_be_marked_lets_only_written_slots_go();
});

/// Faults of times, of the form on the disk, and of the writer.
const JOURNAL: &[MutantRow] = &[
    ("a time on the disk is read as a second earlier", ONE_BOOT),
    ("another boot is taken for this one", NEW_BOOT),
    ("an unknown time off counts as passed", SET_BACK),
    ("failed attempts are not on the disk", READ_AGAIN),
    ("the spacing is not read from the disk", READ_AGAIN),
    ("unknown slots are not on the disk", READ_AGAIN),
    ("a crash is taken for a stop", SHORT_WINDOW),
    ("a disk that fails keeps its mark", UNMARKED),
    ("a folder without its mark is believed", UNMARKED),
    ("a disk that cannot be marked lets unwritten slots go", NAILED),
];

#[test]
fn every_fault_of_the_journal_is_seen() {
    assert_all_killed(JOURNAL);
}

#[test]
fn counts_are_read_as_they_were_written() {
    let (clock, hand) = Clock::manual();
    hand.pass(HOUR);
    let at = |seconds: u64| Time::START + Duration::from_secs(seconds);
    let record = WindowRecord {
        limit: LimitId(3),
        key: Key(7),
        log: vec![(at(1), 2), (at(5), 1)],
        late: vec![(at(4000), 3)],
        open: 4,
        flying: 5,
        tat: at(3700),
        paused: at(3800),
    };
    let known = LimitSnapshot {
        limit: limit(9, HOUR),
        in_force: true,
        since: at(2),
        unknown: vec![(at(6), 7), (at(9), u32::MAX)],
        suspended: vec![(at(8), 1)],
        lingers: Some((at(3900), Duration::from_secs(3))),
    };
    let (mapping, then) = (TimeMapping::here(&clock), BootStamp::now(&clock));
    let window = postcard::to_stdvec(&DiskWindow::of(&record, mapping)).unwrap();
    let head = postcard::to_stdvec(&DiskLimitSnapshot::of(&known, mapping)).unwrap();
    hand.pass(Duration::from_secs(10));
    let mapping = TimeMapping::since(&then, &clock);
    let window: DiskWindow = postcard::from_bytes(&window).unwrap();
    let head: DiskLimitSnapshot = postcard::from_bytes(&head).unwrap();
    assert_eq!(window.window(LimitId(3), Key(7), mapping), record);
    assert_eq!(head.snapshot(mapping), known);
}

#[test]
fn after_a_failed_write_a_crash_closes_all_windows() {
    let folder = TestFolder::new("failed-write");
    let gate = open(&folder.settings(), vec![limit(30, HOUR)]).unwrap();
    fail(&gate);
    assert!(!folder.0.join(COMPLETE_MARK).exists(), "the mark goes before more is used");
    let copy = TestFolder::new("failed-write-copy");
    fs::create_dir_all(&copy.0).unwrap();
    fs::copy(folder.file(), copy.file()).unwrap();
    let next = open(&copy.settings(), vec![limit(30, HOUR)]).unwrap();
    assert_eq!(usage(&next, 1).taken, 30);
    kill(next);
    kill(gate);
}

#[test]
fn a_disk_that_cannot_be_marked_lets_only_written_slots_go() {
    let folder = TestFolder::new("unmarkable");
    let gate = open(&folder.settings(), vec![limit(30, HOUR)]).unwrap();
    break_file(&folder);
    nail_mark(&folder);
    fail(&gate);
    assert_eq!(gate.journal_health(), JournalHealth::Blocked);
    assert!(goes(&gate, 1, 30) < 30, "a block at most was written ahead");
    kill(gate);
}

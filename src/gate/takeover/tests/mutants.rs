//! Table of mutants of the upgrade: each fault, and the test that sees it.

use super::copies::a_permit_of_a_process_that_is_gone_does_not_hold;
use super::journals::a_crash_behind_an_upgrade_with_other_limits_forgets_no_slot;
use super::{if_the_new_process_dies_the_old_one_refuses, if_the_old_process_dies_what_it_had_under_way_ends};
use crate::mutant::testing::{MutantKiller, MutantRow, assert_all_killed};

const fn test(name: &'static str, run: fn(u64)) -> MutantKiller {
    MutantKiller { name, cases: 1, run }
}

const OLD_DIES: MutantKiller = test("if_the_old_process_dies_what_it_had_under_way_ends", |_| {
    if_the_old_process_dies_what_it_had_under_way_ends();
});
const NEW_DIES: MutantKiller =
    test("if_the_new_process_dies_the_old_one_refuses", |_| if_the_new_process_dies_the_old_one_refuses());
const PERMIT: MutantKiller = test("a_permit_of_a_process_that_is_gone_does_not_hold", |_| {
    a_permit_of_a_process_that_is_gone_does_not_hold();
});
const OTHER_LIMITS: MutantKiller = test("a_crash_behind_an_upgrade_with_other_limits_forgets_no_slot", |_| {
    a_crash_behind_an_upgrade_with_other_limits_forgets_no_slot();
});

/// Faults of the two processes.
const PROCESSES: &[MutantRow] = &[
    ("requests of a process that is gone go on", OLD_DIES),
    ("waiters of a process that is gone wait on", NEW_DIES),
    ("a permit of a process that is gone holds", PERMIT),
    ("a file of other limits is believed", OTHER_LIMITS),
];

#[test]
fn every_fault_of_an_upgrade_is_seen() {
    assert_all_killed(PROCESSES);
}

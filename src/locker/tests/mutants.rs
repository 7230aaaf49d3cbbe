//! Table of mutants of the locker: each fault, and the random world or test that sees it within its
//! first cases.

use super::crash_worlds::CRASHING;
use super::locker_world::LockerWorld;
use super::random_worlds::{CHANGING, FEW_KEYS, FRACTION, IN_ORDER, LARGE, ONE_LIMIT};
use super::upgrades::handed_over;
use super::{clock_worlds, crashes, endings, order, persisting, staggering, steps, waiting_properties};
use crate::mutant::testing::{MutantKiller, MutantRow, assert_all_killed};

/// Number of worlds that a fault must not survive.
const WORLDS: u64 = 100;

const fn worlds(name: &'static str, run: fn(u64)) -> MutantKiller {
    MutantKiller { name, cases: WORLDS, run }
}

const fn test(name: &'static str, run: fn(u64)) -> MutantKiller {
    MutantKiller { name, cases: 1, run }
}

const SINGLE: MutantKiller = worlds("ONE_LIMIT", |seed| _ = LockerWorld::new(seed, ONE_LIMIT).run());
const SEVERAL: MutantKiller = worlds("IN_ORDER", |seed| _ = LockerWorld::new(seed, IN_ORDER).run());
const RELOADS: MutantKiller = worlds("CHANGING", |seed| _ = LockerWorld::new(seed, CHANGING).run());
const MANY_SLOTS: MutantKiller = worlds("LARGE", |seed| _ = LockerWorld::new(seed, LARGE).run());
const KEYS: MutantKiller = worlds("FEW_KEYS", |seed| _ = LockerWorld::new(seed, FEW_KEYS).run());
const PARTS: MutantKiller = worlds("FRACTION", |seed| _ = LockerWorld::new(seed, FRACTION).run());
const CRASHES: MutantKiller =
    worlds("CRASHING", |seed| _ = LockerWorld::new(seed, CRASHING).run_with_crashes(seed % 2 == 1));
const UPGRADES: MutantKiller = worlds("handed_over", |seed| _ = handed_over(seed));
const CLOCKS: MutantKiller = MutantKiller { cases: 200, ..worlds("odd_clocks", clock_worlds::odd_clocks) };
const CLAIMANT: MutantKiller = worlds(
    "claimant_is_not_delayed_by_younger_waiters",
    waiting_properties::claimant_is_not_delayed_by_younger_waiters,
);
const TURNS: MutantKiller = test("two_backlogged_callers_never_differ_by_more_than_one_largest_cost", |_| {
    order::two_backlogged_callers_never_differ_by_more_than_one_largest_cost();
});
const LAST_ANSWER: MutantKiller = test("a_fixed_window_that_ends_before_the_last_answer_is_not_forgotten", |_| {
    endings::a_fixed_window_that_ends_before_the_last_answer_is_not_forgotten();
});
const LONG_LOG: MutantKiller = test("a_long_log_is_written_in_few_entries_that_open_no_slot_early", |_| {
    crashes::a_long_log_is_written_in_few_entries_that_open_no_slot_early();
});
const PAUSE: MutantKiller = test("a_pause_outlives_a_crash_where_a_window_is_written_down", |_| {
    endings::a_pause_outlives_a_crash_where_a_window_is_written_down();
});
const OLD_PAGE: MutantKiller = test("a_page_that_was_named_before_an_end_is_of_no_account_afterwards", |_| {
    persisting::a_page_that_was_named_before_an_end_is_of_no_account_afterwards();
});
const UNWRITTEN: MutantKiller =
    test("a_limit_that_comes_back_from_the_store_counts_as_full_after_a_crash_until_its_windows_are_written", |_| {
        persisting::a_limit_that_comes_back_from_the_store_counts_as_full_after_a_crash_until_its_windows_are_written()
    });
const NO_PAGE: MutantKiller =
    test("windows_that_had_no_page_while_the_disk_failed_get_one_when_it_works_again", |_| {
        crashes::windows_that_had_no_page_while_the_disk_failed_get_one_when_it_works_again()
    });
const IDLE_KEY: MutantKiller = test("what_is_idle_is_taken_out_of_what_is_written", |_| {
    crashes::what_is_idle_is_taken_out_of_what_is_written();
});
const EARLIER_RULE: MutantKiller =
    test("what_is_under_way_counts_from_its_answer_as_long_as_it_was_granted_so", |_| {
        endings::what_is_under_way_counts_from_its_answer_as_long_as_it_was_granted_so()
    });

const UNFINISHED: MutantKiller =
    test("a_newcomer_waits_behind_those_whose_turn_has_come_and_who_have_not_been_looked_at", |_| {
        steps::a_newcomer_waits_behind_those_whose_turn_has_come_and_who_have_not_been_looked_at();
    });
const HALF_LOOKED_AT: MutantKiller = test("a_waiter_whose_slot_opens_while_its_window_is_half_looked_at_goes", |_| {
    steps::a_waiter_whose_slot_opens_while_its_window_is_half_looked_at_goes();
});
const REQUEUED: MutantKiller = test("a_newcomer_joins_those_that_are_being_requeued", |_| {
    steps::a_newcomer_joins_those_that_are_being_requeued();
});
const REORDERED: MutantKiller = test("a_reload_of_the_order_in_the_queue_holds_for_those_that_wait_already", |_| {
    steps::a_reload_of_the_order_in_the_queue_holds_for_those_that_wait_already();
});
const CARRIED: MutantKiller = test("windows_follow_a_reload_when_they_are_touched_and_the_others_by_and_by", |_| {
    steps::windows_follow_a_reload_when_they_are_touched_and_the_others_by_and_by();
});

const HERD: MutantKiller = test("fifty_refused_callers_that_come_back_as_told_are_refused_once_each", |_| {
    staggering::fifty_refused_callers_that_come_back_as_told_are_refused_once_each();
});

/// Faults of the steps: what is left for the next one.
const STEPS: &[MutantRow] = &[
    ("a newcomer overtakes an unfinished opening", UNFINISHED),
    ("a look that ends after an opening forgets it", HALF_LOOKED_AT),
    ("a newcomer overtakes waiters that are being requeued", REQUEUED),
    ("waiters keep their places under another order", REORDERED),
    ("a window is not carried over when touched", CARRIED),
    ("rule changes are forgotten too early", CARRIED),
];

/// Faults of the windows.
const WINDOWS: &[MutantRow] = &[
    ("a slot opens a millisecond early", SINGLE),
    ("a slot opens a nanosecond late", SINGLE),
    ("a settle time is rounded down", MANY_SLOTS),
    ("a burst has one request more", SINGLE),
    ("spacing restarts with each request", SINGLE),
    ("a fixed window ends with its first request", SEVERAL),
    ("the next fixed window forgets the last", LAST_ANSWER),
    ("a period begins a nanosecond late", SEVERAL),
    ("a period begins by the slowest clock", CLOCKS),
    ("slots of a period join at the earlier time", CLOCKS),
    ("the guard is forgotten", SINGLE),
    ("one flight too many", SINGLE),
    ("a later pause shortens an earlier one", SINGLE),
    ("a longer span opens what is no longer known", RELOADS),
    ("a lowered N is ignored", RELOADS),
    ("another kind of window forgets what was counted", RELOADS),
    ("answers of an earlier rule do not linger", EARLIER_RULE),
];

/// Faults of the decisions, the settles and the queue.
const DECISIONS: &[MutantRow] = &[
    ("time goes back", SINGLE),
    ("one key too many", KEYS),
    ("a key that still counts is dropped", SINGLE),
    ("a ticket names the waiter that has its place now", SINGLE),
    ("a dry run holds requests back", KEYS),
    ("a part is rounded up", PARTS),
    ("a slot settles at its grant", SINGLE),
    ("an answered slot settles at the sending", SINGLE),
    ("a failed attempt does not linger", SINGLE),
    ("a late settle counts from the failure", SINGLE),
    ("slots go back after bytes have left", SINGLE),
    ("a flight ends with the head", SINGLE),
    ("an opening wakes no waiter", SINGLE),
    ("a younger waiter skips the claimant", CLAIMANT),
    ("callers take no turns", TURNS),
    ("all refused requests are told the same opening", HERD),
];

/// Faults of the records, of restarts and of hand-overs.
const RESTARTS: &[MutantRow] = &[
    ("unknown slots are as old as the oldest", CRASHES),
    ("unknown slots are not counted after a crash", CRASHES),
    ("the prewritten block is not counted after a crash", CRASHES),
    ("a page is written after the grant", CRASHES),
    ("a page leaves out the slots that it adds", CRASHES),
    ("a page of an earlier term grants slots", OLD_PAGE),
    ("a pause during a write is not written", PAUSE),
    ("a record merges settles at the earlier time", LONG_LOG),
    ("a dropped key keeps its record", IDLE_KEY),
    ("unwritten windows are believed", UNWRITTEN),
    ("windows without a page are believed when the disk works again", NO_PAGE),
    ("a journal that catches up is believed", CRASHES),
    ("open slots of a record are forgotten", CRASHES),
    ("failed attempts are forgotten at a restart", CRASHES),
    ("a crash ends answers on their way", CRASHES),
    ("open slots are lost at a hand-over", UPGRADES),
    ("a delegated grant is not held", UPGRADES),
    ("a forwarded settle is dropped", UPGRADES),
    ("a leaving is not forwarded", UPGRADES),
    ("a grant for a waiter that has left is lost", UPGRADES),
    ("requests of a dead process do not linger", CRASHES),
    ("flights of a dead process never end", CRASHES),
];

#[test]
fn every_fault_of_a_window_is_seen() {
    assert_all_killed(WINDOWS);
}

#[test]
fn every_fault_of_a_decision_is_seen() {
    assert_all_killed(DECISIONS);
}

#[test]
fn every_fault_of_a_step_is_seen() {
    assert_all_killed(STEPS);
}

#[test]
fn every_fault_of_a_restart_is_seen() {
    assert_all_killed(RESTARTS);
}

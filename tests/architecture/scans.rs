//! Scans under the gate's lock: walks through all windows, limits or waiters, which hold all requests for as long as the
//! table is large.
//!
//! Known by name: a walk through one of [`TABLES`], and a call of one of [`SCANNERS`]. Each function that has one is in
//! [`ALLOWED`] with its reason, and leaves the list with its last scan.

use std::collections::BTreeMap;

use super::File;
use super::bodies::WALKS;
use super::syntax::sources;

/// Fields that grow with windows, limits or waiters.
const TABLES: [&str; 18] = [
    "all",
    "asked",
    "by_windows",
    "chunks",
    "deadlines",
    "flows",
    "groups",
    "held_waiters",
    "ids",
    "late_settles",
    "queued",
    "retired",
    "rules",
    "shards",
    "slots",
    "undecided",
    "waiters",
    "wakeups",
];

/// Methods that visit a whole table.
const SCANNERS: [&str; 5] = ["asks", "expected_after", "indices", "next_roll", "of_limit"];

const RELOAD: &str = "a reload";
const HAND_OVER: &str = "another process takes over";
const JOURNAL: &str = "the journal begins, ends or has written the limits: limits, not windows";
const SHUTDOWN: &str = "the shutdown refuses the waiters that it cannot serve";
const SHUTDOWN_SNAPSHOT: &str = "a start or a stop, when nothing is granted";
const CLOCK: &str = "the wall clock was set, or a calendar period ends: limits, not windows";

/// Functions that scan, and the event that each is for; none of them runs for a single request but where it says so.
const ALLOWED: [(&str, &str); 30] = [
    ("Counters::distribute", "each request: the groups of one answer of the store, not those of the queue"),
    ("FairQueue::flows", "each request: at most MAX_CHECKED of them are taken"),
    ("FairQueue::is_only", "each request: looks at one flow, if there is only one"),
    ("Forwarder::orphaned_tickets", HAND_OVER),
    ("Gate::close", SHUTDOWN),
    (
        "LimitTable::forget_retired",
        "each round of the sweep: retired limits, which are forgotten with their last window",
    ),
    ("LimitTable::next_roll", CLOCK),
    ("LimitTable::roll", CLOCK),
    ("LimitTable::shared", "limits, not windows: a store was found or lost"),
    ("LimitTable::shares", "limits, not windows: the store's client looks for work"),
    ("LimitTable::snapshots", HAND_OVER),
    ("Locker::add", RELOAD),
    ("Locker::begin_snapshot", SHUTDOWN_SNAPSHOT),
    ("Locker::late_slots", HAND_OVER),
    ("Locker::process_due", CLOCK),
    ("Locker::queued_asks", HAND_OVER),
    ("Locker::reload", RELOAD),
    ("Locker::set_wall", CLOCK),
    ("Locker::snapshot", HAND_OVER),
    ("Queue::asks", HAND_OVER),
    ("Replica::finish", HAND_OVER),
    ("Snapshot::of", HAND_OVER),
    ("State::end_if_closed", SHUTDOWN),
    ("State::reask_all", RELOAD),
    ("WaitSlots::expected_after", "a reload or a shutdown"),
    ("WindowTable::capacity", "each slice of the sweep: chunks of 2^18 windows"),
    ("WriteQueue::begin", JOURNAL),
    ("WriteQueue::end", JOURNAL),
    ("WriteQueue::end_scan", JOURNAL),
    ("WriteQueue::limits_written", JOURNAL),
];

pub(super) fn scans(files: &[File]) -> Vec<String> {
    let known = |name: &str| ALLOWED.iter().any(|(allowed, _)| *allowed == name);
    let found = scanning(files).into_iter().filter(|(name, _)| !known(name));
    let message = |(name, (place, scan)): (String, (String, String))| {
        format!(
            "{place}: scan: `{name}` visits all of {scan}; do what changes only, work in slices, or add it to ALLOWED \
             with its reason"
        )
    };
    found.map(message).collect()
}

/// Functions that scan, each with the place of its first scan and the words for it.
fn scanning(files: &[File]) -> BTreeMap<String, (String, String)> {
    let mut found = BTreeMap::new();
    let under_lock =
        |path: &str| (path.starts_with("src/locker/") || path.starts_with("src/gate/")) && !path.contains("/fuzzing/");
    for (file, facts) in sources(files).into_iter().filter(|(file, _)| under_lock(&file.path)) {
        for body in &facts.bodies {
            for walk in &body.walks {
                let is_scanner = SCANNERS.contains(&walk.method.as_str());
                let is_table = walk.is_field
                    && WALKS.contains(&walk.method.as_str())
                    && TABLES.contains(&walk.collection.as_str());
                if is_scanner || is_table {
                    let scan = format!("`{}` (`{}`)", walk.collection, walk.method);
                    let place = format!("{}:{}", file.path, walk.line);
                    found.entry(facts.qualified(&body.name)).or_insert((place, scan));
                }
            }
        }
    }
    found
}

#[test]
fn scans_under_the_lock_are_listed_with_their_reason() {
    super::hold(scans, &["src"]);
    let found = scanning(&super::files(&["src"]));
    let gone: Vec<&str> = ALLOWED.iter().map(|(name, _)| *name).filter(|name| !found.contains_key(*name)).collect();
    assert!(gone.is_empty(), "these scan no more; remove them from ALLOWED: {gone:?}");
}

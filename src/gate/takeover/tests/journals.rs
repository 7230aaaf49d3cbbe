//! Tests of the journal over an upgrade: its folder moves with it, and a crash behind it forgets no slot.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// Folder for the state of one test, removed at its end.
struct StateFolder(PathBuf);

impl StateFolder {
    fn new() -> StateFolder {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("lockgate-takeover-{}-{number}", std::process::id()));
        fs::remove_dir_all(&folder).ok();
        StateFolder(folder)
    }

    fn settings(&self, limits: &[Limit]) -> Settings {
        let state = journal::Settings { dir: self.0.clone(), after_crash: AfterCrash::Remember };
        Settings { limits: limits.to_vec(), state: Some(state), store: None }
    }
}

impl Drop for StateFolder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Sends a request, which may have to wait until its slot is written.
#[track_caller]
fn goes(gate: &Arc<Gate>) {
    match ask(gate) {
        Answer::Go(permit) => _ = permit.depart().sent(),
        Answer::Wait(mut waiting) => drop(eventually("its turn", || look(&mut waiting)).unwrap()),
        Answer::Sorry(refused) => panic!("{refused:?}"),
    }
}

/// Opens a gate with a journal as soon as no other process has its folder.
#[track_caller]
fn open(settings: &Settings) -> Arc<Gate> {
    eventually("the folder", || Gate::open(settings.clone(), Clock::start()).ok()).0
}

#[test]
fn the_journal_and_its_folder_move_too() {
    let folder = StateFolder::new();
    let settings = folder.settings(&[limit(3, 5)]);
    let old = open(&settings);
    old.start_journal().unwrap();
    goes(&old);
    let new = hand_over(&old, settings.clone(), &Drain::new());
    assert_eq!((old.journal_health(), new.journal_health()), (JournalHealth::Off, JournalHealth::Ok));
    goes(&new);
    goes(&old);
    let held = Gate::open(settings.clone(), Clock::start()).map(drop).unwrap_err();
    assert!(matches!(held, journal::Error::Held { .. }), "{held}");
    old.stop();
    new.stop();
    drop((old, new));
    stays(&mut wait(&open(&settings)));
}

#[test]
pub(super) fn a_crash_behind_an_upgrade_with_other_limits_forgets_no_slot() {
    let folder = StateFolder::new();
    // A dry run is not written down.
    let (trial, holds) = (Limit { dry_run: true, ..limit(3, 5) }, limit(3, 5));
    let old = open(&folder.settings(&[trial]));
    old.start_journal().unwrap();
    (0..3).for_each(|_| goes(&old));
    let new = hand_over(&old, folder.settings(std::slice::from_ref(&holds)), &Drain::new());
    eventually("all is written", || (new.journal_health() == JournalHealth::Ok).then_some(()));
    drop((old, new));
    stays(&mut wait(&open(&folder.settings(&[holds]))));
}

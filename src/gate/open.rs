//! How a gate begins, where another one may have ended; and how it ends.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use super::clock::Clock;
use super::driver::Timer;
use super::journal::{self, Journal, Loaded};
use super::reload_gate::depends_on_wall;
use super::store::suspend::SuspendDetector;
use super::thread_signal::ThreadSignals;
use super::{CachePadded, Gate, Settings, State};
use crate::locker::{Limit, LimitId, Locker, Shutdown, Snapshot};

impl Gate {
    /// A gate for these limits, which goes on where the one before ended if there is a state to be kept; and the numbers of
    /// the limits, in their order. Must be driven: spawn [`Gate::drive`] on one runtime, or nobody in line is ever woken by
    /// time. The state folder is locked and read, and says what it said before until [`Gate::start_journal`].
    ///
    /// # Errors
    /// If the state cannot be used, see [`journal::Error`]; nothing is let go then.
    pub fn open(settings: Settings, clock: Clock) -> Result<(Arc<Gate>, Vec<LimitId>), journal::Error> {
        let Settings { limits, state, store: _ } = settings;
        let (journal, loaded) = match &state {
            Some(state) => Journal::open(state, clock)?,
            None => (None, Loaded::none()?),
        };
        let gate = Gate::empty(loaded.seed, clock);
        gate.timer.prepare().map_err(journal::Error::System)?;
        let ids = gate.inherit(loaded.snapshot, loaded.end, limits, Duration::ZERO);
        if let Some(journal) = journal {
            gate.attach_journal(&Arc::new(journal));
        }
        Ok((gate, ids))
    }

    /// Marks the state folder as in use: from here on an end without [`Gate::stop`] is a crash, and what is counted is
    /// written. Call it after everything else that can fail at a start, so that a start that fails leaves the folder as it
    /// was; and before the first [`Gate::ask`], which would go unwritten. Blocks the thread.
    ///
    /// # Errors
    /// If the folder cannot be written, or the system gives no thread; the folder is as it was then.
    pub fn start_journal(self: &Arc<Self>) -> Result<(), journal::Error> {
        match self.journal.get() {
            Some(journal) => journal.begin(self),
            None => Ok(()),
        }
    }

    /// A gate without limits.
    pub(super) fn empty(seed: [u8; 16], clock: Clock) -> Arc<Gate> {
        Arc::new(Gate {
            clock,
            limits: RwLock::new([].into()),
            timer: Timer::default(),
            revision: AtomicU64::new(0),
            follows_wall: AtomicBool::new(false),
            seed,
            journal: OnceLock::new(),
            signals: ThreadSignals::default(),
            store: OnceLock::new(),
            sleep: SuspendDetector::new(clock.asleep_nanos()),
            before: OnceLock::new(),
            peer_lost: AtomicBool::new(false),
            state: CachePadded(Mutex::new(State::new(Locker::new(Vec::new())))),
        })
    }

    /// Goes on where another gate ended, with these limits; nobody has asked this one anything.
    pub(super) fn inherit(
        &self,
        snapshot: Snapshot,
        end: Shutdown,
        limits: Vec<Limit>,
        under_way: Duration,
    ) -> Vec<LimitId> {
        let now = self.clock.now();
        let wall = self.clock.wall();
        self.step(now, |state| {
            let mut locker = Locker::restore(snapshot, end, wall, now);
            let ids = locker.reload(limits, under_way, now).ids;
            let follows_wall = locker.limits().iter().any(depends_on_wall);
            *self.limits.write().unwrap_or_else(PoisonError::into_inner) = locker.limits().into();
            self.follows_wall.store(follows_wall, Ordering::Relaxed);
            state.locker = locker;
            if follows_wall {
                state.begin_to_follow_wall(wall, now);
            }
            ids
        })
    }

    /// From here on there is a journal; it has not begun to write.
    pub(super) fn attach_journal(&self, journal: &Arc<Journal>) {
        // Both are empty until here.
        self.signals.journal.set(journal.signal()).ok();
        self.journal.set(Arc::clone(journal)).ok();
    }

    /// A gate that keeps nothing.
    ///
    /// # Panics
    /// If the system has no random numbers.
    pub fn new(limits: Vec<Limit>, clock: Clock) -> Arc<Gate> {
        let opened = Gate::open(Settings { limits, state: None, store: None }, clock);
        opened.expect("without a state to keep, nothing but random numbers can be missing").0
    }

    /// How what is counted is kept.
    pub fn journal_health(&self) -> journal::JournalHealth {
        let journal = self.journal.get().filter(|_| !self.is_handed_over());
        journal.map_or(journal::JournalHealth::Off, |journal| journal.health())
    }

    /// Writes all that was counted, so that the next gateway knows it; or if another process counts now, tells that one
    /// all that is left to be told. Nothing is asked of this one any more. Blocks the thread.
    pub fn stop(&self) {
        if self.is_handed_over() {
            if let Some(signal) = self.signals.next.get() {
                signal.stop();
            }
            return;
        }
        if let Some(store) = self.store.get() {
            store.stop();
        }
        let now = self.clock.now();
        let snapshot = self.step(now, |state| {
            // What is written is all: from here on nobody goes, here or in the process before.
            state.closing = Some(now);
            state.remote_waiters.are_dropped = true;
            state.locker.hold();
            state.locker.snapshot(now)
        });
        if let Some(before) = self.before.get() {
            before.shutdown();
        }
        if let Some(journal) = self.journal.get() {
            journal.stop(&snapshot);
        }
    }

    pub(super) fn is_handed_over(&self) -> bool {
        self.lock().locker.is_handed_over()
    }

    /// What keys are hashed with, so that a caller cannot make two meet; the same for all processes that share a state.
    pub fn seed(&self) -> [u8; 16] {
        self.seed
    }
}

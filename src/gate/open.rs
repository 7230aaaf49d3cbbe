//! Opening and closing of a gate: restores the previous snapshot, starts the journal, writes the last snapshot.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use super::clock::Clock;
use super::driver::Timer;
use super::journal::{self, Journal, Loaded};
use super::limiter::Limiter;
use super::reload_gate::depends_on_wall;
use super::store::suspend::SuspendDetector;
use super::thread_signal::ThreadSignals;
use super::{CachePadded, Gate, Settings, State};
use crate::locker::{Limit, LimitId, Locker, Shutdown, Snapshot};

impl Gate {
    /// Creates a gate for these limits, restored from the state folder if there is one. Also returns the ids of the
    /// limits, in their order. The gate must be driven: spawn [`Gate::drive`] on one runtime, or no waiter is ever
    /// woken by time. The state folder is locked and read; it is not written until [`Gate::start_journal`].
    ///
    /// # Errors
    /// If the state folder cannot be used, see [`journal::Error`]; nothing is granted then.
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

    /// Marks the state folder as in use: from now on counts are written, and an end without [`Gate::stop`] is a crash.
    /// Call it after everything else that can fail at a start, so that a failed start leaves the folder as it was; and
    /// before the first [`Gate::ask`], which would not be written. Blocks the thread.
    ///
    /// # Errors
    /// If the folder cannot be written, or the system provides no thread; the folder is left as it was.
    pub fn start_journal(self: &Arc<Self>) -> Result<(), journal::Error> {
        match self.journal.get() {
            Some(journal) => journal.begin(self),
            None => Ok(()),
        }
    }

    /// Creates a gate without limits.
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
            old_process: OnceLock::new(),
            peer_lost: AtomicBool::new(false),
            state: CachePadded(Mutex::new(State::new(Limiter::Local(Locker::new(Vec::new()))))),
        })
    }

    /// Restores the counts of another gate, with these limits. Call it before the first ask. `under_way`: longest time
    /// from a request's permit to its settle. Returns the ids of the limits, in their order.
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
            state.locker = Limiter::Local(locker);
            if follows_wall {
                state.begin_to_follow_wall(wall, now);
            }
            ids
        })
    }

    /// Attaches the journal, which does not write yet.
    pub(super) fn attach_journal(&self, journal: &Arc<Journal>) {
        // Both cells are empty: a gate gets its journal once.
        self.signals.journal.set(journal.signal()).ok();
        self.journal.set(Arc::clone(journal)).ok();
    }

    /// Creates a gate without persistence.
    ///
    /// # Panics
    /// If the system has no random numbers.
    pub fn new(limits: Vec<Limit>, clock: Clock) -> Arc<Gate> {
        let opened = Gate::open(Settings { limits, state: None, store: None }, clock);
        opened.expect("without a state to keep, nothing but random numbers can be missing").0
    }

    /// State of the persistence of counts.
    pub fn journal_health(&self) -> journal::JournalHealth {
        let journal = self.journal.get().filter(|_| !self.is_handed_over());
        journal.map_or(journal::JournalHealth::Off, |journal| journal.health())
    }

    /// Writes the last snapshot for the next start; after an upgrade sends the remaining events to the new process
    /// instead. No request may ask this gate afterwards. Blocks the thread.
    pub fn stop(&self) {
        if self.is_handed_over() {
            if let Some(signal) = self.signals.new_process.get() {
                signal.stop();
            }
            return;
        }
        if let Some(store) = self.store.get() {
            store.stop();
        }
        let now = self.clock.now();
        let snapshot = self.step(now, |state| {
            // The snapshot must be complete: from now on nothing is granted, neither here nor to the old process.
            state.closing = Some(now);
            state.remote_waiters.is_stopped = true;
            state.locker.hold();
            state.locker.snapshot(now)
        });
        if let Some(old_process) = self.old_process.get() {
            old_process.shutdown();
        }
        if let Some(journal) = self.journal.get() {
            journal.stop(&snapshot);
        }
    }

    /// True after an upgrade: another process decides, and this gate forwards to it.
    pub(super) fn is_handed_over(&self) -> bool {
        self.lock().locker.is_handed_over()
    }

    /// Seed of the hash of keys and callers, so that a caller cannot cause a collision. The same for all processes that
    /// share a state.
    pub fn seed(&self) -> [u8; 16] {
        self.seed
    }
}

//! Opening and closing of a gate: restores the previous snapshot, starts the journal, writes the last snapshot.
//!
//! Order of calls in the life of a gate:
//!
//! 1. `Gate::open` locks and reads the state folder, and restores its counts.
//! 2. `Gate::drive` runs on one runtime from then on.
//! 3. `Gate::start_journal` marks the folder as in use, after everything else that can fail.
//! 4. `Gate::ask` decides on requests.
//! 5. `Gate::close` begins the shutdown grace.
//! 6. `Gate::stop` writes the last snapshot, after the last request.
//!
//! A gate that takes over in an upgrade is made by `takeover::NewProcess` instead of steps 1 and 3.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use super::clock::Clock;
use super::journal::{self, Journal, Loaded};
use super::limiter::Limiter;
use super::longest_step::LongestStep;
use super::reload_gate::depends_on_wall;
use super::store::suspend::SuspendDetector;
use super::thread_signal::ThreadSignals;
use super::timer::Timer;
use super::{CachePadded, Gate, Settings, State};
use crate::locker::{Limit, LimitId, Locker, ReloadSummary};

impl Gate {
    /// Creates a gate for these limits, restored from the state folder if there is one. Also returns the ids of the
    /// limits, in their order. The gate must be driven: spawn [`Gate::drive`] on one runtime, or no waiter is ever
    /// woken by time. The state folder is locked and read; it is not written until [`Gate::start_journal`].
    ///
    /// # Errors
    /// If the state folder cannot be used, see [`journal::Error`]; nothing is granted then.
    ///
    /// [`journal::Error::System`] without random numbers for the seed, or without a file descriptor
    /// for the timer.
    pub fn open(settings: Settings, clock: Clock) -> Result<(Arc<Gate>, Vec<LimitId>), journal::Error> {
        let Settings { limits, state, store: _ } = settings;
        let (journal, loaded) = match &state {
            Some(state) => Journal::open(state, clock)?,
            None => (None, Loaded::none()?),
        };
        let gate = Gate::empty(loaded.seed, clock);
        gate.timer.prepare().map_err(journal::Error::System)?;
        let locker = Locker::restore(loaded.snapshot, loaded.end, clock.wall(), clock.now());
        let reload = gate.inherit(locker, limits, Duration::ZERO);
        if let Some(journal) = journal {
            journal.consider_limits(&reload);
            gate.attach_journal(&Arc::new(journal));
        }
        Ok((gate, reload.ids))
    }

    /// Marks the state folder as in use: from now on counts are written, and an end without [`Gate::stop`] is a crash.
    /// Call it after everything else that can fail at a start, so that a failed start leaves the folder as it was; and
    /// before the first [`Gate::ask`], which would not be written. Blocks the thread.
    ///
    /// Returns `Ok` at once without a state folder.
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
    ///
    /// Its parts are the least that a gate needs: no journal, no store, and no file descriptor for
    /// the timer yet. The wall clock is not read until a `calendar` limit exists. `seed` is the
    /// hash seed of the process that wrote the counts, or a random one for a first start.
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
            old_pidfd: OnceLock::new(),
            peer_lost: AtomicBool::new(false),
            longest_step: LongestStep::default(),
            state: CachePadded(Mutex::new(State::new(Limiter::Local(Locker::new(Vec::new()))))),
        })
    }

    /// Puts a locker with the counts of another gate into the place of its own, with these limits. Call it before the
    /// first ask. `under_way`: longest time from a request's permit to its settle. Returns how the limits differ from
    /// those of the locker.
    ///
    /// Steps, in one turn of the lock:
    ///
    /// 1. Replaces the limits of the locker by the configured ones; removed limits keep their ids.
    /// 2. Publishes the list of limits for readers without the lock.
    /// 3. Starts to follow the wall clock if a `calendar` limit is configured.
    pub(super) fn inherit(&self, mut locker: Locker, limits: Vec<Limit>, under_way: Duration) -> ReloadSummary {
        let now = self.clock.now();
        let wall = self.clock.wall();
        self.step(now, |state| {
            let reload = locker.reload(limits, under_way, now);
            let follows_wall = locker.limits().iter().any(depends_on_wall);
            *self.limits.write().unwrap_or_else(PoisonError::into_inner) = locker.limits().into();
            self.follows_wall.store(follows_wall, Ordering::Relaxed);
            state.locker = Limiter::Local(locker);
            if follows_wall {
                state.begin_to_follow_wall(wall, now);
            }
            reload
        })
    }

    /// Attaches the journal, which does not write yet.
    ///
    /// Windows are named for writing only after `Gate::start_journal`, or after `NewProcess::take`
    /// in an upgrade.
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
    ///
    /// [`journal::JournalHealth::Off`] also after an upgrade, since another process writes the
    /// folder then. Shown by the admin API and the metrics.
    pub fn journal_health(&self) -> journal::JournalHealth {
        let journal = self.journal.get().filter(|_| !self.is_handed_over());
        journal.map_or(journal::JournalHealth::Off, |journal| journal.health())
    }

    /// Writes the last snapshot for the next start; after an upgrade sends the remaining events to the new process
    /// instead. No request may ask this gate afterwards. Blocks the thread.
    ///
    /// Steps in a process that decides by itself:
    ///
    /// 1. Stops the store client, which leaves the group.
    /// 2. Stops to grant.
    /// 3. Closes the connection to the old process of an upgrade, which then refuses its waiters.
    /// 4. Takes a snapshot, a slice at a time, and replaces the journal by it, marked as an orderly
    ///    stop. A failure is logged: the next start treats this stop as a crash.
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
        self.step(now, |state| {
            // The snapshot must be complete: from now on nothing is granted, neither here nor to the old process.
            state.closing = Some(now);
            state.remote_waiters.is_stopped = true;
            state.locker.hold();
        });
        if let Some(old_process) = self.old_process.get() {
            old_process.shutdown();
        }
        if let Some(journal) = self.journal.get() {
            journal.stop(self);
        }
    }

    /// True after an upgrade: another process decides, and this gate forwards to it.
    ///
    /// Takes the lock for a moment.
    pub(super) fn is_handed_over(&self) -> bool {
        self.lock().locker.is_handed_over()
    }

    /// Seed of the hash of keys and callers, so that a caller cannot cause a collision. The same for all processes that
    /// share a state.
    ///
    /// 16 bytes, kept in the journal and passed on in an upgrade: a stored key is found again only
    /// with the seed that hashed it. Keys of limits shared through the store use the seed of their
    /// group instead.
    pub fn seed(&self) -> [u8; 16] {
        self.seed
    }
}

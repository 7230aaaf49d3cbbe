//! How a gate begins, where another one may have ended; and how it ends.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use super::clock::Clock;
use super::driver::Timer;
use super::journal::{self, Journal, Legacy};
use super::reload::{depends_on_wall, wall_at_start};
use super::{Apart, Gate, Settings, State};
use crate::locker::{Limit, LimitId, Locker};

impl Gate {
    /// A gate for these limits, which goes on where the one before ended if there is a state to be kept; and the numbers of
    /// the limits, in their order. Must be driven: spawn [`Gate::drive`] on one runtime, or nobody in line is ever woken by
    /// time.
    ///
    /// # Errors
    /// If the state cannot be used, see [`journal::Error`]; nothing is let go then.
    pub fn open(settings: Settings, clock: Clock) -> Result<(Arc<Gate>, Vec<LimitId>), journal::Error> {
        let Settings { limits, state } = settings;
        let (journal, legacy) = match &state {
            Some(state) => Journal::open(state, clock)?,
            None => (None, Legacy::none()?),
        };
        let now = clock.now();
        let wall = wall_at_start(&clock, now);
        let mut locker = Locker::inherit(legacy.estate, legacy.end, wall, now);
        let ids = locker.reload(limits, Duration::ZERO, now).ids;
        let gate = Arc::new(Gate {
            clock,
            limits: RwLock::new(locker.limits().into()),
            timer: Timer::default(),
            follows_wall: locker.limits().iter().any(depends_on_wall).into(),
            seed: legacy.seed,
            journal: OnceLock::new(),
            bell: OnceLock::new(),
            state: Apart(Mutex::new(State::new(locker))),
        });
        if gate.follows_wall.load(Ordering::Relaxed) {
            gate.step(now, |state| state.set_wall(wall, now));
        }
        if let Some(journal) = journal.map(Arc::new) {
            // Both are empty until here.
            gate.bell.set(journal.bell()).ok();
            journal.begin(&gate)?;
            gate.journal.set(journal).ok();
        }
        Ok((gate, ids))
    }

    /// A gate that keeps nothing.
    ///
    /// # Panics
    /// If the system has no random numbers.
    pub fn new(limits: Vec<Limit>, clock: Clock) -> Arc<Gate> {
        let opened = Gate::open(Settings { limits, state: None }, clock);
        opened.expect("without a state to keep, nothing but random numbers can be missing").0
    }

    /// How what is counted is kept.
    pub fn journal_health(&self) -> journal::Health {
        self.journal.get().map_or(journal::Health::Off, |journal| journal.health())
    }

    /// Writes all that was counted, so that the next gateway knows it. Nothing is asked of this one any more. Blocks the
    /// thread.
    pub fn stop(&self) {
        if let Some(journal) = self.journal.get() {
            let now = self.clock.now();
            let estate = self.step(now, |state| state.locker.estate(now));
            journal.stop(&estate);
        }
    }

    /// What keys are hashed with, so that a caller cannot make two meet; the same for all processes that share a state.
    pub fn seed(&self) -> [u8; 16] {
        self.seed
    }
}

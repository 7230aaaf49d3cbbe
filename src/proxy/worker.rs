//! Worker: the configuration in force and the connection pool, as one runtime uses them. After a reload, requests that
//! begin take the next configuration; running ones keep theirs to the end.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::pool::OriginPool;
use super::snapshot::ConfigSnapshot;

/// Configuration snapshot in force, for the whole process.
pub struct CurrentSnapshot {
    snapshot: Mutex<Arc<ConfigSnapshot>>,
    /// Number of the snapshot; each runtime compares it before each request.
    version: AtomicU64,
}

impl CurrentSnapshot {
    /// Starts with the first snapshot.
    pub fn new(snapshot: ConfigSnapshot) -> Arc<CurrentSnapshot> {
        Arc::new(CurrentSnapshot { snapshot: Mutex::new(Arc::new(snapshot)), version: AtomicU64::new(0) })
    }

    /// Snapshot in force.
    pub fn snapshot(&self) -> Arc<ConfigSnapshot> {
        self.read().0
    }

    /// Number of the snapshot in force; each reload increases it.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Puts a snapshot into force for requests that begin from now on.
    pub fn replace(&self, snapshot: ConfigSnapshot) {
        let mut place = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Arc::new(snapshot);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Snapshot in force, with its number.
    fn read(&self) -> (Arc<ConfigSnapshot>, u64) {
        let place = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&place), self.version.load(Ordering::Acquire))
    }
}

/// Handle of one runtime: a snapshot, and connections to origins of the runtime's own.
#[derive(Clone)]
pub struct Worker {
    pub(super) snapshot: Arc<ConfigSnapshot>,
    pub(super) pool: Arc<OriginPool>,
    /// Number of `snapshot`, see [`CurrentSnapshot::version`].
    version: u64,
    runtime: Rc<RuntimeState>,
}

/// State shared by all workers of a runtime.
struct RuntimeState {
    current: Arc<CurrentSnapshot>,
    /// Snapshot that the runtime has last taken over, with its pool: shared by workers that refresh after each other.
    latest: RefCell<RuntimeSnapshot>,
}

/// A snapshot with a runtime's pool for it.
#[derive(Clone)]
struct RuntimeSnapshot {
    snapshot: Arc<ConfigSnapshot>,
    pool: Arc<OriginPool>,
    version: u64,
}

impl Worker {
    /// Makes the first worker of a runtime; must be called inside it.
    pub fn new(current: &Arc<CurrentSnapshot>) -> Worker {
        let latest = RuntimeSnapshot::of(current);
        let runtime = RuntimeState { current: Arc::clone(current), latest: RefCell::new(latest.clone()) };
        let RuntimeSnapshot { snapshot, pool, version } = latest;
        Worker { snapshot, pool, version, runtime: Rc::new(runtime) }
    }

    /// Number of the snapshot that this worker uses.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Changes to the snapshot in force.
    pub(super) fn refresh(&mut self) {
        if self.runtime.current.version.load(Ordering::Relaxed) == self.version {
            return;
        }
        let mut latest = self.runtime.latest.borrow_mut();
        if latest.version == self.version {
            *latest = RuntimeSnapshot::of(&self.runtime.current);
        }
        let RuntimeSnapshot { snapshot, pool, version } = latest.clone();
        (self.snapshot, self.pool, self.version) = (snapshot, pool, version);
    }
}

impl RuntimeSnapshot {
    fn of(current: &CurrentSnapshot) -> RuntimeSnapshot {
        let (snapshot, version) = current.read();
        let pool = OriginPool::new(&snapshot);
        tokio::spawn(reap(Arc::downgrade(&pool)));
        RuntimeSnapshot { snapshot, pool, version }
    }
}

/// Closes idle connections of the pool once a second, as long as a worker uses the pool.
async fn reap(pool: Weak<OriginPool>) {
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    every_second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every_second.tick().await;
        let Some(pool) = pool.upgrade() else { return };
        pool.reap();
    }
}

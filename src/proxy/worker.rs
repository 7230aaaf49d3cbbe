//! Worker: what one runtime serves its connections with, the configuration in force and a pool of connections to pool. After a
//! reload, requests that begin take the next configuration; those that run keep theirs to the end.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::pool::OriginPool;
use super::snapshot::ConfigSnapshot;

/// The proxy of the whole process.
pub struct CurrentSnapshot {
    snapshot: Mutex<Arc<ConfigSnapshot>>,
    /// How many there have been: what a runtime looks at before each request.
    version: AtomicU64,
}

impl CurrentSnapshot {
    /// This one is the first.
    pub fn new(snapshot: ConfigSnapshot) -> Arc<CurrentSnapshot> {
        Arc::new(CurrentSnapshot { snapshot: Mutex::new(Arc::new(snapshot)), version: AtomicU64::new(0) })
    }

    /// The one that is there now.
    pub fn snapshot(&self) -> Arc<ConfigSnapshot> {
        self.read().0
    }

    /// Number of the configuration in force; each reload increases it.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Requests that begin from here on are carried by this one.
    pub fn replace(&self, snapshot: ConfigSnapshot) {
        let mut place = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Arc::new(snapshot);
        self.version.fetch_add(1, Ordering::Release);
    }

    fn read(&self) -> (Arc<ConfigSnapshot>, u64) {
        let place = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&place), self.version.load(Ordering::Acquire))
    }
}

/// The proxy as one runtime sees it: with connections of its own to the pool.
#[derive(Clone)]
pub struct Worker {
    pub(super) snapshot: Arc<ConfigSnapshot>,
    pub(super) pool: Arc<OriginPool>,
    version: u64,
    runtime: Rc<RuntimeState>,
}

/// What all workers of a runtime are made from.
struct RuntimeState {
    current: Arc<CurrentSnapshot>,
    latest: RefCell<RuntimeSnapshot>,
}

#[derive(Clone)]
struct RuntimeSnapshot {
    snapshot: Arc<ConfigSnapshot>,
    pool: Arc<OriginPool>,
    version: u64,
}

impl Worker {
    /// What one runtime serves its connections with; to be called inside it.
    pub fn new(current: &Arc<CurrentSnapshot>) -> Worker {
        let latest = RuntimeSnapshot::of(current);
        let runtime = RuntimeState { current: Arc::clone(current), latest: RefCell::new(latest.clone()) };
        let RuntimeSnapshot { snapshot, pool, version } = latest;
        Worker { snapshot, pool, version, runtime: Rc::new(runtime) }
    }

    /// Which reading of the file it goes by.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Goes on with the proxy as it is now.
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

/// Closes idle connections to pool once a second, as long as their runtime has a use for them.
async fn reap(pool: Weak<OriginPool>) {
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    every_second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every_second.tick().await;
        let Some(pool) = pool.upgrade() else { return };
        pool.reap();
    }
}

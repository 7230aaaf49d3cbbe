//! Worker: what one runtime serves its connections with, the configuration in force and a pool of connections to origins. After a
//! reload, requests that begin take the next configuration; those that run keep theirs to the end.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::pool::Origins;
use super::snapshot::Proxy;

/// The proxy of the whole process.
pub struct Current {
    proxy: Mutex<Arc<Proxy>>,
    /// How many there have been: what a runtime looks at before each request.
    version: AtomicU64,
}

impl Current {
    /// This one is the first.
    pub fn new(proxy: Proxy) -> Arc<Current> {
        Arc::new(Current { proxy: Mutex::new(Arc::new(proxy)), version: AtomicU64::new(0) })
    }

    /// The one that is there now.
    pub fn proxy(&self) -> Arc<Proxy> {
        self.read().0
    }

    /// Number of the configuration in force; each reload increases it.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Requests that begin from here on are carried by this one.
    pub fn replace(&self, proxy: Proxy) {
        let mut place = self.proxy.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Arc::new(proxy);
        self.version.fetch_add(1, Ordering::Release);
    }

    fn read(&self) -> (Arc<Proxy>, u64) {
        let place = self.proxy.lock().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&place), self.version.load(Ordering::Acquire))
    }
}

/// The proxy as one runtime sees it: with connections of its own to the origins.
#[derive(Clone)]
pub struct Worker {
    pub(super) proxy: Arc<Proxy>,
    pub(super) origins: Arc<Origins>,
    version: u64,
    station: Rc<Station>,
}

/// What all workers of a runtime are made from.
struct Station {
    current: Arc<Current>,
    latest: RefCell<Latest>,
}

#[derive(Clone)]
struct Latest {
    proxy: Arc<Proxy>,
    origins: Arc<Origins>,
    version: u64,
}

impl Worker {
    /// What one runtime serves its connections with; to be called inside it.
    pub fn new(current: &Arc<Current>) -> Worker {
        let latest = Latest::of(current);
        let station = Station { current: Arc::clone(current), latest: RefCell::new(latest.clone()) };
        let Latest { proxy, origins, version } = latest;
        Worker { proxy, origins, version, station: Rc::new(station) }
    }

    /// Which reading of the file it goes by.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Goes on with the proxy as it is now.
    pub(super) fn refresh(&mut self) {
        if self.station.current.version.load(Ordering::Relaxed) == self.version {
            return;
        }
        let mut latest = self.station.latest.borrow_mut();
        if latest.version == self.version {
            *latest = Latest::of(&self.station.current);
        }
        let Latest { proxy, origins, version } = latest.clone();
        (self.proxy, self.origins, self.version) = (proxy, origins, version);
    }
}

impl Latest {
    fn of(current: &Current) -> Latest {
        let (proxy, version) = current.read();
        let origins = Origins::new(&proxy);
        tokio::spawn(reap(Arc::downgrade(&origins)));
        Latest { proxy, origins, version }
    }
}

/// Closes idle connections to origins once a second, as long as their runtime has a use for them.
async fn reap(origins: Weak<Origins>) {
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    every_second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every_second.tick().await;
        let Some(origins) = origins.upgrade() else { return };
        origins.reap();
    }
}

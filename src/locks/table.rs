//! Who holds what, and who waits for it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::hash::Hasher;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use siphasher::sip128::{Hasher128, SipHasher13};
use tokio::sync::Notify;

use super::register::{RegisterEntry, Register, Rewrite};
use crate::gate::{Answer, Gate, Lease, Patience, Permit};
use crate::locker::{Caller, Claim, Key, LimitId};
use crate::time::Time;

/// The name of a lock: 32 hexadecimal digits.
pub(super) type Uid = Arc<str>;

/// What whoever locks has said.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct LockRequest {
    pub(super) resource: Arc<str>,
    pub(super) title: Arc<str>,
    /// In seconds.
    pub(super) wait: f64,
    pub(super) lifetime: f64,
}

/// A lock, held or waited for.
#[derive(Clone)]
pub(super) struct Lock {
    pub(super) uid: Uid,
    pub(super) request: LockRequest,
    state: LockState,
}

#[derive(Clone)]
enum LockState {
    /// Told if an operator ends it.
    Waits(Arc<Notify>),
    Held {
        lease: Lease,
        /// In nanoseconds of Unix time.
        since: i128,
        /// When it ends by itself.
        ends: Time,
    },
}

impl Lock {
    /// Since when it is held, in nanoseconds of Unix time; `None`: it is waited for.
    pub(super) fn since(&self) -> Option<i128> {
        match self.state {
            LockState::Waits(_) => None,
            LockState::Held { since, .. } => Some(since),
        }
    }

    /// When it ends by itself; `None`: it is waited for.
    fn ends(&self) -> Option<Time> {
        match self.state {
            LockState::Waits(_) => None,
            LockState::Held { ends, .. } => Some(ends),
        }
    }

    /// Whether it has ended by itself. The clock says so as the gate does, without the gate's lock.
    fn is_over(&self, now: Time) -> bool {
        self.ends().is_some_and(|ends| ends <= now)
    }
}

/// All locks.
pub(super) struct LockTable {
    gate: Arc<Gate>,
    known: Mutex<LockTableState>,
}

struct LockTableState {
    locks: HashMap<Uid, Lock>,
    /// In the order in which they came.
    by_resource: BTreeMap<Arc<str>, Vec<Uid>>,
    /// Those that are held, by when they end.
    ends: BTreeSet<(Time, Uid)>,
    register: Register,
}

impl LockTable {
    /// What was left in this folder is taken up.
    pub(super) fn open(dir: &Path, gate: &Arc<Gate>) -> io::Result<LockTable> {
        let (register, left) = Register::open(dir)?;
        let known = LockTableState { locks: HashMap::new(), by_resource: BTreeMap::new(), ends: BTreeSet::new(), register };
        let table = LockTable { gate: Arc::clone(gate), known: Mutex::new(known) };
        let wall = gate.clock().wall_unix_nanos();
        for entry in left {
            let request = LockRequest {
                resource: entry.resource.into(),
                title: entry.title.into(),
                wait: entry.wait,
                lifetime: entry.lifetime,
            };
            // No longer than it was to be held, however the clock was set since.
            let most = Duration::from_secs_f64(request.lifetime);
            let left = u64::try_from((entry.until - wall).max(0)).map_or(most, Duration::from_nanos).min(most);
            if left.is_zero() {
                continue;
            }
            let Answer::Go(permit) = table.ask(&request.resource, None) else {
                // The register names each resource once, and all of them were let in before.
                tracing::error!(resource = &*request.resource, "more locks were held than may be");
                continue;
            };
            let since = entry.until - i128::try_from(most.as_nanos()).unwrap_or(0);
            let ends = permit.granted_at() + left;
            let state = LockState::Held { lease: permit.lease(left), since, ends };
            table.known().insert(Lock { uid: entry.uid.into(), request, state });
        }
        Ok(table)
    }

    fn known(&self) -> MutexGuard<'_, LockTableState> {
        // Each change is whole before anything in it can fail.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the resource; `wait`: how long at most.
    pub(super) fn ask(&self, resource: &str, wait: Option<Duration>) -> Answer {
        let mut hasher = SipHasher13::new_with_key(&self.gate.seed());
        hasher.write(resource.as_bytes());
        let claim = Claim { limit: LimitId(0), key: Key(hasher.finish128().as_u128()), cost: 1 };
        self.gate.ask(&[claim], Caller(0), Patience { max_wait: wait, ..Patience::default() })
    }

    /// Somebody waits from here on; told if an operator ends it.
    pub(super) fn wait(&self, uid: &Uid, request: &LockRequest) -> Arc<Notify> {
        let ended = Arc::new(Notify::new());
        let state = LockState::Waits(Arc::clone(&ended));
        self.known().insert(Lock { uid: Arc::clone(uid), request: request.clone(), state });
        ended
    }

    /// It is held from here on, and noted before anybody is told.
    ///
    /// # Errors
    /// It cannot be noted; it is not held then.
    pub(super) fn hold(&self, uid: &Uid, request: &LockRequest, permit: Permit) -> io::Result<()> {
        let mut known = self.known();
        let clock = self.gate.clock();
        let lifetime = Duration::from_secs_f64(request.lifetime);
        let waited = clock.now().since(permit.granted_at());
        let since = clock.wall_unix_nanos() - i128::try_from(waited.as_nanos()).unwrap_or(0);
        known.register.begin(&RegisterEntry {
            uid: uid.to_string(),
            resource: request.resource.to_string(),
            title: request.title.to_string(),
            wait: request.wait,
            lifetime: request.lifetime,
            until: since + i128::try_from(lifetime.as_nanos()).unwrap_or(i128::MAX / 2),
        })?;
        known.remove(uid);
        let ends = permit.granted_at() + lifetime;
        let state = LockState::Held { lease: permit.lease(lifetime), since, ends };
        known.insert(Lock { uid: Arc::clone(uid), request: request.clone(), state });
        Ok(())
    }

    /// Somebody does not wait any more.
    pub(super) fn forget(&self, uid: &Uid) {
        let mut known = self.known();
        if known.locks.get(uid).is_some_and(|lock| lock.since().is_none()) {
            known.remove(uid);
        }
    }

    /// A lock of this resource that has not ended.
    pub(super) fn find(&self, resource: &str, uid: &str) -> Option<Lock> {
        let (known, now) = (self.known(), self.now());
        known.locks.get(uid).filter(|lock| *lock.request.resource == *resource && !lock.is_over(now)).cloned()
    }

    /// Ends a lock; `false` if there is none.
    pub(super) fn end(&self, resource: &str, uid: &str) -> bool {
        let mut known = self.known();
        let found = known.locks.get(uid).filter(|lock| *lock.request.resource == *resource).cloned();
        found.is_some_and(|lock| known.end(&lock))
    }

    /// The locks of a resource, in the order in which they came.
    pub(super) fn of(&self, resource: &str) -> Vec<Lock> {
        self.known().of(resource, self.now()).cloned().collect()
    }

    /// The resources that are locked or waited for.
    pub(super) fn resources(&self) -> Vec<Arc<str>> {
        let (known, now) = (self.known(), self.now());
        known.by_resource.keys().filter(|resource| known.of(resource, now).next().is_some()).cloned().collect()
    }

    /// Ends all locks of a resource, or of all; how many there were.
    pub(super) fn end_all(&self, resource: Option<&str>) -> usize {
        let mut known = self.known();
        let mut locks: Vec<Lock> = match resource {
            Some(resource) => known.of(resource, self.now()).cloned().collect(),
            None => known.locks.values().cloned().collect(),
        };
        // Or a waiter would be given what its holder leaves.
        locks.sort_by_key(|lock| lock.since().is_some());
        locks.iter().filter(|lock| known.end(lock)).count()
    }

    /// Puts away what has ended by itself; and what is to be written anew, if the register has become long.
    pub(super) fn sweep(&self) -> Option<Rewrite> {
        let (mut known, now) = (self.known(), self.now());
        while let Some((_, uid)) = known.ends.first().filter(|(ends, _)| *ends <= now).cloned() {
            known.remove(&uid);
        }
        let LockTableState { locks, register, ends, .. } = &mut *known;
        register.rewrite(ends.len(), locks.values().filter_map(entry))
    }

    /// The register was written anew.
    pub(super) fn rewritten(&self, rewrite: &Rewrite, written: io::Result<File>) {
        self.known().register.replace(rewrite, written);
    }

    fn now(&self) -> Time {
        self.gate.clock().now()
    }
}

/// What is noted of a lock that is held.
fn entry(lock: &Lock) -> Option<RegisterEntry> {
    let lifetime = i128::try_from(Duration::from_secs_f64(lock.request.lifetime).as_nanos()).ok()?;
    Some(RegisterEntry {
        uid: lock.uid.to_string(),
        resource: lock.request.resource.to_string(),
        title: lock.request.title.to_string(),
        wait: lock.request.wait,
        lifetime: lock.request.lifetime,
        until: lock.since()? + lifetime,
    })
}

impl LockTableState {
    fn insert(&mut self, lock: Lock) {
        if let Some(ends) = lock.ends() {
            self.ends.insert((ends, Arc::clone(&lock.uid)));
        }
        self.by_resource.entry(Arc::clone(&lock.request.resource)).or_default().push(Arc::clone(&lock.uid));
        self.locks.insert(Arc::clone(&lock.uid), lock);
    }

    fn remove(&mut self, uid: &Uid) {
        let Some(lock) = self.locks.remove(uid) else { return };
        if let Some(ends) = lock.ends() {
            self.ends.remove(&(ends, lock.uid));
        }
        if let Some(uids) = self.by_resource.get_mut(&lock.request.resource) {
            uids.retain(|other| other != uid);
            if uids.is_empty() {
                self.by_resource.remove(&lock.request.resource);
            }
        }
    }

    fn of(&self, resource: &str, now: Time) -> impl Iterator<Item = &Lock> {
        let uids = self.by_resource.get(resource).into_iter().flatten();
        uids.filter_map(|uid| self.locks.get(uid)).filter(move |lock| !lock.is_over(now))
    }

    /// Ends it, held or waited for; `false` if it had ended by itself.
    fn end(&mut self, lock: &Lock) -> bool {
        self.remove(&lock.uid);
        match &lock.state {
            LockState::Waits(ended) => {
                ended.notify_one();
                true
            }
            LockState::Held { lease, .. } => {
                self.register.end(&lock.uid);
                lease.end()
            }
        }
    }
}

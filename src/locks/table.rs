//! Lock table: locks that are held or waited for, by id and by resource.
//!
//! All methods are synchronous and take one lock, which is never held across an await. The gate has
//! the truth about each window; the table has titles, ids and expiry for listings, and may know an
//! expired lock until the next sweep.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::hash::Hasher;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use siphasher::sip128::{Hasher128, SipHasher13};
use tokio::sync::Notify;

use super::register::{Register, RegisterEntry, Rewrite};
use crate::gate::{Answer, Gate, Lease, Patience, Permit};
use crate::locker::{Caller, Claim, Key, LimitId};
use crate::time::Time;

/// Identifier of a lock: 32 hexadecimal digits of 128 random bits.
pub(super) type Uid = Arc<str>;

/// Request for a lock, checked.
///
/// Kept with the lock, for listings and the register.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct LockRequest {
    /// Name of 1 to 255 unreserved characters.
    pub(super) resource: Arc<str>,
    /// At most 1024 bytes.
    pub(super) title: Arc<str>,
    /// Longest wait, in seconds from 0 to a year.
    pub(super) wait: f64,
    /// Time until it expires, in seconds from 0.001 to a year.
    pub(super) lifetime: f64,
}

/// Lock that is held or waited for.
#[derive(Clone)]
pub(super) struct Lock {
    /// Part of its URL.
    pub(super) uid: Uid,
    /// The request that it answers.
    pub(super) request: LockRequest,
    state: LockState,
}

/// A lock is first waited for, unless it is free, then held, then gone.
#[derive(Clone)]
enum LockState {
    /// Notified if an operator ends it.
    Waits(Arc<Notify>),
    Held {
        lease: Lease,
        /// Time of its grant, in nanoseconds of Unix time.
        since: i128,
        /// Time of its expiry.
        ends: Time,
    },
}

impl Lock {
    /// Time of its grant in nanoseconds of Unix time; `None` while it is waited for.
    pub(super) fn since(&self) -> Option<i128> {
        match self.state {
            LockState::Waits(_) => None,
            LockState::Held { since, .. } => Some(since),
        }
    }

    /// Time of its expiry; `None` while it is waited for.
    fn ends(&self) -> Option<Time> {
        match self.state {
            LockState::Waits(_) => None,
            LockState::Held { ends, .. } => Some(ends),
        }
    }

    /// True if it has expired. Same clock as the gate's, without the gate's lock.
    fn is_over(&self, now: Time) -> bool {
        self.ends().is_some_and(|ends| ends <= now)
    }
}

/// All locks, with the gate that grants them.
pub(super) struct LockTable {
    /// Grants, queues and expires.
    gate: Arc<Gate>,
    /// Taken before the gate's own lock, never after it.
    known: Mutex<LockTableState>,
}

struct LockTableState {
    /// By id; the other maps hold ids of these alone.
    locks: HashMap<Uid, Lock>,
    /// Ids: the holder's first, then those of waiters in order of arrival.
    by_resource: BTreeMap<Arc<str>, Vec<Uid>>,
    /// Held locks by expiry.
    ends: BTreeSet<(Time, Uid)>,
    /// Written before a grant is answered.
    register: Register,
}

impl LockTable {
    /// Opens the register in `dir` and takes its unexpired locks again.
    ///
    /// # Errors
    /// If the register cannot be read or written.
    pub(super) fn open(dir: &Path, gate: &Arc<Gate>) -> io::Result<LockTable> {
        let (register, left) = Register::open(dir)?;
        let known =
            LockTableState { locks: HashMap::new(), by_resource: BTreeMap::new(), ends: BTreeSet::new(), register };
        let table = LockTable { gate: Arc::clone(gate), known: Mutex::new(known) };
        let wall = gate.clock().wall_unix_nanos();
        for entry in left {
            let request = LockRequest {
                resource: entry.resource.into(),
                title: entry.title.into(),
                wait: entry.wait,
                lifetime: entry.lifetime,
            };
            // At most its lifetime, however the wall clock was set since.
            let most = Duration::from_secs_f64(request.lifetime);
            let left = u64::try_from((entry.until - wall).max(0)).map_or(most, Duration::from_nanos).min(most);
            if left.is_zero() {
                continue;
            }
            let Answer::Go(permit) = table.ask(&request.resource, None) else {
                // The register names each resource once, and `MAX_RESOURCES` applied to them before.
                tracing::error!(
                    resource = &*request.resource,
                    "more locks in the register than are allowed; one is dropped"
                );
                continue;
            };
            let since = entry.until - i128::try_from(most.as_nanos()).unwrap_or(0);
            let ends = permit.granted_at() + left;
            let state = LockState::Held { lease: permit.lease(left), since, ends };
            table.known().insert(Lock { uid: entry.uid.into(), request, state });
        }
        Ok(table)
    }

    /// Locks the state.
    fn known(&self) -> MutexGuard<'_, LockTableState> {
        // A panic cannot leave it half changed: every change is complete before anything in it can fail.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the gate for the resource; `wait`: longest wait, `None` for the limit's own.
    pub(super) fn ask(&self, resource: &str, wait: Option<Duration>) -> Answer {
        let mut hasher = SipHasher13::new_with_key(&self.gate.seed());
        hasher.write(resource.as_bytes());
        let claim = Claim { limit: LimitId(0), key: Key(hasher.finish128().as_u128()), cost: 1 };
        self.gate.ask(&[claim], Caller(0), Patience { max_wait: wait, ..Patience::default() })
    }

    /// Adds a waiter. The result is notified if an operator ends the wait.
    pub(super) fn wait(&self, uid: &Uid, request: &LockRequest) -> Arc<Notify> {
        let ended = Arc::new(Notify::new());
        let state = LockState::Waits(Arc::clone(&ended));
        self.known().insert(Lock { uid: Arc::clone(uid), request: request.clone(), state });
        ended
    }

    /// Turns a waiter, or a new request, into a holder. The register is written first, so that a
    /// crash forgets no lock that a client was told of.
    ///
    /// # Errors
    /// If the register cannot be written; the lock is not held then.
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

    /// Removes a waiter; does nothing to a holder.
    ///
    /// Called when a handler's future is dropped.
    pub(super) fn forget(&self, uid: &Uid) {
        let mut known = self.known();
        if known.locks.get(uid).is_some_and(|lock| lock.since().is_none()) {
            known.remove(uid);
        }
    }

    /// Lock of this resource that has not expired.
    pub(super) fn find(&self, resource: &str, uid: &str) -> Option<Lock> {
        let (known, now) = (self.known(), self.now());
        known.locks.get(uid).filter(|lock| *lock.request.resource == *resource && !lock.is_over(now)).cloned()
    }

    /// Ends a lock. Returns false if there is none.
    ///
    /// A release is written to the register; the next waiter is granted at once.
    pub(super) fn end(&self, resource: &str, uid: &str) -> bool {
        let mut known = self.known();
        let found = known.locks.get(uid).filter(|lock| *lock.request.resource == *resource).cloned();
        found.is_some_and(|lock| known.end(&lock))
    }

    /// Locks of a resource: the holder, then the waiters in order of arrival.
    pub(super) fn of(&self, resource: &str) -> Vec<Lock> {
        self.known().of(resource, self.now()).cloned().collect()
    }

    /// Resources that are locked or waited for.
    ///
    /// In alphabetical order.
    pub(super) fn resources(&self) -> Vec<Arc<str>> {
        let (known, now) = (self.known(), self.now());
        known.by_resource.keys().filter(|resource| known.of(resource, now).next().is_some()).cloned().collect()
    }

    /// Ends all locks of one resource, or of all. Returns their number.
    pub(super) fn end_all(&self, resource: Option<&str>) -> usize {
        let mut known = self.known();
        let mut locks: Vec<Lock> = match resource {
            Some(resource) => known.of(resource, self.now()).cloned().collect(),
            None => known.locks.values().cloned().collect(),
        };
        // Waiters first, or one would be granted the lock that its holder releases.
        locks.sort_by_key(|lock| lock.since().is_some());
        locks.iter().filter(|lock| known.end(lock)).count()
    }

    /// Removes expired locks. Returns a rewrite if the register has become too long.
    pub(super) fn sweep(&self) -> Option<Rewrite> {
        let (mut known, now) = (self.known(), self.now());
        while let Some((_, uid)) = known.ends.first().filter(|(ends, _)| *ends <= now).cloned() {
            known.remove(&uid);
        }
        let LockTableState { locks, register, ends, .. } = &mut *known;
        register.rewrite(ends.len(), locks.values().filter_map(entry))
    }

    /// Takes the outcome of a rewrite.
    ///
    /// `written`: the new file, or the reason why there is none.
    pub(super) fn rewritten(&self, rewrite: &Rewrite, written: io::Result<File>) {
        self.known().register.replace(rewrite, written);
    }

    fn now(&self) -> Time {
        self.gate.clock().now()
    }
}

/// Register entry of a lock; `None` while it is waited for.
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
    /// Adds the lock to all maps.
    fn insert(&mut self, lock: Lock) {
        let uids = self.by_resource.entry(Arc::clone(&lock.request.resource)).or_default();
        match lock.ends() {
            Some(ends) => {
                self.ends.insert((ends, Arc::clone(&lock.uid)));
                uids.insert(0, Arc::clone(&lock.uid));
            }
            None => uids.push(Arc::clone(&lock.uid)),
        }
        self.locks.insert(Arc::clone(&lock.uid), lock);
    }

    /// Removes the lock from all maps; does nothing if it is unknown.
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

    /// Ends a lock or a wait. Returns false if the lock had expired.
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

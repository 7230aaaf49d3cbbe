//! DNS resolver: the system's getaddrinfo(3) on a thread pool of its own, shared fairly between
//! callers.
//!
//! getaddrinfo blocks its thread and cannot be cancelled: with a name server that does not answer,
//! it takes ten seconds or more, long after its caller has gone. So lookups share no thread with
//! other work, each caller has at most a fair share of the threads, and lookups in a dead zone
//! delay only lookups of the same caller in that zone.

mod fair_share;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use self::fair_share::{FairShare, ThreadToken};

/// Maximum number of simultaneous lookups; each occupies a thread.
const MAX_LOOKUPS: usize = 64;
/// Maximum number of simultaneous lookups of one caller, while few others have any: a quarter of
/// [`MAX_LOOKUPS`].
const MAX_PER_CALLER: usize = 16;
/// Maximum number of simultaneous lookups of one caller in one zone, so that a dead zone leaves
/// threads for other zones: half of [`MAX_PER_CALLER`].
const MAX_PER_ZONE: usize = 8;
/// Time for which a failed lookup is cached, so that a name in heavy use does not query a dead
/// server without pause: the minimum of RFC 9520 §3.2.
const FAILURE_TTL: Duration = Duration::from_secs(1);
/// Maximum number of cached failures: callers choose the names, so the cache needs a bound.
const MAX_FAILURES: usize = 1024;
/// Maximum number of addresses of a name; the rest of a response is dropped. The owner of the name
/// chooses their number.
const MAX_ADDRESSES: usize = 64;
/// Minimum number of keys at which [`KeyedSemaphores`] removes unused ones.
const MIN_SWEEP: usize = 256;

/// Interpretation of a name that has no final dot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Lookup {
    /// An absolute name (RFC 1034 §3.1): not completed by the search list of resolv.conf(5). Names
    /// in hosts(5) have the address given there.
    Absolute,
    /// As the system interprets it, with its search list.
    Searched,
}

/// Error of a lookup, shared by all requests that waited for it.
///
/// Cheap to clone; `Display` is the system's text.
#[derive(Clone, Debug)]
pub struct LookupFailure(Arc<io::Error>);

impl LookupFailure {
    /// The system's error.
    pub fn error(&self) -> &io::Error {
        &self.0
    }
}

impl fmt::Display for LookupFailure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl std::error::Error for LookupFailure {}

impl From<io::Error> for LookupFailure {
    fn from(error: io::Error) -> LookupFailure {
        LookupFailure(Arc::new(error))
    }
}

/// The addresses of a name, with port 0; at least one.
type LookupResult = Result<Arc<[SocketAddr]>, LookupFailure>;

/// Blocking lookup of a name exactly as it is spelled.
type SystemLookup = Arc<dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// Resolver of the process, with its threads and its cache of failures.
pub struct Resolver {
    /// The system's resolver, or a fake one in tests.
    system: SystemLookup,
    /// Path of the hosts(5) file, read at each lookup.
    hosts: PathBuf,
    /// Threads on which getaddrinfo blocks.
    threads: LookupThreads,
    /// Tokens of the lookup threads, shared fairly between callers.
    tokens: Arc<FairShare>,
    /// Bounds the lookups by (caller, zone).
    zones: KeyedSemaphores<(u64, Box<str>)>,
    /// Running lookups and failures, under one lock.
    table: Mutex<LookupTable>,
}

/// Running lookups, and cached failures.
#[derive(Default)]
struct LookupTable {
    /// Running lookups, with the receiver of their result; cached failures, with their result.
    known: HashMap<LookupKey, watch::Receiver<Option<LookupResult>>>,
    /// Number of cached failures, at most [`MAX_FAILURES`].
    failures: usize,
}

/// Key of a lookup; simultaneous lookups with equal keys are merged.
#[derive(Clone, PartialEq, Eq, Hash)]
struct LookupKey {
    /// Name as asked for, in lower case, without a final dot.
    name: Box<str>,
    /// Interpretation of the name: the two kinds share no result.
    lookup: Lookup,
}

impl Resolver {
    /// A resolver that calls getaddrinfo.
    ///
    /// # Errors
    /// If the runtime of its threads cannot be created.
    pub fn new() -> io::Result<Arc<Resolver>> {
        let system = |name: &str| (name, 0).to_socket_addrs().map(Iterator::collect);
        Resolver::with_system(Arc::new(system), PathBuf::from("/etc/hosts"))
    }

    /// A resolver that calls `system`. `hosts`: path of the hosts(5) file.
    pub(super) fn with_system(system: SystemLookup, hosts: PathBuf) -> io::Result<Arc<Resolver>> {
        Ok(Arc::new(Resolver {
            system,
            hosts,
            threads: LookupThreads::new()?,
            tokens: FairShare::new(MAX_LOOKUPS, MAX_PER_CALLER),
            zones: KeyedSemaphores::new(MAX_PER_ZONE),
            table: Mutex::default(),
        }))
    }

    /// Looks up the addresses of `name`; returns at least one. Simultaneous lookups of equal names
    /// are merged. `caller`: number of the caller, for the fair share of threads.
    ///
    /// Order of the steps: join a running lookup or a cached failure; wait for room in the zone;
    /// wait for a thread; look up. Successes are not cached: that is the task of the system's
    /// resolver or name server.
    ///
    /// # Errors
    /// The system's error: no address found, or no name server reached.
    ///
    /// # Cancel safety
    /// Cancel safe. A lookup that has begun continues, and occupies a thread of its caller's share
    /// until it ends.
    pub(super) async fn resolve(self: &Arc<Self>, name: &str, lookup: Lookup, caller: u64) -> LookupResult {
        let key = LookupKey { name: name.into(), lookup };
        let known = self.lock().known.get(&key).cloned();
        let mut receiver = match known {
            Some(receiver) => receiver,
            None => {
                // The zone comes first: while waiting for a dead zone the caller occupies no thread that other zones need.
                let zone = self.zones.acquire((caller, zone_of(name).into())).await;
                let token = self.tokens.acquire(caller).await;
                self.start_lookup(key, (zone, token))
            }
        };
        let answer = receiver.wait_for(Option::is_some).await.map(|answer| answer.clone());
        let gone = || Err(io::Error::other("the gateway is shutting down").into());
        answer.ok().flatten().unwrap_or_else(gone)
    }

    /// Looks an absolute name up, to find out if it has an address.
    ///
    /// # Errors
    /// As for a request to that host.
    pub async fn check(self: &Arc<Self>, name: &str) -> Result<(), LookupFailure> {
        self.resolve(name, Lookup::Absolute, 0).await.map(|_| ())
    }

    /// Starts a lookup, unless an equal one runs by now. `room` is released when the lookup's
    /// thread is free again.
    fn start_lookup(
        self: &Arc<Self>,
        key: LookupKey,
        room: (OwnedSemaphorePermit, ThreadToken),
    ) -> watch::Receiver<Option<LookupResult>> {
        let mut table = self.lock();
        if let Some(receiver) = table.known.get(&key) {
            return receiver.clone();
        }
        let (sender, receiver) = watch::channel(None);
        table.known.insert(key.clone(), receiver.clone());
        tokio::spawn(Arc::clone(self).run_lookup(key, room, sender));
        receiver
    }

    /// Runs a lookup on a thread of the pool, and publishes its result to all waiting requests.
    async fn run_lookup(
        self: Arc<Self>,
        key: LookupKey,
        room: (OwnedSemaphorePermit, ThreadToken),
        sender: watch::Sender<Option<LookupResult>>,
    ) {
        let (resolver, asked) = (Arc::clone(&self), key.clone());
        let looking = self.threads.spawn(move || {
            let _until_it_ends = room;
            resolver.query_system(&asked)
        });
        let answer = looking.await.unwrap_or_else(|error| Err(io::Error::other(error).into()));
        let is_kept = answer.as_ref().is_err_and(|failure| !is_exhausted(failure.error())) && self.keep_failure();
        if is_kept {
            sender.send_replace(Some(answer));
            // `pending` never ends, so this is a sleep.
            timeout(FAILURE_TTL, std::future::pending::<()>()).await.ok();
            let mut table = self.lock();
            table.known.remove(&key);
            table.failures -= 1;
        } else {
            self.lock().known.remove(&key);
            sender.send_replace(Some(answer));
        }
    }

    /// Reserves room in the cache for a failure; false if it is full.
    fn keep_failure(&self) -> bool {
        let mut table = self.lock();
        let has_room = table.failures < MAX_FAILURES;
        table.failures += usize::from(has_room);
        has_room
    }

    /// Calls the system's resolver. Blocks the thread.
    fn query_system(&self, key: &LookupKey) -> LookupResult {
        let mut addresses = (self.system)(&self.query_name(key))?;
        addresses.truncate(MAX_ADDRESSES);
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into());
        }
        Ok(addresses.into())
    }

    /// Spelling of a name for the system's resolver: an absolute name ends with a dot. But names in
    /// hosts(5) have no final dot, and that file comes first everywhere (nsswitch.conf(5)).
    fn query_name<'q>(&self, key: &'q LookupKey) -> Cow<'q, str> {
        let name = &*key.name;
        let is_as_it_is = key.lookup == Lookup::Searched
            || name.is_empty()
            || std::fs::read(&self.hosts).is_ok_and(|hosts| hosts_file_names(&hosts, name));
        if is_as_it_is { name.into() } else { format!("{name}.").into() }
    }

    fn lock(&self) -> MutexGuard<'_, LookupTable> {
        // No change of the table can panic half way.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True if the gateway is out of descriptors, memory or threads; a retry may succeed at once.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    // Without EADDRNOTAVAIL ("no local port left"): a machine without IPv6 returns it for every IPv6 address.
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN)
    )
}

/// True if a line of the hosts(5) file contains the name.
fn hosts_file_names(hosts: &[u8], name: &str) -> bool {
    hosts.split(|byte| *byte == b'\n').any(|line| {
        let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        // Skips the address.
        words.next();
        words.any(|word| word.eq_ignore_ascii_case(name.as_bytes()))
    })
}

/// Zone of a name: its last two labels, which have one owner in most cases.
///
/// `a.b.example.com` has the zone `example.com`, and `localhost` is its own.
fn zone_of(name: &str) -> &str {
    name.rmatch_indices('.').nth(1).map_or(name, |(dot, _)| &name[dot + 1..])
}

/// A semaphore for each key, with `each` permits; waiters are served in their order of arrival.
///
/// A semaphore lives while a permit or a waiter of it exists.
struct KeyedSemaphores<K> {
    /// Number of permits of each semaphore.
    each: usize,
    /// Semaphores by key, and the number of keys at which unused ones are removed next.
    all: Mutex<(HashMap<K, Weak<Semaphore>>, usize)>,
}

impl<K: Eq + Hash> KeyedSemaphores<K> {
    fn new(each: usize) -> KeyedSemaphores<K> {
        KeyedSemaphores { each, all: Mutex::new((HashMap::new(), MIN_SWEEP)) }
    }

    /// # Cancel safety
    /// Cancel safe: dropping the future leaves the queue.
    async fn acquire(&self, key: K) -> OwnedSemaphorePermit {
        self.semaphore(key).acquire_owned().await.expect("it is never closed")
    }

    /// Semaphore of a key, created if there is none. Sweeps cost constant time per call on average,
    /// since the threshold doubles with the number of keys in use.
    fn semaphore(&self, key: K) -> Arc<Semaphore> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let (semaphores, sweep) = &mut *all;
        if let Some(semaphore) = semaphores.get(&key).and_then(Weak::upgrade) {
            return semaphore;
        }
        if semaphores.len() >= *sweep {
            semaphores.retain(|_, semaphore| semaphore.strong_count() > 0);
            *sweep = MIN_SWEEP.max(semaphores.len() * 2);
        }
        let semaphore = Arc::new(Semaphore::new(self.each));
        semaphores.insert(key, Arc::downgrade(&semaphore));
        semaphore
    }
}

/// Thread pool for lookups: the blocking threads of a runtime of its own. It starts threads on
/// demand, and ends those that were idle for some seconds (10 s in tokio).
struct LookupThreads(Option<Runtime>);

impl LookupThreads {
    /// # Errors
    /// If the runtime cannot be created (no file descriptor for its poll).
    fn new() -> io::Result<LookupThreads> {
        let runtime = Builder::new_current_thread().max_blocking_threads(MAX_LOOKUPS).thread_name("lookup").build()?;
        Ok(LookupThreads(Some(runtime)))
    }

    async fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, tokio::task::JoinError> {
        self.0.as_ref().expect("it is there until it is dropped").spawn_blocking(work).await
    }
}

impl Drop for LookupThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A running lookup cannot be cancelled; its result is dropped.
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests;

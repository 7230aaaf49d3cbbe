//! Name lookups (DNS): the system's resolver, called on threads of its own, few at one time for each caller.
//!
//! getaddrinfo(3) blocks its thread and cannot be cancelled: with a name server that does not answer it takes ten seconds
//! or more, long after its caller has gone. So lookups share no thread with other work, each caller has a fair
//! share of the threads at most, and lookups in a dead zone hold up only lookups of the same caller in that zone.

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

/// The most lookups at one time: each occupies a thread.
const MAX_LOOKUPS: usize = 64;
/// The most of them for one caller, when few others have any: a quarter.
const MAX_PER_CALLER: usize = 16;
/// The most of those in one zone, so that a dead zone leaves its caller threads for other zones.
const MAX_PER_ZONE: usize = 8;
/// The time that a failure is remembered, so that a name in heavy use does not ask a dead server without pause: the least
/// that RFC 9520 §3.2 wants.
const FAILURE_TTL: Duration = Duration::from_secs(1);
/// The most failures that are remembered: callers choose the names.
const MAX_FAILURES: usize = 1024;
/// The most addresses of a name that are looked at. An answer holds as many as its owner likes.
const MAX_ADDRESSES: usize = 64;
/// The number of keys that [`KeyedSemaphores`] keeps before it looks which of them are still in use.
const MIN_SWEEP: usize = 256;

/// The way a name is read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Lookup {
    /// As an absolute name (RFC 1034 §3.1), which the search list of resolv.conf(5) does not complete. A name in hosts(5)
    /// means the address there.
    Absolute,
    /// As the system reads it, with its search list.
    Searched,
}

/// The reason that a name has no address; all that asked for it at one time get the same.
#[derive(Clone, Debug)]
pub struct LookupFailure(Arc<io::Error>);

impl LookupFailure {
    /// The error of the system.
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

/// A name's addresses, of port 0; or why there are none.
type LookupResult = Result<Arc<[SocketAddr]>, LookupFailure>;

/// Looks up the addresses of a name exactly as it is spelled.
type SystemLookup = Arc<dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// Name lookup for the whole process.
pub struct Resolver {
    system: SystemLookup,
    hosts: PathBuf,
    threads: LookupThreads,
    places: Arc<FairShare>,
    zones: KeyedSemaphores<(u64, Box<str>)>,
    table: Mutex<LookupTable>,
}

/// Lookups that run, and those that have failed a moment ago.
#[derive(Default)]
struct LookupTable {
    known: HashMap<LookupKey, watch::Receiver<Option<LookupResult>>>,
    failures: usize,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct LookupKey {
    name: Box<str>,
    lookup: Lookup,
}

impl Resolver {
    /// The system's resolver.
    ///
    /// # Errors
    /// If there can be no threads for it.
    pub fn new() -> io::Result<Arc<Resolver>> {
        let system = |name: &str| (name, 0).to_socket_addrs().map(Iterator::collect);
        Resolver::with_system(Arc::new(system), PathBuf::from("/etc/hosts"))
    }

    /// `hosts`: the file whose names are known without a name server (hosts(5)).
    pub(super) fn with_system(system: SystemLookup, hosts: PathBuf) -> io::Result<Arc<Resolver>> {
        Ok(Arc::new(Resolver {
            system,
            hosts,
            threads: LookupThreads::new()?,
            places: FairShare::new(MAX_LOOKUPS, MAX_PER_CALLER),
            zones: KeyedSemaphores::new(MAX_PER_ZONE),
            table: Mutex::default(),
        }))
    }

    /// The addresses of `name`, at least one; equal names that are asked for at one time are looked up once. `caller`: a
    /// number for the one that asks.
    ///
    /// # Errors
    /// The system's: it knows no address, or cannot ask.
    ///
    /// # Cancel safety
    /// Cancel safe. A lookup that has begun goes on, and occupies its caller's place until it ends.
    pub(super) async fn resolve(self: &Arc<Self>, name: &str, lookup: Lookup, caller: u64) -> LookupResult {
        let question = LookupKey { name: name.into(), lookup };
        let known = self.lock().known.get(&question).cloned();
        let mut receiver = match known {
            Some(receiver) => receiver,
            None => {
                // The zone first: a wait for a dead one occupies no place that other zones need.
                let zone = self.zones.acquire((caller, zone_of(name).into())).await;
                let place = self.places.acquire(caller).await;
                self.start_lookup(question, (zone, place))
            }
        };
        let answer = receiver.wait_for(Option::is_some).await.map(|answer| answer.clone());
        let gone = || Err(io::Error::other("the gateway ends").into());
        answer.ok().flatten().unwrap_or_else(gone)
    }

    /// Begins a lookup, unless one runs by now. Its `room` is given back when its thread is free again.
    fn start_lookup(
        self: &Arc<Self>,
        question: LookupKey,
        room: (OwnedSemaphorePermit, ThreadToken),
    ) -> watch::Receiver<Option<LookupResult>> {
        let mut table = self.lock();
        if let Some(receiver) = table.known.get(&question) {
            return receiver.clone();
        }
        let (sender, receiver) = watch::channel(None);
        table.known.insert(question.clone(), receiver.clone());
        tokio::spawn(Arc::clone(self).run_lookup(question, room, sender));
        receiver
    }

    async fn run_lookup(
        self: Arc<Self>,
        question: LookupKey,
        room: (OwnedSemaphorePermit, ThreadToken),
        sender: watch::Sender<Option<LookupResult>>,
    ) {
        let (resolver, asked) = (Arc::clone(&self), question.clone());
        let looking = self.threads.spawn(move || {
            let _until_it_ends = room;
            resolver.query_system(&asked)
        });
        let answer = looking.await.unwrap_or_else(|error| Err(io::Error::other(error).into()));
        let is_kept = answer.as_ref().is_err_and(|failure| !is_exhausted(failure.error())) && self.keep_failure();
        if is_kept {
            sender.send_replace(Some(answer));
            // Never ready, so this is a sleep.
            timeout(FAILURE_TTL, std::future::pending::<()>()).await.ok();
            let mut table = self.lock();
            table.known.remove(&question);
            table.failures -= 1;
        } else {
            self.lock().known.remove(&question);
            sender.send_replace(Some(answer));
        }
    }

    /// Takes the room for another failure, if there is some.
    fn keep_failure(&self) -> bool {
        let mut table = self.lock();
        let has_room = table.failures < MAX_FAILURES;
        table.failures += usize::from(has_room);
        has_room
    }

    /// Blocks its thread.
    fn query_system(&self, question: &LookupKey) -> LookupResult {
        let mut addresses = (self.system)(&self.query_name(question))?;
        addresses.truncate(MAX_ADDRESSES);
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into());
        }
        Ok(addresses.into())
    }

    /// The name as the system is asked for it: one that ends with a dot is absolute. But hosts(5) knows no names with a dot
    /// at their end, and is looked into first everywhere (nsswitch.conf(5)).
    fn query_name<'q>(&self, question: &'q LookupKey) -> Cow<'q, str> {
        let name = &*question.name;
        let is_as_it_is = question.lookup == Lookup::Searched
            || name.is_empty()
            || std::fs::read(&self.hosts).is_ok_and(|hosts| hosts_file_names(&hosts, name));
        if is_as_it_is { name.into() } else { format!("{name}.").into() }
    }

    fn lock(&self) -> MutexGuard<'_, LookupTable> {
        // A panic elsewhere cannot leave the table half changed.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True if the gateway itself has run out of something; another try may go better at once.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    // EADDRNOTAVAIL, "no local port left", is not among them: a machine without IPv6 says the same of every IPv6
    // address.
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN)
    )
}

/// True if a line of hosts(5) bears the name.
fn hosts_file_names(hosts: &[u8], name: &str) -> bool {
    hosts.split(|byte| *byte == b'\n').any(|line| {
        let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        // The address.
        words.next();
        words.any(|word| word.eq_ignore_ascii_case(name.as_bytes()))
    })
}

/// The last two labels of a name: the zone of one owner, in most cases.
fn zone_of(name: &str) -> &str {
    name.rmatch_indices('.').nth(1).map_or(name, |(dot, _)| &name[dot + 1..])
}

/// Semaphores by key: at most `each` at one time; the others wait, first come, first served.
struct KeyedSemaphores<K> {
    each: usize,
    all: Mutex<(HashMap<K, Weak<Semaphore>>, usize)>,
}

impl<K: Eq + Hash> KeyedSemaphores<K> {
    fn new(each: usize) -> KeyedSemaphores<K> {
        KeyedSemaphores { each, all: Mutex::new((HashMap::new(), MIN_SWEEP)) }
    }

    async fn acquire(&self, key: K) -> OwnedSemaphorePermit {
        self.semaphore(key).acquire_owned().await.expect("it is never closed")
    }

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

/// Threads for blocking calls: those of a runtime on which nothing else runs. It starts them on demand, and ends those that
/// were idle for some seconds.
struct LookupThreads(Option<Runtime>);

impl LookupThreads {
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
            // A lookup cannot be cancelled; its answer is dropped.
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests;

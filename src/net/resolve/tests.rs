//! Tests of the resolver: lookups that hang until the test releases them, merged lookups, cached
//! failures.

use std::collections::HashSet;
use std::sync::Condvar;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Fake system resolver: answers names that begin with `live` at once, those with `dead` after a
/// release, and no others.
#[derive(Default)]
struct FakeResolver {
    asked: Mutex<Vec<String>>,
    running: AtomicUsize,
    most: AtomicUsize,
    released: Mutex<bool>,
    release: Condvar,
}

impl FakeResolver {
    fn new() -> (Arc<FakeResolver>, Arc<Resolver>) {
        let world = Arc::new(FakeResolver::default());
        let system = Arc::clone(&world);
        (world, Resolver::with_system(Arc::new(move |name| system.look(name)), PathBuf::new()).unwrap())
    }

    fn look(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        self.asked.lock().unwrap().push(name.to_owned());
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        if name.starts_with("dead") {
            let released = self.release.wait_while(self.released.lock().unwrap(), |released| !*released);
            drop(released.unwrap());
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        match name.starts_with("live") || name.starts_with("dead") {
            true => Ok(vec!["192.0.2.1:0".parse().unwrap()]),
            false => Err(io::Error::other("no such name")),
        }
    }

    fn release(&self) {
        *self.released.lock().unwrap() = true;
        self.release.notify_all();
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

/// Releases all lookups when dropped: a thread that still hangs when a test fails would keep its
/// process from ending.
struct ReleaseOnDrop(Arc<FakeResolver>);

impl Drop for ReleaseOnDrop {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// Looks a name up in a task of its own.
fn ask(resolver: &Arc<Resolver>, name: &str, caller: u64) -> tokio::task::JoinHandle<LookupResult> {
    let (resolver, name) = (Arc::clone(resolver), name.to_owned());
    tokio::spawn(async move { resolver.resolve(&name, Lookup::Absolute, caller).await })
}

/// Waits until `holds` is true; only a hang is slower than this, however busy the machine.
async fn until(mut holds: impl FnMut() -> bool) {
    let holding = async {
        while !holds() {
            tokio::task::yield_now().await;
            std::thread::yield_now();
        }
    };
    timeout(Duration::from_secs(30), holding).await.expect("it never holds");
}

#[tokio::test]
async fn names_that_are_asked_for_at_one_time_are_looked_up_once() {
    let (world, resolver) = FakeResolver::new();
    let released = ReleaseOnDrop(Arc::clone(&world));
    let asking: Vec<_> = (0..100).map(|caller| ask(&resolver, "dead.example", caller % 3)).collect();
    until(|| world.asked() == 1).await;
    ask(&resolver, "live.example", 0).await.unwrap().unwrap();
    drop(released);
    for one in asking {
        assert_eq!(one.await.unwrap().unwrap().len(), 1);
    }
    assert_eq!(*world.asked.lock().unwrap(), ["dead.example.", "live.example."]);
    ask(&resolver, "live.example", 0).await.unwrap().unwrap();
    assert_eq!(world.asked(), 3, "an answer is kept no longer than it is waited for");
}

#[tokio::test]
async fn a_caller_with_nothing_but_dead_names_leaves_the_others_their_lookups() {
    let (world, resolver) = FakeResolver::new();
    let _released = ReleaseOnDrop(Arc::clone(&world));
    let asking: Vec<_> = (0..200).map(|n| ask(&resolver, &format!("dead.{n}.example{}", n % 20), 1)).collect();
    until(|| world.running.load(Ordering::SeqCst) == MAX_PER_CALLER).await;
    for n in 0..50 {
        ask(&resolver, &format!("live.{n}.example0"), 2).await.unwrap().unwrap();
    }
    assert_eq!(world.running.load(Ordering::SeqCst), MAX_PER_CALLER);
    assert!(asking.iter().all(|one| !one.is_finished()));
}

#[tokio::test]
async fn many_callers_with_nothing_but_dead_names_leave_the_others_a_lookup_too() {
    for callers in [4, 8, 30] {
        let (world, resolver) = FakeResolver::new();
        let _released = ReleaseOnDrop(Arc::clone(&world));
        let asking: Vec<_> =
            (0..600).map(|n| ask(&resolver, &format!("dead.{n}.example{}", n % 7), n % callers)).collect();
        until(|| world.running.load(Ordering::SeqCst) >= MAX_LOOKUPS - MAX_PER_CALLER).await;
        for n in 0..50 {
            ask(&resolver, &format!("live.{n}.example0"), callers).await.unwrap().unwrap();
        }
        assert!(asking.iter().all(|one| !one.is_finished()));
    }
}

#[tokio::test]
async fn a_dead_zone_leaves_its_caller_the_other_zones() {
    let (world, resolver) = FakeResolver::new();
    let _released = ReleaseOnDrop(Arc::clone(&world));
    let asking: Vec<_> = (0..200).map(|n| ask(&resolver, &format!("dead{n}.tarpit.example"), 1)).collect();
    until(|| world.running.load(Ordering::SeqCst) == MAX_PER_ZONE).await;
    ask(&resolver, "live.other.example", 1).await.unwrap().unwrap();
    ask(&resolver, "live.tarpit.example", 2).await.unwrap().unwrap();
    assert!(asking.iter().all(|one| !one.is_finished()));
}

#[tokio::test]
async fn there_are_never_more_threads_than_places() {
    let (world, resolver) = FakeResolver::new();
    let released = ReleaseOnDrop(Arc::clone(&world));
    let asking: Vec<_> = (0..300).map(|n| ask(&resolver, &format!("dead.{n}.zone{n}"), n % 100)).collect();
    until(|| world.running.load(Ordering::SeqCst) == MAX_LOOKUPS).await;
    drop(released);
    for one in asking {
        one.await.unwrap().unwrap();
    }
    assert_eq!(world.most.load(Ordering::SeqCst), MAX_LOOKUPS);
    let asked: HashSet<String> = world.asked.lock().unwrap().iter().cloned().collect();
    assert_eq!((asked.len(), world.asked()), (300, 300), "each was looked up, and once");
}

#[test]
fn what_else_blocks_finds_a_thread_while_names_are_dead_and_the_other_way_round() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    let (world, resolver) = FakeResolver::new();
    let _released = ReleaseOnDrop(Arc::clone(&world));
    runtime.block_on(async {
        let _asking: Vec<_> = (0..300).map(|n| ask(&resolver, &format!("dead.{n}.zone{n}"), n % 100)).collect();
        until(|| world.running.load(Ordering::SeqCst) == MAX_LOOKUPS).await;
        // A password, or a certificate.
        tokio::task::spawn_blocking(|| ()).await.unwrap();
    });
    let (_free, busy) = std::sync::mpsc::channel::<()>();
    runtime.spawn_blocking(move || busy.recv());
    let (_world, resolver) = FakeResolver::new();
    runtime.block_on(ask_here(&resolver, "live.example")).unwrap();
    runtime.shutdown_background();
}

async fn ask_here(resolver: &Arc<Resolver>, name: &str) -> LookupResult {
    resolver.resolve(name, Lookup::Absolute, 0).await
}

#[tokio::test]
async fn a_caller_that_hangs_up_does_not_get_the_places_back_that_its_lookups_still_occupy() {
    let (world, resolver) = FakeResolver::new();
    let _released = ReleaseOnDrop(Arc::clone(&world));
    for round in 0..5 {
        let asking: Vec<_> = (0..100).map(|n| ask(&resolver, &format!("dead{n}.{round}.example"), 1)).collect();
        let enough = if round == 0 { MAX_PER_ZONE } else { MAX_PER_CALLER };
        until(|| world.running.load(Ordering::SeqCst) >= enough || round > 1).await;
        asking.iter().for_each(tokio::task::JoinHandle::abort);
        for one in asking {
            assert!(one.await.is_err_and(|error| error.is_cancelled()));
        }
    }
    assert_eq!(world.running.load(Ordering::SeqCst), MAX_PER_CALLER);
    assert_eq!(world.asked(), MAX_PER_CALLER, "what was given up in line was never asked for");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_remembered_for_a_second() {
    let (world, resolver) = FakeResolver::new();
    for _ in 0..3 {
        let failed = resolver.resolve("no.such.name", Lookup::Absolute, 0).await.unwrap_err();
        assert_eq!(failed.to_string(), "no such name");
        assert_eq!(world.asked(), 1);
    }
    tokio::time::advance(FAILURE_TTL + Duration::from_millis(1)).await;
    until(|| resolver.lock().known.is_empty()).await;
    resolver.resolve("no.such.name", Lookup::Absolute, 0).await.unwrap_err();
    assert_eq!(world.asked(), 2);
    assert_eq!(resolver.lock().failures, 1);
}

#[tokio::test]
async fn no_more_failures_are_remembered_than_there_is_room_for() {
    let (world, resolver) = FakeResolver::new();
    for n in 0..MAX_FAILURES + 5 {
        resolver.resolve(&format!("no.{n}"), Lookup::Absolute, 0).await.unwrap_err();
    }
    let table = resolver.lock();
    assert!(table.failures <= MAX_FAILURES && table.known.len() == table.failures);
    assert_eq!(world.asked(), MAX_FAILURES + 5);
}

#[test]
fn what_a_lack_of_our_own_failed_is_not_remembered() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let system = |_: &str| Err(rustix::io::Errno::MFILE.into());
    let resolver = Resolver::with_system(Arc::new(system), PathBuf::new()).unwrap();
    let failed = runtime.block_on(resolver.resolve("live.example", Lookup::Absolute, 0)).unwrap_err();
    assert!(is_exhausted(failed.error()), "{failed}");
    assert!(resolver.lock().known.is_empty());
}

#[tokio::test]
async fn a_name_without_addresses_does_not_resolve_and_one_with_thousands_has_a_few() {
    let none = Resolver::with_system(Arc::new(|_: &str| Ok(Vec::new())), PathBuf::new()).unwrap();
    none.resolve("live.example", Lookup::Absolute, 0).await.unwrap_err();
    let address: SocketAddr = "192.0.2.1:0".parse().unwrap();
    let many = Resolver::with_system(Arc::new(move |_: &str| Ok(vec![address; 3000])), PathBuf::new()).unwrap();
    assert_eq!(many.resolve("live.example", Lookup::Absolute, 0).await.unwrap().len(), MAX_ADDRESSES);
}

/// A hosts file of one test; removed when dropped.
struct HostsFile(PathBuf);

impl Drop for HostsFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

/// The names that a resolver with this hosts file passes to the system, and the resolver.
fn spelling(hosts: &str) -> (Arc<Mutex<Vec<String>>>, Arc<Resolver>, HostsFile) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let file = format!("lockgate-hosts-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
    let path = std::env::temp_dir().join(file);
    std::fs::write(&path, hosts).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let system = Arc::clone(&asked);
    let look = move |name: &str| {
        system.lock().unwrap().push(name.to_owned());
        Ok(vec!["192.0.2.1:0".parse().unwrap()])
    };
    (asked, Resolver::with_system(Arc::new(look), path.clone()).unwrap(), HostsFile(path))
}

#[tokio::test]
async fn names_are_absolute_so_that_no_search_list_gives_a_host_a_second_spelling() {
    let (asked, resolver, _file) = spelling("");
    for name in ["payments", "payments.prod", "payments.prod.svc.cluster.local"] {
        resolver.resolve(name, Lookup::Absolute, 0).await.unwrap();
    }
    assert_eq!(*asked.lock().unwrap(), ["payments.", "payments.prod.", "payments.prod.svc.cluster.local."]);
}

#[tokio::test]
async fn a_name_of_the_hosts_file_is_what_that_says() {
    let hosts =
        "127.0.0.1\tlocalhost # a.comment\n::1 localhost ip6-localhost\n\n10.0.0.7  db.internal  DB\r\n#1.1.1.1 off";
    let (asked, resolver, _file) = spelling(hosts);
    for name in ["localhost", "ip6-localhost", "db.internal", "db", "a.comment", "off", "10.0.0.7.x"] {
        resolver.resolve(name, Lookup::Absolute, 0).await.unwrap();
    }
    let expected = ["localhost", "ip6-localhost", "db.internal", "db", "a.comment.", "off.", "10.0.0.7.x."];
    assert_eq!(*asked.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_name_that_may_be_completed_is_asked_for_as_it_is_and_apart_from_the_absolute_one() {
    let (asked, resolver, _file) = spelling("");
    for lookup in [Lookup::Searched, Lookup::Absolute] {
        resolver.resolve("payments", lookup, 0).await.unwrap();
    }
    assert_eq!(*asked.lock().unwrap(), ["payments", "payments."]);
}

#[tokio::test]
async fn the_systems_own_hosts_file_is_found() {
    let found = Resolver::new().unwrap().resolve("localhost", Lookup::Absolute, 0).await.unwrap();
    assert!(found.iter().all(|address| address.ip().is_loopback()), "{found:?}");
}

#[test]
fn a_zone_is_what_the_last_two_labels_say() {
    assert_eq!(zone_of("a.b.example.com"), "example.com");
    assert_eq!(zone_of("example.com"), "example.com");
    assert_eq!(zone_of("localhost"), "localhost");
}

#[tokio::test]
async fn quotas_that_are_not_in_use_are_forgotten() {
    let semaphores = KeyedSemaphores::new(1);
    let kept = semaphores.acquire(u64::MAX).await;
    for key in 0..1_000_u64 {
        drop(semaphores.acquire(key).await);
    }
    assert!(semaphores.all.lock().unwrap().0.len() <= MIN_SWEEP);
    drop(kept);
    drop(semaphores.acquire(u64::MAX).await);
}

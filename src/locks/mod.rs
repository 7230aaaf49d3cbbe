//! LOCKS what is no limit of requests: one holder of a resource at a time, for a time, over a small REST API, that of
//! restful-distributed-lock-manager.
//!
//! A resource is a window of the locker with room for one request under way, so waiters stand in the same kind of line: in
//! the order of their arrival, forgotten when they hang up, and woken when the holder's time is over. Who holds what
//! outlives the process (`register`).

mod calls;
mod hal;
mod register;
mod table;

use std::io;
use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use ipnet::IpNet;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use self::table::LockTable;
use crate::gate::Gate;
use crate::gate::clock::Clock;
use crate::lobby;
use crate::locker::{Limit, Priority, ShareBy, WhenFull};
use crate::net::listen::Listener;
use crate::net::prefix::Ipv6Prefix;
use crate::proxy::password::Passwords;

/// How many connections there may be at one time: each waiter has one.
const MAX_CONNECTIONS: usize = 10_000;
/// How many resources may be locked or waited for.
const MAX_RESOURCES: usize = 1_000_000;
/// The largest body.
const MAX_BODY: usize = 64 << 10;
/// How often what has ended by itself is put away.
const SWEEP: Duration = Duration::from_secs(1);
/// The longest that anybody may wait or hold.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// Who may lock, and where it is kept; the `[locks]` of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockSettings {
    /// Names and bcrypt hashes of those who may see and end other people's locks; `None`: nobody.
    pub users: Option<Vec<(String, String)>>,
    /// Who may come; `None`: everybody.
    pub allow_from: Option<Vec<IpNet>>,
    /// The folder that holds what must outlive a restart.
    pub dir: PathBuf,
}

/// Whoever locks is served by it.
struct LockApi {
    gate: Arc<Gate>,
    table: LockTable,
    passwords: Option<Passwords>,
    allow_from: Option<Vec<IpNet>>,
    /// Whether it listens on loopback, where it has no other names than those of loopback.
    on_loopback: bool,
    over: watch::Receiver<bool>,
}

impl LockApi {
    fn is_allowed(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.allow_from.as_ref().is_none_or(|ranges| ranges.iter().any(|range| range.contains(&peer)))
    }
}

/// The service, as long as it is there; dropped, it closes.
pub struct LockService {
    over: watch::Sender<bool>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Serves whoever comes to this socket, on a thread of its own. What another process has left is taken up: it must have
/// closed.
///
/// `failed` is told if it cannot go on, a fault of the gateway's: locks would be held for ever from then on.
///
/// # Errors
/// If what was left cannot be read, the system gives no thread, or the socket is of no use.
pub fn open(
    socket: TcpListener,
    settings: LockSettings,
    clock: Clock,
    failed: impl FnOnce(String) + Send + 'static,
) -> io::Result<LockService> {
    let gate = Gate::new(vec![limit()], clock);
    let table = LockTable::open(&settings.dir, &gate)?;
    let (over, is_over) = watch::channel(false);
    let api = Arc::new(LockApi {
        gate: Arc::clone(&gate),
        table,
        passwords: settings.users.map(|users| Passwords::new(users, Ipv6Prefix::default())),
        allow_from: settings.allow_from,
        on_loopback: socket.local_addr()?.ip().is_loopback(),
        over: is_over.clone(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let door = {
        let _inside = runtime.enter();
        Listener::adopt(socket)?
    };
    let failed = FailureGuard(Some(failed));
    let serve = move || failed.unless_ok(serve(&runtime, door, &api, is_over));
    let thread = thread::Builder::new().name("locks".to_owned()).spawn(serve)?;
    Ok(LockService { over, thread: Some(thread) })
}

/// Serves until it is over.
///
/// # Errors
/// Why locks do not end by themselves any more.
fn serve(runtime: &Runtime, door: Listener, api: &Arc<LockApi>, mut over: watch::Receiver<bool>) -> Result<(), String> {
    runtime.block_on(async {
        let mut driving = tokio::spawn(Arc::clone(&api.gate).drive());
        let mut sweeping = tokio::spawn(sweep(Arc::clone(api)));
        let closed = async {
            // If whoever could say so is gone, it is over too.
            over.wait_for(|over| *over).await.ok();
        };
        let welcome = |peer| api.is_allowed(peer);
        let served = tokio::select! {
            () = lobby::receive(door, router(Arc::clone(api)), MAX_CONNECTIONS, welcome, closed) => Ok(()),
            ended = &mut driving => Err(match ended {
                Ok(Ok(())) => "its timer came to its end".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            }),
            ended = &mut sweeping => Err(ended.err().map_or_else(String::new, |error| error.to_string())),
        };
        driving.abort();
        sweeping.abort();
        served
    })
}

/// Whom to tell that the service does not go on; told also if it is dropped by a panic.
struct FailureGuard<F: FnOnce(String)>(Option<F>);

impl<F: FnOnce(String)> FailureGuard<F> {
    fn unless_ok(mut self, served: Result<(), String>) {
        if let (Some(tell), Err(why)) = (self.0.take(), served) {
            tell(why);
        }
    }
}

impl<F: FnOnce(String)> Drop for FailureGuard<F> {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell("it panicked".to_owned());
        }
    }
}

impl LockService {
    /// Nobody is let in any more, and who waits is told so. When this returns another process may take it up. Blocks the
    /// thread.
    pub fn close(&mut self) {
        self.over.send_replace(true);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that serves locks has panicked");
        }
    }
}

impl Drop for LockService {
    fn drop(&mut self) {
        self.close();
    }
}

async fn sweep(api: Arc<LockApi>) {
    let mut seldom = interval(SWEEP);
    seldom.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        seldom.tick().await;
        let Some(rewrite) = api.table.sweep() else { continue };
        // On another thread: locks are given meanwhile.
        let rewrite = Arc::new(rewrite);
        let writes = Arc::clone(&rewrite);
        let written = spawn_blocking(move || writes.write()).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        api.table.rewritten(&rewrite, written);
    }
}

fn router(api: Arc<LockApi>) -> Router {
    Router::new()
        .route("/locks/{resource}", post(calls::take))
        .route("/locks/{resource}/{uid}", get(calls::show).delete(calls::release))
        .route("/resources", get(calls::resources).delete(calls::release_all))
        .route("/resources/{resource}", get(calls::resource).delete(calls::release_resource))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&api), calls::reject_browsers))
        .with_state(api)
}

/// One at a time, first come, first served.
fn limit() -> Limit {
    Limit {
        name: "locks".into(),
        keyed_by: "resource".into(),
        rate: None,
        in_flight: Some(1),
        when_full: WhenFull::Wait,
        max_wait: LONGEST,
        max_waiting: MAX_CONNECTIONS,
        share_by: ShareBy::Nobody,
        priority: Priority::None,
        max_keys: MAX_RESOURCES,
        dry_run: false,
        shared: false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn api(dir: PathBuf) -> (Arc<LockApi>, watch::Sender<bool>, watch::Receiver<bool>) {
        let gate = Gate::new(vec![limit()], Clock::start());
        let table = LockTable::open(&dir, &gate).unwrap();
        let (over, is_over) = watch::channel(false);
        let over_then = is_over.clone();
        let api = LockApi { gate, table, passwords: None, allow_from: None, on_loopback: true, over: over_then };
        (Arc::new(api), over, is_over)
    }

    #[test]
    fn a_service_whose_locker_has_panicked_says_so_and_ends() {
        let dir = std::env::temp_dir().join(format!("lockgate-locks-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (api, _over, is_over) = api(dir.clone());
        api.gate.poison_for_test();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let door = {
            let _inside = runtime.enter();
            Listener::adopt(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap()
        };
        let (tell, told) = mpsc::channel();
        let failed = FailureGuard(Some(move |why: String| tell.send(why).unwrap()));
        let thread = thread::spawn(move || failed.unless_ok(serve(&runtime, door, &api, is_over)));
        let why = told.recv_timeout(Duration::from_secs(30)).expect("it says nothing");
        assert!(why.contains("panic"), "{why}");
        thread.join().unwrap();
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_service_that_panics_itself_says_so() {
        let (tell, told) = mpsc::channel();
        let failed = FailureGuard(Some(move |why: String| tell.send(why).unwrap()));
        let thread = thread::spawn(move || {
            let _failed = failed;
            panic!("a fault");
        });
        assert!(thread.join().is_err());
        assert_eq!(told.recv().unwrap(), "it panicked");
    }
}

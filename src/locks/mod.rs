//! Lock service: exclusive locks with a lifetime over a REST API, compatible with
//! restful-distributed-lock-manager.
//!
//! A resource is a window of the locker with `in_flight = 1`, so waiters queue as requests do: in
//! order of arrival, removed when they hang up, granted when the holder's lifetime ends. Held locks
//! outlive the process (`register`). It never limits requests, and shares no window with the proxy.

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
use crate::audit::AttemptLog;
use crate::auth::Passwords;
use crate::gate::Gate;
use crate::gate::clock::Clock;
use crate::http_admin;
use crate::locker::{Limit, Priority, ShareBy, WhenFull};
use crate::net::listen::Listener;
use crate::net::prefix::Ipv6Prefix;
use crate::tls::listener_tls::ListenerTls;

/// Most connections at one time, and most waiters.
const MAX_CONNECTIONS: usize = 10_000;
/// Most resources that are locked or waited for, some 300 bytes each.
const MAX_RESOURCES: usize = 1_000_000;
/// Most bytes of a request's body. A request has a title of up to 1 KiB and two numbers.
const MAX_BODY: usize = 64 << 10;
/// Interval at which expired locks are removed from the table. Their windows open on time without
/// it.
const SWEEP: Duration = Duration::from_secs(1);
/// Longest wait and longest lifetime.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// Settings of the lock service; `[locks]` in the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockSettings {
    /// Names and bcrypt hashes of operators, which may list and end all locks. `None`: no
    /// operators.
    pub users: Option<Vec<(String, String)>>,
    /// Address ranges of callers. `None`: any.
    pub allow_from: Option<Vec<IpNet>>,
    /// Folder of the register, which outlives a restart.
    pub dir: PathBuf,
}

/// State shared by the handlers.
struct LockApi {
    /// A gate of its own, with the one limit of [`limit`].
    gate: Arc<Gate>,
    /// Locks held and waited for, and the register.
    table: LockTable,
    /// Those of `[locks] users`; `None`: operators' calls are refused.
    passwords: Option<Passwords>,
    /// Address ranges of callers. `None`: any.
    allow_from: Option<Vec<IpNet>>,
    /// Removals that were refused, for the audit lines.
    attempts: AttemptLog,
    /// True if it listens on loopback, where a `Host` other than localhost or an address means DNS
    /// rebinding.
    on_loopback: bool,
    /// True once the service closes: waiters are answered then.
    over: watch::Receiver<bool>,
}

impl LockApi {
    /// IPv4-mapped addresses count as IPv4.
    fn is_allowed(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.allow_from.as_ref().is_none_or(|ranges| ranges.iter().any(|range| range.contains(&peer)))
    }
}

/// A running lock service. Closes when dropped.
pub struct LockService {
    /// Set to true by [`LockService::close`].
    over: watch::Sender<bool>,
    /// `None` after the close.
    thread: Option<thread::JoinHandle<()>>,
}

/// Starts the lock service on `socket`, on a thread of its own, with the locks of the register in
/// `settings.dir`. A process that served them before must have closed.
///
/// `tls`: its certificate, which a reload may replace.
///
/// Calls `failed` with the cause if the service stops by a fault: from then on locks would never
/// expire.
///
/// # Errors
/// If the register cannot be read or written, the system gives no thread, or the socket cannot be
/// adopted.
pub fn open(
    socket: TcpListener,
    settings: LockSettings,
    tls: Arc<ListenerTls>,
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
        attempts: AttemptLog::default(),
        on_loopback: socket.local_addr()?.ip().is_loopback(),
        over: is_over.clone(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let door = {
        let _inside = runtime.enter();
        Listener::from_socket(socket)?
    };
    let failed = FailureGuard(Some(failed));
    let serve = move || failed.unless_ok(serve(&runtime, door, &tls, &api, is_over));
    let thread = thread::Builder::new().name("locks".to_owned()).spawn(serve)?;
    Ok(LockService { over, thread: Some(thread) })
}

/// Serves until `over` is true.
///
/// # Errors
/// The cause for which locks no longer expire: the gate's timer or the sweep has stopped.
fn serve(
    runtime: &Runtime,
    door: Listener,
    tls: &ListenerTls,
    api: &Arc<LockApi>,
    mut over: watch::Receiver<bool>,
) -> Result<(), String> {
    runtime.block_on(async {
        let mut driving = tokio::spawn(Arc::clone(&api.gate).drive());
        let mut sweeping = tokio::spawn(sweep(Arc::clone(api)));
        let closed = async {
            // An error means that the sender is gone: over, too.
            over.wait_for(|over| *over).await.ok();
        };
        let welcome = |peer| api.is_allowed(peer);
        let served = tokio::select! {
            () = http_admin::serve(door, tls, router(Arc::clone(api)), MAX_CONNECTIONS, welcome, closed) => Ok(()),
            ended = &mut driving => Err(match ended {
                Ok(Ok(())) => "its timer ended".to_owned(),
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

/// Reports a failure of the service, also when dropped by a panic.
struct FailureGuard<F: FnOnce(String)>(Option<F>);

impl<F: FnOnce(String)> FailureGuard<F> {
    /// Calls the function if the service ended by a fault.
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
    /// Stops: waiters are answered 503. Another process may open the register when this returns.
    /// Blocks the thread.
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

/// Removes expired locks each second, and rewrites the register if it has become too long. Never
/// returns.
async fn sweep(api: Arc<LockApi>) {
    let mut seldom = interval(SWEEP);
    seldom.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        seldom.tick().await;
        let Some(rewrite) = api.table.sweep() else { continue };
        // On another thread, so that locks are granted meanwhile.
        let rewrite = Arc::new(rewrite);
        let writes = Arc::clone(&rewrite);
        let written = spawn_blocking(move || writes.write()).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        api.table.rewritten(&rewrite, written);
    }
}

/// Five paths, all behind [`calls::reject_browsers`] and [`calls::log_refused_removal`].
fn router(api: Arc<LockApi>) -> Router {
    Router::new()
        .route("/locks/{resource}", post(calls::take))
        .route("/locks/{resource}/{uid}", get(calls::show).delete(calls::release))
        .route("/resources", get(calls::resources).delete(calls::release_all))
        .route("/resources/{resource}", get(calls::resource).delete(calls::release_resource))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&api), calls::reject_browsers))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&api), calls::log_refused_removal))
        .with_state(api)
}

/// The limit behind each resource: one holder, first come, first served.
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
        let attempts = AttemptLog::default();
        let api =
            LockApi { gate, table, passwords: None, allow_from: None, attempts, on_loopback: true, over: over_then };
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
            Listener::from_socket(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap()
        };
        let (tell, told) = mpsc::channel();
        let tls = ListenerTls::new(None).unwrap();
        let failed = FailureGuard(Some(move |why: String| tell.send(why).unwrap()));
        let thread = thread::spawn(move || failed.unless_ok(serve(&runtime, door, &tls, &api, is_over)));
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

//! Components of the gateway, built from settings: at a start, or in place of another process.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use listenfd::ListenFd;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use super::bound_listeners::{BindPlan, Listeners};
use super::descriptors;
use super::lock_service::LockServiceHandle;
use super::reload::{max_settle_time, settle_time};
use super::service_tls::ServiceTls;
use super::worker_pool::WorkerPool;
use super::zmq_service::ZmqService;
use super::{Error, StartMode};
use crate::admin;
use crate::config::Settings;
use crate::gate::clock::Clock;
use crate::gate::takeover::NewProcess;
use crate::gate::{Gate, Revision, store};
use crate::net::connection_limit::ConnectionLimit;
use crate::net::drain::Drain;
use crate::net::fd_socket::FdSocket;
use crate::net::resolve::Resolver;
use crate::proxy::access_log::AccessLog;
use crate::proxy::{self, CurrentSnapshot, PreparedSnapshot, Shared};
use crate::tls::listener_tls::ListenerTls;
use crate::tls::verify::Connector;

/// All components of a run. The proxy listeners are bound, and accept nothing yet.
pub(super) struct Components {
    /// Gate, shutdown state, counters, connection limit and resolver.
    pub(super) shared: Shared,
    /// The proxy configuration in force, which a reload replaces.
    pub(super) current: Arc<CurrentSnapshot>,
    pub(super) workers: Rc<WorkerPool>,
    /// The proxy listeners; none is open.
    pub(super) listeners: Listeners,
    /// The proxy listeners to open.
    pub(super) bind_plan: BindPlan,
    /// Failures that end the process: a panic in an accept loop, the end of a service.
    pub(super) failures: mpsc::UnboundedReceiver<Error>,
    /// The admin API, if `[admin]` is configured.
    pub(super) admin: Option<AdminListener>,
    /// The lock service, if `[locks]` is configured.
    pub(super) locks: Option<Rc<LockServiceHandle>>,
    /// The ZeroMQ listener, if `[zmq]` is configured; it accepts nothing yet.
    pub(super) zmq: Option<ZmqService>,
    /// Certificates of the admin API and of the lock service.
    pub(super) tls: ServiceTls,
    /// The settings with the listen addresses as written,
    pub(super) configured: Settings,
    /// and with the addresses that were bound.
    pub(super) settings: Settings,
}

/// Listener of the admin API, its thread, and the channel of its commands.
pub(super) struct AdminListener {
    /// The configured address and a duplicate of the socket, for a process that takes over.
    pub(super) socket: Rc<(SocketAddr, TcpListener)>,
    /// Commands of clients. Dropping it closes the listener.
    pub(super) commands: mpsc::UnboundedReceiver<admin::AuthoredCommand>,
    /// Ends after the listener is closed and the last requests are answered.
    pub(super) thread: JoinHandle<()>,
}

impl Components {
    /// Builds all components. With [`StartMode::TakeOver`] the previous process has stopped
    /// granting when this returns.
    ///
    /// Steps that can fail come first. The last one cannot be undone: the mark in the state folder
    /// that a process runs ([`Gate::start_journal`]), or the previous process's confirmation that
    /// it has stopped ([`NewProcess::take`]).
    ///
    /// # Errors
    /// See [`Error`]; a previous process goes on.
    pub(super) fn build(mut settings: Settings, mode: StartMode) -> Result<Components, Error> {
        let clock = Clock::start();
        let mut previous = match mode {
            StartMode::Fresh | StartMode::Exec => None,
            StartMode::TakeOver => Some(connect_previous()?),
        };
        let (gate, mut limits) = match &mut previous {
            None => Gate::open(settings.gate.clone(), clock)?,
            Some(new_process) => (new_process.gate(&settings.gate, clock)?, Vec::new()),
        };
        let connections = ConnectionLimit::new(settings.connections, descriptors::connections());
        descriptors::check(&connections);
        let resolver = Resolver::new().map_err(Error::Runtime)?;
        let (drain, metrics) = (Drain::new(), Arc::default());
        let shared = Shared { gate: Arc::clone(&gate), drain, metrics, connections, resolver };
        let inherited = match &mut previous {
            None => systemd_sockets().map_err(Error::Socket)?,
            Some(new_process) => new_process.take_sockets(),
        };
        let (failed, failures) = mpsc::unbounded_channel();
        let listeners = Listeners::new(inherited, failed.clone());
        let bind_plan = listeners.plan(&settings.listeners())?;
        let admin = settings.admin.as_ref().filter(|_| mode != StartMode::Exec);
        let admin = admin.map(|admin| listeners.bind(admin.listen, "[admin] listen")).transpose()?;
        settings.admin_bound = bound_address(admin.as_ref())?;
        let locks = settings.locks.clone().filter(|_| mode != StartMode::Exec);
        let locks =
            locks.map(|locks| Ok::<_, Error>((listeners.bind(locks.listen, "[locks] listen")?, locks))).transpose()?;
        settings.locks_bound = bound_address(locks.as_ref().map(|(socket, _)| socket))?;
        let zmq = bind_zmq(&mut settings, &listeners, mode)?;
        let configured = settings.clone();
        settings.bound_to(&bind_plan.bound());
        let log = AccessLog::new(settings.proxy.access_log, Box::new(io::stdout()), clock);
        let parts = PreparedSnapshot::new(settings.proxy.clone(), shared.clone(), log, None)?;
        let (tls, store_tls) = (ServiceTls::new(&settings)?, store_tls(&settings)?);
        // The previous process closed its lock service before it started this one.
        let open_locks =
            |(socket, locks)| LockServiceHandle::open(socket, &locks, Arc::clone(&tls.locks), clock, failed.clone());
        let locks = locks.map(open_locks).transpose();
        let locks = locks.map_err(Error::Locks)?.map(Rc::new);
        if let Some(new_process) = &mut previous {
            // The previous process goes on, until the last part of the copy is taken.
            limits = new_process.inherit(&gate, settings.gate.limits.clone(), settle_time(&settings))?;
        }
        let current = CurrentSnapshot::new(parts.with(&limits, Revision::default()));
        let workers = Rc::new(WorkerPool::start(&current, &shared).map_err(Error::Runtime)?);
        let zmq = zmq.map(|socket| ZmqService::open(socket, &shared, &current, failed)).transpose()?;
        let admin = open_admin(admin, &settings, &tls, &shared, &current).map_err(Error::Runtime)?;
        match previous {
            // This process must not use the store while the previous one grants.
            Some(new_process) => {
                new_process.take(&gate, shared.drain.process_guard())?;
                start_sharing(&gate, &settings, store_tls)?;
            }
            None => {
                start_sharing(&gate, &settings, store_tls)?;
                gate.start_journal()?;
            }
        }
        Ok(Components {
            shared,
            current,
            workers,
            listeners,
            bind_plan,
            failures,
            admin,
            locks,
            zmq,
            tls,
            configured,
            settings,
        })
    }
}

impl AdminListener {
    /// Starts the admin API on a listening socket. `users`: names and password hashes; `None`: no
    /// password is needed.
    fn open(
        socket: (SocketAddr, TcpListener),
        users: Option<Vec<(String, String)>>,
        tls: Arc<ListenerTls>,
        shared: &Shared,
        current: &Arc<CurrentSnapshot>,
    ) -> io::Result<AdminListener> {
        let (commands, thread) = admin::open(socket.1.try_clone()?, users, Arc::clone(&tls), shared, current)?;
        tracing::info!(address = %socket.1.local_addr()?, tls = tls.config().is_some(), "admin listening");
        Ok(AdminListener { socket: Rc::new(socket), commands, thread })
    }
}

/// Starts the admin API on its socket, if it is configured.
fn open_admin(
    socket: Option<(SocketAddr, TcpListener)>,
    settings: &Settings,
    tls: &ServiceTls,
    shared: &Shared,
    current: &Arc<CurrentSnapshot>,
) -> io::Result<Option<AdminListener>> {
    let users = settings.admin.as_ref().and_then(|admin| admin.users.clone());
    socket.map(|socket| AdminListener::open(socket, users, Arc::clone(&tls.admin), shared, current)).transpose()
}

/// Binds the socket of the ZeroMQ listener, if it is configured, and notes its address in the settings.
fn bind_zmq(
    settings: &mut Settings,
    listeners: &Listeners,
    mode: StartMode,
) -> Result<Option<(SocketAddr, TcpListener)>, Error> {
    let listen = settings.zmq.filter(|_| mode != StartMode::Exec);
    let socket = listen.map(|listen| listeners.bind(listen, "[zmq] listen")).transpose()?;
    settings.zmq_bound = bound_address(socket.as_ref())?;
    Ok(socket)
}

/// The address of a listening socket, with the port that the system chose.
fn bound_address(socket: Option<&(SocketAddr, TcpListener)>) -> Result<Option<SocketAddr>, Error> {
    socket.map(|(_, socket)| socket.local_addr()).transpose().map_err(Error::Socket)
}

/// Maximum time that a start waits for the first connection to the store of shared limits. A
/// choice: far longer than a connection takes, and short for a start while the store is down.
const STORE_FIRST_TRY: Duration = Duration::from_secs(1);

/// TLS connector for the store of shared limits; `None` if the store is used without TLS.
fn store_tls(settings: &Settings) -> Result<Option<TlsConnector>, Error> {
    let is_tls = settings.gate.store.as_ref().is_some_and(|store| store.tls);
    let connector = is_tls.then(|| Connector::without_alpn(settings.proxy.tls.clone())).transpose();
    Ok(connector.map_err(proxy::Error::Roots)?)
}

/// Connects the gate to the store, which decides about shared limits from here on.
fn start_sharing(gate: &Arc<Gate>, settings: &Settings, tls: Option<TlsConnector>) -> Result<(), Error> {
    let Some(store) = settings.gate.store.clone() else { return Ok(()) };
    let store = store::start(gate, store, tls, max_settle_time(settings)).map_err(Error::Runtime)?;
    if settings.gate.limits.iter().any(|limit| limit.shared) {
        store.wait_for_first_try(STORE_FIRST_TRY);
    }
    Ok(())
}

/// Connects to the previous process; its socket is the standard input of this one.
///
/// # Errors
/// [`Error::NoPreviousProcess`] if the standard input is no socket; [`Error::TakeOver`] if the
/// other end does not answer.
fn connect_previous() -> Result<NewProcess, Error> {
    let pass = FdSocket::from_stdin().map_err(Error::NoPreviousProcess)?;
    Ok(NewProcess::connect(pass)?)
}

/// Listening sockets that systemd passed to this process (sd_listen_fds(3)), with their addresses.
///
/// # Errors
/// If one of them is no TCP socket.
fn systemd_sockets() -> io::Result<Vec<(SocketAddr, TcpListener)>> {
    let mut passed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        let named = |error: io::Error| io::Error::other(format!("a socket passed by systemd cannot be used: {error}"));
        if let Some(socket) = passed.take_tcp_listener(index).map_err(named)? {
            sockets.push((socket.local_addr().map_err(named)?, socket));
        }
    }
    Ok(sockets)
}

//! Every room is built from settings: in a new house, or in the place of another process.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use listenfd::ListenFd;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use super::crew::Crew;
use super::descriptors;
use super::doors::{Doors, Planned};
use super::locks::Counter;
use super::reload::{longest_under_way, under_way};
use super::{Error, Start};
use crate::admin;
use crate::config::Settings;
use crate::gate::clock::Clock;
use crate::gate::takeover::Heir;
use crate::gate::{Gate, Revision, store};
use crate::net::connection_limit::ConnectionLimit;
use crate::net::drain::Drain;
use crate::net::fd_socket::FdSocket;
use crate::net::resolve::Resolver;
use crate::proxy::access_log::AccessLog;
use crate::proxy::{self, CurrentSnapshot, PreparedSnapshot, Shared};
use crate::tls::verify::Connector;

/// All that a run needs; nobody is let in yet.
pub(super) struct House {
    pub(super) shared: Shared,
    pub(super) current: Arc<CurrentSnapshot>,
    pub(super) crew: Rc<Crew>,
    pub(super) doors: Doors,
    pub(super) planned: Planned,
    /// Hears of what cannot go on: a door that closes by itself, a service that stops.
    pub(super) faults: mpsc::UnboundedReceiver<Error>,
    /// The address at which operators are received, if there is one.
    pub(super) admin: Option<Desk>,
    /// Where locks are given, if there is such a place.
    pub(super) locks: Option<Rc<Counter>>,
    /// As the file says,
    pub(super) asked: Settings,
    /// and with the addresses that were bound.
    pub(super) settings: Settings,
}

/// Where operators are received.
pub(super) struct Desk {
    /// For a process that takes over.
    pub(super) socket: Rc<(SocketAddr, TcpListener)>,
    /// What they ask for. If it is dropped nobody is received any more.
    pub(super) asked: mpsc::UnboundedReceiver<admin::AdminCommand>,
    /// Ends when the last of them have been answered.
    pub(super) thread: JoinHandle<()>,
}

impl House {
    /// Builds it. With another process in the place of which it is to stand, that one has let go when this returns.
    ///
    /// What can fail comes first, and last the step that cannot be undone: the mark in the state folder that a process runs
    /// ([`Gate::start_journal`]), or the other process's word that it lets go ([`Heir::take`]).
    pub(super) fn build(mut settings: Settings, start: Start) -> Result<House, Error> {
        let clock = Clock::start();
        let mut before = match start {
            Start::Anew | Start::Aside => None,
            Start::TakeOver => Some(meet()?),
        };
        let (gate, mut limits) = match &mut before {
            None => Gate::open(settings.gate.clone(), clock)?,
            Some(heir) => (heir.gate(&settings.gate, clock)?, Vec::new()),
        };
        let connections = ConnectionLimit::new(settings.connections, descriptors::connections());
        descriptors::check(&connections);
        let resolver = Resolver::new().map_err(Error::Runtime)?;
        let (drain, metrics) = (Drain::new(), Arc::default());
        let shared = Shared { gate: Arc::clone(&gate), drain, metrics, connections, resolver };
        let inherited = match &mut before {
            None => activated().map_err(Error::Socket)?,
            Some(heir) => heir.take_sockets(),
        };
        let (tell_faults, faults) = mpsc::unbounded_channel();
        let doors = Doors::new(inherited, tell_faults.clone());
        let planned = doors.plan(&settings.listen)?;
        let desk = settings.admin.as_ref().filter(|_| start != Start::Aside);
        let desk = desk.map(|desk| doors.bind(desk.listen, "[admin] listen")).transpose()?;
        settings.admin_bound = bound(desk.as_ref())?;
        let counter = settings.locks.clone().filter(|_| start != Start::Aside);
        let counter =
            counter.map(|locks| Ok::<_, Error>((doors.bind(locks.listen, "[locks] listen")?, locks))).transpose()?;
        settings.locks_bound = bound(counter.as_ref().map(|(socket, _)| socket))?;
        let asked = settings.clone();
        settings.bound_to(&planned.bound());
        let log = AccessLog::new(settings.proxy.access_log, Box::new(io::stdout()), clock);
        let parts = PreparedSnapshot::new(settings.proxy.clone(), shared.clone(), log, None)?;
        let store_tls = store_tls(&settings)?;
        // Whoever gave locks before has closed before it started this process.
        let locks = counter.map(|(socket, locks)| Counter::open(socket, &locks, clock, tell_faults)).transpose();
        let locks = locks.map_err(Error::Locks)?.map(Rc::new);
        if let Some(heir) = &before {
            // From here on the other one stands still.
            limits = heir.inherit(&gate, settings.gate.limits.clone(), under_way(&settings))?;
        }
        let current = CurrentSnapshot::new(parts.with(&limits, Revision::default()));
        let crew = Rc::new(Crew::start(&current, &shared).map_err(Error::Runtime)?);
        let users = settings.admin.as_ref().and_then(|desk| desk.users.clone());
        let admin = desk.map(|socket| Desk::open(socket, users, &shared, &current)).transpose();
        let admin = admin.map_err(Error::Runtime)?;
        match before {
            // The store must not hear of this process while the other one grants.
            Some(heir) => {
                heir.take(&gate, shared.drain.conn_guard())?;
                begin_sharing(&gate, &settings, store_tls)?;
            }
            None => {
                begin_sharing(&gate, &settings, store_tls)?;
                gate.start_journal()?;
            }
        }
        Ok(House { shared, current, crew, doors, planned, faults, admin, locks, asked, settings })
    }
}

impl Desk {
    fn open(
        socket: (SocketAddr, TcpListener),
        users: Option<Vec<(String, String)>>,
        shared: &Shared,
        current: &Arc<CurrentSnapshot>,
    ) -> io::Result<Desk> {
        let (asked, thread) = admin::open(socket.1.try_clone()?, users, shared, current)?;
        tracing::info!(address = %socket.1.local_addr()?, "admin listening");
        Ok(Desk { socket: Rc::new(socket), asked, thread })
    }
}

/// The address of a socket that listens, with the port that the system chose.
fn bound(socket: Option<&(SocketAddr, TcpListener)>) -> Result<Option<SocketAddr>, Error> {
    socket.map(|(_, socket)| socket.local_addr()).transpose().map_err(Error::Socket)
}

/// How long nobody is let in until it was tried to reach the store of shared limits.
const FIRST_TRY: Duration = Duration::from_secs(1);

/// How the store of shared limits is spoken to, if that is with TLS.
fn store_tls(settings: &Settings) -> Result<Option<TlsConnector>, Error> {
    let is_tls = settings.gate.store.as_ref().is_some_and(|store| store.tls);
    let connector = is_tls.then(|| Connector::without_alpn(settings.proxy.tls.clone())).transpose();
    Ok(connector.map_err(proxy::Error::Roots)?)
}

/// Limits that several gateways count together are asked for in their store from here on.
fn begin_sharing(gate: &Arc<Gate>, settings: &Settings, tls: Option<TlsConnector>) -> Result<(), Error> {
    let Some(store) = settings.gate.store.clone() else { return Ok(()) };
    let store = store::start(gate, store, tls, longest_under_way(settings)).map_err(Error::Runtime)?;
    if settings.gate.limits.iter().any(|limit| limit.shared) {
        store.wait_for_first_try(FIRST_TRY);
    }
    Ok(())
}

fn meet() -> Result<Heir, Error> {
    let pass = FdSocket::from_stdin().map_err(Error::NobodyBefore)?;
    Ok(Heir::meet(pass)?)
}

/// The sockets that systemd has bound for us (sd_listen_fds(3)).
fn activated() -> io::Result<Vec<(SocketAddr, TcpListener)>> {
    let mut passed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        let named =
            |error: io::Error| io::Error::other(format!("a socket that was passed to us is of no use: {error}"));
        if let Some(socket) = passed.take_tcp_listener(index).map_err(named)? {
            sockets.push((socket.local_addr().map_err(named)?, socket));
        }
    }
    Ok(sockets)
}

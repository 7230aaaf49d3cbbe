//! SHOWS what the gateway does, and takes orders from whoever runs it: on a listener and a thread of its own.
//!
//! What it shows it looks up when it is asked: nothing is kept for it on a request's way but numbers that grow.

mod health;
mod history;
mod limits;
mod metrics;
mod orders;
mod page;
#[cfg(test)]
mod tests;
mod visitor;
mod warnings;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tokio::sync::{mpsc, oneshot, watch};

use self::history::History;
use crate::config::tune::Wish;
use crate::gate::Gate;
use crate::lobby;
use crate::net::connection_limit::ConnectionLimit;
use crate::net::drain::Drain;
use crate::net::listen::Listener;
use crate::net::prefix::Ipv6Prefix;
use crate::proxy::password::Passwords;
use crate::proxy::tally::Tallies;
use crate::proxy::{Current, Shared};

/// How many connections there may be at once: they share the process's descriptors with callers.
const MOST_VISITORS: usize = 64;

/// What came of an order: what is other now, in lines.
pub type Outcome = oneshot::Sender<Result<Vec<String>, Refused>>;

/// What is asked of the thread that reads and writes the file.
pub enum Order {
    /// The file is to be read again.
    Reload(Outcome),
    /// A limit is to be other than the file says.
    Tune {
        /// Its name.
        limit: String,
        /// Its keys, as in the file, and what they are to say.
        wishes: Vec<(String, Wish)>,
        /// What came of it.
        outcome: Outcome,
    },
    /// What is in force is to be written to the file.
    Save(Outcome),
}

impl Order {
    /// The gateway is ending, and obeys no more.
    pub fn refuse(self) {
        let (Order::Reload(outcome) | Order::Tune { outcome, .. } | Order::Save(outcome)) = self;
        // Whoever asked may have hung up.
        outcome.send(Err(Refused::Ending)).ok();
    }
}

/// Why an order was not obeyed; nothing has changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// There is no such limit in force.
    Unknown,
    /// It asks for what cannot be, in words for people.
    Wrong(String),
    /// The file says something else than when it was read.
    Conflict,
    /// Another process has taken over.
    Ending,
}

/// What is shown, and who may see it.
struct House {
    gate: Arc<Gate>,
    drain: Drain,
    tallies: Arc<Tallies>,
    connections: ConnectionLimit,
    current: Arc<Current>,
    passwords: Option<Passwords>,
    orders: mpsc::UnboundedSender<Order>,
    history: History,
    /// What was seen last.
    latest: watch::Receiver<Arc<str>>,
}

/// Shows the gateway to whoever comes to this socket, on a thread of its own, until the receiver is dropped, which hears
/// what is ordered. The thread ends when its last visitors have been answered.
///
/// # Errors
/// If the system gives no thread, or the socket is of no use.
pub fn open(
    socket: TcpListener,
    users: Option<Vec<(String, String)>>,
    shared: &Shared,
    current: &Arc<Current>,
) -> io::Result<(mpsc::UnboundedReceiver<Order>, JoinHandle<()>)> {
    let (orders, asked) = mpsc::unbounded_channel();
    let (tell, latest) = watch::channel("{}".into());
    let house = Arc::new(House {
        gate: Arc::clone(&shared.gate),
        drain: shared.drain.clone(),
        tallies: Arc::clone(&shared.tallies),
        connections: shared.connections.clone(),
        current: Arc::clone(current),
        passwords: users.map(|users| Passwords::new(users, Ipv6Prefix::default())),
        orders,
        history: History::default(),
        latest,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut door = {
        let _inside = runtime.enter();
        Listener::from_socket(socket)?
    };
    let tallies = Arc::clone(&shared.tallies);
    door.set_on_exhausted(move || _ = tallies.let_idle_go());
    let serve = move || {
        runtime.block_on(async {
            tokio::spawn(history::watch(Arc::clone(&house), tell));
            lobby::receive(door, router(Arc::clone(&house)), MOST_VISITORS, |_| true, house.orders.closed()).await;
        });
    };
    let thread = thread::Builder::new().name("admin".to_owned()).spawn(serve)?;
    Ok((asked, thread))
}

fn router(house: Arc<House>) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics::show))
        .route("/v1/limits", get(limits::all))
        .route("/v1/limits/{name}", get(limits::one).patch(orders::tune))
        .route("/v1/events", get(history::events))
        .route("/v1/history", get(history::past))
        .route("/v1/warnings", get(warnings::all))
        .route("/v1/config/reload", post(orders::reload))
        .route("/v1/config/save", post(orders::save))
        .merge(page::routes())
        .layer(from_fn_with_state(Arc::clone(&house), visitor::known));
    Router::new()
        // An orchestrator's probes have no password, and learn nothing but whether to send somebody.
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .merge(guarded)
        .layer(from_fn_with_state(Arc::clone(&house), visitor::is_no_puppet))
        .with_state(house)
}

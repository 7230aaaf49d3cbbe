//! SHOWS what the gateway does, and takes orders from whoever runs it: on a listener and a thread of its own.
//!
//! What it shows it looks up when it is asked: nothing is kept for it on a request's way but numbers that grow.

mod health;
mod limits;
mod metrics;
#[cfg(test)]
mod tests;
mod visitor;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tokio::sync::{mpsc, oneshot};

use crate::gate::Gate;
use crate::net::drain::Drain;
use crate::proxy::password::Passwords;
use crate::proxy::tally::Tallies;
use crate::proxy::{Current, Shared};

/// What is asked of the thread that reads the file.
pub struct ReadAgain {
    /// What came of it: what is other now, in lines; or what is wrong with the file.
    pub outcome: oneshot::Sender<Result<Vec<String>, String>>,
}

/// What is shown, and who may see it.
struct House {
    gate: Arc<Gate>,
    drain: Drain,
    tallies: Arc<Tallies>,
    current: Arc<Current>,
    passwords: Option<Passwords>,
    reload: mpsc::UnboundedSender<ReadAgain>,
}

/// Shows the gateway to whoever comes to this socket, on a thread of its own, until the receiver is dropped, which hears
/// when the file is to be read again.
///
/// # Errors
/// If the system gives no thread, or the socket is of no use.
pub fn open(
    socket: TcpListener,
    users: Option<Vec<(String, String)>>,
    shared: &Shared,
    current: &Arc<Current>,
) -> io::Result<mpsc::UnboundedReceiver<ReadAgain>> {
    let (reload, asked) = mpsc::unbounded_channel();
    let house = Arc::new(House {
        gate: Arc::clone(&shared.gate),
        drain: shared.drain.clone(),
        tallies: Arc::clone(&shared.tallies),
        current: Arc::clone(current),
        passwords: users.map(Passwords::new),
        reload,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    socket.set_nonblocking(true)?;
    let socket = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(socket)?
    };
    let serve = move || {
        let served = runtime.block_on(async {
            let app = router(Arc::clone(&house)).into_make_service_with_connect_info::<SocketAddr>();
            axum::serve(socket, app).with_graceful_shutdown(async move { house.reload.closed().await }).await
        });
        if let Err(error) = served {
            tracing::error!(%error, "the admin listener stopped");
        }
    };
    thread::Builder::new().name("admin".to_owned()).spawn(serve)?;
    Ok(asked)
}

fn router(house: Arc<House>) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics::show))
        .route("/v1/limits", get(limits::all))
        .route("/v1/limits/{name}", get(limits::one))
        .route("/v1/config/reload", post(limits::reload))
        .layer(from_fn_with_state(Arc::clone(&house), visitor::known));
    Router::new()
        // An orchestrator's probes have no password, and learn nothing but whether to send somebody.
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .merge(guarded)
        .layer(from_fn_with_state(Arc::clone(&house), visitor::is_no_puppet))
        .with_state(house)
}

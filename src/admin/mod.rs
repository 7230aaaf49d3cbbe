//! Admin API: HTTP server of metrics, limits, the dashboard and commands, on a listener and a
//! thread of its own.
//!
//! Every answer is computed when it is asked for. On the path of a request the admin API costs a
//! few counters and nothing else. It never reads the configuration file or changes a limit by
//! itself: commands go to the application by a channel.

mod command;
mod config_api;
mod dashboard;
mod events;
mod first_state;
mod guard;
mod health;
mod history;
mod limit_json;
mod limits_api;
mod metric_family;
mod metric_sources;
pub mod metrics_export;
mod openmetrics;
mod otlp_metrics;
mod overview;
mod process_metrics;
mod process_stats;
mod state;
mod warnings;
mod words;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tokio::sync::{mpsc, watch};

pub use self::command::{AdminCommand, AuthoredCommand, CommandError};
use self::history::History;
pub use self::metric_sources::MetricSources;
use self::process_stats::ProcessStats;
use self::state::AdminState;
use crate::audit::AttemptLog;
use crate::auth::Passwords;
use crate::http_admin;
use crate::net::listen::Listener;
use crate::net::prefix::Ipv6Prefix;
use crate::proxy::{CurrentSnapshot, Shared};
use crate::tls::listener_tls::ListenerTls;

/// Maximum number of simultaneous connections: enough for scrapers and some open dashboards, few
/// enough to leave the process's file descriptors to callers.
const MAX_CONNECTIONS: usize = 64;

/// Starts the admin API on this socket, on a thread of its own.
///
/// Returns the receiver of commands, and the thread. Dropping the receiver shuts the API down: the
/// listener closes, open requests are answered, then the thread ends.
///
/// `users`: names and bcrypt hashes; `None`: no password is needed. `tls`: its certificate, which a reload may replace.
///
/// # Errors
/// If the runtime or the thread cannot be created, or the socket cannot be registered with the
/// runtime.
pub fn open(
    socket: TcpListener,
    users: Option<Vec<(String, String)>>,
    tls: Arc<ListenerTls>,
    shared: &Shared,
    current: &Arc<CurrentSnapshot>,
) -> io::Result<(mpsc::UnboundedReceiver<AuthoredCommand>, JoinHandle<()>)> {
    let (commands, received) = mpsc::unbounded_channel();
    let (samples, latest) = watch::channel("{}".into());
    let state = Arc::new(AdminState {
        started: ProcessStats::read().map(|stats| stats.started),
        gate: Arc::clone(&shared.gate),
        drain: shared.drain.clone(),
        metrics: Arc::clone(&shared.metrics),
        current: Arc::clone(current),
        metric_sources: MetricSources::new(shared, current),
        passwords: users.map(|users| Passwords::new(users, Ipv6Prefix::default())),
        commands,
        attempts: AttemptLog::default(),
        history: History::default(),
        latest,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut listener = {
        let _inside = runtime.enter();
        Listener::from_socket(socket)?
    };
    let metrics = Arc::clone(&shared.metrics);
    listener.set_on_exhausted(move || _ = metrics.close_idle());
    let serve = move || {
        runtime.block_on(async {
            tokio::spawn(events::sample_every_second(Arc::clone(&state), samples));
            let (router, stop) = (router(Arc::clone(&state)), state.commands.closed());
            http_admin::serve(listener, &tls, router, MAX_CONNECTIONS, |_| true, stop).await;
        });
    };
    let thread = thread::Builder::new().name("admin".to_owned()).spawn(serve)?;
    Ok((received, thread))
}

/// The routes: health checks without a password, everything else behind
/// [`guard::require_password`], and all behind [`guard::reject_cross_site`] and [`guard::log_refused_change`].
fn router(state: Arc<AdminState>) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(openmetrics::show))
        .route("/v1/limits", get(limits_api::all))
        .route("/v1/limits/{name}", get(limits_api::one).patch(config_api::tune))
        .route("/v1/events", get(events::stream))
        .route("/v1/history", get(events::history))
        .route("/v1/warnings", get(warnings::all))
        .route("/v1/config/reload", post(config_api::reload))
        .route("/v1/config/save", post(config_api::save))
        .merge(dashboard::routes())
        .layer(from_fn_with_state(Arc::clone(&state), guard::require_password));
    Router::new()
        // Probes of an orchestrator have no password. They learn nothing but the state of the gateway.
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .merge(guarded)
        .layer(from_fn_with_state(Arc::clone(&state), guard::reject_cross_site))
        .layer(from_fn_with_state(Arc::clone(&state), guard::log_refused_change))
        .with_state(state)
}

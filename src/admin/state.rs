//! State shared by the handlers of the admin API: an axum `State`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::command::AuthoredCommand;
use super::history::History;
use super::metric_sources::MetricSources;
use crate::audit::AttemptLog;
use crate::auth::Passwords;
use crate::gate::Gate;
use crate::net::drain::Drain;
use crate::proxy::CurrentSnapshot;
use crate::proxy::metrics::Metrics;

/// Handles to the parts of the gateway that the admin API shows or changes.
pub(super) struct AdminState {
    /// Start of the process since the machine booted; `None` if /proc cannot be read.
    pub(super) started: Option<Duration>,
    /// Limits, windows and waiters.
    pub(super) gate: Arc<Gate>,
    /// Open connections, running requests, and the shutdown.
    pub(super) drain: Drain,
    /// Counters of requests, by limit and in all.
    pub(super) metrics: Arc<Metrics>,
    /// All metrics, for `/metrics`.
    pub(super) metric_sources: MetricSources,
    /// The configuration in force.
    pub(super) current: Arc<CurrentSnapshot>,
    /// Users of `[admin]`; `None`: no password is needed.
    pub(super) passwords: Option<Passwords>,
    /// Commands to the application, answered one by one. Closed once the admin listener shuts down.
    pub(super) commands: mpsc::UnboundedSender<AuthoredCommand>,
    /// Changes that were refused, for the audit lines.
    pub(super) attempts: AttemptLog,
    /// The samples of the last 15 minutes.
    pub(super) history: History,
    /// The last sample, as JSON for `/v1/events`.
    pub(super) latest: watch::Receiver<Arc<str>>,
}

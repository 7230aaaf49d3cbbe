//! Configuration reload: reads the file again and puts all of it in force, or changes nothing.

pub(super) mod changes;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use self::changes::{AppliedChanges, OtherChanges};
use super::bound_listeners::Listeners;
use super::listen_error::ListenError;
use super::metrics_exports::MetricsExports;
use super::service_tls::ServiceTls;
use super::worker_pool::WorkerPool;
use super::{descriptors, systemd};
use crate::admin::MetricSources;
use crate::audit::{self, Author};
use crate::config::{self, Settings};
use crate::gate::WaiterPolicy;
use crate::locker::{Limit, ReloadSummary};
use crate::proxy::claims::Rule;
use crate::proxy::{self, CurrentSnapshot, PreparedSnapshot, Shared};
use crate::tls::identity;
use crate::{log, proxy::access_log};

/// Puts configurations in force, one at a time: of the file, or changed by a command of the admin
/// API.
pub(super) struct Reloader {
    /// The configuration file.
    path: PathBuf,
    /// The proxy configuration in force.
    current: Arc<CurrentSnapshot>,
    /// Gate and connection limit, which a reload changes in place.
    shared: Shared,
    listeners: Listeners,
    workers: Rc<WorkerPool>,
    /// Certificates of the admin API and of the lock service.
    tls: ServiceTls,
    /// The export of metrics.
    exports: MetricsExports,
    /// The settings in force, with the listen addresses as written. Locked during each reload and
    /// hand-over, so that no two overlap. `None`: another process has taken over.
    pub(super) in_force: Mutex<Option<Settings>>,
    /// Text of the file when it was last read or written.
    pub(super) on_disk: RefCell<Arc<str>>,
}

/// Source of settings that are put in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SettingsSource {
    /// The file.
    File,
    /// The settings in force, with other values of one limit.
    Tuning,
}

/// Reason of a failed reload; the configuration in force is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read, or is invalid.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// One of its addresses cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Its certificates or keys cannot be used.
    #[error(transparent)]
    Proxy(#[from] proxy::Error),
    /// A certificate of another listener cannot be used.
    #[error("the certificate of [admin] or [locks] cannot be used")]
    Identity(#[from] identity::Error),
    /// The export of metrics cannot be started.
    #[error("the export of metrics cannot be started")]
    MetricsExport(#[source] std::io::Error),
    /// Another process has taken over.
    #[error("another process has taken over; reload that one")]
    HandedOver,
    /// A panic. A fault of the gateway's.
    #[error("reading the file was interrupted: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

impl SettingsSource {
    /// Word for the change, in audit lines.
    fn change(self) -> &'static str {
        match self {
            SettingsSource::File => "reload",
            SettingsSource::Tuning => "tune",
        }
    }
}

impl Reloader {
    /// `path`: the configuration file. `in_force`: its settings, with the listen addresses as
    /// written. Starts the export of metrics that they name.
    ///
    /// # Errors
    /// As [`MetricsExports::prepare`].
    pub(super) async fn new(
        path: PathBuf,
        current: Arc<CurrentSnapshot>,
        shared: Shared,
        listeners: Listeners,
        workers: Rc<WorkerPool>,
        tls: ServiceTls,
        in_force: Settings,
    ) -> std::io::Result<Reloader> {
        let exports = MetricsExports::new(MetricSources::new(&shared, &current));
        exports.replace(exports.prepare(in_force.metrics_export.as_ref()).await?);
        let on_disk = RefCell::new(Arc::clone(&in_force.text));
        let in_force = Mutex::new(Some(in_force));
        Ok(Reloader { path, current, shared, listeners, workers, tls, exports, in_force, on_disk })
    }

    /// Path of the configuration file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The access log in use.
    pub(super) fn log(&self) -> access_log::AccessLog {
        self.current.snapshot().log().clone()
    }

    /// True if changes of the file put it in force (`[config] watch`).
    pub(super) async fn is_watching(&self) -> bool {
        self.in_force.lock().await.as_ref().is_some_and(|settings| settings.watch)
    }

    /// True if the file has the same text as when it was last read or written.
    pub(super) fn is_file_unchanged(&self) -> bool {
        std::fs::read(&self.path).is_ok_and(|text| text == self.on_disk.borrow().as_bytes())
    }

    /// Reloads the file and logs the result. Returns a line for each change, or the reason of the
    /// failure.
    pub(super) async fn reload_and_log(self: Rc<Self>, by: Author) -> Result<Vec<String>, String> {
        systemd::reloading();
        let reloaded = self.reload(&by).await;
        systemd::ready();
        match reloaded {
            Ok(changes) => {
                let AppliedChanges { lines, pending } = changes;
                pending.iter().for_each(|line| tracing::warn!("{line}"));
                lines.iter().for_each(|line| tracing::info!("{line}"));
                tracing::info!(file = %self.path.display(), changes = lines.len(), "reloaded");
                Ok([lines, pending].concat())
            }
            Err(error) => {
                let why = log::error_chain(&error);
                tracing::error!(file = %self.path.display(), "not reloaded, nothing has changed: {why}");
                // The admin API logs refusals of its clients.
                if !by.is_client() {
                    audit::refused(&by, SettingsSource::File.change(), &config::brief(&why));
                }
                Err(why)
            }
        }
    }

    /// The export of metrics.
    pub(super) fn exports(&self) -> &MetricsExports {
        &self.exports
    }

    /// The proxy listeners.
    pub(super) fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// Maximum time that a stop waits for running requests (`[timeouts] drain`).
    pub(super) fn drain_timeout(&self) -> Duration {
        self.current.snapshot().timeouts().drain
    }

    /// Reads the file again and puts it in force.
    ///
    /// # Errors
    /// See [`Error`]; nothing has changed then.
    pub(super) async fn reload(&self, by: &Author) -> Result<AppliedChanges, Error> {
        let mut in_force = self.in_force.lock().await;
        let path = self.path.clone();
        // Off the event loop: reading includes certificates and the system's trust store.
        let settings = spawn_blocking(move || config::read(&path)).await??;
        let text = Arc::clone(&settings.text);
        let changes = self.apply(&mut in_force, settings, by, SettingsSource::File).await?;
        *self.on_disk.borrow_mut() = text;
        Ok(changes)
    }

    /// Replaces the settings in force by `settings`, and logs the change with its author.
    ///
    /// # Errors
    /// See [`Error`]; nothing has changed then.
    pub(super) async fn apply(
        &self,
        in_force: &mut Option<Settings>,
        mut settings: Settings,
        by: &Author,
        source: SettingsSource,
    ) -> Result<AppliedChanges, Error> {
        let before = in_force.as_ref().ok_or(Error::HandedOver)?;
        settings.keep_overrides(before);
        let bind_plan = self.listeners.plan(&settings.listeners())?;
        let configured = (settings.listen.clone(), settings.transparent.clone());
        settings.bound_to(&bind_plan.bound());
        let parts = self.parts(&settings, before).await?;
        let tls = self.tls.prepare(&settings, before)?;
        let export = self.exports.prepare(settings.metrics_export.as_ref()).await.map_err(Error::MetricsExport)?;

        // From here on nothing can fail.
        settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        (settings.listen, settings.transparent) = configured;
        // News of the file, not of a change of one limit.
        let pending = match source {
            SettingsSource::File => changes::pending_sections(before, &settings),
            SettingsSource::Tuning => Vec::new(),
        };
        let others = OtherChanges::between(before, &settings);
        let summary = changes::audit_summary(before, &settings, others.sections(), &pending);
        let waiters = waiters_policy(before, &settings);
        let settle_time = settle_time(before).max(settle_time(&settings));
        let publish = |reload: &ReloadSummary, revision| self.current.replace(parts.with(&reload.ids, revision));
        let reload = self.shared.gate.reload(settings.gate.limits.clone(), settle_time, waiters, publish);
        self.listeners.apply(bind_plan, &self.workers).await;
        self.tls.replace(tls);
        self.exports.replace(export);
        self.shared.connections.update(settings.connections);
        descriptors::check(&self.shared.connections);
        // A change of the level itself is seen under both levels.
        log::set_level(settings.log.max(before.log));
        audit::changed(by, source.change(), Some(&summary));
        log::set_level(settings.log);
        // Pending sections are told at each reload, until the process ends or the file says again what is in force.
        settings.keep_fixed(before);
        *in_force = Some(settings);
        let pending = changes::pending_lines(&pending);
        Ok(AppliedChanges { lines: changes::log_lines(&self.shared.gate, &reload, others), pending })
    }

    /// Runs `hand_over`, which lets another process take over. No reload runs meanwhile, nor
    /// afterwards if it succeeds.
    ///
    /// # Errors
    /// Those of `hand_over`; reloads go on then.
    pub(super) async fn retire<T, E>(&self, hand_over: impl AsyncFnOnce(&Listeners) -> Result<T, E>) -> Result<T, E> {
        let mut in_force = self.in_force.lock().await;
        let handed_over = hand_over(&self.listeners).await?;
        *in_force = None;
        Ok(handed_over)
    }

    /// Builds the proxy's parts from new settings, off the event loop: certificates and keys are
    /// read. Keeps the access log unless its format has changed.
    async fn parts(&self, settings: &Settings, before: &Settings) -> Result<PreparedSnapshot, Error> {
        let (settings, shared, current) = (settings.proxy.clone(), self.shared.clone(), self.current.snapshot());
        let format = (settings.access_log != before.proxy.access_log).then_some(settings.access_log);
        let parts = spawn_blocking(move || {
            let log = match format {
                Some(format) => access_log::AccessLog::new(format, Box::new(std::io::stdout()), shared.gate.clock()),
                None => current.log().clone(),
            };
            PreparedSnapshot::new(settings, shared, log, Some(&current))
        });
        Ok(parts.await??)
    }
}

/// Decides if waiters keep their places, or must ask again because they may need to pass other
/// limits than before.
fn waiters_policy(before: &Settings, after: &Settings) -> WaiterPolicy {
    let claimed = |rule: &Rule| {
        // The locker itself finds costs that are too high now.
        let Rule {
            name,
            hosts,
            paths,
            methods,
            key,
            ignore_case,
            cost,
            shared_seed,
            max_cost: _,
            // A wait that has begun keeps its bound. A pause of its credential is looked for when its turn comes.
            obey_prefer: _,
            deadline: _,
            pushback: _,
            pushback_on: _,
            pushback_key: _,
            max_backoff: _,
            retry: _,
            dry_run: _,
        } = rule.clone();
        (name, hosts, paths, methods, key, ignore_case, cost, shared_seed)
    };
    // The keys of callers without a name depend on it, and their turns in a queue.
    let callers = |settings: &Settings| (settings.proxy.access.users.is_none(), settings.proxy.access.ipv6_prefix);
    let same = callers(before) == callers(after)
        && before.proxy.rules.iter().map(claimed).eq(after.proxy.rules.iter().map(claimed));
    if same { WaiterPolicy::Stay } else { WaiterPolicy::Reask }
}

/// Maximum time from a request's permit to its settle, for all requests; `None` if their content
/// may take any time.
pub(super) fn max_settle_time(settings: &Settings) -> Option<Duration> {
    settings.proxy.timeouts.request.map(|request| request + longest_linger(settings))
}

/// The same as [`max_settle_time`]; without a bound for all requests that of a request without
/// content.
pub(super) fn settle_time(settings: &Settings) -> Duration {
    let timeouts = &settings.proxy.timeouts;
    max_settle_time(settings).unwrap_or(timeouts.longest_answer() + longest_linger(settings))
}

/// The longest [`Limit::linger`] of all limits.
fn longest_linger(settings: &Settings) -> Duration {
    settings.gate.limits.iter().map(Limit::linger).max().unwrap_or_default()
}

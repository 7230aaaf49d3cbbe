//! The running gateway: builds all components from settings, runs a worker per core, handles
//! signals, and shuts down.
//!
//! The thread that calls [`run`] accepts connections, drives the gate's timer, handles signals and
//! is the first worker. Each connection stays with the worker that has the fewest when it is
//! accepted. Workers share the gate, counters and settings. Requests, limits and the file's format
//! are none of this module's business.

mod admin_commands;
mod bound_listeners;
mod components;
mod descriptors;
mod file_watch;
mod listen_error;
mod lock_service;
mod metrics_exports;
pub mod reload;
mod run_error;
mod service_tls;
mod systemd;
mod unix_signals;
mod upgrade;
mod worker_pool;
mod zmq_service;

use std::io;
use std::path::PathBuf;
use std::process::Child;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, kill_process};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking, spawn_local};
use tokio::time::timeout;

use self::components::{AdminListener, Components};
use self::lock_service::LockServiceHandle;
use self::reload::Reloader;
pub use self::run_error::Error;
use self::unix_signals::{SignalAction, UnixSignals, stop_author};
use self::upgrade::UpgradeCommand;
use self::zmq_service::ZmqService;
use crate::admin::AuthoredCommand;
use crate::audit::{self, Author};
use crate::config::{self, Settings};
use crate::log::error_chain;
use crate::proxy::Shared;

/// Time for the last lines of the access log at exit. A choice: a reader that works takes them at
/// once, one that has stopped reading must not block the exit.
const ACCESS_LOG_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum time that connections stay in this process after another one has taken over. A choice:
/// tunnels have no end of their own, and an hour is long for one.
const LAME_DUCK_TIMEOUT: Duration = Duration::from_secs(3600);

/// Words for an upgrade and for a stop in audit lines.
const UPGRADE: &str = "upgrade";
const STOP: &str = "stop";

/// End of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunOutcome {
    /// A signal stopped it; running requests were finished, or `[timeouts] drain` has passed.
    Drained,
    /// A second signal ended it at once. The exit code that shells give to a process killed by that
    /// signal.
    Killed(u8),
}

/// Way of starting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartMode {
    /// With the counts of the state folder, or none.
    Fresh,
    /// As `Fresh`, for the programs of `lockgate exec` only: without admin API, lock service and
    /// upgrades.
    Exec,
    /// In place of the process at the other end of the standard input, with all its counts, waiters
    /// and sockets.
    TakeOver,
}

/// Runs the gateway until a signal stops it. `path`: the configuration file of these settings,
/// which a reload reads again. `announce` is called once all addresses are bound, with the settings
/// in force; not after a take-over, which the previous process has announced.
///
/// # Errors
/// See [`Error`].
pub fn run(
    path: PathBuf,
    settings: Settings,
    mode: StartMode,
    announce: impl FnOnce(&Settings),
) -> Result<RunOutcome, Error> {
    let upgrade = (mode != StartMode::Exec).then(|| Rc::new(UpgradeCommand::new(&path)));
    descriptors::raise();
    let runtime = new_runtime().map_err(Error::Runtime)?;
    let outcome = runtime.block_on(async {
        let signals = UnixSignals::new().map_err(Error::Runtime)?;
        let mut components = Components::build(settings, mode)?;
        match mode {
            StartMode::Fresh | StartMode::Exec => announce(&components.settings),
            StartMode::TakeOver => tracing::info!("taken over"),
        }
        let gate = Arc::clone(&components.shared.gate);
        let mut timer = spawn_local(Arc::clone(&gate).drive());
        components.listeners.apply(components.bind_plan, &components.workers).await;
        let Components { shared, current, workers, listeners, admin, locks, zmq, tls, configured, .. } = components;
        zmq.iter().for_each(ZmqService::accept);
        let reloader = Reloader::new(path, current, shared.clone(), listeners, workers, tls, configured).await;
        let reloader = Rc::new(reloader.map_err(Error::MetricsExport)?);
        if mode == StartMode::TakeOver {
            systemd::taken_over()
        } else {
            systemd::ready()
        }
        let watchdog = systemd::watch(shared.drain.clone());
        let mut gateway = RunningGateway { reloader, shared, upgrade, signals, admin, locks, zmq };
        tokio::select! {
            ended = &mut timer => Err(Error::Timer(end_reason(ended))),
            () = watchdog => unreachable!("it never returns"),
            outcome = gateway.run(&mut components.failures) => outcome,
        }
    });
    if let Ok(RunOutcome::Killed(code)) = outcome {
        audit::changed(&stop_author(code), "stop at once", None);
    }
    // A name lookup or a password check may still occupy a thread; its result is not needed.
    runtime.shutdown_background();
    outcome
}

/// The gateway after its start: everything that signals, failures and admin commands act on.
struct RunningGateway {
    /// Settings in force, listeners and workers.
    reloader: Rc<Reloader>,
    /// Gate, shutdown state and counters.
    shared: Shared,
    /// `None`: there are no upgrades ([`StartMode::Exec`]).
    upgrade: Option<Rc<UpgradeCommand>>,
    signals: UnixSignals,
    /// `None`: not configured, or taken by the shutdown.
    admin: Option<AdminListener>,
    /// `None`: not configured, or taken by the shutdown.
    locks: Option<Rc<LockServiceHandle>>,
    /// `None`: not configured.
    zmq: Option<ZmqService>,
}

/// Reason why this process no longer accepts connections.
enum StopCause {
    /// A signal requested it.
    Signal,
    /// This new process has taken over.
    HandedOver(Child),
}

impl RunningGateway {
    /// Serves until a signal or an upgrade, then drains and writes what must outlive the process.
    /// `failures`: see [`Components::failures`].
    ///
    /// # Errors
    /// The first failure.
    async fn run(&mut self, failures: &mut mpsc::UnboundedReceiver<Error>) -> Result<RunOutcome, Error> {
        let watch = AbortOnDrop(spawn_local(file_watch::watch(Rc::clone(&self.reloader))));
        let cause = self.serve(failures).await?;
        drop(watch);
        let outcome = match cause {
            StopCause::Signal => {
                self.reloader.listeners().close_all();
                self.zmq.iter().for_each(ZmqService::close);
                self.drain().await
            }
            StopCause::HandedOver(new_process) => {
                self.reloader.listeners().release_all();
                self.zmq.iter().for_each(ZmqService::release);
                // The new process has the admin listener; requests that are here already are answered.
                let admin = self.admin.take().map(|AdminListener { thread, .. }| spawn_blocking(|| thread.join()));
                let outcome = self.lame_duck(new_process).await;
                if let Some(admin) = admin
                    && let RunOutcome::Drained = outcome
                {
                    tokio::select! {
                        code = self.signals.next_stop() => return Ok(RunOutcome::Killed(code)),
                        _ = admin => {}
                    }
                }
                outcome
            }
        };
        match outcome {
            RunOutcome::Drained => Ok(self.flush_on_exit().await),
            RunOutcome::Killed(code) => Ok(RunOutcome::Killed(code)),
        }
    }

    /// Handles signals, admin commands and upgrades until this process must stop accepting
    /// connections.
    ///
    /// # Errors
    /// The first failure.
    async fn serve(&mut self, failures: &mut mpsc::UnboundedReceiver<Error>) -> Result<StopCause, Error> {
        let mut upgrade: Option<JoinHandle<Result<Child, upgrade::Error>>> = None;
        let mut stop_requested = false;
        loop {
            tokio::select! {
                Some(failure) = failures.recv() => return Err(failure),
                handed_over = task_end(&mut upgrade) => {
                    upgrade = None;
                    match handed_over {
                        Ok(Ok(new_process)) => {
                            tracing::info!(process = new_process.id(), "handed over");
                            let process = format!("process {}", new_process.id());
                            audit::changed(&upgrade::AUTHOR, UPGRADE, Some(&process));
                            if stop_requested {
                                terminate(&new_process);
                            }
                            return Ok(StopCause::HandedOver(new_process));
                        }
                        Ok(Err(error)) => {
                            let why = error_chain(&error);
                            tracing::error!("not handed over, nothing has changed: {why}");
                            audit::refused(&upgrade::AUTHOR, UPGRADE, &config::brief(&why));
                        }
                        Err(error) => tracing::error!(%error, "not handed over"),
                    }
                    if stop_requested {
                        return Ok(StopCause::Signal);
                    }
                }
                command = next_command(&mut self.admin) => drop(spawn_local(Rc::clone(&self.reloader).handle(command))),
                action = self.signals.next() => match action {
                    // Stops the process that is in charge at the end of the upgrade.
                    SignalAction::Stop(code) if upgrade.is_some() && !stop_requested => {
                        audit::changed(&stop_author(code), STOP, None);
                        stop_requested = true;
                    }
                    SignalAction::Stop(code) => {
                        audit::changed(&stop_author(code), STOP, None);
                        return Ok(StopCause::Signal);
                    }
                    SignalAction::Reload => drop(spawn_local(Rc::clone(&self.reloader).reload_and_log(Author::Signal("SIGHUP")))),
                    SignalAction::Upgrade if upgrade.is_some() => {
                        tracing::warn!("an upgrade is running already");
                        audit::refused(&upgrade::AUTHOR, UPGRADE, "an upgrade is running already");
                    }
                    SignalAction::Upgrade => upgrade = self.start_upgrade(),
                },
            }
        }
    }

    /// Starts the hand-over to a new process; `None` if this gateway has no upgrades.
    fn start_upgrade(&self) -> Option<JoinHandle<Result<Child, upgrade::Error>>> {
        let Some(command) = &self.upgrade else {
            tracing::warn!("SIGUSR2 ignored: a gateway of `lockgate exec` is not upgraded");
            audit::refused(&upgrade::AUTHOR, UPGRADE, "a gateway of `lockgate exec` is not upgraded");
            return None;
        };
        let (reloader, gate) = (Rc::clone(&self.reloader), Arc::clone(&self.shared.gate));
        let admin = self.admin.as_ref().map(|admin| Rc::clone(&admin.socket));
        let zmq = self.zmq.as_ref().map(|zmq| Rc::clone(&zmq.socket));
        let sockets = admin.into_iter().chain(zmq).collect();
        Some(spawn_local(upgrade::hand_over(Rc::clone(command), reloader, gate, sockets, self.locks.clone())))
    }

    /// Graceful shutdown: starts no new work and waits for running requests, at most for
    /// `[timeouts] drain`. A second signal ends it at once.
    async fn drain(&mut self) -> RunOutcome {
        let (drain, gate, patience) = (&self.shared.drain, &self.shared.gate, self.reloader.drain_timeout());
        if !drain.entered_lame_duck() {
            systemd::stopping();
        }
        // The admin API still shows the shutdown, and changes nothing any more.
        if let Some(AdminListener { mut commands, .. }) = self.admin.take() {
            spawn_local(async move {
                while let Some(command) = commands.recv().await {
                    command.command.reject();
                }
            });
        }
        tracing::info!(running = drain.running_requests(), ?patience, "draining");
        drain.start();
        gate.stop_old_process();
        if let Some(locks) = self.locks.take() {
            locks.close().await;
        }
        gate.close(gate.clock().now() + patience);
        tokio::select! {
            code = self.signals.next_stop() => return RunOutcome::Killed(code),
            idle = timeout(patience, drain.wait_idle()) => {
                tracing::info!(running = drain.running_requests(), in_time = idle.is_ok(), "drained");
            }
        }
        RunOutcome::Drained
    }

    /// Lame duck after an upgrade: serves the connections that are open here until they close.
    /// Drains them after a signal, the end of the new process, or [`LAME_DUCK_TIMEOUT`].
    async fn lame_duck(&mut self, mut new_process: Child) -> RunOutcome {
        let drain = &self.shared.drain;
        tracing::info!(
            connections = drain.connections(),
            running = drain.running_requests(),
            "serving the remaining connections"
        );
        drain.start_lame_duck();
        // Waiting for its end also avoids a zombie.
        let new_process = spawn_blocking(move || new_process.wait());
        tokio::select! {
            code = self.signals.next_stop() => audit::changed(&stop_author(code), STOP, None),
            status = new_process => match status {
                Ok(Ok(status)) => tracing::error!(%status, "the process that took over has ended"),
                Ok(Err(_)) | Err(_) => tracing::error!("the process that took over has ended"),
            },
            empty = timeout(LAME_DUCK_TIMEOUT, drain.wait_closed()) => {
                if empty.is_ok() {
                    tracing::info!("all connections are closed");
                    return RunOutcome::Drained;
                }
            }
        }
        self.drain().await
    }

    /// Exports the metrics for the last time, and writes the state and the access log to the end.
    async fn flush_on_exit(&mut self) -> RunOutcome {
        let (log, gate) = (self.reloader.log(), Arc::clone(&self.shared.gate));
        tokio::select! {
            code = self.signals.next_stop() => return RunOutcome::Killed(code),
            () = self.reloader.exports().finish() => {}
        }
        tokio::select! {
            code = self.signals.next_stop() => return RunOutcome::Killed(code),
            _ = spawn_blocking(move || gate.stop()) => {}
        }
        tokio::select! {
            code = self.signals.next_stop() => RunOutcome::Killed(code),
            _ = timeout(ACCESS_LOG_TIMEOUT, spawn_blocking(move || log.flush())) => RunOutcome::Drained,
        }
    }
}

/// Stops the process that took over, by SIGTERM.
fn terminate(new_process: &Child) {
    let sent = kill_process(Pid::from_child(new_process), rustix::process::Signal::TERM);
    if let Err(error) = sent {
        tracing::error!(%error, "the process that took over cannot be stopped");
    }
}

/// Waits for the end of a task; for ever if there is none.
async fn task_end<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, tokio::task::JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

/// Waits for the next admin command; for ever if there is no admin listener.
async fn next_command(admin: &mut Option<AdminListener>) -> AuthoredCommand {
    match admin {
        Some(AdminListener { commands, .. }) => match commands.recv().await {
            Some(command) => command,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// A task that is aborted when its owner is dropped.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Describes the end of a task that should run for ever.
fn end_reason(ended: Result<io::Result<()>, tokio::task::JoinError>) -> String {
    match ended {
        Ok(Ok(())) => "it returned".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    }
}

/// A single-threaded runtime for the calling thread.
fn new_runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

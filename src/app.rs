//! Builds every room from settings, runs a runtime per core, and drains.
//!
//! The first runtime runs on the thread that calls [`run`]: it accepts connections, drives the gate and
//! hears signals. It hands each connection to the runtime with the fewest, where it stays; what the
//! runtimes share is the gate alone.

mod crew;
mod doors;
pub mod reload;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinHandle, spawn_blocking, spawn_local};
use tokio::time::timeout;

use self::crew::Crew;
use self::doors::Doors;
use self::reload::Reloader;
use crate::config::Settings;
use crate::gate::clock::Clock;
use crate::gate::{Gate, journal};
use crate::net::drain::Drain;
use crate::proxy::record::AccessLog;
use crate::proxy::{self, Current, Parts, Shared};

/// How long the last lines of the access log may take: its reader may have stopped reading.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How a run came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// By a signal, and all that was running could finish or had its time.
    Drained,
    /// By a second signal, at once. The exit code that shells give to such an end.
    Cut(u8),
}

/// Why the gateway cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on; its text names it.
    #[error(transparent)]
    Listen(io::Error),
    /// The system gives no thread, poll or signal handler.
    #[error("cannot start a runtime")]
    Runtime(#[source] io::Error),
    /// Certificates or keys are missing or wrong.
    #[error(transparent)]
    Proxy(#[from] proxy::Error),
    /// What was counted before cannot be known.
    #[error(transparent)]
    State(#[from] journal::Error),
    /// Nobody would be woken any more. A fault of the gateway's.
    #[error("the gate's timer stopped: {0}")]
    Timer(String),
    /// Nobody would be accepted there any more. A fault of the gateway's.
    #[error("the listener at {0} stopped")]
    Accept(SocketAddr),
}

/// Runs the gateway until a signal ends it. `path`: the file that the settings are from, and that is read again on
/// SIGHUP. `announce` is called once all addresses are bound, with the settings as they are then in force.
///
/// # Errors
/// If it cannot start, or cannot go on.
pub fn run(path: PathBuf, settings: Settings, announce: impl FnOnce(&Settings)) -> Result<Ended, Error> {
    raise_descriptors();
    let runtime = runtime().map_err(Error::Runtime)?;
    let ended = runtime.block_on(serve(path, settings, announce));
    // A name lookup or a password check may still hold a thread; nobody waits for its answer.
    runtime.shutdown_background();
    ended
}

async fn serve(path: PathBuf, mut settings: Settings, announce: impl FnOnce(&Settings)) -> Result<Ended, Error> {
    let (gate, limits) = Gate::open(settings.gate.clone(), Clock::start())?;
    let shared = Shared { gate: Arc::clone(&gate), drain: Drain::new() };
    let (doors, mut fallen) = Doors::new();
    let planned = doors.plan(&settings.listen).map_err(Error::Listen)?;
    let asked = settings.clone();
    settings.bound_to(&planned.bound());
    let mut signals = Signals::new().map_err(Error::Runtime)?;
    let log = AccessLog::new(settings.proxy.access_log, Box::new(io::stdout()), gate.clock());
    let parts = Parts::new(settings.proxy.clone(), shared.clone(), log, None)?;
    let current = Current::new(parts.with(&limits));
    let crew = Rc::new(Crew::start(&current).map_err(Error::Runtime)?);

    announce(&settings);
    let mut driving = spawn_local(Arc::clone(&gate).drive());
    doors.change(planned, &crew);
    let reloader = Rc::new(Reloader::new(path, current, shared.clone(), doors, crew, asked));
    let _watching = Aborted(spawn_local(watch::watch(Rc::clone(&reloader))));
    loop {
        tokio::select! {
            ended = &mut driving => return Err(Error::Timer(why(ended))),
            Some(address) = fallen.recv() => return Err(Error::Accept(address)),
            signal = signals.next() => match signal {
                Asked::End(_) => break,
                Asked::Reload => drop(spawn_local(Rc::clone(&reloader).reload_aloud())),
            },
        }
    }
    let patience = reloader.drain();
    let drain = &shared.drain;
    tracing::info!(running = drain.running(), ?patience, "draining");
    reloader.doors().close();
    drain.start();
    gate.close(gate.clock().now() + patience);
    tokio::select! {
        ended = &mut driving => return Err(Error::Timer(why(ended))),
        code = signals.end() => return Ok(Ended::Cut(code)),
        idle = timeout(patience, drain.idle()) => {
            tracing::info!(running = drain.running(), in_time = idle.is_ok(), "drained");
        }
    }
    let (log, stopping) = (reloader.log(), Arc::clone(&gate));
    tokio::select! {
        code = signals.end() => return Ok(Ended::Cut(code)),
        _ = spawn_blocking(move || stopping.stop()) => {}
    }
    tokio::select! {
        code = signals.end() => Ok(Ended::Cut(code)),
        _ = timeout(LAST_LINES, spawn_blocking(move || log.flush())) => Ok(Ended::Drained),
    }
}

/// A task that ends with its owner.
struct Aborted(JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is known about the end of a task that should not have ended.
fn why(ended: Result<io::Result<()>, tokio::task::JoinError>) -> String {
    match ended {
        Ok(Ok(())) => "it came to its end".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    }
}

/// A runtime for the thread that calls.
fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

/// The signals that the gateway hears.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal asks for.
enum Asked {
    /// The end; with the exit code of a process that the signal ends.
    End(u8),
    /// That the file is read again.
    Reload,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End(128 + 15),
            _ = self.interrupt.recv() => Asked::End(128 + 2),
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// The next signal that asks for the end.
    async fn end(&mut self) -> u8 {
        loop {
            if let Asked::End(code) = self.next().await {
                return code;
            }
        }
    }
}

/// Allows as many descriptors as the system lets us have: each request takes two.
fn raise_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, ?current, "the limit of open files stays as it was");
    }
}

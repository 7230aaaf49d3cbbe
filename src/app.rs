//! Builds every room from settings, runs a runtime per core, and drains.
//!
//! The first runtime runs on the thread that calls [`run`]: it accepts connections, drives the gate and
//! hears signals. It hands each connection to the runtime with the fewest, where it stays; what the
//! runtimes share is the gate alone.

mod crew;

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinSet, spawn_blocking, spawn_local};
use tokio::time::timeout;

use self::crew::Crew;
use crate::config::Settings;
use crate::gate::Gate;
use crate::gate::clock::Clock;
use crate::net::drain::Drain;
use crate::net::listen::Listener;
use crate::proxy::record::AccessLog;
use crate::proxy::{self, Proxy};

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
    /// Nobody would be woken any more. A fault of the gateway's.
    #[error("the gate's timer stopped: {0}")]
    Timer(String),
    /// Nobody would be accepted any more. A fault of the gateway's.
    #[error("a listener stopped: {0}")]
    Accept(String),
}

/// Runs the gateway until a signal ends it. `announce` is called once all addresses are bound, with the
/// settings as they are then in force.
///
/// # Errors
/// If it cannot start, or cannot go on.
pub fn run(settings: Settings, announce: impl FnOnce(&Settings)) -> Result<Ended, Error> {
    raise_descriptors();
    let runtime = runtime().map_err(Error::Runtime)?;
    let ended = runtime.block_on(serve(settings, announce));
    // A name lookup or a password check may still hold a thread; nobody waits for its answer.
    runtime.shutdown_background();
    ended
}

async fn serve(mut settings: Settings, announce: impl FnOnce(&Settings)) -> Result<Ended, Error> {
    let listeners = settings.listen.iter().map(|addr| Listener::bind(*addr));
    let listeners = listeners.collect::<Result<Vec<_>, _>>().map_err(Error::Listen)?;
    settings.bound_to(&listeners.iter().map(Listener::local_addr).collect::<Vec<_>>());
    let mut signals = Signals::new().map_err(Error::Runtime)?;

    let gate = Gate::new(settings.gate.clone(), Clock::start());
    let drain = Drain::new();
    let log = AccessLog::new(settings.proxy.access_log, Box::new(io::stdout()), gate.clock());
    let proxy = Proxy::new(settings.proxy.clone(), Arc::clone(&gate), drain.clone(), log.clone())?;
    let crew = Rc::new(Crew::start(&proxy).map_err(Error::Runtime)?);

    announce(&settings);
    let mut driving = spawn_local(Arc::clone(&gate).drive());
    let mut accepting = JoinSet::new();
    for listener in listeners {
        tracing::info!(address = %listener.local_addr(), "listening");
        accepting.spawn_local(accept(listener, Rc::clone(&crew), drain.clone()));
    }

    tokio::select! {
        ended = &mut driving => return Err(Error::Timer(why(ended))),
        Some(ended) = accepting.join_next() => return Err(Error::Accept(why(ended.map(Ok)))),
        _ = signals.next() => {}
    }
    let patience = settings.proxy.timeouts.drain;
    tracing::info!(running = drain.running(), ?patience, "draining");
    drain.start();
    gate.close(gate.clock().now() + patience);
    tokio::select! {
        ended = &mut driving => return Err(Error::Timer(why(ended))),
        code = signals.next() => return Ok(Ended::Cut(code)),
        idle = timeout(patience, drain.idle()) => {
            tracing::info!(running = drain.running(), in_time = idle.is_ok(), "drained");
        }
    }
    tokio::select! {
        code = signals.next() => Ok(Ended::Cut(code)),
        _ = timeout(LAST_LINES, spawn_blocking(move || log.flush())) => Ok(Ended::Drained),
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

/// Hands on connections until the gateway drains; then the listener closes.
async fn accept(mut listener: Listener, crew: Rc<Crew>, drain: Drain) {
    let mut ending = pin!(drain.started());
    loop {
        tokio::select! {
            biased;
            () = &mut ending => return,
            (stream, peer) = listener.accept() => crew.hand_over(stream, peer),
        }
    }
}

/// A runtime for the thread that calls.
fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

/// The signals that end the gateway.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next signal, as the exit code of a process that it ends.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.terminate.recv() => 128 + 15,
            _ = self.interrupt.recv() => 128 + 2,
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

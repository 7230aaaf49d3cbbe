//! Builds every room from settings, runs a runtime per core, and drains.
//!
//! The first runtime runs on the thread that calls [`run`]: it accepts connections, drives the gate and
//! hears signals. It hands each connection to the runtime with the fewest, where it stays; what the
//! runtimes share is the gate alone.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking, spawn_local};
use tokio::time::timeout;

use crate::config::Settings;
use crate::gate::Gate;
use crate::gate::clock::Clock;
use crate::net::drain::Drain;
use crate::net::listen::Listener;
use crate::proxy::record::AccessLog;
use crate::proxy::{self, Proxy, Worker};

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

/// The runtimes that serve connections. The first is the one that accepts them.
struct Crew {
    hands: Vec<Hand>,
}

/// One runtime, as the others see it.
struct Hand {
    connections: Arc<AtomicUsize>,
    way: Way,
}

/// How a connection gets to a runtime.
enum Way {
    /// It is here already.
    Here(Worker),
    /// To a thread of its own. Unbounded, because there are never more connections than descriptors.
    There(mpsc::UnboundedSender<Arrival>),
}

/// A connection on its way to its runtime.
struct Arrival {
    stream: TcpStream,
    peer: SocketAddr,
    counted: Counted,
}

/// One connection in a runtime's count.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hand {
    fn new(way: Way) -> Hand {
        Hand { connections: Arc::default(), way }
    }

    fn count(&self) -> Counted {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(&self.connections))
    }
}

impl Crew {
    /// As many runtimes as there are cores for us, each ready to serve.
    fn start(proxy: &Arc<Proxy>) -> io::Result<Crew> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let mut hands = vec![Hand::new(Way::Here(proxy.worker()))];
        for index in 1..cores {
            hands.push(Hand::new(Way::There(spawn_worker(index, Arc::clone(proxy))?)));
        }
        tracing::debug!(runtimes = cores, "runtimes started");
        Ok(Crew { hands })
    }

    /// Gives a connection to the runtime that has the fewest; the first, where no thread must be
    /// woken, if it has no more than the others.
    fn hand_over(&self, stream: TcpStream, peer: SocketAddr) {
        let fewest = self.hands.iter().min_by_key(|hand| hand.connections.load(Ordering::Relaxed));
        let Some(hand) = fewest else { return };
        let arrival = Arrival { stream, peer, counted: hand.count() };
        match &hand.way {
            Way::Here(worker) => drop(spawn_local(Box::pin(attend(worker.clone(), arrival)))),
            Way::There(way) => {
                if way.send(arrival).is_err() {
                    tracing::error!("a runtime is gone, and its connections with it");
                    // It counts as full from here on.
                    hand.connections.store(usize::MAX / 2, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Starts a thread with a runtime of its own, and returns when it is ready.
fn spawn_worker(index: usize, proxy: Arc<Proxy>) -> io::Result<mpsc::UnboundedSender<Arrival>> {
    let (way, arrivals) = mpsc::unbounded_channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let work = move || match runtime() {
        Ok(runtime) => {
            // Whoever waits for it has given up if this fails, and then the channel is closed too.
            ready.send(Ok(())).ok();
            runtime.block_on(work(proxy, arrivals));
            runtime.shutdown_background();
        }
        Err(error) => drop(ready.send(Err(error))),
    };
    thread::Builder::new().name(format!("worker-{index}")).spawn(work)?;
    is_ready.recv().map_err(io::Error::other)??;
    Ok(way)
}

/// Serves what arrives until the crew is gone.
async fn work(proxy: Arc<Proxy>, mut arrivals: mpsc::UnboundedReceiver<Arrival>) {
    let worker = proxy.worker();
    while let Some(arrival) = arrivals.recv().await {
        spawn_local(Box::pin(attend(worker.clone(), arrival)));
    }
}

/// Adopts a connection and serves it to its end.
async fn attend(worker: Worker, arrival: Arrival) {
    let Arrival { stream, peer, counted } = arrival;
    match tokio::net::TcpStream::from_std(stream) {
        Ok(stream) => proxy::serve(worker, stream, peer).await,
        Err(error) => tracing::warn!(%error, "a connection could not be adopted"),
    }
    drop(counted);
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

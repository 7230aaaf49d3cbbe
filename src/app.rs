//! Builds every room from settings, runs a runtime per core, and drains.
//!
//! The first runtime runs on the thread that calls [`run`]: it accepts connections, drives the gate and
//! hears signals. It hands each connection to the runtime with the fewest, where it stays; what the
//! runtimes share is the gate alone.

mod crew;
mod descriptors;
mod doors;
mod house;
mod listen_error;
mod locks;
mod orders;
pub mod reload;
mod signals;
mod succession;
mod systemd;
mod watch;

use std::io;
use std::net::SocketAddr;
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

use self::house::{Desk, House};
pub use self::listen_error::ListenError;
use self::locks::Counter;
use self::reload::Reloader;
use self::signals::{Asked, Signals};
use self::succession::Successor;
use crate::admin::AdminCommand;
use crate::config::Settings;
use crate::gate::{journal, takeover};
use crate::proxy::{self, Shared};

/// How long the last lines of the access log may take: its reader may have stopped reading.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How long callers may stay at most when another process has taken over: a tunnel has no end of its own.
const LONGEST_LEAVING: Duration = Duration::from_secs(3600);

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
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A socket that was passed to this process is of no use.
    #[error(transparent)]
    Socket(io::Error),
    /// The system gives no thread, poll or signal handler.
    #[error("cannot start a runtime")]
    Runtime(#[source] io::Error),
    /// Certificates or keys are missing or wrong.
    #[error(transparent)]
    Proxy(#[from] proxy::Error),
    /// Locks cannot be given.
    #[error("locks cannot be given: {0}")]
    Locks(io::Error),
    /// What was counted before cannot be known.
    #[error(transparent)]
    State(#[from] journal::Error),
    /// The standard input is not what a process that takes over needs.
    #[error("there is no process to take over from: one that runs starts its successor when it gets the signal USR2")]
    NobodyBefore(#[source] io::Error),
    /// The process that runs goes on.
    #[error(transparent)]
    TakeOver(#[from] takeover::Error),
    /// Nobody would be woken any more. A fault of the gateway's.
    #[error("the gate's timer stopped: {0}")]
    Timer(String),
    /// Nobody would be accepted there any more. A fault of the gateway's.
    #[error("the listener at {0} stopped")]
    Accept(SocketAddr),
    /// Locks would not end by themselves any more. A fault of the gateway's.
    #[error("the lock service stopped: {0}")]
    LockService(String),
}

/// What a run begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// What is in the state folder.
    Anew,
    /// As `Anew`, for the programs that it was started for alone: there is nobody to hand over to.
    Aside,
    /// All that another process has, which is at the other end of the standard input.
    TakeOver,
}

/// Runs the gateway until a signal ends it. `path`: the file that the settings are from, and that is read again on
/// SIGHUP. `announce` is called once all addresses are bound, with the settings as they are then in force, unless another
/// process did so before.
///
/// # Errors
/// If it cannot start, or cannot go on.
pub fn run(path: PathBuf, settings: Settings, start: Start, announce: impl FnOnce(&Settings)) -> Result<Ended, Error> {
    let successor = (start != Start::Aside).then(|| Rc::new(Successor::new(&path)));
    descriptors::raise();
    let runtime = runtime().map_err(Error::Runtime)?;
    let ended = runtime.block_on(async {
        let signals = Signals::new().map_err(Error::Runtime)?;
        let mut house = House::build(settings, start)?;
        match start {
            Start::Anew | Start::Aside => announce(&house.settings),
            Start::TakeOver => tracing::info!("taken over"),
        }
        let gate = Arc::clone(&house.shared.gate);
        let mut driving = spawn_local(Arc::clone(&gate).drive());
        house.doors.change(house.planned, &house.crew);
        let House { shared, current, crew, doors, admin, locks, asked, .. } = house;
        let reloader = Rc::new(Reloader::new(path, current, shared.clone(), doors, crew, asked));
        if start == Start::TakeOver {
            systemd::taken_over()
        } else {
            systemd::ready()
        }
        let watching = systemd::watch(shared.drain.clone());
        let mut run = Run { reloader, shared, successor, signals, desk: admin, locks };
        tokio::select! {
            ended = &mut driving => Err(Error::Timer(why(ended))),
            () = watching => unreachable!("it goes on for ever"),
            ended = run.live(&mut house.faults) => ended,
        }
    });
    // A name lookup or a password check may still hold a thread; nobody waits for its answer.
    runtime.shutdown_background();
    ended
}

/// A gateway that runs.
struct Run {
    reloader: Rc<Reloader>,
    shared: Shared,
    successor: Option<Rc<Successor>>,
    signals: Signals,
    desk: Option<Desk>,
    locks: Option<Rc<Counter>>,
}

/// Why it does not go on as it is.
enum Turn {
    /// It was asked to end.
    End,
    /// Another process has taken over.
    Leave(Child),
}

impl Run {
    /// Serves, until there is nothing more to be done.
    async fn live(&mut self, faults: &mut mpsc::UnboundedReceiver<Error>) -> Result<Ended, Error> {
        let watching = Aborted(spawn_local(watch::watch(Rc::clone(&self.reloader))));
        let turn = self.serve(faults).await?;
        drop(watching);
        let ended = match turn {
            Turn::End => {
                self.reloader.doors().close();
                self.drain().await
            }
            Turn::Leave(successor) => {
                self.reloader.doors().leave();
                // Operators are the other process's; those that are here already are answered.
                let visitors = self.desk.take().map(|Desk { thread, .. }| spawn_blocking(|| thread.join()));
                let ended = self.leave(successor).await;
                if let Some(visitors) = visitors
                    && let Ended::Drained = ended
                {
                    tokio::select! {
                        code = self.signals.end() => return Ok(Ended::Cut(code)),
                        _ = visitors => {}
                    }
                }
                ended
            }
        };
        match ended {
            Ended::Drained => Ok(self.put_away().await),
            Ended::Cut(code) => Ok(Ended::Cut(code)),
        }
    }

    /// Does what signals ask for, until it is to do something else.
    async fn serve(&mut self, faults: &mut mpsc::UnboundedReceiver<Error>) -> Result<Turn, Error> {
        let mut handing_over: Option<JoinHandle<Result<Child, succession::Error>>> = None;
        let mut was_to_end = false;
        loop {
            tokio::select! {
                Some(fault) = faults.recv() => return Err(fault),
                given = ended(&mut handing_over) => {
                    handing_over = None;
                    match given {
                        Ok(Ok(successor)) => {
                            tracing::info!(process = successor.id(), "handed over");
                            if was_to_end {
                                end(&successor);
                            }
                            return Ok(Turn::Leave(successor));
                        }
                        Ok(Err(error)) => tracing::error!("not handed over, nothing has changed: {}", causes(&error)),
                        Err(error) => tracing::error!(%error, "not handed over"),
                    }
                    if was_to_end {
                        return Ok(Turn::End);
                    }
                }
                order = order(&mut self.desk) => drop(spawn_local(Rc::clone(&self.reloader).obey(order))),
                signal = self.signals.next() => match signal {
                    // Whoever is the gateway by then is to end.
                    Asked::End(_) if handing_over.is_some() && !was_to_end => was_to_end = true,
                    Asked::End(_) => return Ok(Turn::End),
                    Asked::Reload => drop(spawn_local(Rc::clone(&self.reloader).reload_aloud())),
                    Asked::HandOver if handing_over.is_some() => tracing::warn!("it is being handed over already"),
                    Asked::HandOver => handing_over = self.hand_over(),
                },
            }
        }
    }

    fn hand_over(&self) -> Option<JoinHandle<Result<Child, succession::Error>>> {
        let Some(successor) = &self.successor else {
            tracing::warn!("a gateway that runs for one program is not handed over");
            return None;
        };
        let (reloader, gate) = (Rc::clone(&self.reloader), Arc::clone(&self.shared.gate));
        let desk = self.desk.as_ref().map(|desk| Rc::clone(&desk.socket));
        let locks = self.locks.clone();
        Some(spawn_local(succession::hand_over(Rc::clone(successor), reloader, gate, desk, locks)))
    }

    /// Waits for what runs, for some time.
    async fn drain(&mut self) -> Ended {
        let (drain, gate, patience) = (&self.shared.drain, &self.shared.gate, self.reloader.drain());
        if !drain.entered_lame_duck() {
            systemd::stopping();
        }
        // Operators still see how it ends, and can change nothing.
        if let Some(Desk { mut asked, .. }) = self.desk.take() {
            spawn_local(async move {
                while let Some(order) = asked.recv().await {
                    order.reject();
                }
            });
        }
        tracing::info!(running = drain.running_requests(), ?patience, "draining");
        drain.start();
        if let Some(locks) = self.locks.take() {
            locks.close().await;
        }
        gate.close(gate.clock().now() + patience);
        tokio::select! {
            code = self.signals.end() => return Ended::Cut(code),
            idle = timeout(patience, drain.wait_idle()) => {
                tracing::info!(running = drain.running_requests(), in_time = idle.is_ok(), "drained");
            }
        }
        Ended::Drained
    }

    /// Another process lets callers in: those who are here are served until they part.
    async fn leave(&mut self, mut successor: Child) -> Ended {
        let drain = &self.shared.drain;
        tracing::info!(connections = drain.connections(), running = drain.running_requests(), "leaving");
        drain.start_lame_duck();
        // It is waited for, also so that nothing is left of it.
        let successor = spawn_blocking(move || successor.wait());
        tokio::select! {
            _ = self.signals.end() => {}
            status = successor => tracing::error!(?status, "the process that took over has ended"),
            empty = timeout(LONGEST_LEAVING, drain.wait_closed()) => {
                if empty.is_ok() {
                    tracing::info!("all callers have parted");
                    return Ended::Drained;
                }
            }
        }
        self.drain().await
    }

    /// Writes what is to outlive this process.
    async fn put_away(&mut self) -> Ended {
        let (log, gate) = (self.reloader.log(), Arc::clone(&self.shared.gate));
        tokio::select! {
            code = self.signals.end() => return Ended::Cut(code),
            _ = spawn_blocking(move || gate.stop()) => {}
        }
        tokio::select! {
            code = self.signals.end() => Ended::Cut(code),
            _ = timeout(LAST_LINES, spawn_blocking(move || log.flush())) => Ended::Drained,
        }
    }
}

/// Asks the process that took over to end.
fn end(successor: &Child) {
    let asked = kill_process(Pid::from_child(successor), rustix::process::Signal::TERM);
    if let Err(error) = asked {
        tracing::error!(%error, "the process that took over cannot be asked to end");
    }
}

/// The end of a task; if there is none, never.
async fn ended<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, tokio::task::JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

/// What an operator asks for; if there is no desk, never anything.
async fn order(desk: &mut Option<Desk>) -> AdminCommand {
    match desk {
        Some(Desk { asked, .. }) => match asked.recv().await {
            Some(order) => order,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// What went wrong, and why.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |why, cause| format!("{why}: {cause}"))
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

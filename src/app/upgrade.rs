//! Upgrade: starts another process and hands sockets, counts and waiters over to it.
//!
//! The new process runs a newer program, or has settings that need a new process. Both processes
//! serve their connections to the end; only the new one accepts and grants.
//!
//! Steps of [`hand_over`]:
//!
//! 1. Reload the file, so that both processes have the same configuration.
//! 2. Close the lock service: two processes cannot have its register open.
//! 3. Duplicate the listening sockets, and start the new process with a socket pair as its stdin.
//! 4. Hand sockets, counts and waiters over (`Gate::hand_over`).
//! 5. After a failure: end the new process, reopen the lock service, and go on.

use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::bound_listeners::Listeners;
use super::lock_service::LockServiceHandle;
use super::reload::Reloader;
use crate::audit::Author;
use crate::gate::{Gate, takeover};
use crate::net::fd_socket::FdSocket;

/// Author of an upgrade.
pub(super) const AUTHOR: Author = Author::Signal("SIGUSR2");

/// Environment variables about this process only. The new process would read them as about itself.
const PROCESS_VARIABLES: [&str; 5] =
    ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_FDS_FIRST_FD", "WATCHDOG_PID"];

/// Time for a new process that cannot take over to print its error and exit, before it is killed. A
/// choice: it has nothing else to do.
const EXIT_GRACE: Duration = Duration::from_secs(2);
/// Interval of the checks for its exit.
///
/// A choice: short beside [`EXIT_GRACE`].
const EXIT_POLL: Duration = Duration::from_millis(10);

/// Command line of the new process: this program's path and this configuration file.
pub(super) struct UpgradeCommand {
    /// The path of this program at its start, or the reason why that is unknown.
    program: io::Result<PathBuf>,
    /// The configuration file.
    config: PathBuf,
}

/// Reason of a failed upgrade; this process goes on unchanged.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The program file is gone, or the system gives no process.
    #[error("{} cannot be started", program.display())]
    Start { program: PathBuf, source: io::Error },
    /// The configuration file is invalid, or valid only for the new program.
    #[error("the file cannot be read: {0}")]
    File(String),
    /// There are no descriptors left, or the program's path is unknown.
    #[error("the hand-over cannot be prepared")]
    System(#[from] io::Error),
    /// The exchange of the two processes failed.
    #[error(transparent)]
    HandOver(#[from] takeover::Error),
    /// A panic. A fault of the gateway's.
    #[error("the hand-over was interrupted")]
    Broken(#[from] tokio::task::JoinError),
}

impl UpgradeCommand {
    /// Must be called at the start of the process: later the path of its program may no longer be
    /// known. `config`: the configuration file.
    pub(super) fn new(config: &Path) -> UpgradeCommand {
        UpgradeCommand { program: std::env::current_exe(), config: config.to_owned() }
    }

    /// Starts the new process with `socket` as its standard input.
    ///
    /// # Errors
    /// `System` if the program's path is unknown, `Start` if it cannot be executed.
    fn start(&self, socket: impl Into<Stdio>) -> Result<Child, Error> {
        let program = match &self.program {
            Ok(program) => program.clone(),
            Err(error) => return Err(Error::System(io::Error::new(error.kind(), error.to_string()))),
        };
        let arguments: [OsString; 4] =
            ["run".into(), "--take-over".into(), "--config".into(), self.config.clone().into()];
        let mut command = Command::new(&program);
        command.args(arguments).stdin(socket);
        for name in PROCESS_VARIABLES {
            command.env_remove(name);
        }
        command.spawn().map_err(|source| Error::Start { program, source })
    }
}

/// Waits until a new process that has not taken over exits; kills it after [`EXIT_GRACE`].
///
/// Blocks the thread for [`EXIT_GRACE`] and the kill.
fn reap(mut child: Child) {
    for _ in 0..EXIT_GRACE.as_millis() / EXIT_POLL.as_millis() {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        thread::sleep(EXIT_POLL);
    }
    // It may not have noticed that the hand-over failed.
    child.kill().ok();
    child.wait().ok();
}

/// Reloads the configuration, starts a new process and hands everything over to it. No reload runs
/// at the same time. `others`: the sockets of the admin API and of ZeroMQ. `locks`: the lock service,
/// which is closed meanwhile and reopened after a failure.
///
/// # Errors
/// See [`Error`]; this process goes on.
pub(super) async fn hand_over(
    command: Rc<UpgradeCommand>,
    reloader: Rc<Reloader>,
    gate: Arc<Gate>,
    others: Vec<Rc<(SocketAddr, TcpListener)>>,
    locks: Option<Rc<LockServiceHandle>>,
) -> Result<Child, Error> {
    // Requests that stay in this process follow the same configuration as those in the new one.
    if let Err(why) = Rc::clone(&reloader).reload_and_log(AUTHOR).await {
        return Err(Error::File(why));
    }
    let start_and_give = async |listeners: &Listeners| {
        let mut sockets = listeners.sockets()?;
        for other in others.iter().chain(locks.as_ref().map(|locks| &locks.socket)) {
            sockets.push((other.0, other.1.try_clone()?));
        }
        let (socket, child_socket) = FdSocket::pair()?;
        let child = command.start(child_socket)?;
        tracing::info!(process = child.id(), "handing over");
        let given = spawn_blocking(move || {
            if let Err(error) = gate.hand_over(socket, &sockets) {
                reap(child);
                return Err(error);
            }
            Ok(child)
        });
        Ok::<Child, Error>(given.await??)
    };
    if let Some(locks) = &locks {
        locks.close().await;
    }
    let new_process = reloader.retire(start_and_give).await;
    if let (Err(_), Some(locks)) = (&new_process, &locks)
        && let Err(error) = locks.reopen()
    {
        tracing::error!(%error, "the lock service cannot be reopened");
    }
    new_process
}

//! Another process takes the place of this one: of a newer program, or with settings that need a new one.

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

use super::doors::Doors;
use super::locks::Counter;
use super::reload::Reloader;
use crate::gate::{Gate, takeover};
use crate::net::fd_socket::FdSocket;

/// What a new process would take for its own.
const OURS: [&str; 5] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_FDS_FIRST_FD", "WATCHDOG_PID"];

/// How long a process may take to say why it cannot take over.
const LAST_WORDS: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);

/// How the next process is started.
pub(super) struct Successor {
    program: io::Result<PathBuf>,
    path: PathBuf,
}

/// Why this process goes on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The program is gone, or there is no more room for a process.
    #[error("{} cannot be started", program.display())]
    Start { program: PathBuf, source: io::Error },
    /// The file is wrong, or says what only the new program understands.
    #[error("the file cannot be read: {0}")]
    File(String),
    /// There are no descriptors left.
    #[error("there is nothing to hand over with")]
    System(#[from] io::Error),
    /// What the two processes had to say to each other.
    #[error(transparent)]
    HandOver(#[from] takeover::Error),
    /// A fault of the gateway's.
    #[error("the hand-over broke off")]
    Broken(#[from] tokio::task::JoinError),
}

impl Successor {
    /// To be made at the start: later the program's file may have another's place. `path`: the configuration.
    pub(super) fn new(path: &Path) -> Successor {
        Successor { program: std::env::current_exe(), path: path.to_owned() }
    }

    fn start(&self, pass: impl Into<Stdio>) -> Result<Child, Error> {
        let program = match &self.program {
            Ok(program) => program.clone(),
            Err(error) => return Err(Error::System(io::Error::new(error.kind(), error.to_string()))),
        };
        let arguments: [OsString; 4] =
            ["run".into(), "--take-over".into(), "--config".into(), self.path.clone().into()];
        let mut command = Command::new(&program);
        command.args(arguments).stdin(pass);
        for name in OURS {
            command.env_remove(name);
        }
        command.spawn().map_err(|source| Error::Start { program, source })
    }
}

/// A process that has nothing to do here any more has a moment to say why.
fn end(mut child: Child) {
    for _ in 0..LAST_WORDS.as_millis() / POLL.as_millis() {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        thread::sleep(POLL);
    }
    // It may not even know.
    child.kill().ok();
    child.wait().ok();
}

/// Starts another process, and gives it all that this one has. No reading of the file comes in between.
/// `more`: a socket that is no door's. `locks`: where locks are given, which is closed meanwhile.
pub(super) async fn hand_over(
    successor: Rc<Successor>,
    reloader: Rc<Reloader>,
    gate: Arc<Gate>,
    more: Option<Rc<(SocketAddr, TcpListener)>>,
    locks: Option<Rc<Counter>>,
) -> Result<Child, Error> {
    // Those that are left here go by what the file says, as those of the new process do.
    if let Err(why) = Rc::clone(&reloader).reload_aloud().await {
        return Err(Error::File(why));
    }
    let give = async |doors: &Doors| {
        let mut sockets = doors.sockets()?;
        for more in more.iter().chain(locks.as_ref().map(|locks| &locks.socket)) {
            sockets.push((more.0, more.1.try_clone()?));
        }
        let (pass, there) = FdSocket::pair()?;
        let child = successor.start(there)?;
        tracing::info!(process = child.id(), "handing over");
        let given = spawn_blocking(move || {
            if let Err(error) = gate.hand_over(pass, &sockets) {
                end(child);
                return Err(error);
            }
            Ok(child)
        });
        Ok::<Child, Error>(given.await??)
    };
    if let Some(locks) = &locks {
        locks.close().await;
    }
    let given = reloader.retire(give).await;
    if let (Err(_), Some(locks)) = (&given, &locks)
        && let Err(error) = locks.open_again()
    {
        tracing::error!(%error, "no more locks are given");
    }
    given
}

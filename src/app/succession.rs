//! Another process takes the place of this one: of a newer program, or with settings that need a new one.

use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::doors::Doors;
use super::reload::Reloader;
use crate::gate::{Gate, takeover};
use crate::net::pass::Pass;

/// What a new process would take for its own.
const OURS: [&str; 5] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_FDS_FIRST_FD", "WATCHDOG_PID"];

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

/// Starts another process, and gives it all that this one has. No reading of the file comes in between.
/// `more`: a socket that is no door's.
pub(super) async fn hand_over(
    successor: Rc<Successor>,
    reloader: Rc<Reloader>,
    gate: Arc<Gate>,
    more: Option<Rc<(SocketAddr, TcpListener)>>,
) -> Result<u32, Error> {
    let mut pid = 0;
    let give = async |doors: &Doors| {
        let mut sockets = doors.sockets()?;
        if let Some(more) = &more {
            sockets.push((more.0, more.1.try_clone()?));
        }
        let (pass, there) = Pass::pair()?;
        let mut child = successor.start(there)?;
        pid = child.id();
        tracing::info!(process = pid, "handing over");
        let given = spawn_blocking(move || {
            let given = gate.hand_over(pass, &sockets);
            if given.is_err() {
                // It has nothing to do here any more, whether it knows that or not.
                child.kill().ok();
                child.wait().ok();
            }
            given
        });
        Ok(given.await??)
    };
    reloader.retire(give).await.map(|()| pid)
}

//! Watcher: a process beside a program, which says on stderr after its end if no request came to the gateway meanwhile.
//!
//! Such a program has made no request, or its requests went past the gateway. exec cannot say it, since the program
//! takes its place, and the gateway may be another user's. The gateway counts the requests of all programs: those of
//! another program at the same time hide that this one made none, but a program that made one is never suspected.
//!
//! Life: exec starts it, by way of a starter, so that it is not a child of the program. It joins a gateway that exec
//! started, which then ends after the last question. It says that it is ready, waits until exec has become the program
//! (or failed to), then for the program's end, and asks the gateway.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::process::{PidfdFlags, getpid, pidfd_open, setsid};

use super::{discover, probe};

/// Time for the watcher to be ready: so long that only a hang is slower.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// Byte with which the watcher says that it is ready, and exec that the program could not be executed.
const SIGNAL: [u8; 1] = [1];

/// Connection from exec to the watcher. It is closed when exec becomes the program, which starts the watch.
pub(super) struct Watcher(UnixStream);

/// Counts that the watcher compares at the end of the program.
pub(super) struct Watched<'a> {
    /// Address of the gateway.
    pub(super) gateway: SocketAddr,
    /// Number of requests that the gateway has received before the program.
    pub(super) received: u64,
    /// Name of the join socket; `None` if exec did not start the gateway.
    pub(super) join_name: Option<&'a str>,
    /// Name of the program.
    pub(super) program: &'a OsStr,
}

impl Watcher {
    /// Starts the watcher of this process, and waits until it is ready.
    ///
    /// # Errors
    /// If the system knows no pidfd (before Linux 5.3, and in some sandboxes), or gives no process.
    pub(super) fn start(watched: &Watched<'_>) -> io::Result<Watcher> {
        let end = pidfd_open(getpid(), PidfdFlags::empty())?;
        let (mut near, far) = UnixStream::pair()?;
        near.set_read_timeout(Some(READY_TIMEOUT))?;
        let mut starter = Command::new(std::env::current_exe()?);
        starter.args(["exec", "--role", "watcher-starter", "--"]).arg(watched.gateway.to_string());
        starter.arg(watched.received.to_string()).arg(watched.join_name.unwrap_or_default()).arg(watched.program);
        starter.stdin(end).stdout(OwnedFd::from(far)).process_group(0);
        starter.status()?;
        // Its copy of the other end would keep the connection open.
        drop(starter);
        near.read_exact(&mut [0])?;
        Ok(Watcher(near))
    }

    /// Tells the watcher that the program could not be executed.
    pub(super) fn cancel(mut self) {
        // A watcher that is gone needs not be told.
        self.0.write_all(&SIGNAL).ok();
    }
}

/// Starts the watcher and exits, so that its parent is the system's first process.
pub(super) fn run_starter(arguments: &[OsString]) -> ExitCode {
    let mut watcher = Command::new(std::env::current_exe().unwrap_or_else(|_| "lockgate".into()));
    watcher.args(["exec", "--role", "watcher", "--"]).args(arguments);
    if watcher.spawn().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The watcher: stdin is a pidfd of the program, stdout the connection to exec.
///
/// Returns 0, also if it cannot watch: it has no reader of its exit code.
pub(super) fn run(arguments: &[OsString]) -> ExitCode {
    // Away from the terminal and its signals. It fails only for the leader of a process group, which is apart already.
    setsid().ok();
    if let [gateway, received, join_name, program] = arguments
        && let Some(gateway) = gateway.to_str().and_then(|text| text.parse().ok())
        && let Some(received) = received.to_str().and_then(|text| text.parse().ok())
    {
        let join_name = join_name.to_str().filter(|name| !name.is_empty());
        watch(&Watched { gateway, received, join_name, program }).ok();
    }
    ExitCode::SUCCESS
}

/// Waits for the end of the program, and prints the note if it is due.
///
/// # Errors
/// If a descriptor cannot be used; no note is printed then.
fn watch(watched: &Watched<'_>) -> io::Result<()> {
    let end = io::stdin().as_fd().try_clone_to_owned()?;
    let mut exec = UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    std::env::set_current_dir("/")?;
    if let Some(name) = watched.join_name {
        // The gateway stays until this process has asked it. The digest matters to the first program alone.
        discover::join(name, &discover::digest(Path::new("/"))).ok();
    }
    exec.write_all(&SIGNAL)?;
    if exec.read(&mut [0])? > 0 {
        return Ok(());
    }
    retry_on_intr(|| poll(&mut [PollFd::new(&end, PollFlags::IN)], None))?;
    let received = probe::ask(watched.gateway).and_then(|about| about.received);
    if received == Some(watched.received) {
        eprintln!(
            "lockgate: no request came to the gateway at {} while {} ran: if it made requests, they went past the gateway, uncounted",
            watched.gateway,
            watched.program.display()
        );
    }
    Ok(())
}

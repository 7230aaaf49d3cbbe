//! The gateway that was started for programs: it runs apart, and stays as long as one of them runs.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, setsid, test_kill_process};
use tracing::level_filters::LevelFilter;

use super::super::{complain, find as find_config, variables};
use super::find::wants_log;
use crate::app;
use crate::config;
use crate::log;
use crate::net::dial;
use crate::proxy::record::Format;

/// How long the first program may take to join; it waits for us already.
const FIRST: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// How often to look after programs that the kernel does not tell the end of.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
/// How long our own listener may take to let us in.
const OWN: Duration = Duration::from_secs(2);
/// The pauses until our own listener has closed, and how many there are at most.
const CLOSING: Duration = Duration::from_millis(5);
const CLOSED_AFTER: usize = 400;

/// A program that the gateway stays for.
enum Program {
    /// The kernel tells its end.
    Told(OwnedFd),
    /// It does not (before Linux 5.3, and in some sandboxes), so we look.
    Seen(Pid),
}

/// Runs the gateway. What goes wrong before it is ready is read by the exec that started it.
pub(super) fn run(wish: Option<&Path>) -> ExitCode {
    // What happens to the terminal does not happen to us. It fails only where that is so already.
    setsid().ok();
    match serve(wish) {
        Ok(_ended) => ExitCode::SUCCESS,
        Err(error) => {
            complain(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

fn serve(wish: Option<&Path>) -> Result<app::Ended, Box<dyn std::error::Error>> {
    let programs = UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    let nothing = File::open("/dev/null")?;
    // The name is ours as long as one descriptor of it is open.
    rustix::stdio::dup2_stdin(&nothing)?;
    // Its warnings were shown by the exec that started us.
    let mut settings = config::read(&find_config(wish)?)?;
    if !wants_log() {
        settings.proxy.access_log = Format::Off;
        settings.log = settings.log.min(LevelFilter::WARN);
    }
    log::start(settings.log);
    let mut failed = None;
    let announce = |settings: &config::Settings| {
        let ready = rustix::stdio::dup2_stderr(io::stdout()).map_err(io::Error::from);
        let address = variables::address(settings).ok();
        let listen = settings.listen.clone();
        let watch = move || stay(&programs, &listen, address);
        let started = ready.and_then(|()| thread::Builder::new().name("programs".to_owned()).spawn(watch));
        if let Err(error) = started {
            // Nobody would end us.
            failed = Some(error);
            end();
        }
    };
    let ended = app::run(settings, announce)?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(ended),
    }
}

/// Lets programs join, and ends the gateway with the last of them.
fn stay(programs: &UnixListener, listen: &[SocketAddr], address: Option<SocketAddr>) {
    let mut here: Vec<Program> = Vec::new();
    let mut somebody_came = false;
    loop {
        let look = here.iter().any(|program| matches!(program, Program::Seen(_))).then_some(LOOK);
        let joins = wait(programs, &here, if somebody_came { look } else { Some(FIRST) });
        // If the gateway was told to end, whoever joins must look for another.
        if joins && address.is_some_and(|address| !dial::answers(address, OWN)) {
            return;
        }
        if joins && let Ok((stream, _)) = programs.accept() {
            here.extend(admit(stream, listen));
            somebody_came |= !here.is_empty();
        }
        here.retain(Program::runs);
        // Who has ended before it could be noted leaves the gateway to who joins next.
        if here.is_empty() && (somebody_came || !joins) {
            break;
        }
    }
    tracing::info!("the last program has ended");
    end();
    // The name is given up after the port, so that whoever finds the name free finds the port free too.
    for _ in 0..CLOSED_AFTER {
        if !address.is_some_and(|address| dial::answers(address, OWN)) {
            break;
        }
        thread::sleep(CLOSING);
    }
}

/// Waits until a program ends or wants to join, or for so long; true if one wants to join.
fn wait(programs: &UnixListener, here: &[Program], patience: Option<Timespec>) -> bool {
    let told = here.iter().filter_map(|program| match program {
        Program::Told(end) => Some(PollFd::new(end, PollFlags::IN)),
        Program::Seen(_) => None,
    });
    let mut awaited: Vec<PollFd<'_>> = vec![PollFd::new(programs, PollFlags::IN)];
    awaited.extend(told);
    // If it fails there is nothing to hear; the next round looks again.
    retry_on_intr(|| poll(&mut awaited, patience.as_ref())).ok();
    !awaited[0].revents().is_empty()
}

/// Notes whose call it is, and tells where the gateway listens.
fn admit(mut stream: UnixStream, listen: &[SocketAddr]) -> Option<Program> {
    let caller = socket_peercred(&stream).ok()?.pid;
    let program = match pidfd_open(caller, PidfdFlags::empty()) {
        Ok(end) => Program::Told(end),
        Err(Errno::SRCH) => return None,
        Err(_) => Program::Seen(caller),
    };
    let text: String = listen.iter().map(|address| format!("{address}\n")).collect();
    // One that does not read it has ended, or will look again.
    stream.set_write_timeout(Some(OWN)).ok()?;
    stream.write_all(text.as_bytes()).ok();
    Some(program)
}

impl Program {
    fn runs(&self) -> bool {
        match self {
            Program::Told(end) => {
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                !matches!(retry_on_intr(|| poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&now))), Ok(1..))
            }
            // Another user's process may not be signalled, but it is there.
            Program::Seen(pid) => test_kill_process(*pid) != Err(Errno::SRCH),
        }
    }
}

/// The way of everybody to end a gateway: it drains.
fn end() {
    if let Err(error) = kill_process(getpid(), Signal::TERM) {
        tracing::error!(%error, "the gateway cannot be told to end");
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn program() -> Child {
        Command::new("sleep").arg("600").spawn().unwrap()
    }

    #[test]
    fn the_end_of_a_program_is_noticed_either_way() {
        let mut child = program();
        let pid = Pid::from_child(&child);
        let both = [Program::Told(pidfd_open(pid, PidfdFlags::empty()).unwrap()), Program::Seen(pid)];
        assert!(both.iter().all(Program::runs));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!both.iter().any(Program::runs));
    }

    #[test]
    fn the_end_of_a_program_ends_the_wait() {
        let listener = UnixListener::bind_addr(&nowhere()).unwrap();
        let mut child = program();
        let here = [Program::Told(pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap())];
        let ending = thread::spawn(move || {
            child.kill().unwrap();
            child.wait().unwrap();
        });
        assert!(!wait(&listener, &here, None), "nobody joins");
        assert!(!here[0].runs());
        ending.join().unwrap();
    }

    #[test]
    fn who_joins_is_told_where_and_known_by_the_kernels_word() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let listen = ["127.0.0.1:80".parse().unwrap(), "[::1]:81".parse().unwrap()];
        let program = admit(ours, &listen).unwrap();
        assert_eq!(io::read_to_string(theirs).unwrap(), "127.0.0.1:80\n[::1]:81\n");
        assert!(program.runs(), "it is this process");
    }

    fn nowhere() -> std::os::unix::net::SocketAddr {
        use std::os::linux::net::SocketAddrExt;
        std::os::unix::net::SocketAddr::from_abstract_name(format!("lockgate/test/wait/{}", std::process::id()))
            .unwrap()
    }
}

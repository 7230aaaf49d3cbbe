//! Per-user daemon: a gateway that exec started for programs, and that exits after the last of
//! them.
//!
//! It lingers as long as its windows count something, or a program that is run in a loop would find
//! them empty each time.
//!
//! Life: take the join socket from stdin, read the configuration, run the gateway, and redirect
//! stderr from the pipe of exec to its final place once the listeners are open. A thread accepts
//! programs and waits for their ends; when the last has ended and the linger is over, it sends
//! SIGTERM to the own process, which drains like any gateway.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{
    Pid, PidfdFlags, Signal, Uid, geteuid, getpid, kill_process, pidfd_open, setsid, test_kill_process,
};

use super::super::{find_config, print_error, variables};
use super::discover::{ConfigDigest, digest, has_log_file};
use super::join_socket;
use crate::app;
use crate::config;
use crate::locker::{Counts, Limit};
use crate::log;
use crate::net::dial;

/// Time for the first program to join. It waits already: only on a stalled machine does it take
/// longer.
const FIRST_JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two checks of programs without a pidfd.
///
/// A choice: few system calls, and an end that is noticed soon.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// The longest linger after the last program: a process that stays for hours would surprise.
const MAX_LINGER: Duration = Duration::from_secs(60);
/// Time for a connection to our own listener, and for a program's message.
///
/// Two seconds: both need one round trip within this machine.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between two checks whether our own listener has closed.
const CLOSE_POLL_INTERVAL: Duration = Duration::from_millis(5);
/// The most such checks: two seconds.
const MAX_CLOSE_POLLS: usize = 400;

/// A program that the gateway stays for.
enum Program {
    /// Its pidfd becomes readable at its end (pidfd_open(2)).
    ///
    /// It names the process itself, also after the system has given its id to another.
    PidFd(OwnedFd),
    /// No pidfd (before Linux 5.3, and in some sandboxes): polled each [`POLL_INTERVAL`].
    ///
    /// An id may be reused between two looks; the gateway then stays longer.
    Polled(Pid),
}

/// Runs the gateway. Until it is ready, its stderr is read by the exec that started it.
///
/// Returns 0 after a stop, 1 if the gateway cannot start or its thread for programs cannot.
pub(super) fn run(config_arg: Option<&Path>) -> ExitCode {
    // Away from the terminal and its signals. It fails only for the leader of a process group, which is apart already.
    setsid().ok();
    match serve(config_arg) {
        Ok(_outcome) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

/// # Errors
/// If stdin is no socket, the configuration is invalid, or the gateway cannot run; the exec that
/// waits prints it.
fn serve(config_arg: Option<&Path>) -> Result<app::RunOutcome, Box<dyn std::error::Error>> {
    let programs = UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    let nothing = File::open("/dev/null")?;
    // The name stays bound as long as one descriptor of the socket is open.
    rustix::stdio::dup2_stdin(&nothing)?;
    // Warnings were printed by the exec that started us.
    let path = find_config(config_arg)?;
    let digest = digest(&path);
    let mut settings = config::read(&path)?;
    if !has_log_file() {
        settings.set_quiet();
    }
    if variables::address(&settings).is_err() {
        // Each program has a gateway of its own then, but only one process can have the state folder.
        settings.gate.state = None;
    }
    log::start(settings.log);
    // No other program finds a gateway on a random port, so lingering is of no use.
    let linger =
        if variables::address(&settings).is_ok() { linger_time(&settings.gate.limits) } else { Duration::ZERO };
    let mut failed = None;
    let announce = |settings: &config::Settings| {
        let ready = rustix::stdio::dup2_stderr(io::stdout()).map_err(io::Error::from);
        let socket = JoinSocket {
            programs,
            owner: geteuid(),
            listen: settings.listen.clone(),
            address: variables::address(settings).ok(),
            config: digest,
            linger,
        };
        let watch = move || socket.serve();
        let started = ready.and_then(|()| thread::Builder::new().name("programs".to_owned()).spawn(watch));
        if let Err(error) = started {
            // The gateway would never exit.
            failed = Some(error);
            terminate();
        }
    };
    let outcome = app::run(path, settings, app::StartMode::Exec, announce)?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(outcome),
    }
}

/// Time until the last slot is free again after the last request, at most [`MAX_LINGER`].
///
/// Zero without rates: a program that starts later finds nothing to remember.
fn linger_time(limits: &[Limit]) -> Duration {
    let rates = limits.iter().filter_map(|limit| Some((limit, limit.rate.as_ref()?)));
    let spans = rates.map(|(limit, rate)| match rate.counts {
        Counts::Sent => rate.per.saturating_add(rate.guard),
        // The request of a program that has exited settles later.
        Counts::Answered => rate.per.saturating_add(rate.guard).saturating_add(limit.linger()),
    });
    spans.max().unwrap_or_default().min(MAX_LINGER)
}

/// The socket that programs join at, with all that the decision to exit needs.
struct JoinSocket {
    /// Bound by exec, and passed on as stdin.
    programs: UnixListener,
    /// The user of the programs that may join.
    owner: Uid,
    /// Addresses that the gateway listens on, for the programs.
    listen: Vec<SocketAddr>,
    /// Address for connections from this machine; `None` if the port is random.
    address: Option<SocketAddr>,
    /// Digest of the configuration that the gateway started with.
    config: ConfigDigest,
    /// Time to stay after the last program.
    linger: Duration,
}

impl JoinSocket {
    /// Accepts programs, and stops the gateway after the last of them.
    ///
    /// Returns once the listener is closed, at the latest two seconds after the stop. The first
    /// program has [`FIRST_JOIN_TIMEOUT`] to join.
    fn serve(self) {
        let mut running: Vec<Program> = Vec::new();
        let mut timeout = FIRST_JOIN_TIMEOUT;
        loop {
            let was_idle = running.is_empty();
            let joins = wait(&self.programs, &running, timeout);
            if was_idle && !joins {
                break;
            }
            // The gateway was stopped otherwise: a program that joins must find another.
            if joins && !self.is_open() {
                return;
            }
            running.retain(Program::is_running);
            if joins {
                match self.accept(&running) {
                    Ok(program) => running.extend(program),
                    Err(ConfigChanged) => break,
                }
            }
            if !running.is_empty() {
                timeout = self.linger;
            }
        }
        tracing::info!("the last program has ended");
        terminate();
        // The socket is closed after the port, so that a process that can bind the socket can bind the port too.
        for _ in 0..MAX_CLOSE_POLLS {
            if !self.is_open() {
                break;
            }
            thread::sleep(CLOSE_POLL_INTERVAL);
        }
    }

    /// True if the gateway still accepts connections.
    ///
    /// True without a fixed address: no other process can want that port.
    fn is_open(&self) -> bool {
        self.address.is_none_or(|address| dial::is_listening(address, LOCAL_TIMEOUT))
    }

    /// Accepts a program and sends it the gateway's addresses. `None` if it is not a program of the
    /// owner, or has exited: another user's process is not read from, because it could keep the
    /// gateway alive, or other programs waiting.
    ///
    /// Exchange: the program sends its digest of the configuration, 32 bytes; the gateway sends its
    /// addresses, one a line, and closes.
    ///
    /// # Errors
    /// If no program is `running` and the configuration has changed: the gateway makes room for one
    /// that knows the new one.
    fn accept(&self, running: &[Program]) -> Result<Option<Program>, ConfigChanged> {
        let Ok((mut stream, _)) = self.programs.accept() else { return Ok(None) };
        let Ok(caller) = join_socket::peer_pid(&stream, self.owner) else { return Ok(None) };
        let mut config = ConfigDigest::default();
        let received = stream
            .set_read_timeout(Some(LOCAL_TIMEOUT))
            .and_then(|()| stream.set_write_timeout(Some(LOCAL_TIMEOUT)))
            .and_then(|()| stream.read_exact(&mut config));
        if received.is_err() {
            return Ok(None);
        }
        if running.is_empty() && config != self.config {
            return Err(ConfigChanged);
        }
        let program = match pidfd_open(caller, PidfdFlags::empty()) {
            Ok(end) => Program::PidFd(end),
            Err(Errno::SRCH) => return Ok(None),
            Err(_) => Program::Polled(caller),
        };
        let text: String = self.listen.iter().map(|address| format!("{address}\n")).collect();
        // A program that does not read it has exited, or tries again.
        stream.write_all(text.as_bytes()).ok();
        Ok(Some(program))
    }
}

/// The configuration differs from the one that the gateway started with.
///
/// The program starts a new gateway as soon as this one has left the address.
#[derive(Debug)]
struct ConfigChanged;

/// Waits until a program exits or joins; true if one joins. Waits at most `timeout` if no program
/// runs, and at most [`POLL_INTERVAL`] if one has no pidfd.
///
/// An error of poll(2) counts as no event.
fn wait(programs: &UnixListener, running: &[Program], timeout: Duration) -> bool {
    let polled = running.iter().any(|program| matches!(program, Program::Polled(_)));
    let timeout = match running {
        [] => Some(timeout),
        _ => Some(POLL_INTERVAL).filter(|_| polled),
    };
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    });
    let pidfds = running.iter().filter_map(|program| match program {
        Program::PidFd(end) => Some(PollFd::new(end, PollFlags::IN)),
        Program::Polled(_) => None,
    });
    let mut awaited: Vec<PollFd<'_>> = vec![PollFd::new(programs, PollFlags::IN)];
    awaited.extend(pidfds);
    // If it fails nothing is readable; the next round tries again.
    retry_on_intr(|| poll(&mut awaited, timeout.as_ref())).ok();
    !awaited[0].revents().is_empty()
}

impl Program {
    /// Never blocks.
    fn is_running(&self) -> bool {
        match self {
            Program::PidFd(end) => {
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                !matches!(retry_on_intr(|| poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&now))), Ok(1..))
            }
            // A process that may not be signalled (EPERM) exists all the same.
            Program::Polled(pid) => test_kill_process(*pid) != Err(Errno::SRCH),
        }
    }
}

/// Stops the gateway with SIGTERM, so that it drains.
fn terminate() {
    if let Err(error) = kill_process(getpid(), Signal::TERM) {
        tracing::error!(%error, "cannot send SIGTERM to the gateway itself");
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
        let both = [Program::PidFd(pidfd_open(pid, PidfdFlags::empty()).unwrap()), Program::Polled(pid)];
        assert!(both.iter().all(Program::is_running));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!both.iter().any(Program::is_running));
    }

    #[test]
    fn the_end_of_a_program_ends_the_wait() {
        let socket = socket("wait", Duration::ZERO);
        let mut child = program();
        let running = [Program::PidFd(pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap())];
        let ending = thread::spawn(move || {
            child.kill().unwrap();
            child.wait().unwrap();
        });
        assert!(!wait(&socket.programs, &running, Duration::ZERO), "no program joins");
        assert!(!running[0].is_running());
        ending.join().unwrap();
    }

    #[test]
    fn who_joins_is_told_where_and_known_by_the_kernels_word() {
        let socket = socket("joins", Duration::ZERO);
        let join = |config: &ConfigDigest| {
            let mut stream = dial::connect_abstract(name("joins").as_bytes()).unwrap();
            stream.write_all(config).unwrap();
            stream
        };
        let stream = join(&socket.config);
        assert!(wait(&socket.programs, &[], Duration::ZERO));
        let program = socket.accept(&[]).unwrap().unwrap();
        assert_eq!(io::read_to_string(stream).unwrap(), "127.0.0.1:80\n[::1]:81\n");
        assert!(program.is_running(), "it is this process");
        let _other = join(&[7; 32]);
        assert!(socket.accept(&[program]).unwrap().is_some(), "while a program uses the gateway its rules hold");
        let _other = join(&[7; 32]);
        assert!(socket.accept(&[]).is_err(), "then it makes room for one with the new rules");
        drop(dial::connect_abstract(name("joins").as_bytes()).unwrap());
        assert!(socket.accept(&[]).unwrap().is_none(), "a process that sends nothing is no program");
    }

    #[test]
    fn another_users_process_does_not_join_and_keeps_nothing_waiting() {
        let socket = JoinSocket { owner: Uid::from_raw(geteuid().as_raw() + 1), ..socket("stranger", Duration::ZERO) };
        // It sends nothing; a program of the owner would be waited for.
        let silent = dial::connect_abstract(name("stranger").as_bytes()).unwrap();
        assert!(socket.accept(&[]).unwrap().is_none());
        silent.set_read_timeout(Some(LOCAL_TIMEOUT)).unwrap();
        assert_eq!((&silent).read(&mut [0]).unwrap(), 0, "the connection is closed without an answer");
    }

    #[test]
    fn it_stays_as_long_as_what_was_counted_counts() {
        let limits = |text: &str| {
            let path = std::env::temp_dir().join(format!("lockgate-stay-{}.toml", std::process::id()));
            std::fs::write(&path, text).unwrap();
            let limits = config::read(&path).unwrap().gate.limits;
            std::fs::remove_file(path).unwrap();
            limits
        };
        let limit = |more: &str| format!("[[limit]]\nmatch = {{ host = \"a\" }}\n{more}\n");
        let second = limit("name = \"s\"\nrequests = 1\nper = \"800ms\"\nguard = \"20ms\"");
        let answered = limit("name = \"a\"\nrequests = 1\nper = \"2s\"\ncounts = \"answered\"");
        let day = limit("name = \"d\"\nrequests = 1\nper = \"1d\"");
        assert_eq!(linger_time(&limits(&second)), Duration::from_millis(820));
        assert_eq!(linger_time(&limits(&format!("{second}{answered}"))), Duration::from_secs(3));
        assert_eq!(linger_time(&limits(&format!("{day}{second}"))), MAX_LINGER);
        assert_eq!(linger_time(&limits(&limit("in_flight = 3"))), Duration::ZERO);
    }

    fn name(test: &str) -> String {
        format!("lockgate/test/stay/{test}/{}", std::process::id())
    }

    fn socket(test: &str, linger: Duration) -> JoinSocket {
        use std::os::linux::net::SocketAddrExt;
        let name = std::os::unix::net::SocketAddr::from_abstract_name(name(test)).unwrap();
        JoinSocket {
            programs: UnixListener::bind_addr(&name).unwrap(),
            owner: geteuid(),
            listen: vec!["127.0.0.1:80".parse().unwrap(), "[::1]:81".parse().unwrap()],
            address: None,
            config: [1; 32],
            linger,
        }
    }
}

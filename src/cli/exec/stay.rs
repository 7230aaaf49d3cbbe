//! The gateway that was started for programs: it runs apart, and stays as long as one of them runs.
//!
//! And a little longer: what it has counted is counted until it is forgotten, or a program that is run in a loop would
//! find all windows empty each time.

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

use super::super::{complain, find as find_config, variables};
use super::find::{Fingerprint, fingerprint, wants_log};
use super::join_socket;
use crate::app;
use crate::config;
use crate::locker::{Counts, Limit};
use crate::log;
use crate::net::dial;

/// How long the first program may take to join; it waits for us already.
const FIRST: Duration = Duration::from_secs(10);
/// How often to look after programs that the kernel does not tell the end of.
const LOOK: Duration = Duration::from_millis(250);
/// The longest that a gateway stays after its last program: a process that is there for hours would surprise.
const LONGEST_REST: Duration = Duration::from_secs(60);
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
    let path = find_config(wish)?;
    let fingerprint = fingerprint(&path);
    let mut settings = config::read(&path)?;
    if !wants_log() {
        settings.hush();
    }
    if variables::address(&settings).is_err() {
        // Each program has a gateway of its own then, and the state is only one's.
        settings.gate.state = None;
    }
    log::start(settings.log);
    // Nobody else finds a gateway on a port that is any.
    let rest = if variables::address(&settings).is_ok() { rest(&settings.gate.limits) } else { Duration::ZERO };
    let mut failed = None;
    let announce = |settings: &config::Settings| {
        let ready = rustix::stdio::dup2_stderr(io::stdout()).map_err(io::Error::from);
        let door = Door {
            programs,
            owner: geteuid(),
            listen: settings.listen.clone(),
            address: variables::address(settings).ok(),
            config: fingerprint,
            rest,
        };
        let watch = move || door.stay();
        let started = ready.and_then(|()| thread::Builder::new().name("programs".to_owned()).spawn(watch));
        if let Err(error) = started {
            // Nobody would end us.
            failed = Some(error);
            end();
        }
    };
    let ended = app::run(path, settings, app::Start::Aside, announce)?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(ended),
    }
}

/// How long a slot stays taken after the last request, and no longer than is worth staying for.
fn rest(limits: &[Limit]) -> Duration {
    let rates = limits.iter().filter_map(|limit| Some((limit, limit.rate.as_ref()?)));
    let spans = rates.map(|(limit, rate)| match rate.counts {
        Counts::Sent => rate.per.saturating_add(rate.guard),
        // A request that was cut off by the end of its program settles later.
        Counts::Answered => rate.per.saturating_add(rate.guard).saturating_add(limit.linger()),
    });
    spans.max().unwrap_or_default().min(LONGEST_REST)
}

/// Where programs join.
struct Door {
    programs: UnixListener,
    /// Whose programs may join.
    owner: Uid,
    /// Where the gateway listens, and where it is reached from here.
    listen: Vec<SocketAddr>,
    address: Option<SocketAddr>,
    /// What the configuration was when the gateway started.
    config: Fingerprint,
    /// How long to stay after the last program.
    rest: Duration,
}

impl Door {
    /// Lets programs join, and ends the gateway after the last of them.
    fn stay(self) {
        let mut here: Vec<Program> = Vec::new();
        let mut patience = FIRST;
        loop {
            let nobody = here.is_empty();
            let joins = wait(&self.programs, &here, patience);
            if nobody && !joins {
                break;
            }
            // If the gateway was told to end, whoever joins must look for another.
            if joins && !self.is_open() {
                return;
            }
            here.retain(Program::runs);
            if joins {
                match self.admit(here.is_empty()) {
                    Ok(program) => here.extend(program),
                    Err(Changed) => break,
                }
            }
            if !here.is_empty() {
                patience = self.rest;
            }
        }
        tracing::info!("the last program has ended");
        end();
        // The name is given up after the port, so that whoever finds the name free finds the port free too.
        for _ in 0..CLOSED_AFTER {
            if !self.is_open() {
                break;
            }
            thread::sleep(CLOSING);
        }
    }

    /// Whether the gateway takes connections still.
    fn is_open(&self) -> bool {
        self.address.is_none_or(|address| dial::answers(address, OWN))
    }

    /// Notes whose call it is, and tells where the gateway listens. If `nobody` uses the gateway, and the configuration
    /// is another now, it makes room for one that knows it. Another user's call is not listened to: it would keep the
    /// gateway alive, or keep others waiting.
    fn admit(&self, nobody: bool) -> Result<Option<Program>, Changed> {
        let Ok((mut stream, _)) = self.programs.accept() else { return Ok(None) };
        let Ok(caller) = join_socket::peer(&stream, self.owner) else { return Ok(None) };
        let mut config = Fingerprint::default();
        let heard = stream
            .set_read_timeout(Some(OWN))
            .and_then(|()| stream.set_write_timeout(Some(OWN)))
            .and_then(|()| stream.read_exact(&mut config));
        if heard.is_err() {
            return Ok(None);
        }
        if nobody && config != self.config {
            return Err(Changed);
        }
        let program = match pidfd_open(caller, PidfdFlags::empty()) {
            Ok(end) => Program::Told(end),
            Err(Errno::SRCH) => return Ok(None),
            Err(_) => Program::Seen(caller),
        };
        let text: String = self.listen.iter().map(|address| format!("{address}\n")).collect();
        // One that does not read it has ended, or will look again.
        stream.write_all(text.as_bytes()).ok();
        Ok(Some(program))
    }
}

/// The configuration is not what it was.
#[derive(Debug)]
struct Changed;

/// Waits until a program ends or wants to join; true if one wants to join. Where nobody is, or where an end is not told
/// by the kernel, it waits no longer than `patience`.
fn wait(programs: &UnixListener, here: &[Program], patience: Duration) -> bool {
    let seen = here.iter().any(|program| matches!(program, Program::Seen(_)));
    let patience = match here {
        [] => Some(patience),
        _ => Some(LOOK).filter(|_| seen),
    };
    let patience = patience.map(|patience| Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(patience.subsec_nanos()),
    });
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

impl Program {
    fn runs(&self) -> bool {
        match self {
            Program::Told(end) => {
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                !matches!(retry_on_intr(|| poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&now))), Ok(1..))
            }
            // A process that may not be signalled is there all the same.
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
        let door = door("wait", Duration::ZERO);
        let mut child = program();
        let here = [Program::Told(pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap())];
        let ending = thread::spawn(move || {
            child.kill().unwrap();
            child.wait().unwrap();
        });
        assert!(!wait(&door.programs, &here, Duration::ZERO), "nobody joins");
        assert!(!here[0].runs());
        ending.join().unwrap();
    }

    #[test]
    fn who_joins_is_told_where_and_known_by_the_kernels_word() {
        let door = door("joins", Duration::ZERO);
        let join = |config: &Fingerprint| {
            let mut stream = dial::call(name("joins").as_bytes()).unwrap();
            stream.write_all(config).unwrap();
            stream
        };
        let stream = join(&door.config);
        assert!(wait(&door.programs, &[], Duration::ZERO));
        let program = door.admit(true).unwrap().unwrap();
        assert_eq!(io::read_to_string(stream).unwrap(), "127.0.0.1:80\n[::1]:81\n");
        assert!(program.runs(), "it is this process");
        let _other = join(&[7; 32]);
        assert!(door.admit(false).unwrap().is_some(), "while somebody uses the gateway its rules hold");
        let _other = join(&[7; 32]);
        assert!(door.admit(true).is_err(), "then it makes room for one with the new rules");
        drop(dial::call(name("joins").as_bytes()).unwrap());
        assert!(door.admit(true).unwrap().is_none(), "who says nothing is no program");
    }

    #[test]
    fn another_users_process_does_not_join_and_keeps_nothing_waiting() {
        let door = Door { owner: Uid::from_raw(geteuid().as_raw() + 1), ..door("stranger", Duration::ZERO) };
        // It says nothing, which a program of the owner would be waited for.
        let silent = dial::call(name("stranger").as_bytes()).unwrap();
        assert!(door.admit(true).unwrap().is_none());
        silent.set_read_timeout(Some(OWN)).unwrap();
        assert_eq!((&silent).read(&mut [0]).unwrap(), 0, "it is hung up on without a word");
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
        assert_eq!(rest(&limits(&second)), Duration::from_millis(820));
        assert_eq!(rest(&limits(&format!("{second}{answered}"))), Duration::from_secs(3));
        assert_eq!(rest(&limits(&format!("{day}{second}"))), LONGEST_REST);
        assert_eq!(rest(&limits(&limit("in_flight = 3"))), Duration::ZERO);
    }

    fn name(test: &str) -> String {
        format!("lockgate/test/stay/{test}/{}", std::process::id())
    }

    fn door(test: &str, rest: Duration) -> Door {
        use std::os::linux::net::SocketAddrExt;
        let name = std::os::unix::net::SocketAddr::from_abstract_name(name(test)).unwrap();
        Door {
            programs: UnixListener::bind_addr(&name).unwrap(),
            owner: geteuid(),
            listen: vec!["127.0.0.1:80".parse().unwrap(), "[::1]:81".parse().unwrap()],
            address: None,
            config: [1; 32],
            rest,
        }
    }
}

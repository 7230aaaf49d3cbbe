//! Discovery of the gateway for a program: finds a running one, or starts one.
//!
//! A gateway that exec started has a join socket ([`super::join_socket`]). The process that binds the socket first
//! starts the gateway and passes it the socket; all others connect to it and wait, so of many programs that start at
//! one time only one starts a gateway. The connection also gives the gateway the process id to stay for
//! (`SO_PEERCRED`).
//!
//! One round of discovery, at most [`MAX_ROUNDS`]:
//!
//! 1. Join the gateway behind the socket of this user and address. Done if it answers.
//! 2. Else ask what listens at the address: a gateway that a service manager runs is used as it is, any other program
//!    is an error.
//! 3. Else bind the socket and start a gateway, or wait a moment if another process was faster.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::process::geteuid;

use super::super::{print_error, variables};
use super::probe::{self, ProbeResult};
use super::{LOG_FILE_VARIABLE, join_socket};
use crate::config::Settings;
use crate::proxy::capabilities::Capabilities;

/// Time for a gateway to start, for processes that wait for another's.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// The most rounds of discovery: two seconds, in which a gateway that starts or stops has finished.
const MAX_ROUNDS: usize = 200;
/// Time between two rounds.
///
/// A choice: shorter than a start takes, and long enough to leave the processor to it.
const ROUND_DELAY: Duration = Duration::from_millis(10);

/// Variables by which systemd asks a service to say when it is ready, and that it is alive.
const NOTIFY_VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// Reason why there is no gateway for the program.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The address is another program's.
    #[error(transparent)]
    Probe(#[from] probe::Error),
    /// The system gives no process, pipe or socket, or the log file cannot be opened.
    #[error("a gateway cannot be started")]
    Start(#[from] io::Error),
    /// With its messages, which name the cause.
    #[error("a gateway was started for the program, and exited:\n{0}")]
    Exited(String),
    /// Any process may bind an abstract socket, so another user's is not trusted.
    #[error(
        "the join socket for gateways at {address} belongs to another user's process; stop that, or choose another \
         address in [listen] proxy"
    )]
    NameTaken {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    /// [`MAX_ROUNDS`] rounds have led to nothing.
    #[error("gateways at {address} keep starting and stopping")]
    Unstable { address: SocketAddr },
}

/// SHA-256 of a configuration file and its path: tells one configuration from another.
///
/// Sent by programs that join, and compared by the gateway.
pub(super) type ConfigDigest = [u8; 32];

/// The gateway for a program.
pub(super) struct FoundGateway {
    /// Address for programs on this machine, with the port that is bound.
    pub(super) address: SocketAddr,
    /// Its capabilities; `None` if it did not send them.
    pub(super) about: Option<Capabilities>,
    /// Name of its join socket; `None` if exec did not start it.
    pub(super) join_name: Option<String>,
}

impl FoundGateway {
    /// A gateway that exec started, and that this process has joined.
    fn joined(settings: &Settings, address: SocketAddr, join_name: String) -> FoundGateway {
        // One that speaks TLS cannot be asked.
        let about = if settings.proxy.identity.is_none() { probe::ask(address) } else { None };
        FoundGateway { address, about, join_name: Some(join_name) }
    }
}

/// Finds the gateway of these settings, or starts it.
///
/// With port 0 each program gets a gateway of its own.
///
/// # Errors
/// See [`Error`].
pub(super) fn find_or_start(settings: &Settings, config: &Path) -> Result<FoundGateway, Error> {
    match variables::address(settings) {
        Ok(address) => find_or_start_at(settings, address, config),
        Err(_any_port) => start_private(settings, config),
    }
}

/// Digest of a configuration file and its absolute path. A file that cannot be read counts as empty: its error is
/// reported when the settings are read.
///
/// The path is part of it, because relative paths in the file start at its folder.
pub(super) fn digest(config: &Path) -> ConfigDigest {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let path = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    context.update(path.as_os_str().as_encoded_bytes());
    context.update(&std::fs::read(config).unwrap_or_default());
    let mut digest = ConfigDigest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// Starts a gateway for this program alone, on a free port.
///
/// The socket is named by the process id of the program, so that no other program joins.
///
/// # Errors
/// `Exited` if the gateway ends before it listens, `Start` if it cannot be started.
fn start_private(settings: &Settings, config: &Path) -> Result<FoundGateway, Error> {
    let name = join_socket::name(geteuid(), format_args!("process/{}", std::process::id()));
    let digest = digest(config);
    let output = start_gateway(join_socket::bind(&name)?, config)?;
    let Ok(Some(addresses)) = join(&name, &digest) else { return Err(Error::Exited(output)) };
    print_startup(&output);
    let address = addresses.first().copied().map(variables::from_this_machine).ok_or(Error::Exited(output))?;
    Ok(FoundGateway::joined(settings, address, name))
}

/// Finds the gateway at this address, or starts one there.
///
/// # Errors
/// `NotLockgate` and `NoAnswer` from the probe, `NameTaken` for another user's socket, `Exited` if the gateway does not
/// come up, `Unstable` after the last round.
fn find_or_start_at(settings: &Settings, address: SocketAddr, config: &Path) -> Result<FoundGateway, Error> {
    let name = join_socket::name(geteuid(), address);
    let digest = digest(config);
    let mut ended = None;
    for _ in 0..MAX_ROUNDS {
        match join(&name, &digest) {
            Ok(Some(_)) => return Ok(FoundGateway::joined(settings, address, name)),
            // The gateway exited meanwhile; its socket is free soon.
            Ok(None) => {
                std::thread::sleep(ROUND_DELAY);
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Error::NameTaken { address, source });
            }
            Err(error) => return Err(error.into()),
        }
        match (probe::probe(settings, address)?, ended.take()) {
            (ProbeResult::Gateway(about), _) => return Ok(FoundGateway { address, about, join_name: None }),
            (ProbeResult::Nothing, Some(output)) => return Err(Error::Exited(output)),
            (ProbeResult::Nothing, None) => {}
        }
        match join_socket::bind(&name) {
            Ok(listener) => {
                let output = start_gateway(listener, config)?;
                if let Ok(Some(_)) = join(&name, &digest) {
                    print_startup(&output);
                    return Ok(FoundGateway::joined(settings, address, name));
                }
                // Perhaps another process started one, which the next round finds.
                ended = Some(output);
            }
            // Another process was faster, and listens in a moment.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => std::thread::sleep(ROUND_DELAY),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Unstable { address })
}

/// Joins the gateway behind this socket, so that it stays for this process. Returns the addresses that it listens on;
/// `None` if it exited before it answered.
///
/// # Errors
/// `ConnectionRefused` if no process has the socket, `PermissionDenied` if another user's has it, and time-outs after
/// [`START_TIMEOUT`].
pub(super) fn join(name: &str, config: &ConfigDigest) -> io::Result<Option<Vec<SocketAddr>>> {
    let mut stream = join_socket::connect(name, geteuid())?;
    stream.set_read_timeout(Some(START_TIMEOUT))?;
    let mut text = String::new();
    match stream.write_all(config).and_then(|()| stream.read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    }
    let addresses: Vec<_> = text.lines().filter_map(|line| line.parse().ok()).collect();
    Ok(Some(addresses).filter(|addresses| !addresses.is_empty()))
}

/// Starts a gateway as a daemon, and waits until it is ready or has failed. Returns its messages until then.
///
/// The starter exits at once, so the gateway is adopted by the system's first process. Blocks until the gateway closes
/// the pipe, by being ready or by its end.
fn start_gateway(listener: UnixListener, config: &Path) -> io::Result<String> {
    let (mut output, stderr) = io::pipe()?;
    let mut starter = Command::new(std::env::current_exe()?);
    starter.args(["exec", "--role", "starter", "-c"]).arg(std::path::absolute(config)?);
    starter.stdin(OwnedFd::from(listener)).stdout(ready_stderr()?).stderr(stderr);
    // Out of the program's process group, or Ctrl-C would stop the gateway too.
    starter.process_group(0);
    if !has_log_file() {
        starter.env_remove("RUST_LOG");
    }
    // The program's own: its service is ready when the program says so.
    for name in NOTIFY_VARIABLES {
        starter.env_remove(name);
    }
    let status = starter.status()?;
    // Its copies of the descriptors would keep the pipe open and the socket bound.
    drop(starter);
    let mut text = String::new();
    output.read_to_string(&mut text)?;
    if !status.success() {
        text.push_str(&format!("the gateway could not be started: {status}\n"));
    }
    Ok(text)
}

/// Stderr of a gateway that is ready: the log file if there is one, else the terminal, else nothing. A pipe or file of
/// the program is not used: its reader waits for the end of the program, not of the gateway.
///
/// # Errors
/// If the log file cannot be opened; the message names variable and path.
fn ready_stderr() -> io::Result<Stdio> {
    if let Some(path) = log_file() {
        let file = OpenOptions::new().create(true).append(true).open(&path);
        return Ok(file
            .map_err(|error| io::Error::new(error.kind(), format!("{LOG_FILE_VARIABLE}: {}: {error}", path.display())))?
            .into());
    }
    let stderr = io::stderr();
    if stderr.is_terminal() { Ok(stderr.as_fd().try_clone_to_owned()?.into()) } else { Ok(Stdio::null()) }
}

/// Writes a gateway's messages from before it was ready to the same place as its later ones.
fn print_startup(output: &str) {
    let file = log_file().and_then(|path| OpenOptions::new().append(true).open(path).ok());
    match file {
        Some(mut file) => drop(file.write_all(output.as_bytes())),
        None => eprint!("{output}"),
    }
}

/// Path in [`LOG_FILE_VARIABLE`], if that is not empty.
fn log_file() -> Option<PathBuf> {
    std::env::var_os(LOG_FILE_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// True if the user wants all messages of the gateway.
pub(super) fn has_log_file() -> bool {
    log_file().is_some()
}

/// Starts the gateway and exits, so that its parent is the system's first process.
///
/// Returns 0, or 1 if the process cannot be started; exec reads its message from the pipe.
pub(super) fn run_starter(config_arg: Option<&Path>) -> ExitCode {
    let started = std::env::current_exe().and_then(|program| {
        let mut gateway = Command::new(program);
        gateway.args(["exec", "--role", "gateway"]);
        if let Some(config) = config_arg {
            gateway.arg("-c").arg(config);
        }
        gateway.spawn()
    });
    match started {
        Ok(_child) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::dial;

    #[test]
    fn a_gateway_that_ends_before_it_answers_is_none() {
        let name = format!("lockgate/test/ends/{}", std::process::id());
        let listener = join_socket::bind(&name).unwrap();
        let waiting = {
            let name = name.clone();
            std::thread::spawn(move || join(&name, &[0; 32]))
        };
        // Both ends that a caller may see: accepted and closed, and never accepted.
        drop(listener.accept().unwrap());
        assert_eq!(waiting.join().unwrap().unwrap(), None);
        let stream = dial::connect_abstract(name.as_bytes()).unwrap();
        drop(listener);
        assert!(matches!((&stream).read(&mut [0]), Ok(0) | Err(_)));
    }
}

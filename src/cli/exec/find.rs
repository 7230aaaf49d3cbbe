//! Finds the gateway that a program is to use, or starts one.
//!
//! A gateway that exec started has a name in the abstract name space. Whoever takes that name first starts the gateway
//! and hands it the socket; all others call there and wait, so of many programs that start at one time one starts
//! a gateway. A call also tells the gateway, by the kernel's word, which process to stay for.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{PROXY_AUTHORIZATION, VIA};
use http::{HeaderName, Response, StatusCode, Version};
use http_body_util::Full;
use rustix::process::geteuid;

use super::super::fetch::fetch;
use super::super::{complain, variables};
use super::{LOG, join_socket};
use crate::config::Settings;
use crate::net::dial;
use crate::proxy::about::{self, About};
use crate::wire::http_client;

/// How long an answer may take; only a hang is slower, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a gateway may take to start, for those who wait for it.
const START: Duration = Duration::from_secs(30);
/// How often to look again when a gateway is coming or going just now.
const ROUNDS: usize = 200;
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Why there is no gateway for the program.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{address} is taken by something that is no lockgate; end that, or name another address in [listen] proxy")]
    Stranger { address: SocketAddr },
    #[error("what is at {address} does not answer")]
    Silent {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("a gateway cannot be started")]
    Start(#[from] io::Error),
    #[error("a gateway was started for the program, and ended:\n{0}")]
    Ended(String),
    #[error(
        "the name under which gateways at {address} are joined is taken by another user's process; end that, or name \
         another address in [listen] proxy"
    )]
    Taken {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("gateways at {address} come and go")]
    Restless { address: SocketAddr },
}

/// What tells one configuration from another: SHA-256.
pub(super) type Fingerprint = [u8; 32];

/// What is found at an address.
enum Found {
    Nobody,
    /// Its own description, if it gave one.
    Gateway(Option<About>),
}

/// The gateway that a program is to use.
pub(super) struct Gateway {
    pub(super) address: SocketAddr,
    /// Its own description, unless exec started it with this very file.
    pub(super) about: Option<About>,
}

/// Finds the gateway of these settings, or starts it.
pub(super) fn gateway(settings: &Settings, config: &Path) -> Result<Gateway, Error> {
    match variables::address(settings) {
        Ok(address) => shared(settings, address, config),
        Err(_any_port) => Ok(Gateway { address: own(config)?, about: None }),
    }
}

/// Of the file, and of where it is. One that cannot be read is told of elsewhere.
pub(super) fn fingerprint(config: &Path) -> Fingerprint {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    let path = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    digest.update(path.as_os_str().as_encoded_bytes());
    digest.update(&std::fs::read(config).unwrap_or_default());
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(digest.finish().as_ref());
    fingerprint
}

/// A gateway that is this program's alone, on whatever port is free.
fn own(config: &Path) -> Result<SocketAddr, Error> {
    let name = join_socket::name(geteuid(), format_args!("process/{}", std::process::id()));
    let fingerprint = fingerprint(config);
    let said = begin(join_socket::take(&name)?, config)?;
    let Ok(Some(addresses)) = join(&name, &fingerprint) else { return Err(Error::Ended(said)) };
    pass_on(&said);
    addresses.first().copied().map(variables::nearest).ok_or(Error::Ended(said))
}

/// The gateway that there is at this address, or one that is started there.
fn shared(settings: &Settings, address: SocketAddr, config: &Path) -> Result<Gateway, Error> {
    let name = join_socket::name(geteuid(), address);
    let fingerprint = fingerprint(config);
    let mut ended = None;
    for _ in 0..ROUNDS {
        match join(&name, &fingerprint) {
            Ok(Some(_)) => return Ok(Gateway { address, about: None }),
            // It came to its end meanwhile, and soon somebody else may have its name.
            Ok(None) => {
                std::thread::sleep(PAUSE);
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Error::Taken { address, source });
            }
            Err(error) => return Err(error.into()),
        }
        match (look(settings, address)?, ended.take()) {
            (Found::Gateway(about), _) => return Ok(Gateway { address, about }),
            (Found::Nobody, Some(said)) => return Err(Error::Ended(said)),
            (Found::Nobody, None) => {}
        }
        match join_socket::take(&name) {
            Ok(listener) => {
                let said = begin(listener, config)?;
                if let Ok(Some(_)) = join(&name, &fingerprint) {
                    pass_on(&said);
                    return Ok(Gateway { address, about: None });
                }
                // Perhaps because somebody else started one, which the next round finds.
                ended = Some(said);
            }
            // Somebody else was faster, and listens in a moment.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => std::thread::sleep(PAUSE),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Restless { address })
}

/// Calls the gateway that was started under this name, so that it stays for this process, and reads where it listens;
/// `None` if it ended before it answered.
fn join(name: &str, config: &Fingerprint) -> io::Result<Option<Vec<SocketAddr>>> {
    let mut stream = join_socket::call(name, geteuid())?;
    stream.set_read_timeout(Some(START))?;
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

/// Who listens at the address.
fn look(settings: &Settings, address: SocketAddr) -> Result<Found, Error> {
    if settings.proxy.identity.is_some() {
        // It speaks TLS. To look at its certificate would tell no more: programs will.
        return Ok(if dial::answers(address, PATIENCE) { Found::Gateway(None) } else { Found::Nobody });
    }
    match ask(address, None) {
        Ok(response) if is_ours(&response) => Ok(Found::Gateway(describe(address, &response))),
        Ok(_) | Err(http_client::Error::NotHttp(_)) => Err(Error::Stranger { address }),
        Err(http_client::Error::Broken(source)) if source.kind() == io::ErrorKind::TimedOut => {
            Err(Error::Silent { address, source })
        }
        // It hung up, or nothing listens. A start will show.
        Err(http_client::Error::Broken(_)) => Ok(Found::Nobody),
    }
}

/// Requests the description of a gateway, with these `Proxy-Authorization` credentials.
fn ask(address: SocketAddr, credentials: Option<String>) -> Result<Response<Bytes>, http_client::Error> {
    let mut request = about::request();
    if let Some(credentials) = credentials {
        request = request.header(PROXY_AUTHORIZATION, credentials);
    }
    let request = request.body(Full::default()).expect("base64 is a valid field value");
    fetch(address, request, 0, PATIENCE)
}

/// Reads the description in a response. A gateway that asks for a password (407) is asked again with the one that the program
/// is about to send to the same address; a server that asks for none gets none.
fn describe(address: SocketAddr, response: &Response<Bytes>) -> Option<About> {
    if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        return About::read(ask(address, Some(credentials()?)).ok()?.headers());
    }
    About::read(response.headers())
}

/// The name and the password of the program, as a value of `Proxy-Authorization`.
fn credentials() -> Option<String> {
    let text = std::env::var(variables::CREDENTIALS).ok().filter(|text| !text.is_empty())?;
    Some(format!("Basic {}", STANDARD.encode(text)))
}

/// True if a response is a gateway's own: it bears the gateway's name, in `Via` or, if it is a refusal, in `Proxy-Status`.
fn is_ours(response: &Response<Bytes>) -> bool {
    let begins = |name, with: &str| {
        let mut values = response.headers().get_all(name).iter();
        values.any(|value| value.as_bytes().to_ascii_lowercase().starts_with(with.as_bytes()))
    };
    response.version() == Version::HTTP_11 && (begins(VIA, "1.1 lockgate") || begins(PROXY_STATUS, "lockgate"))
}

/// Starts a gateway that runs apart, and waits until it is ready or has failed. Returns what it said meanwhile.
fn begin(listener: UnixListener, config: &Path) -> io::Result<String> {
    let (mut said, stderr) = io::pipe()?;
    let mut starter = Command::new(std::env::current_exe()?);
    starter.args(["exec", "--part", "starter", "-c"]).arg(std::path::absolute(config)?);
    starter.stdin(OwnedFd::from(listener)).stdout(later()?).stderr(stderr);
    // What the terminal sends to the program's group (Ctrl-C) is not meant for it.
    starter.process_group(0);
    if !wants_log() {
        starter.env_remove("RUST_LOG");
    }
    let status = starter.status()?;
    // Its copies of the descriptors would keep the pipe open, and the name taken.
    drop(starter);
    let mut text = String::new();
    said.read_to_string(&mut text)?;
    if !status.success() {
        text.push_str(&format!("it could not be started: {status}\n"));
    }
    Ok(text)
}

/// Where a gateway that is ready writes to: a file if one is named, or a terminal. Pipes and files of the program are
/// left to it: who reads them to their end waits for the program, not for the gateway.
fn later() -> io::Result<Stdio> {
    if let Some(path) = log() {
        let file = OpenOptions::new().create(true).append(true).open(&path);
        return Ok(file
            .map_err(|error| io::Error::new(error.kind(), format!("{LOG}: {}: {error}", path.display())))?
            .into());
    }
    let stderr = io::stderr();
    if stderr.is_terminal() { Ok(stderr.as_fd().try_clone_to_owned()?.into()) } else { Ok(Stdio::null()) }
}

/// What a gateway said before it was ready belongs to what it says afterwards.
fn pass_on(said: &str) {
    let file = log().and_then(|path| OpenOptions::new().append(true).open(path).ok());
    match file {
        Some(mut file) => drop(file.write_all(said.as_bytes())),
        None => eprint!("{said}"),
    }
}

fn log() -> Option<PathBuf> {
    std::env::var_os(LOG).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Whether the user wants to read all that the gateway says.
pub(super) fn wants_log() -> bool {
    log().is_some()
}

/// Starts the gateway and ends, so that it has no parent but the system's first process.
pub(super) fn start(wish: Option<&Path>) -> ExitCode {
    let started = std::env::current_exe().and_then(|program| {
        let mut gateway = Command::new(program);
        gateway.args(["exec", "--part", "gateway"]);
        if let Some(config) = wish {
            gateway.arg("-c").arg(config);
        }
        gateway.spawn()
    });
    match started {
        Ok(_child) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_ours_is_told_from_others() {
        let response = |version, name: &str, value: &str| {
            is_ours(&Response::builder().version(version).header(name, value).body(Bytes::new()).unwrap())
        };
        assert!(response(Version::HTTP_11, "via", "1.1 lockgate"));
        assert!(response(Version::HTTP_11, "proxy-status", "Lockgate; error=a"));
        assert!(!response(Version::HTTP_10, "via", "1.1 lockgate"));
        assert!(!response(Version::HTTP_11, "via", "1.1 squid"));
        assert!(!response(Version::HTTP_11, "server", "lockgate"));
    }

    #[test]
    fn a_gateway_that_ends_before_it_answers_is_none() {
        let name = format!("lockgate/test/ends/{}", std::process::id());
        let listener = join_socket::take(&name).unwrap();
        let waiting = {
            let name = name.clone();
            std::thread::spawn(move || join(&name, &[0; 32]))
        };
        // Both ends that a caller may see: accepted and closed, and never accepted.
        drop(listener.accept().unwrap());
        assert_eq!(waiting.join().unwrap().unwrap(), None);
        let stream = dial::call(name.as_bytes()).unwrap();
        drop(listener);
        assert!(matches!((&stream).read(&mut [0]), Ok(0) | Err(_)));
    }
}

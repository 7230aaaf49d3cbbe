//! Probe of an address: finds out if a gateway listens there, and asks it for its capabilities.
//!
//! One `OPTIONS` request each time, which takes no slot. A gateway that speaks TLS is not asked.

use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{PROXY_AUTHORIZATION, VIA};
use http::{HeaderName, Response, StatusCode, Version};
use http_body_util::Full;

use super::super::fetch::fetch;
use super::super::variables;
use crate::auth::to_utf8;
use crate::config::Settings;
use crate::net::dial;
use crate::proxy::capabilities::{self, Capabilities};
use crate::wire::http_client;

/// Time for an answer: so long that only a hang is slower, however busy the machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Field of refusals (RFC 9209), which names the gateway.
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Reason why the program at an address is not taken for a gateway.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Something answers, without the name of a gateway.
    #[error("{address} is in use by another program; stop that, or choose another address in [listen] proxy")]
    NotLockgate { address: SocketAddr },
    /// It accepts connections, and sends nothing within [`ANSWER_TIMEOUT`].
    #[error("the program that listens at {address} does not answer")]
    NoAnswer {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// Result of a probe of an address.
pub(super) enum ProbeResult {
    /// The address refuses connections, or closes them without an answer.
    Nothing,
    /// Its capabilities, if it has sent them.
    Gateway(Option<Capabilities>),
}

/// Finds out what listens at the address.
///
/// # Errors
/// `NotLockgate` and `NoAnswer`.
pub(super) fn probe(settings: &Settings, address: SocketAddr) -> Result<ProbeResult, Error> {
    if settings.proxy.identity.is_some() {
        // It speaks TLS. Its certificate is verified by the programs.
        return Ok(if dial::is_listening(address, ANSWER_TIMEOUT) {
            ProbeResult::Gateway(None)
        } else {
            ProbeResult::Nothing
        });
    }
    match request_about(address, None) {
        Ok(response) if is_lockgate(&response) => Ok(ProbeResult::Gateway(read_about(address, &response))),
        Ok(_) | Err(http_client::Error::NotHttp(_)) => Err(Error::NotLockgate { address }),
        Err(http_client::Error::Broken(source)) if source.kind() == io::ErrorKind::TimedOut => {
            Err(Error::NoAnswer { address, source })
        }
        // It closed the connection, or nothing listens. A start will show which.
        Err(http_client::Error::Broken(_)) => Ok(ProbeResult::Nothing),
    }
}

/// Asks a gateway for its capabilities.
///
/// `None` if it does not answer, sends none, or the password is missing or wrong.
pub(super) fn ask(address: SocketAddr) -> Option<Capabilities> {
    let response = request_about(address, None).ok()?;
    read_about(address, &response)
}

/// Requests the capabilities of a gateway, with these `Proxy-Authorization` credentials.
///
/// Blocks for [`ANSWER_TIMEOUT`] at most; the content of the response is not read.
fn request_about(address: SocketAddr, credentials: Option<String>) -> Result<Response<Bytes>, http_client::Error> {
    let mut request = capabilities::request();
    if let Some(credentials) = credentials {
        request = request.header(PROXY_AUTHORIZATION, credentials);
    }
    let request = request.body(Full::default()).expect("base64 is a valid field value");
    fetch(address, request, 0, ANSWER_TIMEOUT)
}

/// Reads the capabilities in a response. After a 407 the request is repeated with the password that the program is
/// about to send to the same address; a server that requires none gets none.
///
/// `None` if the gateway sends none, or the password is missing or wrong.
fn read_about(address: SocketAddr, response: &Response<Bytes>) -> Option<Capabilities> {
    if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        return Capabilities::read(request_about(address, Some(credentials()?)).ok()?.headers());
    }
    Capabilities::read(response.headers())
}

/// The program's credentials as a value of `Proxy-Authorization` (RFC 7617).
///
/// `None` if [`variables::CREDENTIALS`] is unset or empty.
fn credentials() -> Option<String> {
    let text = std::env::var_os(variables::CREDENTIALS).filter(|text| !text.is_empty())?;
    Some(format!("Basic {}", STANDARD.encode(to_utf8(text.as_bytes()))))
}

/// True if a response is a gateway's own: it bears the gateway's name, in `Via` or, if it is a refusal, in
/// `Proxy-Status`.
///
/// A program that is no gateway would have to claim the name.
fn is_lockgate(response: &Response<Bytes>) -> bool {
    let begins = |name, with: &str| {
        let mut values = response.headers().get_all(name).iter();
        values.any(|value| value.as_bytes().to_ascii_lowercase().starts_with(with.as_bytes()))
    };
    response.version() == Version::HTTP_11 && (begins(VIA, "1.1 lockgate") || begins(PROXY_STATUS, "lockgate"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_ours_is_told_from_others() {
        let response = |version, name: &str, value: &str| {
            is_lockgate(&Response::builder().version(version).header(name, value).body(Bytes::new()).unwrap())
        };
        assert!(response(Version::HTTP_11, "via", "1.1 lockgate"));
        assert!(response(Version::HTTP_11, "proxy-status", "Lockgate; error=a"));
        assert!(!response(Version::HTTP_10, "via", "1.1 lockgate"));
        assert!(!response(Version::HTTP_11, "via", "1.1 squid"));
        assert!(!response(Version::HTTP_11, "server", "lockgate"));
    }
}

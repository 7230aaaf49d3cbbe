//! `lockgate exec --all`: a program of which every connection goes through the gateway, also if it
//! reads no variable of a proxy.
//!
//! The program runs in a network namespace that leads nowhere ([`namespace`]), in which each connection and
//! each query of DNS arrives at a socket of ours ([`inside`]). A process outside, the [`relay`], has these
//! sockets and passes connections on to the gateway. Nothing needs root, where the system lets users make
//! namespaces.

mod dns;
mod inside;
mod names;
mod namespace;
pub(super) mod relay;

use std::io;
use std::net::SocketAddr;

use self::relay::RelayHandle;
use crate::config::Settings;

/// Reason for which the program cannot be confined.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Refused(#[from] namespace::NamespaceRefused),
    #[error(transparent)]
    Network(#[from] inside::Error),
    #[error("the relay of --all cannot be started")]
    Relay(#[source] io::Error),
    #[error("--all needs a gateway that callers speak to without TLS; leave `tls` out of [listen]")]
    Tls,
}

/// Checks that the relay can speak to the gateway of these settings.
///
/// # Errors
/// [`Error::Tls`].
pub(super) fn check(settings: &Settings) -> Result<(), Error> {
    if settings.proxy.identity.is_some() { Err(Error::Tls) } else { Ok(()) }
}

/// Moves this process, which will become the program, to where each of its connections goes through the
/// gateway at this address.
///
/// # Errors
/// See [`Error`]; the process must not become the program then.
pub(super) fn confine(gateway: SocketAddr) -> Result<(), Error> {
    // Before the namespace: a process that is started later would be in it.
    let relay = RelayHandle::start(gateway).map_err(Error::Relay)?;
    namespace::enter()?;
    let sockets = inside::set_up()?;
    relay.hand_over(&sockets).map_err(Error::Relay)
}

//! Differences between a running gateway and the configuration: intercepted hosts, certificate authority.
//!
//! Other differences, such as other limits, are not compared: they concern the gateway's operator,
//! while these two make requests of the program escape their limit or fail.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::discover::FoundGateway;
use crate::config::Settings;
use crate::proxy::capabilities::Capabilities;
use crate::tls::ca;

/// The gateway leaves tunnels closed that the configuration names: the program's requests in them
/// would be counted by no limit.
#[derive(Debug, thiserror::Error)]
#[error(
    "the gateway at {address} does not intercept {hosts}, which {} names in [tls] intercept: requests there would not \
     be counted. Stop that gateway, and exec starts one with this file; or run it with this file. (A gateway that exec \
     started ends with the last program that uses it.)",
    config.display()
)]
pub(super) struct NotIntercepted {
    address: SocketAddr,
    hosts: String,
    config: PathBuf,
}

/// Compares the gateway with the configuration, whose authority must exist. Returns one warning for
/// each difference that matters to the program and that it will notice.
///
/// # Errors
/// [`NotIntercepted`] if the gateway does not intercept all hosts of the file.
pub(super) fn check(settings: &Settings, config: &Path, gateway: &FoundGateway) -> Result<Vec<String>, NotIntercepted> {
    let address = gateway.address;
    let ours = &settings.proxy.intercept;
    let Some(about) = &gateway.about else {
        let is_known = ours.is_empty() || gateway.join_name.is_some();
        let unknown = format!(
            "the gateway at {address} does not say whether it intercepts the hosts of [tls] intercept; it runs with a file \
             of its own"
        );
        return Ok(Some(unknown).into_iter().filter(|_| !is_known).collect());
    };
    let ports = &settings.proxy.access.connect_ports;
    let is_opened = |hosts: &_| ports.iter().all(|port| about.intercept.iter().any(|other| other.covers(hosts, *port)));
    let closed: Vec<String> = ours.iter().filter(|hosts| !is_opened(hosts)).map(ToString::to_string).collect();
    if !closed.is_empty() {
        return Err(NotIntercepted { address, hosts: closed.join(", "), config: config.to_owned() });
    }
    Ok(authority_note(settings, address, about).into_iter().collect())
}

/// Warning if the gateway signs by another authority than that of the configuration, by the SHA-256
/// fingerprint of its certificate. The program's requests fail then.
fn authority_note(settings: &Settings, address: SocketAddr, about: &Capabilities) -> Option<String> {
    let (theirs, authority) = (about.authority?, settings.proxy.authority.as_ref()?);
    let is_other = !settings.proxy.intercept.is_empty()
        && ca::inspect_certificate(&authority.dir).is_ok_and(|ours| ours.fingerprint != theirs);
    is_other.then(|| {
        format!(
            "the gateway at {address} opens tunnels by another authority than that in {}, which the program is told to \
             believe: name its folder in [tls] ca_dir",
            authority.dir.display()
        )
    })
}

//! Differences between a running gateway and the configuration: intercepted hosts, certificate authority.
//!
//! Other differences, such as other limits, are not compared: they concern the gateway's operator,
//! while these two make requests of the program fail or escape their limit.

use std::net::SocketAddr;
use std::path::Path;

use crate::config::Settings;
use crate::proxy::capabilities::Capabilities;
use crate::tls::ca;

/// One warning for each difference that matters to the program. The authority of the configuration must exist.
///
/// Empty if the gateway intercepts all hosts of the file, by the same authority (compared by the
/// SHA-256 fingerprint of its certificate).
pub(super) fn notes(settings: &Settings, config: &Path, address: SocketAddr, about: &Capabilities) -> Vec<String> {
    let ours = &settings.proxy.intercept;
    let ports = &settings.proxy.access.connect_ports;
    let is_opened = |hosts: &_| ports.iter().all(|port| about.intercept.iter().any(|other| other.covers(hosts, *port)));
    let closed: Vec<String> = ours.iter().filter(|hosts| !is_opened(hosts)).map(ToString::to_string).collect();
    let mut notes = Vec::new();
    if !closed.is_empty() {
        notes.push(format!(
            "the gateway at {address} does not open tunnels to {}, which {} names in [tls] intercept: limits do not see the \
             requests in them. Run it with this file, or end it, and exec starts one",
            closed.join(", "),
            config.display()
        ));
    }
    if closed.len() < ours.len()
        && let (Some(theirs), Some(authority)) = (about.authority, &settings.proxy.authority)
        && ca::inspect_certificate(&authority.dir).is_ok_and(|ours| ours.fingerprint != theirs)
    {
        notes.push(format!(
            "the gateway at {address} opens tunnels by another authority than that in {}, which the program is told to \
             believe: name its folder in [tls] ca_dir",
            authority.dir.display()
        ));
    }
    notes
}

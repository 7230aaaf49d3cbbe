//! Name of a gateway for URLs: one that its certificate is valid for.

use std::net::IpAddr;

use rustls::pki_types::ServerName;
use rustls::server::ParsedCertificate;

use crate::tls::identity::Identity;

/// A host for the URL that the gateway's certificate is valid for: the address, `localhost` or this
/// machine's name. `None` if it is valid for none of them.
///
/// An IPv6 address has no brackets.
pub(super) fn certified_name(identity: &Identity, ip: IpAddr) -> Option<String> {
    let certificate = ParsedCertificate::try_from(identity.chain.first()?).ok()?;
    let is_valid_for = |name: &String| {
        let name = ServerName::try_from(name.as_str());
        name.is_ok_and(|name| rustls::client::verify_server_name(&certificate, &name).is_ok())
    };
    let local = ip.is_loopback().then(|| "localhost".to_owned());
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut names = [ip.to_string()].into_iter().chain(local).chain([machine]);
    names.find(is_valid_for)
}

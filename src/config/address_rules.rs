//! Address rules: addresses that may be dialled, by `[access]` and the limits, with warnings of rules without effect.
//!
//! A listener on loopback lets programs of this machine alone in, which reach its private networks
//! anyway. A listener that other machines reach would be a door to those networks: then private
//! addresses are denied, unless a limit, a route or `allow_addresses` names them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::report::Reports;
use super::schema::ConfigFile;
use super::toml_value::Spanned;
use crate::net::dial;

/// Link-local ranges (RFC 3927, RFC 4291 §2.5.6): each address in them may be a cloud's metadata service.
const LINK_LOCAL: [IpNet; 2] = [
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
];

/// Top-level names of private networks: RFC 6762 §3 and appendix G, RFC 6761 §6, RFC 8375, and the services
/// of Kubernetes (`*.svc`; `svc.cluster.local` is below `local`).
const PRIVATE_NAMES: [&str; 12] = [
    "local",
    "intranet",
    "internal",
    "private",
    "corp",
    "home",
    "lan",
    "home.arpa",
    "localhost",
    "test",
    "localdomain",
    "svc",
];

/// Hosts that can reach a listener of the proxy, by themselves or through a balancer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Exposure {
    /// This machine alone: every listener is on a loopback address, and no balancer is in front.
    Loopback,
    /// Other machines too.
    Network,
}

impl Exposure {
    /// Exposure of these listening addresses together, without a balancer.
    pub(super) fn of(listen: &[SocketAddr]) -> Exposure {
        if listen.iter().all(|addr| addr.ip().is_loopback()) { Exposure::Loopback } else { Exposure::Network }
    }
}

/// Builds the rules for dialling, and warns of those without effect. `own`: the gateway's own listening addresses.
pub(super) fn check(
    file: &ConfigFile,
    own: &[SocketAddr],
    exposure: Exposure,
    reports: &Reports<'_>,
) -> dial::Settings {
    let access = &file.access;
    for at in &access.allow_addresses {
        warn_of_no_effect(at, &access.deny_addresses, reports);
    }
    if exposure == Exposure::Network && access.allow_addresses.is_empty() {
        warn_of_private_wildcards(file, reports);
    }
    let plain = |list: &[Spanned<IpNet>]| list.iter().map(|at| at.value).collect();
    dial::Settings {
        deny: plain(&access.deny_addresses),
        allow: plain(&access.allow_addresses),
        deny_private: exposure == Exposure::Network,
        own: own.to_vec(),
    }
}

/// Warns of a range of `allow_addresses` that stays denied: it lies within one of `deny_addresses`,
/// or it is a whole range of link-local addresses, which are opened one by one alone.
fn warn_of_no_effect(allowed: &Spanned<IpNet>, denied: &[Spanned<IpNet>], reports: &Reports<'_>) {
    let range = allowed.value;
    if let Some(denied) = denied.iter().find(|denied| denied.value.contains(&range)) {
        let message = format!("{range} stays denied: `deny_addresses` has {}", denied.value);
        reports.warn(&allowed.span, message, "leave one of them out");
    } else if range.prefix_len() < range.max_prefix_len() && LINK_LOCAL.iter().any(|local| local.contains(&range)) {
        let message = format!("{range} stays denied: metadata services of clouds are there");
        reports.warn(&allowed.span, message, "name each address, such as \"169.254.1.2\"");
    }
}

/// Warns of wildcards for private names: a wildcard allows no private address, and these hosts most likely have one.
fn warn_of_private_wildcards(file: &ConfigFile, reports: &Reports<'_>) {
    for at in file.limits.iter().flat_map(|limit| &limit.matching.hosts) {
        let text = &at.value.text;
        let name = text.rsplit_once(':').map_or(text.as_str(), |(name, _)| name).trim_end_matches('.');
        let is_below = |private: &str| name.strip_suffix(private).is_some_and(|rest| rest.ends_with('.'));
        if name.starts_with("*.") && PRIVATE_NAMES.into_iter().any(is_below) {
            let message = "a wildcard does not open private addresses, and these hosts will have some";
            let advice = "add allow_addresses = [\"10.0.0.0/8\"] to [access] (their addresses), or name each host";
            reports.warn(&at.span, message, advice);
        }
    }
}

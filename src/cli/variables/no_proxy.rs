//! `NO_PROXY`: removes entries for hosts that a limit counts or that the gateway intercepts.
//!
//! An entry that covers a counted host even in part is removed: it would let requests escape their
//! limit. Entries of other hosts stay as written, and so does the whole list if none is removed.
//! The gateway's own address and port are added: no request reaches the gateway through itself.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::config::Settings;
use crate::tls::ca::Subtree;

/// Hosts that may not bypass the gateway: those of limits and of `[tls] intercept`.
pub(super) struct CountedHosts {
    /// True if requests to this machine itself may be counted.
    pub(super) loopback: bool,
    /// Names, addresses, or all.
    hosts: Vec<Subtree>,
}

/// An entry of `NO_PROXY`. No standard says what it may be.
enum NoProxyEntry {
    /// `*`.
    ///
    /// It bypasses the proxy for every host.
    All,
    /// An address or a range.
    ///
    /// IPv4-mapped addresses are made IPv4.
    Net(IpNet),
    /// A name and its subdomains.
    ///
    /// In lower case, without a star, dots at its ends, and port.
    Name(String),
}

impl CountedHosts {
    /// A limit without hosts counts all.
    pub(super) fn of(settings: &Settings) -> CountedHosts {
        let mut hosts: Vec<Subtree> = settings.proxy.intercept.iter().map(|pattern| pattern.subtree()).collect();
        for rule in &settings.proxy.rules {
            if rule.hosts.is_empty() {
                hosts.push(Subtree::Any);
            }
            hosts.extend(rule.hosts.iter().map(|pattern| pattern.subtree()));
        }
        let loopback = settings.counts_loopback || hosts.iter().any(is_loopback);
        CountedHosts { loopback, hosts }
    }

    /// Returns the list without the entries for counted hosts, which go to `left_out`.
    ///
    /// `left_out` gets the entries as written.
    pub(super) fn without(&self, list: &str, left_out: &mut Vec<String>) -> String {
        // Some programs separate by spaces, so no entry contains one.
        let entries = list.split([',', ' ', '\t']).filter(|entry| !entry.is_empty());
        let (counted, kept): (Vec<&str>, Vec<&str>) =
            entries.partition(|entry| self.matches_any(&NoProxyEntry::read(entry)));
        if counted.is_empty() {
            return list.to_owned();
        }
        left_out.extend(counted.into_iter().map(str::to_owned));
        kept.join(",")
    }

    /// True if the entry matches a counted host.
    ///
    /// Loopback entries count only if requests to this machine are counted.
    fn matches_any(&self, entry: &NoProxyEntry) -> bool {
        self.loopback && entry.is_loopback() || self.hosts.iter().any(|host| entry.overlaps(host))
    }
}

impl NoProxyEntry {
    /// Never fails: text that is neither `*` nor an address is a name. Brackets and a port are
    /// removed.
    fn read(text: &str) -> NoProxyEntry {
        if text == "*" {
            return NoProxyEntry::All;
        }
        let text = text.to_ascii_lowercase();
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        if let Ok(net) = bare.parse() {
            return NoProxyEntry::Net(net);
        }
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return NoProxyEntry::Net(ip.to_canonical().into());
        }
        let (host, _port) = text.rsplit_once(':').unwrap_or((&text, ""));
        match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(ip) => NoProxyEntry::Net(ip.to_canonical().into()),
            Err(_) => NoProxyEntry::Name(host.trim_start_matches('*').trim_matches('.').to_owned()),
        }
    }

    /// True if the entry covers an address or a name of this machine.
    fn is_loopback(&self) -> bool {
        match self {
            NoProxyEntry::All => true,
            NoProxyEntry::Net(net) => {
                [net.network(), net.broadcast()].iter().any(IpAddr::is_loopback) || net.prefix_len() == 0
            }
            // `127.` and `127.*` are some programs' notation of 127.0.0.0/8.
            NoProxyEntry::Name(name) => is_below(name, "localhost") || name == "127" || name.starts_with("127."),
        }
    }

    /// Two names overlap if one is below the other. A range and a name do not: names are not
    /// resolved.
    fn overlaps(&self, host: &Subtree) -> bool {
        match (self, host) {
            (_, Subtree::Any) | (NoProxyEntry::All, _) => true,
            (NoProxyEntry::Net(net), Subtree::Address(ip)) => net.contains(ip),
            (NoProxyEntry::Name(name), Subtree::Name(counted)) => is_below(name, counted) || is_below(counted, name),
            (NoProxyEntry::Net(_), Subtree::Name(_)) | (NoProxyEntry::Name(_), Subtree::Address(_)) => false,
        }
    }
}

/// Entries for the gateway itself: its address, and the authority of its URL if that has another
/// host, each with the port.
///
/// An IPv6 address has no port, as several programs take `[::1]:8080` for an error; so there is none
/// if a limit counts that address.
pub(super) fn own_entries(counted: &CountedHosts, address: SocketAddr, url: &str) -> Vec<String> {
    let authority = url.rsplit_once("//").map_or(url, |(_, authority)| authority).to_owned();
    let mut own = match address.ip() {
        IpAddr::V4(_) => vec![address.to_string()],
        IpAddr::V6(ip) if counted.matches_any(&NoProxyEntry::Net(ip.to_canonical().into())) => Vec::new(),
        IpAddr::V6(ip) => vec![ip.to_string()],
    };
    if !authority.starts_with('[') && !own.contains(&authority) {
        own.push(authority);
    }
    own
}

/// Removes the entries `own` from a list, as an exec around this one has added them.
///
/// A list without them stays as written.
pub(super) fn without_own(list: String, own: &[String]) -> String {
    let is_own = |entry: &&str| own.iter().any(|own| own == entry);
    if !list.split([',', ' ', '\t']).any(|entry| is_own(&entry)) {
        return list;
    }
    list.split([',', ' ', '\t']).filter(|entry| !entry.is_empty() && !is_own(entry)).collect::<Vec<_>>().join(",")
}

/// Appends the entries `own` to a list.
///
/// `*` stays alone: many programs know it only so.
pub(super) fn with_own(list: String, own: &[String]) -> String {
    if list.trim() == "*" || own.is_empty() {
        return list;
    }
    let all: Vec<&str> = [list.as_str()].into_iter().chain(own.iter().map(String::as_str)).collect();
    all.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(",")
}

/// True if a counted host may be this machine.
fn is_loopback(host: &Subtree) -> bool {
    match host {
        Subtree::Any => true,
        Subtree::Name(name) => is_below(name, "localhost"),
        Subtree::Address(ip) => ip.is_loopback(),
    }
}

/// True if `name` is `top` or a subdomain of it.
///
/// Both in lower case: `a.example` is below `example`, `aexample` is not.
fn is_below(name: &str, top: &str) -> bool {
    name.strip_suffix(top).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

//! Checks of listening addresses: no two listeners may have the same address, nor one of them all
//! addresses of the other's port.
//!
//! The kernel would refuse the second bind as well, but only at the start, and with no line of the
//! file. Addresses that other programs have are found at the start alone.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::report::Reports;
use super::schema::ConfigFile;
use super::toml_value::SourceSpan;

/// Default of `[listen] proxy`: loopback, at the port that forward proxies commonly have.
pub(super) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Listening address of a key, as written or by default.
///
/// Lives only during the check.
struct DeclaredListener<'f> {
    /// Section and key for messages, such as `[admin] listen`.
    key: &'static str,
    /// The address, with the port of the file; 0 stands for any.
    address: SocketAddr,
    /// `None`: the file does not name it, so no report can point at it.
    span: Option<&'f SourceSpan>,
}

/// Reports listeners that the kernel would not bind at the same time. Returns the addresses for redirected
/// connections.
///
/// Order: `[listen] proxy` and `transparent`, `[admin]`, `[locks]`, `[zmq]`. A report points at the later one of
/// two.
pub(super) fn check(file: &ConfigFile, reports: &Reports<'_>) -> Vec<SocketAddr> {
    let mut listeners: Vec<DeclaredListener<'_>> = Vec::new();
    match file.listen.proxy.get() {
        Some(list) => listeners.extend(list.value.iter().map(|at| DeclaredListener {
            key: "[listen] proxy",
            address: at.value,
            span: Some(&at.span),
        })),
        None => listeners.push(DeclaredListener { key: "[listen] proxy", address: LISTEN, span: None }),
    }
    if let Some(list) = file.listen.transparent.get() {
        let key = "[listen] transparent";
        listeners.extend(list.value.iter().map(|at| DeclaredListener { key, address: at.value, span: Some(&at.span) }));
    }
    let others = [
        ("[admin] listen", file.admin.listen.get()),
        ("[locks] listen", file.locks.listen.get()),
        ("[zmq] listen", file.zmq.listen.get()),
    ];
    listeners.extend(others.into_iter().filter_map(|(key, at)| {
        let at = at?;
        Some(DeclaredListener { key, address: at.value, span: Some(&at.span) })
    }));
    for (index, listener) in listeners.iter().enumerate() {
        let rival = listeners[..index].iter().find(|other| overlap(other.address, listener.address));
        if let (Some(rival), Some(span)) = (rival, listener.span) {
            report(listener, rival, span, reports);
        }
    }
    transparent(file, reports)
}

/// Listening addresses for redirected connections. Reports them beside `users`: a caller that speaks to
/// its origin has no way to send a password.
fn transparent(file: &ConfigFile, reports: &Reports<'_>) -> Vec<SocketAddr> {
    let Some(list) = file.listen.transparent.get() else { return Vec::new() };
    if let (Some(first), false) = (list.value.first(), file.access.users.is_absent()) {
        let message = "redirected callers cannot give the password that `[access] users` asks for";
        let advice = "leave `users` out and name the callers' addresses in allow_from, or run another gateway for them";
        reports.error(&first.span, message, advice);
    }
    list.value.iter().map(|at| at.value).collect()
}

/// Advice: leave a double address out, or take the next port.
fn report(listener: &DeclaredListener<'_>, rival: &DeclaredListener<'_>, span: &SourceSpan, reports: &Reports<'_>) {
    let (address, other) = (listener.address, rival.address);
    if rival.key == listener.key && address == other {
        return reports.error(span, format_args!("{address} is listed already"), "leave it out");
    }
    let has = if rival.span.is_none() { "has by default" } else { "has" };
    let message = if address == other {
        format!("{} {has} {address} already", rival.key)
    } else if address.ip().is_unspecified() {
        format!("{} {has} {other} already, which {address} includes", rival.key)
    } else {
        format!("{} {has} {other} already, which includes {address}", rival.key)
    };
    if rival.key == listener.key {
        return reports.error(span, message, "leave one of them out");
    }
    let next = SocketAddr::new(address.ip(), address.port().checked_add(1).unwrap_or(1024));
    reports.error(span, message, format_args!("another port, such as \"{next}\""));
}

/// True if one of two listeners keeps the other from being bound (bind(2), EADDRINUSE): the port is
/// the same, and one has the other's address or all addresses of its family. IPv6 listeners take no
/// IPv4 (`IPV6_V6ONLY` is set); port 0 is any free one.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let all = one.ip().is_unspecified() || other.ip().is_unspecified();
    let scope = |address: SocketAddr| match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    };
    let same = one.ip() == other.ip() && scope(one) == scope(other);
    one.port() != 0 && one.port() == other.port() && one.is_ipv4() == other.is_ipv4() && (all || same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_overlap_as_the_kernel_sees_it() {
        for (one, other, wanted) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("[::1]:80", "[::]:80", true),
            ("[::]:80", "0.0.0.0:80", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("[fe80::1%1]:80", "[fe80::1%2]:80", false),
        ] {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((overlap(one, other), overlap(other, one)), (wanted, wanted), "{one} {other}");
        }
    }
}

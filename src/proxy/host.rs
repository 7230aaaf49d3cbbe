//! Host canonicalisation: one spelling for each host, so that another spelling does not bypass a limit.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Longest name that DNS can hold (RFC 1035 §2.3.4), without its final dot.
const MAX_NAME: usize = 253;

/// Longest label, between two dots (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;

/// Reason for which a text is not a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HostError {
    /// It violates the grammar.
    Malformed(&'static str),
    /// It spells an address in a form that resolvers accept and people do not recognise (`0x7f.1`, `[fe80::1%eth0]`).
    Disguised(&'static str),
}

/// A checked authority (RFC 3986 §3.2): host and port, without userinfo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Authority<'a> {
    host: Host<'a>,
    /// `None` if there is no port, or nothing after the colon.
    pub(super) port: Option<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Host<'a> {
    /// A name or an IPv4 address, without a final dot; letter case as written.
    Name(&'a str),
    V6(Ipv6Addr),
}

impl<'a> Authority<'a> {
    /// Reads `name`, `name:port`, `1.2.3.4:port` or `[v6]:port`.
    pub(super) fn read(text: &'a str) -> Result<Authority<'a>, HostError> {
        if text.contains('@') {
            return Err(HostError::Malformed(
                "a user name or password in the target: send it as Authorization or Proxy-Authorization instead",
            ));
        }
        if let Some(bracketed) = text.strip_prefix('[') {
            let (address, after) =
                bracketed.split_once(']').ok_or(HostError::Malformed("an IPv6 address without its closing bracket"))?;
            let port = match after.strip_prefix(':') {
                Some(digits) => read_port(digits)?,
                None if after.is_empty() => None,
                None => return Err(HostError::Malformed("only a port may follow the bracket of an IPv6 address")),
            };
            return Ok(Authority { host: read_v6(address)?, port });
        }
        let (name, port) = match text.split_once(':') {
            Some((name, digits)) => (name, read_port(digits)?),
            None => (text, None),
        };
        Ok(Authority { host: Host::Name(check_name(name)?), port })
    }

    /// Canonical host: lower case, no final dot, IPv6 short and without brackets, an IPv4-mapped IPv6 address as IPv4.
    pub(super) fn host(&self) -> Cow<'a, str> {
        match self.host {
            Host::Name(name) if name.bytes().any(|byte| byte.is_ascii_uppercase()) => name.to_ascii_lowercase().into(),
            Host::Name(name) => name.into(),
            Host::V6(address) => address.to_canonical().to_string().into(),
        }
    }

    /// As [`Authority::host`], for sharing.
    pub(super) fn shared_host(&self) -> Arc<str> {
        Arc::from(&*self.host())
    }
}

/// Parses the port after the colon; an empty one is none.
fn read_port(digits: &str) -> Result<Option<u16>, HostError> {
    if digits.is_empty() {
        return Ok(None);
    }
    let port = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
    match port {
        None | Some(0) => {
            Err(HostError::Malformed("a port is a number from 1 to 65535; an IPv6 address needs brackets"))
        }
        port => Ok(port),
    }
}

/// Parses the address between brackets.
fn read_v6(text: &str) -> Result<Host<'_>, HostError> {
    if text.contains('%') {
        return Err(HostError::Disguised("an IPv6 address with a zone is not reachable through the gateway"));
    }
    text.parse().map(Host::V6).map_err(|_| HostError::Malformed("the text in brackets is not an IPv6 address"))
}

/// Checks a name as DNS and /etc/hosts know it, underscores included. RFC 3986 would allow more (`%41`, `!`), which no
/// resolver accepts and which two servers read in two ways.
fn check_name(text: &str) -> Result<&str, HostError> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() {
        return Err(HostError::Malformed("the host is empty"));
    }
    if name.len() > MAX_NAME {
        return Err(HostError::Malformed("the host is longer than a name can be"));
    }
    let mut label = 0;
    for byte in name.bytes() {
        label += 1;
        match byte {
            b'.' if label == 1 => {
                return Err(HostError::Malformed("the host has two dots in a row, or begins with one"));
            }
            b'.' => label = 0,
            b'%' => {
                return Err(HostError::Malformed(
                    "the host is percent-encoded: write it in plain letters, or as xn--…",
                ));
            }
            byte if !byte.is_ascii() => return Err(HostError::Malformed("the host is not ASCII: write it as xn--…")),
            byte if !byte.is_ascii_alphanumeric() && byte != b'-' && byte != b'_' => {
                return Err(HostError::Malformed("the host contains a character that host names cannot have"));
            }
            _ if label > MAX_LABEL => {
                return Err(HostError::Malformed("a part of the host is longer than 63 characters"));
            }
            _ => {}
        }
    }
    if label == 0 {
        return Err(HostError::Malformed("the host ends with two dots"));
    }
    check_number(name)
}

/// Checks a host with a number as its last label. Every resolver takes it for an IPv4 address, in a dozen spellings
/// (`127.1`, `0x7f000001`, `2130706433`, `0177.0.0.1`). Only the plain one is accepted; each other would bypass a limit
/// on it.
fn check_number(name: &str) -> Result<&str, HostError> {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let is_number = match hex {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => last.bytes().all(|byte| byte.is_ascii_digit()),
    };
    if is_number && name.parse::<Ipv4Addr>().is_err() {
        return Err(HostError::Disguised("an IPv4 address is written as four decimal numbers: 192.0.2.1"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> String {
        Authority::read(text).expect(text).host().into_owned()
    }

    #[test]
    fn each_host_has_one_spelling() {
        assert_eq!(host("API.Example."), "api.example");
        assert_eq!(host("api.example:"), "api.example");
        assert_eq!(host("[2001:DB8:0:0::1]:80"), "2001:db8::1");
        assert_eq!(host("[::ffff:192.0.2.1]"), "192.0.2.1");
        assert_eq!(host("my_service-1:8080"), "my_service-1");
        assert_eq!(&*Authority::read("A.b:1").expect("valid").shared_host(), "a.b");
    }

    #[test]
    fn a_port_is_1_to_65535_or_nothing() {
        assert_eq!(Authority::read("a:65535").expect("valid").port, Some(65535));
        assert_eq!(Authority::read("a:").expect("valid").port, None);
        for text in ["a:0", "a:65536", "a:+80", "a:-1", "a:80a", "a: 80", "a:80:80", "::1", "[::1]:0", "[::1]80"] {
            assert!(matches!(Authority::read(text), Err(HostError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let long_label = "a".repeat(64);
        let long_name = "a.".repeat(128);
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a..",
            "a%2eb",
            "%61",
            "ä.example",
            "a b",
            "a/b",
            "a\\b",
            "a!b",
            "a*b",
            "user@a",
            "u:p@a",
            "[::1",
            "[1.2.3.4]",
            "[]",
            "[v1.a]",
            "]",
            &long_label,
            &long_name,
        ] {
            assert!(matches!(Authority::read(text), Err(HostError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn an_address_in_disguise_is_recognised() {
        for text in [
            "0",
            "127.1",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "0177.0.0.1",
            "1.2.3.4.5",
            "a.1",
            "a.0x",
            "256.1.1.1",
            "[fe80::1%eth0]",
            "[fe80::1%25eth0]",
        ] {
            assert!(matches!(Authority::read(text), Err(HostError::Disguised(_))), "{text}");
        }
        assert_eq!(host("127.0.0.1."), "127.0.0.1");
        assert_eq!(host("1a.2b"), "1a.2b");
    }
}

//! Capabilities of a gateway (OPTIONS), as `lockgate exec` asks for them: the tunnels that it opens, and its authority.

use std::fmt::Write;

use super::Proxy;
use super::pattern::HostPattern;
use crate::wire::{Name, RequestHead};

/// The request: it may not be passed on (RFC 9110 §7.6.2), and its host does not exist (RFC 6761 §6.4). It takes no slot. The
/// empty line is missing, so that further fields can follow.
pub const QUESTION: &str =
    "OPTIONS http://lockgate.invalid/ HTTP/1.1\r\nHost: lockgate.invalid\r\nMax-Forwards: 0\r\nConnection: close\r\n";

const TARGET: &str = "http://lockgate.invalid/";
const INTERCEPT: &str = "lockgate-intercept";
const AUTHORITY: &str = "lockgate-authority";

/// The capabilities.
#[derive(PartialEq, Debug)]
pub struct About {
    /// The hosts whose tunnels are opened.
    pub intercept: Vec<HostPattern>,
    /// SHA-256 of the certificate of the authority that signs for them.
    pub authority: Option<[u8; 32]>,
}

/// True if a request asks for them.
pub(super) fn is_asked(head: &RequestHead) -> bool {
    head.method() == "OPTIONS" && head.target() == TARGET && head.get(Name::MaxForwards) == Some(b"0")
}

/// The header fields of the answer.
pub(super) fn fields(proxy: &Proxy) -> String {
    let hosts: Vec<String> = proxy.intercept.iter().map(HostPattern::to_string).collect();
    let mut fields = format!("{INTERCEPT}: {}\r\n", hosts.join(", "));
    if let Some(authority) = &proxy.authority {
        fields.push_str(AUTHORITY);
        fields.push_str(": ");
        for byte in authority.fingerprint() {
            write!(fields, "{byte:02x}").expect("a text takes all");
        }
        fields.push_str("\r\n");
    }
    fields
}

/// True if an answer asks for a password (RFC 9110 §11.7.1).
pub fn wants_password(answer: &[u8]) -> bool {
    let status = answer.split(|byte| *byte == b' ').nth(1);
    status == Some(b"407")
}

impl About {
    /// Reads an answer; `None` if it is not whole, or is a refusal or an older gateway's, without these fields.
    pub fn read(answer: &[u8]) -> Option<About> {
        let head = std::str::from_utf8(answer).ok()?.split_once("\r\n\r\n")?.0;
        let field = |wanted: &str| {
            let mut fields = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
            fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
        };
        let hosts = field(INTERCEPT)?.split(',').map(str::trim).filter(|host| !host.is_empty());
        let intercept = hosts.map(|host| HostPattern::parse(host).ok()).collect::<Option<Vec<_>>>()?;
        Some(About { intercept, authority: field(AUTHORITY).and_then(digest) })
    }
}

fn digest(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 2 * digest.len() || !text.is_ascii() {
        return None;
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read() {
        let said =
            "HTTP/1.1 200 OK\r\nVia: 1.1 lockgate\r\nLockgate-Intercept: api.example, *.b.example:443, [::1]:8443\r\n";
        let pattern = |text| HostPattern::parse(text).unwrap();
        let authority = format!("lockgate-authority: {}\r\n", "0a".repeat(32));
        let about = About::read(format!("{said}{authority}\r\n").as_bytes()).unwrap();
        assert_eq!(about.intercept, ["api.example", "*.b.example:443", "[::1]:8443"].map(pattern));
        assert_eq!(about.authority, Some([10; 32]));
        let none = About::read(b"HTTP/1.1 200 OK\r\nlockgate-intercept: \r\n\r\n").unwrap();
        assert_eq!(none, About { intercept: Vec::new(), authority: None });
        for other in [said, "HTTP/1.1 200 OK\r\nVia: 1.1 lockgate\r\n\r\n", "", "\r\n\r\n"] {
            assert_eq!(About::read(other.as_bytes()), None, "{other:?}");
        }
    }

    #[test]
    fn an_answer_of_407_wants_a_password() {
        assert!(wants_password(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"));
        for other in ["HTTP/1.1 200 OK\r\nX: 407\r\n\r\n", "HTTP/1.1 401 407\r\n\r\n", "HTTP/1.1", ""] {
            assert!(!wants_password(other.as_bytes()), "{other:?}");
        }
    }

    #[test]
    fn a_digest_is_64_hexadecimal_digits() {
        assert!(digest(&"fF".repeat(32)).is_some());
        for wrong in [&"f".repeat(63)[..], &"f".repeat(65), &"g".repeat(64), "", &"é".repeat(32)] {
            assert_eq!(digest(wrong), None, "{wrong}");
        }
    }
}

//! Capabilities of a gateway (OPTIONS), as `lockgate exec` requests them: the tunnels that it intercepts, its
//! authority, and how many requests it has received.

use std::fmt::Write;

use http::{HeaderMap, Request, header};

use super::pattern::HostPattern;
use super::snapshot::ConfigSnapshot;
use crate::wire::{Name, RequestHead};

/// Target of the request: a host that does not exist (RFC 6761 §6.4).
const TARGET: &str = "http://lockgate.invalid/";
/// Field with the patterns of hosts, separated by commas.
const INTERCEPT: &str = "lockgate-intercept";
/// Field with the fingerprint of the authority, in hexadecimal digits.
const AUTHORITY: &str = "lockgate-authority";
/// Field with the number of requests received, these queries not included.
const RECEIVED: &str = "lockgate-received";

/// Capabilities of a gateway.
#[derive(PartialEq, Debug)]
pub struct Capabilities {
    /// Hosts to which tunnels are intercepted.
    pub intercept: Vec<HostPattern>,
    /// SHA-256 of the certificate of the authority that signs for these hosts.
    pub authority: Option<[u8; 32]>,
    /// Number of requests of all callers, since the process started. `None` from an older gateway.
    pub received: Option<u64>,
}

/// True if the request asks for the capabilities.
pub(super) fn is_asked(head: &RequestHead) -> bool {
    head.method() == "OPTIONS" && head.target() == TARGET && head.get(Name::MaxForwards) == Some(b"0")
}

/// Header fields of the response, each with its value.
pub(super) fn fields(snapshot: &ConfigSnapshot) -> impl Iterator<Item = (&'static str, String)> {
    let hosts: Vec<String> = snapshot.intercept.iter().map(HostPattern::to_string).collect();
    let fingerprint = snapshot.authority.as_ref().map(|authority| {
        authority.fingerprint().iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("writing to a String cannot fail");
            hex
        })
    });
    let received = (RECEIVED, snapshot.metrics.received.get().to_string());
    [(INTERCEPT, hosts.join(", ")), received].into_iter().chain(fingerprint.map(|hex| (AUTHORITY, hex)))
}

/// Builds the request for the capabilities, without a body. Max-Forwards keeps it from being forwarded (RFC 9110
/// §7.6.2), and it takes no slot.
pub fn request() -> http::request::Builder {
    let request = Request::options(TARGET).header(header::HOST, "lockgate.invalid");
    request.header(header::MAX_FORWARDS, "0").header(header::CONNECTION, "close")
}

impl Capabilities {
    /// Reads the capabilities from the fields of a response; `None` if it has none, as a refusal or the response of an
    /// older gateway.
    pub fn read(fields: &HeaderMap) -> Option<Capabilities> {
        let field = |name: &str| fields.get(name)?.to_str().ok();
        let hosts = field(INTERCEPT)?.split(',').map(str::trim).filter(|host| !host.is_empty());
        let intercept = hosts.map(|host| HostPattern::parse(host).ok()).collect::<Option<Vec<_>>>()?;
        let received = field(RECEIVED).and_then(|count| count.parse().ok());
        Some(Capabilities { intercept, authority: field(AUTHORITY).and_then(digest), received })
    }
}

/// Parses 64 hexadecimal digits.
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
    use http::HeaderName;

    use super::*;

    fn read(fields: &[(&'static str, &str)]) -> Option<Capabilities> {
        let fields = fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        Capabilities::read(&fields.collect())
    }

    #[test]
    fn what_is_said_is_read() {
        let pattern = |text| HostPattern::parse(text).unwrap();
        let hosts = ("lockgate-intercept", "api.example, *.b.example:443, [::1]:8443");
        let about = read(&[hosts, ("lockgate-authority", &"0a".repeat(32)), ("lockgate-received", "7")]).unwrap();
        assert_eq!(about.intercept, ["api.example", "*.b.example:443", "[::1]:8443"].map(pattern));
        assert_eq!((about.authority, about.received), (Some([10; 32]), Some(7)));
        let none = read(&[("lockgate-intercept", "")]).unwrap();
        assert_eq!(none, Capabilities { intercept: Vec::new(), authority: None, received: None });
        assert_eq!(read(&[("via", "1.1 lockgate")]), None);
    }

    #[test]
    fn a_digest_is_64_hexadecimal_digits() {
        assert!(digest(&"fF".repeat(32)).is_some());
        for wrong in [&"f".repeat(63)[..], &"f".repeat(65), &"g".repeat(64), "", &"é".repeat(32)] {
            assert_eq!(digest(wrong), None, "{wrong}");
        }
    }
}

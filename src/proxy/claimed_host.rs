//! Host that a redirected connection says it is for, by its first bytes: the server name of a
//! ClientHello, or the Host of a request.
//!
//! A claim is no proof: whatever a caller writes there, the kernel has told the address that it has
//! connected to. See `transparent` for the check.

use crate::tls::client_hello::{HelloReader, HelloState};
use crate::wire::head::may_be_complete;
use crate::wire::request_line::{FirstLine, first_line, names_method};
use crate::wire::{Name, RequestHead};

/// First bytes of a connection, as far as they tell what it is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum FirstClaim {
    /// TLS, with the server name that it asks for, if any.
    Tls(Option<String>),
    /// HTTP, with the Host of its first request, if any.
    Http(Option<String>),
    /// Another protocol, or none yet.
    Other,
}

/// Stage of the reading, which decides how long it may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ClaimStage {
    /// Nothing has arrived: it may be a protocol in which the server speaks first.
    Silent,
    /// The begin of what may be a request line.
    Line,
    /// The begin of a message that must go on: a ClientHello, or a request, by its method or its whole line.
    Message,
}

/// Reader of the first bytes, which stay where they are.
#[derive(Default, Debug)]
pub(super) struct ClaimReader {
    /// `None` once the bytes are no TLS.
    hello: Option<HelloReader>,
    is_begun: bool,
    /// True once the bytes begin with a method of HTTP.
    has_method: bool,
    /// True once the request line says HTTP.
    is_http: bool,
    /// Number of bytes that a head was looked for in.
    seen: usize,
}

impl ClaimReader {
    /// Reads all bytes so far; `None` if they are too few. `head`: place for the head of a request,
    /// which is overwritten.
    pub(super) fn read(&mut self, bytes: &[u8], head: &mut RequestHead) -> Option<FirstClaim> {
        if bytes.is_empty() {
            return None;
        }
        if !self.is_begun {
            (self.is_begun, self.hello) = (true, Some(HelloReader::default()));
        }
        if let Some(hello) = &mut self.hello {
            match hello.read(bytes) {
                HelloState::Incomplete => return None,
                // A correct hello has one name or none. Of several, no server is bound to take the first.
                HelloState::Hello(names) => return Some(FirstClaim::Tls(only(names))),
                HelloState::Unreadable => return Some(FirstClaim::Tls(None)),
                HelloState::NotTls => self.hello = None,
            }
        }
        if !self.is_http {
            match first_line(bytes) {
                FirstLine::Incomplete => {
                    self.has_method = names_method(bytes);
                    return None;
                }
                FirstLine::Http => self.is_http = true,
                FirstLine::Connect | FirstLine::Other => return Some(FirstClaim::Other),
            }
        }
        self.host(bytes, head)
    }

    /// Stage after the bytes that were read last.
    pub(super) fn stage(&self) -> ClaimStage {
        match (self.is_begun, self.hello.is_some() || self.has_method || self.is_http) {
            (false, _) => ClaimStage::Silent,
            (true, true) => ClaimStage::Message,
            (true, false) => ClaimStage::Line,
        }
    }

    /// Host of the request whose head the bytes begin with.
    fn host(&mut self, bytes: &[u8], head: &mut RequestHead) -> Option<FirstClaim> {
        let empty = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let (bytes, seen) = (&bytes[empty..], self.seen.saturating_sub(empty));
        self.seen = empty + bytes.len();
        if !may_be_complete(bytes, seen) {
            return None;
        }
        match head.read(bytes) {
            Ok(None) => None,
            Ok(Some(_)) => {
                let hosts: Vec<&[u8]> = head.all(Name::Host).collect();
                let text = |host: &[u8]| String::from_utf8(host.to_vec()).ok().filter(|host| !host.is_empty());
                Some(FirstClaim::Http(only(hosts).and_then(text)))
            }
            // The server that reads it again refuses it.
            Err(_) => Some(FirstClaim::Http(None)),
        }
    }
}

/// The only element.
fn only<T>(mut all: Vec<T>) -> Option<T> {
    let last = all.pop();
    if all.is_empty() { last } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(bytes: &[u8]) -> Option<FirstClaim> {
        ClaimReader::default().read(bytes, &mut RequestHead::default())
    }

    /// Claims after each byte, until there is one.
    fn stages(bytes: &[u8]) -> (Vec<ClaimStage>, Option<FirstClaim>) {
        let (mut reader, mut head, mut stages) = (ClaimReader::default(), RequestHead::default(), Vec::new());
        for end in 0..=bytes.len() {
            if let Some(claim) = reader.read(&bytes[..end], &mut head) {
                assert_eq!(claim, self::claim(bytes).unwrap(), "it does not depend on how the bytes arrive");
                return (stages, Some(claim));
            }
            stages.push(reader.stage());
        }
        (stages, None)
    }

    #[test]
    fn a_request_is_for_its_only_host() {
        let http = |host: Option<&str>| Some(FirstClaim::Http(host.map(str::to_owned)));
        assert_eq!(claim(b"GET / HTTP/1.1\r\nHost: A.example:81\r\n\r\n"), http(Some("A.example:81")));
        assert_eq!(claim(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nmore"), http(Some("a")));
        assert_eq!(claim(b"GET / HTTP/1.0\r\n\r\n"), http(None));
        assert_eq!(claim(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), http(None));
        assert_eq!(claim(b"GET / HTTP/1.1\r\nHost: \r\n\r\n"), http(None));
        assert_eq!(claim(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), http(None));
        assert_eq!(claim(b"SSH-2.0-x\r\n"), Some(FirstClaim::Other));
        assert_eq!(claim(b"GET / HTTP/1.1\r\nHost: a\r\n"), None);
        let (seen, end) = stages(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(end, http(Some("a")));
        let (word, method) = ("\r\nGET".len(), "\r\nGET ".len());
        assert_eq!(
            [seen[0], seen[word], seen[method], *seen.last().unwrap()],
            [ClaimStage::Silent, ClaimStage::Line, ClaimStage::Message, ClaimStage::Message]
        );
    }
}

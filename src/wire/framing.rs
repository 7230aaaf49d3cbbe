//! Message framing: body length and connection persistence (RFC 9112 §6.3, §9.3).
//!
//! The length decides where the next message begins, and two proxies that disagree on it can be
//! used to smuggle a request past one of them. This module is stricter than RFC 9112 §6.3, which
//! lets a server repair some messages:
//!
//! | message | result |
//! |---|---|
//! | `Content-Length: 5` twice, equal | 5 bytes |
//! | `Content-Length: 5` and `6` | refused |
//! | `Content-Length: 5, 5`, `+5`, or empty | refused |
//! | `Transfer-Encoding` beside `Content-Length` | refused |
//! | `Transfer-Encoding: gzip, chunked` | refused |
//! | any `Transfer-Encoding` in HTTP/1.0 | refused |

use super::field::{Fields, Name, members};
use super::head::{EndStream, RequestHead, ResponseHead, Version};

/// Length of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Length {
    /// No body.
    Empty,
    /// Number of bytes, at least 1.
    /// HTTP/1 counts them itself; on HTTP/2 `h2` compares them with the frames.
    Exact(u64),
    /// In chunks, with an end of their own.
    Chunked,
    /// Up to the end of the connection (HTTP/1 responses) or of the stream (HTTP/2).
    UntilClose,
}

/// Message of ambiguous length; the text says why.
///
/// It is a whole clause in lower case: `several Content-Length fields differ`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct AmbiguousLength(pub &'static str);

/// Length of a request's body.
///
/// Without any field of framing a request has no body (RFC 9112 §6.3, item 7).
///
/// # Errors
/// Any message that two readers could end at different places (400, and the connection closes).
pub fn of_request(head: &RequestHead) -> Result<Length, AmbiguousLength> {
    if head.version() == Version::Http2 {
        // The bytes after a CONNECT are not content (RFC 9113 §8.5).
        return if head.method() == "CONNECT" { http2(head, EndStream::Yes) } else { http2(head, head.end_stream) };
    }
    let chunked = chunked(head.all(Name::TransferEncoding), head.version())?;
    let exact = exact(head.all(Name::ContentLength))?;
    match (chunked, exact) {
        (true, Some(_)) => Err(AmbiguousLength("both Transfer-Encoding and Content-Length are given")),
        (true, None) => Ok(Length::Chunked),
        (false, Some(length)) if length > 0 => Ok(Length::Exact(length)),
        (false, _) => Ok(Length::Empty),
    }
}

/// Length of the body of a final response to a request with this method.
///
/// Responses to HEAD, and those with the status 1xx, 204 or 304, have no body, whatever their
/// fields say. Without any field of framing the body ends with the connection.
///
/// # Errors
/// As [`of_request`]; the origin is at fault (502).
pub fn of_response(head: &ResponseHead, method: &str) -> Result<Length, AmbiguousLength> {
    if method == "HEAD" || matches!(head.status(), 100..=199 | 204 | 304) {
        return Ok(Length::Empty);
    }
    if head.version() == Version::Http2 {
        return http2(head, head.end_stream);
    }
    let chunked = chunked(head.all(Name::TransferEncoding), head.version())?;
    let exact = exact(head.all(Name::ContentLength))?;
    match (chunked, exact) {
        (true, Some(_)) => Err(AmbiguousLength("both Transfer-Encoding and Content-Length are given")),
        (true, None) => Ok(Length::Chunked),
        (false, Some(0)) => Ok(Length::Empty),
        (false, Some(length)) => Ok(Length::Exact(length)),
        (false, None) => Ok(Length::UntilClose),
    }
}

/// Length of an HTTP/2 body. The stream marks its end; `h2` checks that a given length agrees (RFC 9113 §8.1.1).
fn http2(head: &Fields, end_stream: EndStream) -> Result<Length, AmbiguousLength> {
    Ok(match exact(head.all(Name::ContentLength))? {
        _ if end_stream == EndStream::Yes => Length::Empty,
        Some(length) if length > 0 => Length::Exact(length),
        Some(_) | None => Length::UntilClose,
    })
}

impl Length {
    /// Framing in which content of this length arrives from a peer of that version: HTTP/2 marks the end itself.
    pub fn read_by(self, version: Version) -> Length {
        if version == Version::Http2 && self != Length::Empty { Length::UntilClose } else { self }
    }

    /// Framing in which content of this length, received by any version, is written to a peer of that version.
    pub fn written_to(self, version: Version) -> Length {
        match (self, version) {
            (Length::Empty | Length::Exact(_), _) => self,
            (Length::Chunked | Length::UntilClose, Version::Http11) => Length::Chunked,
            (Length::Chunked | Length::UntilClose, Version::Http10 | Version::Http2) => Length::UntilClose,
        }
    }
}

/// True if the body is chunked. Any other coding, or chunked twice, is refused: a proxy must not guess.
fn chunked<'a>(values: impl Iterator<Item = &'a [u8]>, version: Version) -> Result<bool, AmbiguousLength> {
    let mut found = false;
    for value in values {
        if version == Version::Http10 {
            return Err(AmbiguousLength("Transfer-Encoding is given in HTTP/1.0"));
        }
        if found || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(AmbiguousLength("Transfer-Encoding is something else than one \"chunked\""));
        }
        found = true;
    }
    Ok(found)
}

/// Value of `Content-Length`: 1 to 19 digits. Equal repetitions in fields of their own are accepted
/// (RFC 9110 §8.6).
fn exact<'a>(values: impl Iterator<Item = &'a [u8]>) -> Result<Option<u64>, AmbiguousLength> {
    let mut found = None;
    for value in values {
        if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
            return Err(AmbiguousLength("Content-Length is not a whole number"));
        }
        // At most 19 digits: below 2^64.
        let length = value.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        if found.is_some_and(|earlier| earlier != length) {
            return Err(AmbiguousLength("several Content-Length fields differ"));
        }
        found = Some(length);
    }
    Ok(found)
}

/// Options of the `Connection` fields of a message (RFC 9110 §7.6.1).
///
/// Of one message: a later message of the same connection has its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ConnectionOptions {
    /// `close`: the connection ends after this message.
    pub close: bool,
    /// `keep-alive`: an HTTP/1.0 peer asks for the connection to stay open.
    pub keep_alive: bool,
    /// `upgrade`: the `Upgrade` field is meant for the next hop.
    pub upgrade: bool,
    /// Other fields are named: they must not be passed on.
    /// Each field is then compared with the
    /// members of `Connection`.
    pub names_fields: bool,
}

impl ConnectionOptions {
    /// Reads the `Connection` fields (and `Proxy-Connection`, which old callers send instead).
    ///
    /// Letter case does not matter. `close` beside `keep-alive` sets both, and
    /// [`ConnectionOptions::keeps_open`] lets `close` win.
    pub fn of<'a>(connection: impl Iterator<Item = &'a [u8]>) -> ConnectionOptions {
        let mut options = ConnectionOptions::default();
        for member in connection.flat_map(members) {
            if member.eq_ignore_ascii_case(b"close") {
                options.close = true;
            } else if member.eq_ignore_ascii_case(b"keep-alive") {
                options.keep_alive = true;
            } else if member.eq_ignore_ascii_case(b"upgrade") {
                options.upgrade = true;
            } else {
                options.names_fields = true;
            }
        }
        options
    }

    /// True if the peer keeps the connection open after this message.
    ///
    /// HTTP/1.0 must ask for it, later versions must decline it (RFC 9112 §9.3).
    pub fn keeps_open(self, version: Version) -> bool {
        !self.close && (version >= Version::Http11 || self.keep_alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &str) -> Result<Length, AmbiguousLength> {
        of_request(&RequestHead::parse_for_test(format!("POST / HTTP/1.1\r\n{fields}\r\n").as_bytes()))
    }

    fn response(head: &str, method: &str) -> Result<Length, AmbiguousLength> {
        let mut parsed = ResponseHead::default();
        parsed.read(head.as_bytes()).unwrap().unwrap();
        of_response(&parsed, method)
    }

    #[test]
    fn a_request_says_how_long_it_is() {
        assert_eq!(request(""), Ok(Length::Empty));
        assert_eq!(request("Content-Length: 0\r\n"), Ok(Length::Empty));
        assert_eq!(request("Content-Length: 18446744073709551\r\n"), Ok(Length::Exact(18_446_744_073_709_551)));
        assert_eq!(request("Content-Length: 5\r\nContent-Length: 5\r\n"), Ok(Length::Exact(5)));
        assert_eq!(request("Transfer-Encoding: Chunked\r\n"), Ok(Length::Chunked));
    }

    #[test]
    fn a_length_that_can_be_read_in_two_ways_is_refused() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: \r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: \"chunked\"\r\n",
            "Transfer-Encoding: \x0bchunked\r\n",
        ] {
            let mut head = RequestHead::default();
            let read = head.read(format!("POST / HTTP/1.1\r\n{fields}\r\n").as_bytes());
            assert!(read.is_err() || of_request(&head).is_err(), "{fields}");
        }
        let old = RequestHead::parse_for_test(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert!(of_request(&old).is_err());
    }

    #[test]
    fn a_response_ends_by_its_request_its_status_its_fields_or_its_connection() {
        assert_eq!(response("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD"), Ok(Length::Empty));
        assert_eq!(response("HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n", "GET"), Ok(Length::Empty));
        assert_eq!(response("HTTP/1.1 204 Nothing\r\nTransfer-Encoding: chunked\r\n\r\n", "GET"), Ok(Length::Empty));
        assert_eq!(response("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "GET"), Ok(Length::Exact(5)));
        assert_eq!(response("HTTP/1.1 200 OK\r\n\r\n", "GET"), Ok(Length::UntilClose));
        assert!(response("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "GET").is_err());
    }

    #[test]
    fn a_connection_stays_open_as_its_version_and_options_say() {
        let options = |text: &'static str| ConnectionOptions::of([text.as_bytes()].into_iter());
        assert!(options("").keeps_open(Version::Http11));
        assert!(!options("Close").keeps_open(Version::Http11));
        assert!(!options("").keeps_open(Version::Http10));
        assert!(options("Keep-Alive").keeps_open(Version::Http10));
        assert!(options("keep-alive, X-Secret").names_fields);
    }
}

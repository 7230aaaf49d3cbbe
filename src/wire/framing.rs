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
//! | `Content-Length: 005` | 5 bytes; a response may have more zeros than a request |
//! | `Content-Length: 5, 5`, `+5`, or empty | refused |
//! | `Transfer-Encoding` beside `Content-Length` | refused |
//! | `Transfer-Encoding: gzip, chunked` | refused as a coding that is not supported |
//! | any `Transfer-Encoding` in HTTP/1.0 | refused |

use smallvec::SmallVec;

use super::field::{Fields, Name, members};
use super::head::{EndStream, RequestHead, Version};
use super::response_head::ResponseHead;

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

/// Reason for which the length of a message is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FramingError {
    /// Two readers could find different lengths. The text is a whole clause in lower case: `several
    /// Content-Length fields differ`.
    #[error("{0}")]
    Ambiguous(&'static str),
    /// The content is in chunks, and in a further transfer coding that is not supported (RFC 9112
    /// §6.1).
    #[error("{}", UNKNOWN_CODING)]
    UnknownCoding,
}

const UNKNOWN_CODING: &str = "Transfer-Encoding names another coding than chunked";

impl FramingError {
    /// The reason, as a whole clause in lower case.
    pub fn reason(self) -> &'static str {
        match self {
            FramingError::Ambiguous(reason) => reason,
            FramingError::UnknownCoding => UNKNOWN_CODING,
        }
    }
}

/// Most digits of a `Content-Length` in a request: every number of bytes below 2^63.
const MAX_DIGITS: usize = 19;

/// Most digits of a `Content-Length` in a response, leading zeros included.
const MAX_PADDED_DIGITS: usize = 64;

/// Length of a request's body.
///
/// Without any field of framing a request has no body (RFC 9112 §6.3, item 7).
///
/// # Errors
/// Any message that two readers could end at different places (400), and an unknown coding (501); the
/// connection closes.
pub fn of_request(head: &RequestHead) -> Result<Length, FramingError> {
    if head.version() == Version::Http2 {
        // The bytes after a CONNECT are not content (RFC 9113 §8.5).
        return if head.method() == "CONNECT" { http2(head, EndStream::Yes) } else { http2(head, head.end_stream) };
    }
    let chunked = chunked(head.all(Name::TransferEncoding), head.version())?;
    let exact = exact(head.all(Name::ContentLength), MAX_DIGITS)?;
    match (chunked, exact) {
        (true, Some(_)) => Err(FramingError::Ambiguous("both Transfer-Encoding and Content-Length are given")),
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
pub fn of_response(head: &ResponseHead, method: &str) -> Result<Length, FramingError> {
    if method == "HEAD" || matches!(head.status(), 100..=199 | 204 | 304) {
        return Ok(Length::Empty);
    }
    if head.version() == Version::Http2 {
        return http2(head, head.end_stream);
    }
    let chunked = chunked(head.all(Name::TransferEncoding), head.version())?;
    let exact = exact(head.all(Name::ContentLength), MAX_PADDED_DIGITS)?;
    match (chunked, exact) {
        (true, Some(_)) => Err(FramingError::Ambiguous("both Transfer-Encoding and Content-Length are given")),
        (true, None) => Ok(Length::Chunked),
        (false, Some(0)) => Ok(Length::Empty),
        (false, Some(length)) => Ok(Length::Exact(length)),
        (false, None) => Ok(Length::UntilClose),
    }
}

/// Length of an HTTP/2 body. The stream marks its end; `h2` checks that a given length agrees (RFC 9113 §8.1.1).
fn http2(head: &Fields, end_stream: EndStream) -> Result<Length, FramingError> {
    Ok(match exact(head.all(Name::ContentLength), MAX_DIGITS)? {
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

/// Number that `Content-Length` states, for a message without content (HEAD, 304): there it frames
/// nothing. `None` if there is none, or several, or what is stated is no number.
pub fn stated_length(head: &Fields) -> Option<u64> {
    exact(head.all(Name::ContentLength), MAX_PADDED_DIGITS).ok().flatten()
}

/// True if the body is chunked. Any other coding, or chunked twice, is refused: a proxy must not guess.
fn chunked<'a>(values: impl Iterator<Item = &'a [u8]>, version: Version) -> Result<bool, FramingError> {
    let values: SmallVec<[&[u8]; 1]> = values.collect();
    match values[..] {
        [] => return Ok(false),
        _ if version == Version::Http10 => {
            return Err(FramingError::Ambiguous("Transfer-Encoding is given in HTTP/1.0"));
        }
        [value] if value.eq_ignore_ascii_case(b"chunked") => return Ok(true),
        _ => {}
    }
    let codings: SmallVec<[&[u8]; 4]> = values.iter().copied().flat_map(members).collect();
    let is_chunked = |coding: &&[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let is_token =
        |coding: &&[u8]| coding.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte));
    match codings.split_last() {
        // Chunked last, and once: the end of the message is known, but not what it contains.
        Some((last, others))
            if is_chunked(last)
                && !others.is_empty()
                && !others.iter().any(|one| is_chunked(one) || !is_token(one)) =>
        {
            Err(FramingError::UnknownCoding)
        }
        _ => Err(FramingError::Ambiguous("Transfer-Encoding is something else than one \"chunked\"")),
    }
}

/// Value of `Content-Length`, of at most `most` digits with leading zeros, and [`MAX_DIGITS`] without.
/// Equal repetitions in fields of their own are accepted (RFC 9110 §8.6).
fn exact<'a>(values: impl Iterator<Item = &'a [u8]>, most: usize) -> Result<Option<u64>, FramingError> {
    let mut found = None;
    for value in values {
        let zeros = value.iter().take_while(|digit| **digit == b'0').count();
        let digits = &value[zeros..];
        let is_number = digits.len() <= MAX_DIGITS && digits.iter().all(u8::is_ascii_digit);
        if value.is_empty() || value.len() > most || !is_number {
            return Err(FramingError::Ambiguous("Content-Length is not a whole number"));
        }
        // At most 19 digits: below 2^64.
        let length = digits.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        if found.is_some_and(|earlier| earlier != length) {
            return Err(FramingError::Ambiguous("several Content-Length fields differ"));
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

    fn request(fields: &str) -> Result<Length, FramingError> {
        of_request(&RequestHead::parse_for_test(format!("POST / HTTP/1.1\r\n{fields}\r\n").as_bytes()))
    }

    fn response(head: &str, method: &str) -> Result<Length, FramingError> {
        of_response(&ResponseHead::parse_for_test(head.as_bytes()), method)
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
            "Transfer-Encoding: gzip;q=1, chunked\r\n",
            "Transfer-Encoding: chunked, gzip, chunked\r\n",
            "Transfer-Encoding: chunked,\r\n",
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
    fn a_coding_that_is_not_known_is_told_from_a_length_in_doubt() {
        for fields in ["gzip, chunked\r\n", "deflate ,CHUNKED\r\n", "identity\r\nTransfer-Encoding: chunked\r\n"] {
            assert_eq!(request(&format!("Transfer-Encoding: {fields}")), Err(FramingError::UnknownCoding), "{fields}");
        }
    }

    #[test]
    fn lengths_of_responses_may_be_padded_with_more_zeros() {
        let padded = |zeros| format!("HTTP/1.1 200 OK\r\nContent-Length: {}5\r\n\r\n", "0".repeat(zeros));
        assert_eq!(response(&padded(63), "GET"), Ok(Length::Exact(5)));
        assert!(response(&padded(64), "GET").is_err());
        assert_eq!(request("Content-Length: 0000000000000000005\r\n"), Ok(Length::Exact(5)));
        assert!(request("Content-Length: 00000000000000000005\r\n").is_err());
    }

    #[test]
    fn a_length_without_content_is_one_number_or_none() {
        let stated = |fields: &str| {
            stated_length(&ResponseHead::parse_for_test(format!("HTTP/1.1 304 Same\r\n{fields}\r\n").as_bytes()))
        };
        assert_eq!(stated("Content-Length: 05\r\nContent-Length: 5\r\n"), Some(5));
        for fields in
            ["", "Content-Length: 5\r\nContent-Length: 6\r\n", "Content-Length: 5, 5\r\n", "Content-Length: x\r\n"]
        {
            assert_eq!(stated(fields), None, "{fields}");
        }
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

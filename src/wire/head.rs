//! Request heads (request line and fields): split by httparse, then checked more strictly than RFC
//! 9112 asks; and what request and response heads have in common.

use std::mem::MaybeUninit;
use std::ops::{Deref, Range};

use super::field::{Fields, MAX_ADDED, range_in};
use super::line_ends::{HeadLines, LineEnds};
use super::request_target::{encoded_len, encoded_target};

/// Longest head, in bytes; longer ones are refused (431, or 414 for a request line). The read
/// buffer of a connection grows up to this size, and no further.
pub const MAX_HEAD: usize = 64 * 1024;

/// Most fields of a head, besides up to 32 that gateways add (`Via`, `Host`, framing, tracing); more
/// are refused (431).
pub const MAX_FIELDS: usize = 128;

/// Protocol version of a message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Version {
    /// HTTP/1.0: no chunks, no 1xx, closed after the message unless asked otherwise.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2: framing is not in the fields, and the connection is shared with other messages.
    Http2,
}

/// HTTP/2's flag END_STREAM (RFC 9113 §6.1, §6.2) of received or sent frames. HTTP/1 has no such
/// flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndStream {
    /// More of the message follows.
    No,
    /// The message ends here.
    Yes,
}

impl EndStream {
    /// `Yes` if `ends` returns true.
    pub fn when(ends: impl FnOnce() -> bool) -> EndStream {
        if ends() { EndStream::Yes } else { EndStream::No }
    }
}

/// Reason to refuse a head.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeadError {
    /// Violation of the grammar; the text says where.
    #[error("{0}")]
    Malformed(&'static str),
    /// Longer than [`MAX_HEAD`], or more than [`MAX_FIELDS`] fields.
    #[error("the head is too large")]
    TooLarge,
    /// First line alone longer than [`MAX_HEAD`].
    #[error("the request line is too long")]
    LineTooLong,
    /// Another version than HTTP/1.0 or HTTP/1.1.
    #[error("this is neither HTTP/1.0 nor HTTP/1.1")]
    Version,
}

/// True if parsing `input` again can have another result than when only the first `seen` bytes were
/// there. A head that drips in byte by byte must not be parsed from its start for each byte.
///
/// Only a line feed among the new bytes, or the size limit, can change the result. `seen`: number
/// of bytes at the last attempt, 0 before the first.
pub fn may_be_complete(input: &[u8], seen: usize) -> bool {
    seen == 0 || input.len() >= MAX_HEAD || memchr::memchr(b'\n', &input[seen.min(input.len())..]).is_some()
}

/// Request head as received: the bytes, and the ranges of its parts.
///
/// Reused for the next request, so that a head costs no allocation. The target of an HTTP/2 request
/// is put together in HTTP/1.1's absolute form (RFC 9113 §8.3.1), or in authority form for CONNECT.
#[derive(Debug)]
pub struct RequestHead {
    pub(super) fields: Fields,
    pub(super) method_at: Range<u32>,
    pub(super) target_at: Range<u32>,
    pub(super) version: Version,
    /// HTTP/2: `Yes` if no content follows.
    pub(super) end_stream: EndStream,
}

impl Default for RequestHead {
    fn default() -> Self {
        RequestHead {
            fields: Fields::default(),
            method_at: 0..0,
            target_at: 0..0,
            version: Version::Http11,
            end_stream: EndStream::No,
        }
    }
}

impl Deref for RequestHead {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        &self.fields
    }
}

impl RequestHead {
    /// Parses a head at the start of `input`: returns its length in bytes, or `None` if it is
    /// incomplete.
    ///
    /// # Errors
    /// Each violation of RFC 9112 that would leave the message's end in doubt.
    pub fn read(&mut self, input: &[u8]) -> Result<Option<usize>, HeadError> {
        // httparse would skip it, and start over with each further one.
        if input.first() == Some(&b'\n') {
            return Err(HeadError::Malformed("a line ends with LF alone"));
        }
        let mut slots = [const { MaybeUninit::uninit() }; MAX_FIELDS + MAX_ADDED];
        let mut parsed = httparse::Request::new(&mut []);
        let outcome =
            httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, input, &mut slots);
        let length = match outcome.map_err(|error| reason(error, input))? {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial if input.len() >= MAX_HEAD => {
                return Err(if input.contains(&b'\n') { HeadError::TooLarge } else { HeadError::LineTooLong });
            }
            httparse::Status::Partial => return Ok(None),
        };
        let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(HeadError::Malformed("the request line is incomplete"));
        };
        check_target(target)?;
        if HeadLines::of(&input[..length]).ends != LineEnds::Crlf {
            return Err(HeadError::Malformed("a line ends with LF alone"));
        }
        self.method_at = range_in(input, method.as_bytes());
        self.target_at = range_in(input, target.as_bytes());
        self.version = version(minor);
        let encoded = encoded_target(target);
        self.fields.store(&input[..length], parsed.headers);
        if !self.fields.fits(MAX_FIELDS) {
            return Err(HeadError::TooLarge);
        }
        if let Some(encoded) = encoded {
            self.target_at = self.fields.append(encoded.as_bytes());
        }
        Ok(Some(length))
    }

    /// Parses a complete head, for tests.
    ///
    /// # Panics
    /// If the head is malformed or incomplete.
    #[cfg(test)]
    pub(crate) fn parse_for_test(input: &[u8]) -> RequestHead {
        let mut head = RequestHead::default();
        head.read(input).expect("a well-formed head").expect("a whole head");
        head
    }

    /// Method as received: a token (RFC 9110 §5.6.2). Empty only before a head was read.
    pub fn method(&self) -> &str {
        text(self.slice(&self.method_at))
    }

    /// Request target: visible ASCII, with other characters percent-encoded (UTF-8), and the rest as
    /// received. Empty only before a head was read.
    pub fn target(&self) -> &str {
        text(self.slice(&self.target_at))
    }

    /// Protocol version of the caller.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Forgets the head, and frees the memory of an unusually large one.
    pub fn shrink(&mut self) {
        self.fields.shrink();
        // The ranges would point into freed bytes.
        (self.method_at, self.target_at) = (0..0, 0..0);
    }
}

/// Checks that a target has no white space and no control characters, and fits into a head once its
/// other characters outside of ASCII are percent-encoded, for any version.
pub(super) fn check_target(target: &str) -> Result<(), HeadError> {
    // Without an end at the first other byte, which lets the compiler look at 16 at a time.
    let is_plain = target.bytes().fold(true, |all, byte| all & byte.is_ascii_graphic());
    if is_plain && target.len() <= MAX_HEAD {
        return Ok(());
    }
    if target.bytes().any(|byte| byte.is_ascii() && !byte.is_ascii_graphic()) {
        return Err(HeadError::Malformed("the request target holds white space or a control character"));
    }
    if encoded_len(target) > MAX_HEAD { Err(HeadError::LineTooLong) } else { Ok(()) }
}

pub(super) fn version(minor: u8) -> Version {
    if minor == 0 { Version::Http10 } else { Version::Http11 }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

fn reason(error: httparse::Error, input: &[u8]) -> HeadError {
    HeadError::Malformed(match error {
        httparse::Error::HeaderName => {
            "a field name holds a byte that no name may hold, or white space stands before its colon"
        }
        httparse::Error::HeaderValue => "a field value holds a control character",
        httparse::Error::NewLine => "a line does not end with CR LF",
        httparse::Error::Status => "the status is not three digits",
        httparse::Error::Token => "the request line is not \"METHOD target HTTP/1.1\"",
        httparse::Error::TooManyHeaders => return HeadError::TooLarge,
        httparse::Error::Version if is_known_version(input) => return HeadError::Version,
        httparse::Error::Version => {
            "the request line is not \"METHOD target HTTP/1.1\", with one space between its parts"
        }
    })
}

/// True if the first line has three parts, of which the last (request) or the first (response) is
/// an HTTP version.
pub(super) fn is_known_version(input: &[u8]) -> bool {
    let line = input.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
    let is_version = |word: &[u8]| matches!(word, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']);
    let words: Vec<&[u8]> = line.splitn(4, |byte| *byte == b' ').collect();
    matches!(words[..], [_, _, last] if is_version(last)) || words.first().is_some_and(|first| is_version(first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Name;

    fn error(head: &[u8]) -> HeadError {
        RequestHead::default().read(head).expect_err("a head that must be refused")
    }

    #[test]
    fn a_head_is_split_into_its_parts_as_they_were_written() {
        let head = RequestHead::parse_for_test(b"GET http://a/b?c HTTP/1.0\r\nHoSt:  a \r\nX-Y:\r\n\r\nrest");
        assert_eq!((head.method(), head.target(), head.version()), ("GET", "http://a/b?c", Version::Http10));
        assert_eq!(head.get(Name::Host), Some(&b"a"[..]));
        assert_eq!(head.find("x-y"), Some(&b""[..]));
        let names: Vec<_> = head.fields().map(|(_, name, _)| name).collect();
        assert_eq!(names, [&b"HoSt"[..], b"X-Y"]);
    }

    #[test]
    fn half_a_head_asks_for_more() {
        assert_eq!(RequestHead::default().read(b"GET / HTTP/1.1\r\nHost: a\r\n"), Ok(None));
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_refused() {
        for head in [
            &b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..],
            b"GET / HTTP/1.1\r\nHost: a\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\n",
            b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
            b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / b HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /\xe4 HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\n: a\r\n\r\n",
            b"\n",
            b"\n\n\nGET / HTTP/1.1\r\n\r\n",
        ] {
            assert!(matches!(error(head), HeadError::Malformed(_)), "{}", head.escape_ascii());
        }
    }

    #[test]
    fn a_target_may_hold_what_browsers_send_raw() {
        let raw = "/caf\u{e9}/|{}\"^`[]\\<>?q=\u{fc}|\u{1f980}";
        let head = format!("GET {raw} HTTP/1.1\r\nHost: a\r\n\r\n");
        let encoded = "/caf%C3%A9/|{}\"^`[]\\<>?q=%C3%BC|%F0%9F%A6%80";
        assert_eq!(RequestHead::parse_for_test(head.as_bytes()).target(), encoded);
    }

    #[test]
    fn another_version_is_named_as_such() {
        assert_eq!(error(b"GET / HTTP/2.0\r\n\r\n"), HeadError::Version);
        assert_eq!(error(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), HeadError::Version);
    }

    #[test]
    fn a_bomb_of_fields_or_bytes_is_too_large() {
        let mut bomb = b"GET / HTTP/1.1\r\n".to_vec();
        for _ in 0..=MAX_FIELDS {
            bomb.extend_from_slice(b"A: b\r\n");
        }
        bomb.extend_from_slice(b"\r\n");
        assert_eq!(error(&bomb), HeadError::TooLarge);
        let with_vias = |fields: usize, vias: usize| {
            let lines = "A: b\r\n".repeat(fields) + &"Via: 1.1 a\r\n".repeat(vias);
            format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes()
        };
        assert!(
            RequestHead::default().read(&with_vias(MAX_FIELDS, MAX_ADDED - 1)).is_ok(),
            "gateways have added those"
        );
        let traced = "A: b\r\n".repeat(MAX_FIELDS) + "Traceparent: 00-1-1-00\r\nserver-timing: a\r\n";
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{traced}\r\n");
        assert!(RequestHead::default().read(head.as_bytes()).is_ok(), "and those of a trace");
        assert_eq!(error(&with_vias(MAX_FIELDS, MAX_ADDED)), HeadError::TooLarge);
        assert_eq!(error(&with_vias(MAX_FIELDS + 1, 1)), HeadError::TooLarge);
        assert_eq!(error(&[b"GET /".to_vec(), vec![b'a'; MAX_HEAD]].concat()), HeadError::LineTooLong);
        assert_eq!(error(&[b"GET / HTTP/1.1\r\nA: ".to_vec(), vec![b'a'; MAX_HEAD]].concat()), HeadError::TooLarge);
    }
}

//! Request-line detector: tells HTTP from other protocols by the first bytes of a connection, before a
//! server reads them (RFC 9112 §3).
//!
//! Used for tunnels in which any protocol may be spoken. Recognises a request as servers do: empty
//! lines before it are passed over, and any method and version count. Some protocols begin with a word
//! and a space, too (SSH, mail, IRC, memcached), so the rest of the line decides. Of an unfinished line
//! the method tells how long to wait for that rest ([`names_method`]); parts of a line that are passed on
//! meanwhile still count for its end ([`PartialLine`]).

use super::head::MAX_HEAD;

/// Longest method, in bytes: twice the longest that is registered (`UPDATEREDIRECTREF`). Bytes that go
/// on without a space are no request.
pub(super) const MAX_METHOD: usize = 34;

/// Methods of the IANA registry (RFC 9110 §16.1.1), and the preface of HTTP/2.
const METHODS: [&[u8]; 40] = [
    b"ACL",
    b"BASELINE-CONTROL",
    b"BIND",
    b"CHECKIN",
    b"CHECKOUT",
    b"CONNECT",
    b"COPY",
    b"DELETE",
    b"GET",
    b"HEAD",
    b"LABEL",
    b"LINK",
    b"LOCK",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MKREDIRECTREF",
    b"MKWORKSPACE",
    b"MOVE",
    b"OPTIONS",
    b"ORDERPATCH",
    b"PATCH",
    b"POST",
    b"PRI",
    b"PROPFIND",
    b"PROPPATCH",
    b"PUT",
    b"QUERY",
    b"REBIND",
    b"REPORT",
    b"SEARCH",
    b"TRACE",
    b"UNBIND",
    b"UNCHECKOUT",
    b"UNLINK",
    b"UNLOCK",
    b"UPDATE",
    b"UPDATEREDIRECTREF",
    b"VERSION-CONTROL",
];

/// Name of the protocol, at the start of the word that states the version.
const NAME: &[u8] = b"HTTP/";

/// Protocol that a connection begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FirstLine {
    /// Too few bytes to tell.
    Incomplete,
    /// A request of HTTP/1 or HTTP/0.9, or the preface of HTTP/2 (prior knowledge, RFC 9113 §3.3), which has the form of
    /// one.
    Http,
    /// A request for a tunnel (CONNECT), which the peer of this connection is to open.
    Connect,
    /// Another protocol.
    Other,
}

/// Classifies the first bytes of a connection: all that have arrived so far.
pub fn first_line(bytes: &[u8]) -> FirstLine {
    let (method, rest) = split_method(after_empty_lines(bytes));
    match rest.first() {
        None if method.len() <= MAX_METHOD => return FirstLine::Incomplete,
        Some(b' ' | b'\t') if !method.is_empty() => {}
        Some(_) | None => return FirstLine::Other,
    }
    let Some(end) = memchr::memchr(b'\n', rest) else { return FirstLine::Incomplete };
    let mut words = rest[..end].split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let target = words.next().unwrap_or_default();
    // A line without a version is HTTP/0.9, which has GET alone.
    let is_http = words.any(is_version) || method == b"GET" && target.starts_with(b"/");
    match method {
        _ if !is_http => FirstLine::Other,
        b"CONNECT" => FirstLine::Connect,
        _ => FirstLine::Http,
    }
}

/// True if the bytes begin with a registered method and a space behind it, in any letter case: some servers
/// are as tolerant.
///
/// An unfinished line of that kind is a request that is under way. Clients of other protocols that speak
/// first end such a line before they wait for an answer (`GET key` and a line end).
pub fn names_method(bytes: &[u8]) -> bool {
    let (method, rest) = split_method(after_empty_lines(bytes));
    matches!(rest.first(), Some(b' ' | b'\t')) && METHODS.iter().any(|known| known.eq_ignore_ascii_case(method))
}

/// True if an unfinished line of the longest size may be that of a request: a word and a space, and no control
/// character, which no server takes there.
///
/// Some servers take longer lines than [`MAX_HEAD`], and any method. The first line of another protocol is shorter,
/// or no text.
pub fn is_long_request(bytes: &[u8]) -> bool {
    let (method, rest) = split_method(after_empty_lines(bytes));
    let is_text = |byte: &u8| *byte >= b' ' || *byte == b'\t';
    !method.is_empty() && matches!(rest.first(), Some(b' ' | b'\t')) && rest.iter().all(is_text)
}

/// First line of which parts are passed on before it has ended.
///
/// Keeps a copy of at most [`MAX_HEAD`] bytes; [`is_long_request`] decides on longer lines.
#[derive(Default, Debug)]
pub struct PartialLine {
    /// Bytes so far, without the empty lines before them, which would else use up the bound.
    bytes: Vec<u8>,
}

impl PartialLine {
    /// Adds the next bytes, and classifies all so far.
    pub fn add(&mut self, more: &[u8]) -> FirstLine {
        let more = if self.bytes.is_empty() { after_empty_lines(more) } else { more };
        self.bytes.extend_from_slice(&more[..more.len().min(MAX_HEAD - self.bytes.len())]);
        let line = first_line(&self.bytes);
        if line != FirstLine::Incomplete || self.bytes.len() < MAX_HEAD {
            return line;
        }
        if is_long_request(&self.bytes) { FirstLine::Http } else { FirstLine::Other }
    }
}

/// Bytes behind the empty lines at the start.
fn after_empty_lines(bytes: &[u8]) -> &[u8] {
    let empty = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    &bytes[empty..]
}

/// Method, or as much of it as there is, and the rest. One that is too long is cut behind [`MAX_METHOD`].
fn split_method(bytes: &[u8]) -> (&[u8], &[u8]) {
    let length = bytes.iter().take(MAX_METHOD + 1).take_while(|byte| is_token(**byte)).count();
    bytes.split_at(length)
}

/// True for a version of HTTP, in any letter case: some servers are as tolerant.
fn is_version(word: &[u8]) -> bool {
    let (name, version) = word.split_at(word.len().min(NAME.len()));
    name.eq_ignore_ascii_case(NAME) && version.first().is_some_and(u8::is_ascii_digit)
}

/// True for a character of a token (RFC 9110 §5.6.2).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_from_other_protocols_by_their_whole_line() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "GET / HTTP/1.0\nHost: a\n\n",
            "\r\n\n\r\nGET / HTTP/1.1\r\n",
            "patch /a%20b?c HTTP/1.1\r\n",
            "M-SEARCH * HTTP/1.1\r\n",
            "GET http://a.example/ HTTP/1.1\r\n",
            "POST  /\tHTTP/1.1 \r\n",
            "PUT / http/1.1\r\n",
            "GET /\r\n",
            "BREW /pot HTTP/9.7\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            assert_eq!(first_line(line.as_bytes()), FirstLine::Http, "{line:?}");
        }
        for line in [
            "SSH-2.0-OpenSSH_9.6p1 Ubuntu-3ubuntu13\r\n",
            "EHLO mail.example\r\n",
            "MAIL FROM:<a@b.example>\r\n",
            "NICK somebody\r\n",
            "get key\r\n",
            "GET key\r\n",
            "set HTTP 0 0 5\r\nhello\r\n",
            "OPTIONS rtsp://a.example RTSP/1.0\r\n",
            "INVITE sip:a@b.example SIP/2.0\r\n",
            "PING\r\n",
            " GET / HTTP/1.1\r\n",
            "G\0T / HTTP/1.1\r\n",
            "*1\r\n$4\r\nPING\r\n",
            "<?xml version='1.0'?>",
            "\u{16}\u{3}\u{1}",
            "\0\0\0\u{8}\u{4}",
            &"A".repeat(100),
        ] {
            assert_eq!(first_line(line.as_bytes()), FirstLine::Other, "{line:?}");
        }
        assert_eq!(first_line(b"CONNECT a.example:443 HTTP/1.1\r\n"), FirstLine::Connect);
    }

    #[test]
    fn a_line_that_may_yet_be_a_request_is_waited_for() {
        let line = b"\r\nDELETE /a HTTP/1.1\r\n";
        for end in 0..line.len() {
            assert_eq!(first_line(&line[..end]), FirstLine::Incomplete, "{end} bytes");
        }
        for start in ["S", "SSH-2.0-x ", "GET /", &"A".repeat(MAX_METHOD)] {
            assert_eq!(first_line(start.as_bytes()), FirstLine::Incomplete, "{start:?}");
        }
    }

    #[test]
    fn an_unfinished_line_is_a_request_once_it_has_a_registered_method_and_a_space() {
        for line in ["GET ", "\r\nPOST\t/", "get /v2", "PRI * HT", "VERSION-CONTROL /a HTTP/1."] {
            assert!(names_method(line.as_bytes()), "{line:?}");
        }
        for line in ["", "\r\n", "GET", "GETS ", "HELO a", "one word", "SSH-2.0-x ", " GET ", "GET\0 "] {
            assert!(!names_method(line.as_bytes()), "{line:?}");
        }
    }

    #[test]
    fn a_line_in_parts_is_classified_as_in_one_piece() {
        for (line, last) in [
            ("\r\n\r\nBREW /pot HTTP/1.1\r\n", FirstLine::Http),
            ("CONNECT a:443 HTTP/1.1\n", FirstLine::Connect),
            ("one word more\n", FirstLine::Other),
        ] {
            let mut parts = PartialLine::default();
            let lines: Vec<_> = line.bytes().map(|byte| parts.add(&[byte])).collect();
            let (end, before) = lines.split_last().expect("a line");
            assert!(before.iter().all(|line| *line == FirstLine::Incomplete), "{line:?}");
            assert_eq!(*end, last, "{line:?}");
        }
    }

    #[test]
    fn a_line_in_parts_keeps_no_more_than_the_longest_head() {
        let mut parts = PartialLine::default();
        for _ in 0..3 {
            assert_eq!(parts.add(&[b'\n'; MAX_HEAD]), FirstLine::Incomplete, "empty lines are not kept");
        }
        assert_eq!(parts.add(b"BREW /"), FirstLine::Incomplete);
        assert_eq!(parts.add(&[b'a'; MAX_HEAD]), FirstLine::Http, "some servers take it");
        assert_eq!(parts.bytes.len(), MAX_HEAD);
        let mut binary = PartialLine::default();
        assert_eq!(binary.add(b"put "), FirstLine::Incomplete);
        assert_eq!(binary.add(&[0; MAX_HEAD]), FirstLine::Other);
    }
}

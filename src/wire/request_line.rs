//! Request-line detector: tells HTTP from other protocols by the first bytes of a connection, before a
//! server reads them (RFC 9112 §3).
//!
//! Used for tunnels in which any protocol may be spoken. Recognises a request as servers do: empty
//! lines before it are passed over, and any method and version count. Some protocols begin with a word
//! and a space, too (SSH, mail, IRC, memcached), so the rest of the line decides.

/// Longest method, in bytes: twice the longest that is registered (`UPDATEREDIRECTREF`). Bytes that go
/// on without a space are no request.
pub(super) const MAX_METHOD: usize = 34;

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
    let empty = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let bytes = &bytes[empty..];
    let length = bytes.iter().take(MAX_METHOD + 1).take_while(|byte| is_token(**byte)).count();
    let (method, rest) = bytes.split_at(length);
    match rest.first() {
        None if length <= MAX_METHOD => return FirstLine::Incomplete,
        Some(b' ' | b'\t') if length > 0 => {}
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
}

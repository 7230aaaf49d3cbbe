//! Response heads (status line and fields): read leniently where RFC 9112 lets a proxy repair them,
//! and strictly where the end of the message is at stake.
//!
//! | the origin sends | result |
//! |---|---|
//! | white space before a colon | removed (§5.1: a proxy MUST do so) |
//! | a folded line | one line, with spaces in place of the fold (§5.2) |
//! | lines that all end with LF alone | read (§2.2) |
//! | some such lines among others | read; the connection ends with the response |
//! | a status from 600 to 999 | passed on (RFC 9110 §15) |
//! | any of these white spaces, folds or ends at `Content-Length` or `Transfer-Encoding` | refused |
//!
//! The head is written anew, so that the next reader has no choice.

use std::mem::MaybeUninit;
use std::ops::{Deref, Range};

use super::field::{Fields, MAX_ADDED, range_in};
use super::head::{EndStream, HeadError, MAX_FIELDS, MAX_HEAD, Version, is_known_version, version};
use super::line_ends::{HeadLines, LineEnds};

/// Bounds of a response head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeadLimits {
    /// Longest head, in bytes.
    pub bytes: usize,
    /// Most fields, besides up to 32 that gateways add (`Via`, `Date`, `Server-Timing`, framing).
    pub fields: usize,
}

impl Default for HeadLimits {
    /// As long as a request head, with twice the fields: origins set cookies one by one.
    fn default() -> Self {
        HeadLimits { bytes: MAX_HEAD, fields: 2 * MAX_FIELDS }
    }
}

/// True if parsing `input` again can have another result than when only the first `seen` bytes were
/// there: the end of the first line or of the head is among the new ones, or the size limit.
///
/// A folded head may have any number of lines, and must not be parsed from its start for each.
/// `seen`: number of bytes at the last attempt, 0 before the first.
pub fn may_be_complete(input: &[u8], seen: usize, limits: HeadLimits) -> bool {
    let seen = seen.min(input.len());
    let is_first_line = || !input[..seen].contains(&b'\n') && input[seen..].contains(&b'\n');
    seen == 0 || input.len() >= limits.bytes || is_first_line() || has_empty_line(input, seen)
}

/// True if an empty line ends behind the first `seen` bytes. Its end may be LF alone.
pub(super) fn has_empty_line(input: &[u8], seen: usize) -> bool {
    // The line end before an empty line may have been seen: the last three bytes can be part of one.
    let rest = &input[seen.min(input.len()).saturating_sub(3)..];
    let is_end = |at: usize| matches!(rest[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]);
    memchr::memchr_iter(b'\n', rest).any(is_end)
}

/// Response head as received: the bytes, and the ranges of its parts.
#[derive(Debug)]
pub struct ResponseHead {
    pub(super) fields: Fields,
    pub(super) status: u16,
    pub(super) reason_at: Range<u32>,
    pub(super) version: Version,
    /// HTTP/2: `Yes` if no content follows.
    pub(super) end_stream: EndStream,
    /// Ends of its lines. `Crlf` for HTTP/2.
    pub(super) line_ends: LineEnds,
}

impl Default for ResponseHead {
    fn default() -> Self {
        ResponseHead {
            fields: Fields::default(),
            status: 0,
            reason_at: 0..0,
            version: Version::Http11,
            end_stream: EndStream::No,
            line_ends: LineEnds::Crlf,
        }
    }
}

impl Deref for ResponseHead {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        &self.fields
    }
}

impl ResponseHead {
    /// Parses a head at the start of `input`: returns its length in bytes, or `None` if it is
    /// incomplete.
    ///
    /// # Errors
    /// Violations of RFC 9112 that cannot be repaired, any that would leave the message's end in
    /// doubt, and a head beyond the limits.
    pub fn read(&mut self, input: &[u8], limits: HeadLimits) -> Result<Option<usize>, HeadError> {
        // A leftover of the message before: the answer behind it may belong to another request.
        if matches!(input.first(), Some(b'\r' | b'\n')) {
            return Err(HeadError::Malformed("the status line is empty"));
        }
        let mut slots = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        match self.read_into(input, limits, &mut slots) {
            Err(HeadError::TooLarge) if limits.fields + MAX_ADDED > MAX_FIELDS => {
                let mut slots: Vec<_> = (0..limits.fields + MAX_ADDED).map(|_| MaybeUninit::uninit()).collect();
                self.read_into(input, limits, &mut slots)
            }
            outcome => outcome,
        }
    }

    /// [`ResponseHead::read`] with room for as many fields as there are slots.
    fn read_into<'i>(
        &mut self,
        input: &'i [u8],
        limits: HeadLimits,
        slots: &mut [MaybeUninit<httparse::Header<'i>>],
    ) -> Result<Option<usize>, HeadError> {
        let most = (limits.fields + MAX_ADDED).min(slots.len());
        let mut parsed = httparse::Response::new(&mut []);
        let outcome = leniently().parse_response_with_uninit_headers(&mut parsed, input, &mut slots[..most]);
        let length = match outcome.map_err(|error| reason(error, input))? {
            httparse::Status::Complete(length) if length > limits.bytes => return Err(HeadError::TooLarge),
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial if input.len() >= limits.bytes => return Err(HeadError::TooLarge),
            httparse::Status::Partial => return Ok(None),
        };
        let (Some(status), Some(minor)) = (parsed.code, parsed.version) else {
            return Err(HeadError::Malformed("the status line is incomplete"));
        };
        if status < 100 {
            return Err(HeadError::Malformed("the status is not between 100 and 999"));
        }
        self.status = status;
        self.reason_at = parsed.reason.map_or(0..0, |reason| range_in(input, reason.as_bytes()));
        self.version = version(minor);
        let field_count = parsed.headers.len();
        self.fields.store(&input[..length], parsed.headers);
        if !self.fields.fits(limits.fields) {
            return Err(HeadError::TooLarge);
        }
        let lines = HeadLines::of(&input[..length]);
        self.line_ends = lines.ends;
        if self.line_ends == LineEnds::Mixed && status < 200 {
            return Err(HeadError::Malformed("the lines of an interim response end in different ways"));
        }
        self.fields.check_framing(self.line_ends).map_err(HeadError::Malformed)?;
        // Besides its fields a head has a status line and an empty line; any other continues a field.
        if lines.count > field_count + 2 {
            self.fields.unfold();
        }
        Ok(Some(length))
    }

    /// Parses a complete head, for tests.
    ///
    /// # Panics
    /// If the head is malformed or incomplete.
    #[cfg(test)]
    pub(crate) fn parse_for_test(input: &[u8]) -> ResponseHead {
        let mut head = ResponseHead::default();
        head.read(input, HeadLimits::default()).expect("a well-formed head").expect("a whole head");
        head
    }

    /// Status code, 100 to 999.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Reason phrase as received; may be empty.
    pub fn reason(&self) -> &[u8] {
        self.slice(&self.reason_at)
    }

    /// Protocol version of the origin.
    pub fn version(&self) -> Version {
        self.version
    }

    /// True if another reader may see another end of this head, so that its connection must not be
    /// used again.
    pub fn has_doubtful_end(&self) -> bool {
        self.line_ends == LineEnds::Mixed
    }
}

/// Configuration of httparse for messages of origins.
pub(super) fn leniently() -> httparse::ParserConfig {
    let mut config = httparse::ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(true).allow_obsolete_multiline_headers_in_responses(true);
    config.allow_multiple_spaces_in_response_status_delimiters(true);
    config
}

fn reason(error: httparse::Error, input: &[u8]) -> HeadError {
    HeadError::Malformed(match error {
        httparse::Error::HeaderName => "a field name holds a byte that no name may hold",
        httparse::Error::HeaderValue => "a field value holds a control character",
        httparse::Error::NewLine => "a line ends with CR alone",
        httparse::Error::Status | httparse::Error::Token => "the status is not three digits",
        httparse::Error::TooManyHeaders => return HeadError::TooLarge,
        httparse::Error::Version if is_known_version(input) => return HeadError::Version,
        httparse::Error::Version => "the status line does not begin with HTTP/1.1 or HTTP/1.0",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Name;

    fn read(head: &[u8]) -> Result<Option<usize>, HeadError> {
        ResponseHead::default().read(head, HeadLimits::default())
    }

    #[test]
    fn a_response_without_a_reason_is_read() {
        let head = ResponseHead::parse_for_test(b"HTTP/1.1 204\r\nA: b\r\n\r\n");
        assert_eq!((head.status(), head.reason(), head.find("a")), (204, &b""[..], Some(&b"b"[..])));
        assert_eq!(ResponseHead::parse_for_test(b"HTTP/1.1 999 Odd\r\n\r\n").status(), 999);
        assert!(read(b"HTTP/1.1 099 Odd\r\n\r\n").is_err());
    }

    #[test]
    fn an_empty_line_before_a_status_line_is_no_response() {
        for input in [&b"\r\n"[..], b"\n", b"\r\nHTTP/1.1 200 OK\r\n\r\n", b"\nHTTP/1.1 200 OK\r\n\r\n"] {
            assert!(read(input).is_err(), "{}", input.escape_ascii());
        }
    }

    #[test]
    fn folds_and_white_space_before_colons_are_repaired() {
        let head = ResponseHead::parse_for_test(b"HTTP/1.1 200 OK\r\nA : b\r\n\tc\n d\r\nE\t:\r\n \r\nF: g\r\n\r\n");
        let fields: Vec<_> = head.fields().map(|(_, name, value)| (name, value)).collect();
        assert_eq!(fields, [(&b"A"[..], &b"b   c  d"[..]), (b"E", b""), (b"F", b"g")]);
    }

    #[test]
    fn a_single_fold_is_repaired_whichever_field_has_it() {
        for (lines, first) in [("A: b\r\n c\r\nD: e", "b   c"), ("A: b\n c\nD: e", "b  c")] {
            let end = if lines.contains('\r') { "\r\n" } else { "\n" };
            let head = format!("HTTP/1.1 200 OK{end}{lines}{end}{end}");
            assert_eq!(ResponseHead::parse_for_test(head.as_bytes()).find("a"), Some(first.as_bytes()), "{head:?}");
            let last = format!("HTTP/1.1 200 OK{end}D: e{end}{}{end}{end}", lines.trim_end_matches("D: e").trim_end());
            assert_eq!(ResponseHead::parse_for_test(last.as_bytes()).find("a"), Some(first.as_bytes()), "{last:?}");
        }
    }

    #[test]
    fn a_head_is_parsed_a_few_times_however_many_lines_it_has() {
        let mut head = b"HTTP/1.1 200 OK\r\nA: b\r\n".to_vec();
        head.extend(b" c\r\n".repeat(5000));
        head.extend(b"\r\n");
        let limits = HeadLimits::default();
        let parsed = (1..=head.len()).filter(|end| may_be_complete(&head[..*end], end - 1, limits)).count();
        assert_eq!(parsed, 3, "at its first byte, at the end of the first line and at its own end");
        assert_eq!(read(&head), Ok(Some(head.len())));
    }

    #[test]
    fn every_end_of_a_head_is_seen_however_it_arrives() {
        for head in [&b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"[..], b"HTTP/1.1 200 OK\nA: b\n\n", b"HTTP/1.1 200 OK\r\n\r\n"]
        {
            for seen in 0..head.len() {
                assert!(may_be_complete(head, seen, HeadLimits::default()), "{seen} of {}", head.escape_ascii());
            }
        }
    }

    #[test]
    fn a_head_beyond_its_limits_is_too_large() {
        let with =
            |count: usize| [b"HTTP/1.1 200 OK\r\n".to_vec(), b"A: b\r\n".repeat(count), b"\r\n".to_vec()].concat();
        let limits = HeadLimits { bytes: 2000, fields: 300 };
        let mut head = ResponseHead::default();
        assert_eq!(head.read(&with(300), limits), Ok(Some(1819)));
        assert_eq!(head.read(&with(301), limits), Err(HeadError::TooLarge));
        assert_eq!(head.read(&with(300), HeadLimits { bytes: 1818, ..limits }), Err(HeadError::TooLarge));
        assert_eq!(head.read(&with(10), HeadLimits { fields: 9, ..limits }), Err(HeadError::TooLarge));
        assert_eq!(head.read(&with(300)[..1000], HeadLimits { bytes: 1000, ..limits }), Err(HeadError::TooLarge));
        assert_eq!(head.get(Name::Host), None);
    }
}

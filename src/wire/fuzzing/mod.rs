//! Fuzz targets of HTTP/1: heads and chunks, compared with hyper's server as the second reader; of PROXY headers, and of
//! SOCKS5.
//!
//! Each target takes arbitrary bytes and panics if a property of the parser does not hold.

pub mod hyper_server;
pub mod proxy_headers;
pub mod socks5_messages;

use self::hyper_server::{SeenRequest, requests_seen};
pub use self::proxy_headers::proxy_header;
pub use self::socks5_messages::socks5;
use super::chunked::{ChunkedDecoder, Piece, write_chunk};
use super::framing;
use super::head::MAX_FIELDS;
use super::request_line::{FirstLine, MAX_METHOD, first_line};
use super::request_target::encoded_target;
use super::response_head::may_be_complete;
use super::trailer_section::{Grammar, for_each_field};
use super::{ConnectionOptions, Fields, HeadLimits, Length, Name, RequestHead, ResponseHead};

/// Request that follows the one under test on the same connection; a reader that finds it agrees on where the first
/// one ends.
pub const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nHost: next\r\n\r\n";

/// Longest body that is made for a head of a known length.
const MAX_BODY: u64 = 64;

/// Splits `input` into pieces of 1 to 8 bytes, and now and then of 1 to 64: always the same for the same input.
pub fn pieces(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut state = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut rest = input;
    std::iter::from_fn(move || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let (most, drawn) = (if state >> 61 == 0 { 64 } else { 8 }, usize::from((state >> 32).to_le_bytes()[0]));
        let (piece, after) = rest.split_at((1 + drawn % most).min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Fields as names and values.
pub fn owned(fields: &Fields) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.fields().map(|(_, name, value)| (name.to_vec(), value.to_vec())).collect()
}

/// Request heads: a head that is accepted can be written and read again without a change, does not depend on what
/// follows it or how it arrives, is read by hyper in the same way, and is recognised as HTTP in a tunnel.
pub fn request_head(input: &[u8]) {
    let mut head = RequestHead::default();
    let outcome = head.read(input);
    check_arrival(input, &outcome, |input| RequestHead::default().read(input));
    let Ok(Some(length)) = outcome else { return };
    let expected = if head.method() == "CONNECT" { FirstLine::Connect } else { FirstLine::Http };
    assert!(head.method().len() > MAX_METHOD || first_line(input) == expected, "{}", input.escape_ascii());
    let mut written = format!("{} {} HTTP/1.{}\r\n", head.method(), head.target(), minor(head.version())).into_bytes();
    write_fields(&head, &mut written);
    let mut again = RequestHead::default();
    assert_eq!(again.read(&written), Ok(Some(written.len())), "{}", written.escape_ascii());
    assert_eq!((again.method(), again.target(), again.version()), (head.method(), head.target(), head.version()));
    assert_eq!(owned(&again), owned(&head));
    assert_eq!(framing::of_request(&again), framing::of_request(&head));
    if let Ok(framed) = framing::of_request(&head) {
        check_with_hyper(&input[..length], &head, framed);
    }
}

/// Response heads: as [`request_head`], with the length of the body for several methods. What is written for a head
/// that was repaired is a head by the strict grammar of requests.
pub fn response_head(input: &[u8]) {
    let (mut head, limits) = (ResponseHead::default(), HeadLimits::default());
    let outcome = head.read(input, limits);
    check_arrival(input, &outcome, |input| ResponseHead::default().read(input, limits));
    let Ok(Some(length)) = outcome else { return };
    check_attempts(&input[..length], limits);
    assert!((100..=999).contains(&head.status()));
    let mut written = format!("HTTP/1.{} {} ", minor(head.version()), head.status()).into_bytes();
    written.extend_from_slice(head.reason());
    written.extend_from_slice(b"\r\n");
    write_fields(&head, &mut written);
    let mut again = ResponseHead::default();
    assert_eq!(again.read(&written, limits), Ok(Some(written.len())), "{}", written.escape_ascii());
    assert_eq!((again.status(), again.version()), (head.status(), head.version()));
    assert!(!again.has_doubtful_end());
    check_strictly(&head);
    assert_eq!(again.reason(), head.reason());
    assert_eq!(owned(&again), owned(&head));
    for method in ["GET", "HEAD", "POST"] {
        assert_eq!(framing::of_response(&again, method), framing::of_response(&head, method));
        check_length(&head, method);
    }
}

/// Checks that a reader that parses only when [`may_be_complete`] says so finds the end of a head, however it arrives.
fn check_attempts(head: &[u8], limits: HeadLimits) {
    let mut seen = 0;
    for piece in pieces(head) {
        let here = &head[..seen + piece.len()];
        let is_tried = may_be_complete(here, seen, limits);
        assert!(is_tried || here.len() < head.len(), "the end of {} is missed", head.escape_ascii());
        seen = here.len();
    }
}

/// Checks that the fields of a response, as they are written, are fields by the grammar of requests.
fn check_strictly(head: &ResponseHead) {
    let mut written = b"GET / HTTP/1.1\r\n".to_vec();
    write_fields(head, &mut written);
    let mut strict = RequestHead::default();
    if head.fields().count() <= MAX_FIELDS {
        assert_eq!(strict.read(&written), Ok(Some(written.len())), "{}", written.escape_ascii());
        assert_eq!(owned(&strict), owned(head));
    }
}

/// Checks a response's length against its fields.
fn check_length(head: &ResponseHead, method: &str) {
    let bodiless = method == "HEAD" || matches!(head.status(), 100..=199 | 204 | 304);
    let codings = head.all(Name::TransferEncoding).count();
    let lengths: Vec<&[u8]> = head.all(Name::ContentLength).collect();
    match framing::of_response(head, method) {
        Ok(Length::Empty) if bodiless => {}
        Ok(Length::Empty) => assert!(codings == 0 && lengths.iter().all(|value| value.iter().all(|b| *b == b'0'))),
        Ok(Length::Exact(length)) => {
            assert!(codings == 0 && length > 0);
            assert!(lengths.iter().all(|value| std::str::from_utf8(value).is_ok_and(|v| v.parse() == Ok(length))));
        }
        Ok(Length::Chunked) => assert!(codings == 1 && lengths.is_empty()),
        Ok(Length::UntilClose) => assert!(codings == 0 && lengths.is_empty()),
        Err(_) => assert!(!bodiless && codings + lengths.len() > 0),
    }
}

/// Chunked bodies: every split of the input into reads gives the same content, trailers and end, and hyper finds the
/// end at the same byte. A body of a response is read in the same way if the strict grammar accepts it. Content that is
/// written in chunks is read back.
pub fn chunked(input: &[u8]) {
    let whole = decode(std::iter::once(input));
    // A fault in the trailers is found at the end of a line, so that they need not be read anew for each byte.
    let line = [input, b"\n"].concat();
    let ended = decode(std::iter::once(&line[..]));
    assert_eq!(decode(pieces(&line)), ended, "in pieces");
    assert_eq!(decode(line.chunks(1)), ended, "byte by byte");
    check_lenient(&line, &ended);
    if let Decoded::Ended { content, consumed, .. } = &whole {
        let head = b"POST /first HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let seen = requests_seen(&[head, &input[..*consumed], NEXT].concat());
        assert_eq!(seen.len(), 2, "hyper finds another end: {seen:?}");
        assert_eq!((&seen[0].body, seen[0].target.as_str()), (&Some(content.clone()), "/first"));
        assert_eq!(seen[1].target, "/next");
    }
    let mut written = Vec::new();
    pieces(input).for_each(|piece| write_chunk(piece, &mut written));
    let consumed = written.len() + 5;
    written.extend_from_slice(b"0\r\n\r\nrest");
    let expected = Decoded::Ended { content: input.to_vec(), trailers: b"\r\n".to_vec(), consumed };
    assert_eq!(decode(std::iter::once(&written[..])), expected);
}

/// Checks the lenient grammar: it accepts what the strict one does, and its outcome does not depend on how the body
/// arrives. `strict`: outcome of the strict one.
fn check_lenient(input: &[u8], strict: &Decoded) {
    let lenient = decode_by(Grammar::Lenient, std::iter::once(input));
    assert_eq!(decode_by(Grammar::Lenient, pieces(input)), lenient, "in pieces");
    assert_eq!(decode_by(Grammar::Lenient, input.chunks(1)), lenient, "byte by byte");
    if matches!(strict, Decoded::Ended { .. }) {
        assert_eq!(lenient, *strict);
    }
    if let Decoded::Ended { trailers, .. } = lenient {
        for_each_field(&trailers, |name, value| {
            let line = [name, b": ", value, b"\r\n\r\n"].concat();
            let mut strict = RequestHead::default();
            let head = [&b"GET / HTTP/1.1\r\n"[..], &line].concat();
            assert_eq!(strict.read(&head), Ok(Some(head.len())), "{}", line.escape_ascii());
        });
    }
}

/// Outcome of decoding a chunked body.
#[derive(Clone, PartialEq, Debug)]
pub enum Decoded {
    /// The body has ended.
    Ended {
        /// Content of the chunks.
        content: Vec<u8>,
        /// Trailer section with its empty last line.
        trailers: Vec<u8>,
        /// Number of bytes of the input that belong to the body.
        consumed: usize,
    },
    /// More input is needed; the content so far.
    Open(Vec<u8>),
    /// The body is malformed; the content before the fault.
    Malformed(Vec<u8>),
}

/// Decodes a chunked body of a request that arrives in these pieces.
pub fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Decoded {
    decode_by(Grammar::Strict, pieces)
}

fn decode_by<'a>(grammar: Grammar, pieces: impl Iterator<Item = &'a [u8]>) -> Decoded {
    let mut decoder = ChunkedDecoder::new(grammar);
    let (mut content, mut waiting, mut consumed) = (Vec::new(), Vec::new(), 0);
    for piece in pieces {
        waiting.extend_from_slice(piece);
        loop {
            let taken = match decoder.next(&waiting) {
                Err(_) => return Decoded::Malformed(content),
                Ok(Piece::More) => break,
                Ok(Piece::Framing(length)) => length,
                Ok(Piece::Data(length)) => {
                    content.extend_from_slice(&waiting[..length]);
                    length
                }
                Ok(Piece::End(length)) => {
                    let trailers = waiting[..length].to_vec();
                    return Decoded::Ended { content, trailers, consumed: consumed + length };
                }
            };
            assert!(0 < taken && taken <= waiting.len(), "a piece is empty or longer than the input");
            waiting.drain(..taken);
            consumed += taken;
        }
    }
    Decoded::Open(content)
}

/// An accepted head with a body of the stated length and a request behind it, and what a second reader must find.
#[derive(Debug)]
pub struct FramedRequest {
    /// Bytes of the connection.
    pub bytes: Vec<u8>,
    /// Method of the first request.
    pub method: String,
    /// Target of the first request.
    pub target: String,
    /// Fields of the first request: names in lower case, sorted.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// Content of the first request; `None`: it is longer than [`MAX_BODY`] and breaks off.
    pub body: Option<Vec<u8>>,
    /// Targets of the requests behind it.
    pub behind: &'static [&'static str],
}

impl FramedRequest {
    /// Makes the body for a head whose bytes are `head_bytes`.
    pub fn of(head_bytes: &[u8], head: &RequestHead, framed: Length) -> FramedRequest {
        let (written, content) = match framed {
            Length::Exact(length) => {
                let body = vec![b'x'; usize::try_from(length.min(MAX_BODY)).unwrap_or_default()];
                (body.clone(), (length <= MAX_BODY).then_some(body))
            }
            Length::Chunked => (b"5\r\nhello\r\n0\r\n\r\n".to_vec(), Some(b"hello".to_vec())),
            Length::Empty | Length::UntilClose => (Vec::new(), Some(Vec::new())),
        };
        let next = if content.is_some() { NEXT } else { b"" };
        let options = ConnectionOptions::of(head.all(Name::Connection));
        // The bytes behind a CONNECT are none of HTTP.
        let goes_on = content.is_some() && head.method() != "CONNECT" && options.keeps_open(head.version());
        let fields = owned(head).into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
        FramedRequest {
            bytes: [head_bytes, &written, next].concat(),
            method: head.method().to_owned(),
            target: head.target().to_owned(),
            fields: SeenRequest::sorted(fields.collect()),
            body: content,
            behind: if goes_on { &["/next"] } else { &[] },
        }
    }
}

/// Compares hyper's reading of an accepted head with ours. hyper may refuse a target that is no URI by its own type.
pub fn check_with_hyper(head_bytes: &[u8], head: &RequestHead, framed: Length) {
    let expected = FramedRequest::of(head_bytes, head, framed);
    let seen = requests_seen(&expected.bytes);
    let Some((first, behind)) = seen.split_first() else {
        assert!(!is_hypers_target(head_bytes), "hyper refuses {}", head_bytes.escape_ascii());
        return;
    };
    assert_eq!(first.method, expected.method, "{}", head_bytes.escape_ascii());
    // hyper drops a fragment, with which the gateway forwards nothing.
    if expected.target.starts_with('/') && !expected.target.contains('#') {
        let encoded = encoded_target(&first.target);
        assert_eq!(encoded.as_ref().unwrap_or(&first.target), &expected.target, "{}", head_bytes.escape_ascii());
    }
    // hyper drops the second of two equal lengths.
    let mut fields = expected.fields.clone();
    fields.dedup_by(|later, first| later.0 == b"content-length" && later.0 == first.0);
    assert_eq!(first.fields, fields, "{}", head_bytes.escape_ascii());
    assert_eq!(first.body, expected.body, "{}", head_bytes.escape_ascii());
    let behind: Vec<&str> = behind.iter().map(|seen| seen.target.as_str()).collect();
    // hyper ignores a Connection field that is not all ASCII, and with it a `close` or `keep-alive`.
    let is_read = head.all(Name::Connection).all(<[u8]>::is_ascii);
    assert!(!is_read || behind == expected.behind, "{behind:?} behind {}", head_bytes.escape_ascii());
}

/// True for a head with a target, as it was sent, that hyper's URI type takes. CONNECT must name an authority there.
fn is_hypers_target(head_bytes: &[u8]) -> bool {
    let target = head_bytes.split(|byte| *byte == b' ').nth(1);
    target.is_some_and(|target| http::Uri::try_from(target).is_ok())
}

/// Checks that an outcome depends neither on the bytes behind a head nor on how it arrives. `read`: reads a head.
fn check_arrival<E: PartialEq + std::fmt::Debug>(
    input: &[u8],
    outcome: &Result<Option<usize>, E>,
    read: impl Fn(&[u8]) -> Result<Option<usize>, E>,
) {
    let longer = [input, b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"].concat();
    match outcome {
        Ok(Some(length)) => {
            assert_eq!(read(&longer), Ok(Some(*length)), "the bytes behind a head change it");
            let mut end = 0;
            for piece in pieces(&input[..length - 1]) {
                end += piece.len();
                assert_eq!(read(&input[..end]), Ok(None), "a head ends before its end");
            }
        }
        Ok(None) => {}
        Err(_) => assert!(read(&longer).is_err(), "an error heals when more arrives"),
    }
}

fn minor(version: super::Version) -> u8 {
    u8::from(version != super::Version::Http10)
}

fn write_fields(fields: &Fields, out: &mut Vec<u8>) {
    for (_, name, value) in fields.fields() {
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

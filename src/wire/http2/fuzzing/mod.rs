//! Fuzz target of the frame parser, and a caller's HTTP/2 connection in memory that turns lines of text into requests.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::convert;
use super::frame_parser::{FrameEvent, FrameParser, frame_type};
use super::{H2CallerConn, LowerStream, PREFACE};
use crate::wire::fuzzing::pieces;
use crate::wire::head::{EndStream, HeadError};
use crate::wire::{HeadLimits, RequestHead, ResponseHead};

/// Longest frame without a setting of the peer (RFC 9113 §4.2).
const MAX_FRAME: usize = 16_384;
/// Flags of a HEADERS frame.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Frame parser: every split of the bytes gives the same events, and each frame ends before the next begins.
pub fn h2_frames(input: &[u8]) {
    let parse = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut parser = FrameParser::after(3);
        let mut events = Vec::new();
        pieces.for_each(|piece| parser.parse(piece, |event| events.push(event)));
        events
    };
    let events = parse(&mut std::iter::once(input));
    assert_eq!(parse(&mut pieces(input)), events);
    assert_eq!(parse(&mut input.chunks(1)), events);
    for pair in events.chunks(2) {
        assert!(matches!(pair, [FrameEvent::Start(_)] | [FrameEvent::Start(_), FrameEvent::End(_)]), "{pair:?}");
    }
    let mut rest = input.get(3..).unwrap_or_default();
    for event in events {
        let FrameEvent::Start(frame) = event else { continue };
        let [a, b, c, kind, _, s @ ..] = rest else { panic!("a frame without a header") };
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        assert_eq!((frame.kind, frame.stream), (*kind, u32::from_be_bytes([s[0] & 0x7f, s[1], s[2], s[3]])));
        rest = rest.get(9 + length..).unwrap_or_default();
    }
}

/// Requests that a caller's connection yields for a HEADERS frame with these fields, pseudo-header fields included.
/// `h2` checks them first; `None` if it refuses them.
pub fn request_of(fields: &[(&[u8], &[u8])], end_stream: EndStream) -> Option<Result<RequestHead, HeadError>> {
    let mut block = Vec::new();
    for (name, value) in fields {
        // Literal field without indexing, with a new name, none of both Huffman-coded (RFC 7541 §6.2.2).
        block.push(0);
        for text in [name, value] {
            write_length(text.len(), &mut block);
            block.extend_from_slice(text);
        }
    }
    if block.len() > MAX_FRAME {
        return None;
    }
    let flags = END_HEADERS | if end_stream == EndStream::Yes { END_STREAM } else { 0 };
    let bytes = [PREFACE, &frame(frame_type::SETTINGS, 0, 0, &[]), &frame(frame_type::HEADERS, flags, 1, &block)];
    let mut cx = Context::from_waker(Waker::noop());
    let stream = ByteStream { bytes: bytes.concat(), at: 0 };
    let Poll::Ready(Ok(mut connection)) = pin!(H2CallerConn::handshake(stream)).poll(&mut cx) else {
        panic!("the handshake waits although all bytes are there");
    };
    let Poll::Ready(Some(Ok(request))) = connection.poll_request(&mut cx) else { return None };
    let mut head = RequestHead::default();
    Some(request.read_head("http", &mut head).map(|()| head))
}

/// Reads a request that is about to be sent as if it had arrived.
pub fn arrived(request: http::Request<()>, end_stream: EndStream) -> Result<RequestHead, HeadError> {
    let mut head = RequestHead::default();
    convert::read_request(&request.into_parts().0, end_stream, "http", &mut head).map(|()| head)
}

/// Reads a response that is about to be sent as if it had arrived.
pub fn arrived_response(response: http::Response<()>, end_stream: EndStream) -> Result<ResponseHead, HeadError> {
    let mut head = ResponseHead::default();
    convert::read_response(&response.into_parts().0, end_stream, HeadLimits::default(), &mut head).map(|()| head)
}

/// Trailers: those of HTTP/1 that are read for HTTP/2 are written and read again without a change.
pub fn check_trailers(written: &[u8]) {
    let Some(map) = convert::read_trailers(written) else { return };
    let Some(kept) = convert::filter_trailers(map) else { return };
    let text = |map: &HeaderMap| {
        let mut out = Vec::new();
        convert::write_trailers(map, &mut out);
        out
    };
    let out = text(&kept);
    let Some(again) = convert::read_trailers(&out) else { panic!("{} is not read", out.escape_ascii()) };
    assert_eq!(text(&again), out);
}

/// Writes the length of a text in HPACK's form: 7 bits, and groups of 7 bits behind them (RFC 7541 §5.1).
fn write_length(length: usize, out: &mut Vec<u8>) {
    let low = |number: usize, bits: usize| u8::try_from(number & bits).unwrap_or_default();
    if length < 127 {
        out.push(low(length, 127));
        return;
    }
    out.push(127);
    let mut left = length - 127;
    while left > 127 {
        out.push(0x80 | low(left, 127));
        left >>= 7;
    }
    out.push(low(left, 127));
}

/// Encodes a frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Stream whose peer has sent these bytes and waits; takes all that is written.
struct ByteStream {
    bytes: Vec<u8>,
    /// Number of bytes that were read.
    at: usize,
}

impl LowerStream for ByteStream {
    fn take(&mut self) -> ByteStream {
        std::mem::replace(self, ByteStream { bytes: Vec::new(), at: 0 })
    }

    fn abort(&mut self) {}
}

impl AsyncRead for ByteStream {
    fn poll_read(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = into.remaining().min(self.bytes.len() - self.at);
        if count == 0 {
            return Poll::Pending;
        }
        into.put_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

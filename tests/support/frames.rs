//! HTTP/2 by hand, frame by frame, for what no library would send.

use std::time::{Duration, Instant};

use super::PATIENCE;
use super::stream::{Stop, Stream};

/// What a connection begins with (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// One frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Frame {
        Frame { kind, flags, stream, payload: payload.into() }
    }

    /// A whole request without content.
    pub(crate) fn get(stream: u32, authority: &str, path: &str) -> Frame {
        Frame::headers(stream, END_STREAM, &request("GET", authority, path))
    }

    /// HEADERS that hold a whole field section.
    pub(crate) fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Frame {
        Frame::new(HEADERS, flags | END_HEADERS, stream, block(fields))
    }

    /// A 200 without content.
    pub(crate) fn fine(stream: u32) -> Frame {
        Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, [0x88])
    }

    pub(crate) fn reset(stream: u32, code: u32) -> Frame {
        Frame::new(RST_STREAM, 0, stream, code.to_be_bytes())
    }

    /// One setting.
    pub(crate) fn setting(id: u16, value: u32) -> Frame {
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend(value.to_be_bytes());
        Frame::new(SETTINGS, 0, 0, payload)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("frames are small");
        let mut all = length.to_be_bytes()[1..].to_vec();
        all.extend([self.kind, self.flags]);
        all.extend(self.stream.to_be_bytes());
        all.extend(&self.payload);
        all
    }

    /// The error code of RST_STREAM or GOAWAY.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }

    /// `:status` of the first response on a connection, whose field section refers to nothing earlier.
    pub(crate) fn status(&self) -> u16 {
        let mut block = &self.payload[..];
        // A change of the table's size comes first (RFC 7541 §6.3).
        while block[0] & 0xe0 == 0x20 {
            block = &block[1..];
        }
        match block[0] {
            indexed @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
            0x48 | 0x08 | 0x18 if block[1] & 0x80 == 0 => digits(block[2..5].iter().map(|b| b - b'0')),
            0x48 | 0x08 | 0x18 => digits(unpack(&block[2..])),
            other => panic!("a field section that begins with {other:#x}"),
        }
    }
}

/// The pseudo-fields of a request.
pub(crate) fn request<'a>(method: &'a str, authority: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![(":method", method), (":scheme", "http"), (":authority", authority), (":path", path)]
}

fn digits(digits: impl Iterator<Item = u8>) -> u16 {
    digits.take(3).fold(0, |sum, digit| sum * 10 + u16::from(digit))
}

/// The digits of a Huffman-coded number (RFC 7541, appendix B): 0 to 2 have five bits, the others six.
fn unpack(coded: &[u8]) -> impl Iterator<Item = u8> {
    let bits: Vec<u8> = coded.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let mut at = 0;
    std::iter::from_fn(move || {
        let take = |count: usize| bits[at..at + count].iter().fold(0, |sum, bit| sum << 1 | bit);
        let (digit, length) = if take(5) < 3 { (take(5), 5) } else { (take(6) - 0x19 + 3, 6) };
        at += length;
        Some(digit)
    })
}

/// A field section of literals that are not remembered (RFC 7541 §6.2.2): says exactly what it is told.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut all = Vec::new();
    for (name, value) in fields {
        all.push(0);
        for part in [name, value] {
            integer(&mut all, part.len());
            all.extend(part.as_bytes());
        }
    }
    all
}

/// A number with a prefix of seven bits (RFC 7541 §5.1).
fn integer(all: &mut Vec<u8>, value: usize) {
    if value < 127 {
        all.push(u8::try_from(value).expect("below 127"));
        return;
    }
    all.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        all.push(u8::try_from(rest % 128).expect("below 128") | 128);
        rest /= 128;
    }
    all.push(u8::try_from(rest).expect("below 128"));
}

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Answered(u16),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code (an error, not 0).
    Goaway(u32),
    /// The connection ended.
    Closed,
    /// Nothing came in time.
    Silence,
}

impl Fate {
    /// The other side would not have it, in whatever way.
    pub(crate) fn is_refusal(self) -> bool {
        match self {
            Fate::Answered(status) => (400..500).contains(&status),
            Fate::Reset(code) | Fate::Goaway(code) => code != 0,
            Fate::Closed => true,
            Fate::Silence => false,
        }
    }
}

/// Frames over a stream.
pub(crate) struct Frames<'a> {
    stream: &'a mut Stream,
}

impl<'a> Frames<'a> {
    /// A caller's side: sends the preface and SETTINGS.
    pub(crate) fn caller(stream: &'a mut Stream) -> Frames<'a> {
        stream.send(PREFACE).ok();
        let mut frames = Frames { stream };
        frames.send(&Frame::new(SETTINGS, 0, 0, []));
        frames
    }

    /// A side that has begun by hand.
    pub(crate) fn begun(stream: &'a mut Stream) -> Frames<'a> {
        Frames { stream }
    }

    /// An origin's side, once a head `PRI *` was read: takes the preface's end and sends SETTINGS.
    pub(crate) fn origin(stream: &'a mut Stream) -> Frames<'a> {
        let end = stream.take(6, Instant::now() + PATIENCE).expect("the preface's end comes");
        assert_eq!(end, b"SM\r\n\r\n");
        let mut frames = Frames { stream };
        frames.send(&Frame::new(SETTINGS, 0, 0, []));
        frames
    }

    /// Sends a frame; false if the other side has gone.
    pub(crate) fn send(&mut self, frame: &Frame) -> bool {
        self.stream.send(&frame.bytes()).is_ok()
    }

    pub(crate) fn send_all(&mut self, frames: &[Frame]) -> bool {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
        self.stream.send(&bytes).is_ok()
    }

    /// The connection's socket.
    pub(crate) fn tcp(&self) -> &std::net::TcpStream {
        self.stream.tcp()
    }

    /// The next frame, until `end`.
    pub(crate) fn next_until(&mut self, end: Instant) -> Result<Frame, Stop> {
        while self.stream.ahead.len() < 9 {
            self.stream.more(end)?;
        }
        let head = &self.stream.ahead[..9];
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes(head[5..9].try_into().expect("four bytes")) & 0x7fff_ffff;
        let all = self.stream.take(9 + length, end)?;
        Ok(Frame { kind, flags, stream, payload: all[9..].to_vec() })
    }

    pub(crate) fn next(&mut self) -> Result<Frame, Stop> {
        self.next_until(Instant::now() + PATIENCE)
    }

    /// The next frame of a kind; SETTINGS and PING are acknowledged on the way.
    pub(crate) fn next_of(&mut self, kind: u8) -> Result<Frame, Stop> {
        loop {
            let frame = self.next()?;
            self.acknowledge(&frame);
            if frame.kind == kind {
                return Ok(frame);
            }
        }
    }

    fn acknowledge(&mut self, frame: &Frame) {
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => _ = self.send(&Frame::new(SETTINGS, ACK, 0, [])),
            PING if frame.flags & ACK == 0 => _ = self.send(&Frame::new(PING, ACK, 0, frame.payload.clone())),
            _ => {}
        }
    }

    /// What becomes of the request on `stream`.
    pub(crate) fn fate(&mut self, stream: u32) -> Fate {
        self.fate_within(stream, PATIENCE)
    }

    pub(crate) fn fate_within(&mut self, stream: u32, time: Duration) -> Fate {
        let end = Instant::now() + time;
        loop {
            let frame = match self.next_until(end) {
                Ok(frame) => frame,
                Err(Stop::Silence) => return Fate::Silence,
                Err(Stop::Closed | Stop::Reset) => return Fate::Closed,
            };
            self.acknowledge(&frame);
            match frame.kind {
                HEADERS if frame.stream == stream => return Fate::Answered(frame.status()),
                RST_STREAM if frame.stream == stream => return Fate::Reset(frame.code()),
                GOAWAY if frame.code() != 0 => return Fate::Goaway(frame.code()),
                _ => {}
            }
        }
    }
}

#[test]
fn a_status_is_read_from_every_form_that_a_field_section_may_begin_with() {
    let status = |block: &[u8]| Frame::new(HEADERS, END_HEADERS, 1, block).status();
    assert_eq!(status(&[0x88]), 200);
    assert_eq!(status(&[0x20, 0x8c]), 400, "after a change of the table's size");
    assert_eq!(status(b"\x48\x03429"), 429);
    // 4, 2, 9 are 011010 00010 011111, and ones to the end of the byte.
    assert_eq!(status(&[0x48, 0x83, 0b0110_1000, 0b0100_1111, 0b1111_1111]), 429);
}

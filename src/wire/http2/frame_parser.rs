//! Incremental parser of frame headers (RFC 9113 §4.1); the bytes pass unchanged.
//!
//! Frames are neither checked nor collected: `h2` does that. The parser keeps a header of 9 bytes
//! and a few numbers, and can stop after any byte. From a header it knows the type, the flags and
//! the stream; of the payload only the first four bytes, in which a GOAWAY names its last stream
//! (RFC 9113 §6.8).

/// Length of a frame's header, in bytes.
const HEADER: usize = 9;

/// Types of the frames that are looked at (RFC 9113 §6).
pub(super) mod frame_type {
    /// Content of a message (RFC 9113 §6.1).
    pub(in crate::wire::http2) const DATA: u8 = 0;
    /// Head or trailers of a message, or the first part of them (§6.2).
    pub(in crate::wire::http2) const HEADERS: u8 = 1;
    /// End of a stream before its time (§6.4).
    pub(in crate::wire::http2) const RST_STREAM: u8 = 3;
    /// Settings of the sender, or the acknowledgement of ours (§6.5).
    pub(in crate::wire::http2) const SETTINGS: u8 = 4;
    /// End of new streams, with the last one that is processed (§6.8).
    pub(in crate::wire::http2) const GOAWAY: u8 = 7;
    /// Room for more content (§6.9).
    pub(in crate::wire::http2) const WINDOW_UPDATE: u8 = 8;
    /// Further part of a head or of trailers (§6.10).
    pub(in crate::wire::http2) const CONTINUATION: u8 = 9;
}

/// Flag ACK of SETTINGS (RFC 9113 §6.5).
const ACK: u8 = 1;

/// Flag END_HEADERS of HEADERS and CONTINUATION (RFC 9113 §6.2).
const END_HEADERS: u8 = 4;

/// Header of a frame, with the start of its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    /// Type of the frame, of `frame_type` or unknown.
    pub(super) kind: u8,
    /// Flags; their meaning depends on the type.
    flags: u8,
    /// Stream of the frame, below 2^31; 0 for the connection itself.
    pub(super) stream: u32,
    /// First four bytes of the payload, as a number. In a GOAWAY: the last stream that the peer processes.
    pub(super) first: u32,
}

impl Frame {
    /// True for SETTINGS of the peer, false for an acknowledgement of ours.
    pub(super) fn is_settings(self) -> bool {
        self.kind == frame_type::SETTINGS && self.flags & ACK == 0
    }

    /// True for the peer's acknowledgement of our SETTINGS.
    pub(super) fn is_settings_ack(self) -> bool {
        self.kind == frame_type::SETTINGS && self.flags & ACK != 0
    }

    /// True if a head ends with this frame.
    pub(super) fn ends_head(self) -> bool {
        matches!(self.kind, frame_type::HEADERS | frame_type::CONTINUATION) && self.flags & END_HEADERS != 0
    }
}

/// Event of the parser.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FrameEvent {
    /// The header of a frame is complete; its payload follows.
    Start(Frame),
    /// The frame is complete.
    End(Frame),
}

/// Parser of one direction of a connection.
#[derive(Debug)]
pub(super) struct FrameParser {
    /// Number of bytes before the first frame (the preface).
    skip: usize,
    /// Bytes of a header that has arrived in part.
    header: [u8; HEADER],
    /// Number of known bytes of `header`, below 9.
    header_len: usize,
    /// Frame that the payload at hand belongs to.
    frame: Frame,
    /// Number of payload bytes still to come.
    payload_left: usize,
    /// Number of known bytes of `frame.first`.
    first_len: usize,
}

impl FrameParser {
    /// Parser of frames behind `before` other bytes.
    pub(super) fn after(before: usize) -> FrameParser {
        let frame = Frame { kind: 0, flags: 0, stream: 0, first: 0 };
        FrameParser { skip: before, header: [0; HEADER], header_len: 0, frame, payload_left: 0, first_len: 0 }
    }

    /// Parses the next bytes and emits their events.
    ///
    /// Each frame has one `Start` and one `End`, in this order; an empty frame has both at once.
    pub(super) fn parse(&mut self, mut bytes: &[u8], mut emit: impl FnMut(FrameEvent)) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        bytes = &bytes[skipped..];
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let taken = self.payload_left.min(bytes.len());
                self.store_first(&bytes[..taken.min(4)]);
                bytes = &bytes[taken..];
                self.payload_left -= taken;
                if self.payload_left == 0 {
                    emit(FrameEvent::End(self.frame));
                }
                continue;
            }
            let taken = (HEADER - self.header_len).min(bytes.len());
            self.header[self.header_len..self.header_len + taken].copy_from_slice(&bytes[..taken]);
            self.header_len += taken;
            bytes = &bytes[taken..];
            if self.header_len == HEADER {
                self.start_frame();
                emit(FrameEvent::Start(self.frame));
                if self.payload_left == 0 {
                    emit(FrameEvent::End(self.frame));
                }
            }
        }
    }

    /// Decodes a complete header (RFC 9113 §4.1): 24 bits of length, 8 of type, 8 of flags, 1
    /// reserved, 31 of the stream.
    fn start_frame(&mut self) {
        let [a, b, c, kind, flags, w, x, y, z] = self.header;
        self.payload_left = u32::from_be_bytes([0, a, b, c]) as usize;
        // The first bit is reserved (RFC 9113 §4.1).
        let stream = u32::from_be_bytes([w, x, y, z]) & (u32::MAX >> 1);
        self.frame = Frame { kind, flags, stream, first: 0 };
        (self.header_len, self.first_len) = (0, 0);
    }

    /// Stores bytes of the payload until four are known.
    fn store_first(&mut self, start: &[u8]) {
        for byte in start {
            if self.first_len < 4 {
                self.frame.first = self.frame.first << 8 | u32::from(*byte);
                self.first_len += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn ended(pieces: &[&[u8]], before: usize) -> Vec<(u8, u32, u32, bool)> {
        let mut frames = FrameParser::after(before);
        let mut all = Vec::new();
        for piece in pieces {
            frames.parse(piece, |event| {
                if let FrameEvent::End(frame) = event {
                    all.push((frame.kind, frame.stream, frame.first, frame.ends_head()));
                }
            });
        }
        all
    }

    #[test]
    fn frames_are_told_however_the_bytes_are_cut() {
        let bytes = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, 0, &[]),
            frame(frame_type::HEADERS, 0, 1, b"head"),
            frame(frame_type::CONTINUATION, END_HEADERS, 1, b"more"),
            frame(frame_type::DATA, 1, 1, &[7; 300]),
            frame(frame_type::GOAWAY, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 0, b'x']),
        ]
        .concat();
        let head = u32::from_be_bytes(*b"head");
        let more = u32::from_be_bytes(*b"more");
        let all = [
            (4, 0, 0, false),
            (frame_type::HEADERS, 1, head, false),
            (frame_type::CONTINUATION, 1, more, true),
            (frame_type::DATA, 1, 0x0707_0707, false),
            (frame_type::GOAWAY, 0, 5, false),
        ];
        assert_eq!(ended(&[&bytes], 24), all);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(ended(&single, 24), all);
        let sevens: Vec<&[u8]> = bytes.chunks(7).collect();
        assert_eq!(ended(&sevens, 24), all);
    }

    #[test]
    fn a_frame_begins_before_it_ends() {
        let mut frames = FrameParser::after(0);
        let mut told = Vec::new();
        frames.parse(&frame(frame_type::HEADERS, END_HEADERS, 3, b"head")[..10], |event| told.push(event));
        assert!(matches!(told[..], [FrameEvent::Start(Frame { stream: 3, .. })]));
    }
}

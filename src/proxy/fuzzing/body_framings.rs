//! Fuzz target of bodies: every framing in, every framing out.

use std::task::{Context, Waker};

use crate::proxy::body::{Body, BodyError};
use crate::wire::fuzzing::{Decoded, decode, pieces};
use crate::wire::http2::fuzzing::check_trailers;
use crate::wire::trailer_section::for_each_field;
use crate::wire::{Conn, Length, Stream};

/// Longest input: the write buffer takes it all, so that nothing must be written out.
const MAX_INPUT: usize = 1024;

/// Outcome of moving a body.
#[derive(PartialEq, Debug)]
struct Moved {
    /// True if the body has reached its end.
    ended: bool,
    /// True if it is malformed.
    malformed: bool,
    /// Content that was written, without framing.
    content: Vec<u8>,
    /// Trailers that were written.
    trailers: Vec<u8>,
    /// Input behind the body.
    left: Vec<u8>,
    /// The body that is kept to be sent again, framed in chunks.
    replayed: Option<Vec<u8>>,
}

/// Body of a message: in every framing and however the bytes arrive, the same content is written with the same end,
/// and the bytes behind it are left for the next message. The first byte selects the framings.
pub fn body(input: &[u8]) {
    let [choice, bytes @ ..] = input else { return };
    // A fault in the trailers is found at the end of a line, so that they need not be read anew for each byte.
    let bytes = &[&bytes[..bytes.len().min(MAX_INPUT)], b"\n"].concat()[..];
    let exact = Length::Exact(u64::from(choice >> 3).max(1));
    let (from, framings) = match choice % 4 {
        0 => (Length::Empty, vec![Length::Empty]),
        1 => (exact, vec![exact]),
        2 => (Length::Chunked, vec![Length::Chunked, Length::UntilClose]),
        // Content of HTTP/2 ends with its stream, whatever length its head has stated.
        _ => (Length::UntilClose, vec![Length::Chunked, Length::UntilClose, exact]),
    };
    let expected = reference(from, bytes);
    for to in framings {
        let whole = moved(from, to, std::iter::once(bytes).filter(|bytes| !bytes.is_empty()));
        assert_eq!(
            whole,
            Moved { trailers: whole.trailers.clone(), replayed: whole.replayed.clone(), ..expected_of(&expected) }
        );
        assert_eq!(moved(from, to, pieces(bytes)), whole, "{from:?} to {to:?} in pieces");
        assert_eq!(moved(from, to, bytes.chunks(1)), whole, "{from:?} to {to:?} byte by byte");
        if to == Length::Chunked && whole.ended {
            assert_eq!(whole.trailers, written(&expected.trailers));
        }
        if let Some(replayed) = &whole.replayed {
            let Decoded::Ended { content, trailers, consumed } = decode(std::iter::once(&replayed[..])) else {
                panic!("a body that is sent again does not end");
            };
            assert_eq!(
                (content, trailers, consumed),
                (expected.content.clone(), written(&expected.trailers), replayed.len())
            );
        }
    }
    check_trailers(&expected.trailers);
}

fn expected_of(expected: &Moved) -> Moved {
    Moved {
        ended: expected.ended,
        malformed: expected.malformed,
        content: expected.content.clone(),
        trailers: Vec::new(),
        left: expected.left.clone(),
        replayed: None,
    }
}

/// Outcome by the plain rules of framing (RFC 9112 §6).
fn reference(from: Length, bytes: &[u8]) -> Moved {
    let plain = |ended, content: &[u8], left: &[u8]| Moved {
        ended,
        malformed: false,
        content: content.to_vec(),
        trailers: b"\r\n".to_vec(),
        left: left.to_vec(),
        replayed: None,
    };
    match from {
        Length::Empty => plain(true, b"", bytes),
        Length::UntilClose => plain(true, bytes, b""),
        Length::Exact(length) => {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            plain(bytes.len() >= length, &bytes[..length.min(bytes.len())], &bytes[length.min(bytes.len())..])
        }
        Length::Chunked => match decode(std::iter::once(bytes)) {
            Decoded::Ended { content, trailers, consumed } => {
                Moved { trailers, ..plain(true, &content, &bytes[consumed..]) }
            }
            Decoded::Open(content) => plain(false, &content, b""),
            Decoded::Malformed(content) => Moved { malformed: true, ..plain(false, &content, b"") },
        },
    }
}

/// Moves a body that arrives in these pieces.
fn moved<'a>(from: Length, to: Length, pieces: impl Iterator<Item = &'a [u8]>) -> Moved {
    let (mut source, mut sink) = (Conn::new(Stream::closed()), Conn::new(Stream::closed()));
    let mut body = Body::new(from, to).keep();
    let mut failure = None;
    for piece in pieces {
        let mut rest = piece;
        while !rest.is_empty() {
            let room = source.input.room();
            let count = room.len().min(rest.len());
            room[..count].copy_from_slice(&rest[..count]);
            source.input.filled(count);
            rest = &rest[count..];
        }
        if failure.is_none() {
            failure = body.gather(&mut source, &mut sink).err();
        }
    }
    if failure.is_none() {
        // The source is at its end now; writing out fails, because the peer does not read.
        let mut cx = Context::from_waker(Waker::noop());
        failure = match body.poll_move(&mut cx, &mut source, &mut sink) {
            std::task::Poll::Ready(Err(error)) if !matches!(error, BodyError::Sink(_)) => Some(error),
            std::task::Poll::Ready(_) | std::task::Poll::Pending => None,
        };
    }
    let ended = body.has_ended();
    let written = sink.out().clone();
    let (content, trailers) = unframed(to, &body, &written);
    assert_eq!(body.moved, content.len() as u64);
    let malformed = matches!(failure, Some(BodyError::Malformed(_)));
    assert_eq!(failure.is_none(), ended, "{failure:?}");
    let replayed = body.take_replay().map(|replay| {
        let mut again = Conn::new(Stream::closed());
        replay.write(Length::Chunked, &mut again);
        again.out().clone()
    });
    let left = if ended { source.input.bytes().to_vec() } else { Vec::new() };
    Moved { ended, malformed, content, trailers, left, replayed }
}

/// Trailers as they are written: without those of one hop, and without white space around values.
fn written(trailers: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for_each_field(trailers, |name, value| out.extend_from_slice(&[name, b": ", value, b"\r\n"].concat()));
    out.extend_from_slice(b"\r\n");
    out
}

/// Takes the framing off what was written, and checks that it ends only with the body.
fn unframed(to: Length, body: &Body, written: &[u8]) -> (Vec<u8>, Vec<u8>) {
    if to != Length::Chunked {
        return (written.to_vec(), Vec::new());
    }
    match decode(std::iter::once(written)) {
        Decoded::Ended { content, trailers, consumed } => {
            assert!(body.has_ended() && consumed == written.len(), "a body that broke off has a clean end");
            (content, trailers)
        }
        Decoded::Open(content) => {
            assert!(!body.has_ended(), "no end is written");
            (content, Vec::new())
        }
        Decoded::Malformed(_) => panic!("malformed chunks are written: {}", written.escape_ascii()),
    }
}

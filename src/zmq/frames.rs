//! Frames of ZMTP 3 (rfc.zeromq.org/spec/37, "Framing"): commands and messages, bytes in and bytes out, with bounds.
//!
//! A frame is a byte of flags, its length in one byte or in eight, and its body; a message is the frames up to one
//! without the flag "more". Nothing is reserved for a length before its bytes have come. A message beyond the bounds is
//! skipped and not kept, so that it can be answered by an error: a REQ socket that gets no answer is stuck. Beyond
//! [`MAX_SKIPPED`] the connection ends.

use bytes::{Buf, BytesMut};

/// Most bytes of a message, all its frames together. An ask has some hundred.
pub(super) const MAX_MESSAGE: usize = 16 * 1024;
/// Most frames of a message: the identities of a few hops, the delimiter and the ask.
pub(super) const MAX_FRAMES: usize = 16;
/// Most bytes of a message that is skipped, heads of its frames included.
pub(super) const MAX_SKIPPED: u64 = 1 << 20;
/// Most bytes of a command. PLAIN's longest has two names of 255 bytes, and metadata has a few properties.
pub(super) const MAX_COMMAND: usize = 4096;

/// Flags of a frame; the other bits are reserved, and zero.
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// Violation of the protocol, after which the connection ends: a noun phrase for the log.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct ProtocolError(pub(super) String);

impl ProtocolError {
    pub(super) fn new(why: impl Into<String>) -> ProtocolError {
        ProtocolError(why.into())
    }
}

/// Bound that a message exceeds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Excess {
    /// More than [`MAX_MESSAGE`] bytes.
    Bytes,
    /// More than [`MAX_FRAMES`] frames.
    Frames,
}

/// A whole message.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct MultipartMessage {
    /// Bodies of its frames; of a message beyond the bounds those that came before.
    pub(super) frames: Vec<Vec<u8>>,
    /// Bound that it exceeds.
    pub(super) excess: Option<Excess>,
}

/// Next unit of the traffic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Received {
    /// Body of a command: its name, with a length before it, and its data.
    Command(Vec<u8>),
    /// A message.
    Message(MultipartMessage),
}

/// Head of a frame.
#[derive(Clone, Copy, Debug)]
struct FrameHead {
    more: bool,
    command: bool,
    /// Bytes of the body.
    length: u64,
    /// Bytes of the head itself.
    size: usize,
}

/// Decoder of a peer's frames.
#[derive(Default, Debug)]
pub(super) struct FrameDecoder {
    /// Message of which the last frame has not come.
    open: MultipartMessage,
    /// Bytes in the frames of `open`.
    kept: usize,
    /// Bytes of `open` that were skipped.
    skipped: u64,
    /// Bytes of the present frame that are still to be skipped, and its flag "more".
    skipping: Option<(u64, bool)>,
}

impl FrameDecoder {
    /// Takes the next command or message from the input; `None` if it is incomplete. The part of a message that has come
    /// is taken, too; the input then holds less than a frame within the bounds.
    ///
    /// # Errors
    /// If flags are reserved ones, a command is too long or in parts, or too much must be skipped. No further bytes make
    /// sense then.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Received>, ProtocolError> {
        loop {
            if let Some((left, more)) = self.skipping {
                let skip = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                input.advance(skip);
                let left = left - skip as u64;
                self.skipping = (left > 0).then_some((left, more));
                if left > 0 {
                    return Ok(None);
                }
                if !more {
                    return Ok(Some(Received::Message(self.finish())));
                }
            }
            let Some(head) = read_head(input)? else { return Ok(None) };
            if head.command {
                return take_command(head, input);
            }
            let length = usize::try_from(head.length).unwrap_or(usize::MAX);
            self.check_bounds(length);
            if self.open.excess.is_some() {
                self.skipped = self.skipped.saturating_add(head.length).saturating_add(head.size as u64);
                if self.skipped > MAX_SKIPPED {
                    return Err(ProtocolError::new(format!("a message of more than {MAX_SKIPPED} bytes")));
                }
                input.advance(head.size);
                self.skipping = Some((head.length, head.more));
                continue;
            }
            if input.len() - head.size < length {
                return Ok(None);
            }
            input.advance(head.size);
            self.kept += length;
            self.open.frames.push(input.split_to(length).to_vec());
            if !head.more {
                return Ok(Some(Received::Message(self.finish())));
            }
        }
    }

    /// Notes the bound that a further frame of this length would exceed.
    fn check_bounds(&mut self, length: usize) {
        if self.open.excess.is_some() {
            return;
        }
        if self.open.frames.len() == MAX_FRAMES {
            self.open.excess = Some(Excess::Frames);
        } else if length > MAX_MESSAGE - self.kept {
            self.open.excess = Some(Excess::Bytes);
        }
    }

    /// Takes the message out, and starts over.
    fn finish(&mut self) -> MultipartMessage {
        (self.kept, self.skipped) = (0, 0);
        std::mem::take(&mut self.open)
    }
}

/// Reads the head of the next frame; `None` if it is incomplete.
fn read_head(input: &[u8]) -> Result<Option<FrameHead>, ProtocolError> {
    let Some((&flags, rest)) = input.split_first() else { return Ok(None) };
    if flags & !(MORE | LONG | COMMAND) != 0 {
        return Err(ProtocolError::new(format!("a frame with reserved flags ({flags:#04x})")));
    }
    let (more, command) = (flags & MORE != 0, flags & COMMAND != 0);
    if command && more {
        return Err(ProtocolError::new("a command in several frames"));
    }
    if flags & LONG == 0 {
        let Some(&length) = rest.first() else { return Ok(None) };
        return Ok(Some(FrameHead { more, command, length: length.into(), size: 2 }));
    }
    let Some(length) = rest.first_chunk::<8>() else { return Ok(None) };
    Ok(Some(FrameHead { more, command, length: u64::from_be_bytes(*length), size: 9 }))
}

/// Takes a command from the input; `None` if it is incomplete.
fn take_command(head: FrameHead, input: &mut BytesMut) -> Result<Option<Received>, ProtocolError> {
    let length = usize::try_from(head.length).unwrap_or(usize::MAX);
    if length > MAX_COMMAND {
        return Err(ProtocolError::new(format!("a command of more than {MAX_COMMAND} bytes")));
    }
    if input.len() - head.size < length {
        return Ok(None);
    }
    input.advance(head.size);
    Ok(Some(Received::Command(input.split_to(length).to_vec())))
}

/// Takes the next command alone, during the handshake; `None` if it is incomplete.
///
/// # Errors
/// As [`FrameDecoder::next`], and for a message.
pub(super) fn next_command(input: &mut BytesMut) -> Result<Option<Vec<u8>>, ProtocolError> {
    let Some(head) = read_head(input)? else { return Ok(None) };
    if !head.command {
        return Err(ProtocolError::new("a message before the end of the handshake"));
    }
    match take_command(head, input)? {
        Some(Received::Command(body)) => Ok(Some(body)),
        Some(Received::Message(_)) | None => Ok(None),
    }
}

/// Splits the body of a command into its name and its data (`command-body` of the grammar).
///
/// # Errors
/// If the name is cut off.
pub(super) fn split_command(body: &[u8]) -> Result<(&[u8], &[u8]), ProtocolError> {
    let named = body.split_first().and_then(|(length, rest)| rest.split_at_checked(usize::from(*length)));
    named.ok_or_else(|| ProtocolError::new("a command without a name"))
}

/// Appends a command of this name.
pub(super) fn put_command(output: &mut Vec<u8>, name: &str, data: &[u8]) {
    let mut body = Vec::with_capacity(1 + name.len() + data.len());
    body.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(data);
    put_frame(output, COMMAND, &body);
}

/// Appends a message of these frames.
pub(super) fn put_message<'f>(output: &mut Vec<u8>, frames: impl IntoIterator<Item = &'f [u8]>) {
    let mut frames = frames.into_iter().peekable();
    while let Some(frame) = frames.next() {
        let more = if frames.peek().is_some() { MORE } else { 0 };
        put_frame(output, more, frame);
    }
}

fn put_frame(output: &mut Vec<u8>, flags: u8, body: &[u8]) {
    match u8::try_from(body.len()) {
        Ok(length) => output.extend_from_slice(&[flags, length]),
        Err(_) => {
            output.push(flags | LONG);
            output.extend_from_slice(&(body.len() as u64).to_be_bytes());
        }
    }
    output.extend_from_slice(body);
}

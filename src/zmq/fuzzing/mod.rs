//! Fuzz target of ZMTP: handshake, frames, messages and asks, of any bytes in any pieces.

use bytes::BytesMut;

use super::frames::{
    Excess, FrameDecoder, MAX_COMMAND, MAX_FRAMES, MAX_MESSAGE, MultipartMessage, Received, put_message,
};
use super::handshake::{Handshake, Mechanism, Progress};
use super::message::{self, AnswerForm};

/// Most bytes that may stay undecoded: the longest frame within the bounds that is incomplete.
const MAX_UNDECODED: usize = MAX_MESSAGE + 9;

/// Traffic of a peer. The first byte chooses the mechanism and the pieces in which the rest arrives.
///
/// The result does not depend on the pieces; no message exceeds its bounds, and none is answered by silence; the answer
/// comes back in the envelope.
pub fn zmtp(input: &[u8]) {
    let Some((&choice, bytes)) = input.split_first() else { return };
    let mechanism = if choice & 1 == 0 { Mechanism::Null } else { Mechanism::Plain };
    let whole = traffic(mechanism, [bytes]);
    let size = 1 + usize::from(choice >> 1);
    assert_eq!(whole, traffic(mechanism, bytes.chunks(size)), "pieces of {size} bytes");
    // Frames without a handshake, which random bytes seldom pass.
    let (received, _) = frames([bytes]);
    assert_eq!(received, frames(bytes.chunks(size)).0, "pieces of {size} bytes");
    for message in received.into_iter().filter_map(Result::ok).filter_map(message_of) {
        check_message(message);
    }
}

/// Decodes pieces as the traffic after a handshake; ends with the first error.
fn frames<'b>(pieces: impl IntoIterator<Item = &'b [u8]>) -> (Vec<Result<Received, String>>, usize) {
    let (mut decoder, mut input, mut received) = (FrameDecoder::default(), BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match decoder.next(&mut input) {
                Ok(Some(next)) => received.push(Ok(next)),
                Ok(None) => break,
                Err(error) => {
                    received.push(Err(error.to_string()));
                    return (received, input.len());
                }
            }
        }
        assert!(input.len() < MAX_UNDECODED, "{} bytes are kept", input.len());
    }
    (received, input.len())
}

/// Runs a handshake, each login accepted, and the messages behind it; ends with the first error.
fn traffic<'b>(mechanism: Mechanism, pieces: impl IntoIterator<Item = &'b [u8]>) -> (Vec<String>, Vec<u8>) {
    let (mut input, mut output, mut events) = (BytesMut::new(), Vec::new(), Vec::new());
    let mut handshake = Handshake::begin(mechanism, &mut output);
    let mut decoder = None;
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match step(&mut handshake, &mut decoder, &mut input, &mut output) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => {
                    events.push(error);
                    return (events, output);
                }
            }
        }
    }
    (events, output)
}

/// Takes the next step of a peer's traffic; `None` if further bytes are needed. `decoder`: set once the handshake is
/// complete.
fn step(
    handshake: &mut Handshake,
    decoder: &mut Option<FrameDecoder>,
    input: &mut BytesMut,
    output: &mut Vec<u8>,
) -> Result<Option<String>, String> {
    if let Some(decoder) = decoder {
        let received = decoder.next(input).map_err(|error| error.to_string())?;
        return Ok(received.map(|received| format!("{received:?}")));
    }
    match handshake.advance(input, output).map_err(|error| error.why.to_string())? {
        Progress::Incomplete => Ok(None),
        Progress::Login { name, password } => {
            handshake.accept(output);
            Ok(Some(format!("login {name:?} {password:?}")))
        }
        Progress::Established => {
            *decoder = Some(FrameDecoder::default());
            Ok(Some("established".to_owned()))
        }
    }
}

/// The message of a unit, if it is one; checks the bound of a command.
fn message_of(received: Received) -> Option<MultipartMessage> {
    match received {
        Received::Message(message) => Some(message),
        Received::Command(body) => {
            assert!(body.len() <= MAX_COMMAND);
            None
        }
    }
}

/// Reads a message, and checks bounds, envelope and answer.
fn check_message(sent: MultipartMessage) {
    let bytes: usize = sent.frames.iter().map(Vec::len).sum();
    assert!(sent.frames.len() <= MAX_FRAMES && bytes <= MAX_MESSAGE, "{} frames, {bytes} bytes", sent.frames.len());
    let request = message::read(sent.clone());
    assert!(sent.frames.starts_with(&request.envelope), "the envelope is the begin of the message");
    let body = match &request.ask {
        Ok(_) => message::too_many_answer(request.form),
        Err(why) => message::error_answer(why),
    };
    if request.form == AnswerForm::Json {
        assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok_and(|answer| answer.is_object()));
    }
    let mut output = Vec::new();
    put_message(&mut output, request.envelope.iter().map(Vec::as_slice).chain([body.as_slice()]));
    let (received, left) = frames([output.as_slice()]);
    // An answer has one frame more than its envelope, which may be as long as the longest message of a peer.
    let excess = (request.envelope.len() == MAX_FRAMES).then_some(Excess::Frames);
    let wanted =
        MultipartMessage { frames: request.envelope.into_iter().chain([body]).take(MAX_FRAMES).collect(), excess };
    assert_eq!((received, left), (vec![Ok(Received::Message(wanted))], 0));
}

//! Tests of ZMTP without a socket: bounds before buffers, both mechanisms, envelopes, and every form of an ask.

use std::time::Duration;

use bytes::BytesMut;

use super::fault_log::FaultKind;
use super::frames::{Excess, FrameDecoder, MAX_FRAMES, MAX_MESSAGE, MultipartMessage, Received, put_message};
use super::handshake::{GREETING, Handshake, Mechanism, Progress};
use super::message::{self, AnswerForm};
use crate::proxy::program_ask::{AskDecision, AskVerdict, ProgramAsk};

fn greeting(version: u8, mechanism: &str) -> Vec<u8> {
    let mut bytes = vec![0; GREETING];
    (bytes[0], bytes[8], bytes[9], bytes[10]) = (0xFF, 1, 0x7F, version);
    bytes[12..12 + mechanism.len()].copy_from_slice(mechanism.as_bytes());
    bytes
}

fn command(name: &str, data: &[u8]) -> Vec<u8> {
    let body = [&[u8::try_from(name.len()).unwrap()], name.as_bytes(), data].concat();
    [&[4, u8::try_from(body.len()).unwrap()], body.as_slice()].concat()
}

fn metadata(socket_type: &str) -> Vec<u8> {
    let length = u32::try_from(socket_type.len()).unwrap().to_be_bytes();
    [b"\x08Identity\0\0\0\0\x0bsocket-TYPE", length.as_slice(), socket_type.as_bytes()].concat()
}

/// The last progress or fault, and all that was sent behind the greeting.
fn shake_hands(mechanism: Mechanism, bytes: &[u8]) -> (Result<Progress, (FaultKind, String)>, Vec<u8>) {
    let (mut input, mut output) = (BytesMut::from(bytes), Vec::new());
    let mut handshake = Handshake::begin(mechanism, &mut output);
    loop {
        match handshake.advance(&mut input, &mut output) {
            Ok(Progress::Login { name, password }) if name == b"anna" && password == b"secret" => {
                handshake.accept(&mut output);
            }
            other => return (other.map_err(|error| (error.kind, error.why.to_string())), output.split_off(GREETING)),
        }
    }
}

#[test]
fn null_and_plain_lead_to_messages() {
    let ready = command("READY", b"\x0bSocket-Type\0\0\0\x06ROUTER");
    for kind in ["REQ", "DEALER", "ROUTER"] {
        let peer = [greeting(3, "NULL"), command("READY", &metadata(kind))].concat();
        assert_eq!(shake_hands(Mechanism::Null, &peer), (Ok(Progress::Established), ready.clone()), "{kind}");
    }
    let hello = command("HELLO", b"\x04anna\x06secret");
    let peer = [greeting(3, "PLAIN"), hello, command("INITIATE", &metadata("REQ"))].concat();
    let answers = [command("WELCOME", b""), ready].concat();
    assert_eq!(shake_hands(Mechanism::Plain, &peer), (Ok(Progress::Established), answers));
    for cut in 0..peer.len() {
        let (progress, _) = shake_hands(Mechanism::Plain, &peer[..cut]);
        assert_eq!(progress, Ok(Progress::Incomplete), "{cut} bytes");
    }
}

#[test]
fn each_fault_of_a_handshake_is_named() {
    let null = |rest: &[u8]| [&greeting(3, "NULL"), rest].concat();
    let plain = |rest: &[u8]| [&greeting(3, "PLAIN"), rest].concat();
    for (mechanism, bytes, kind, text) in [
        (Mechanism::Null, b"GET / HTTP/1.1\r\n".to_vec(), FaultKind::Version, "no ZMTP at all"),
        (Mechanism::Null, b"\x01\x00".to_vec(), FaultKind::Version, "ZMTP 1.0"),
        (Mechanism::Null, b"\xff\0\0\0\0\0\0\0\x01\0".to_vec(), FaultKind::Version, "ZMTP 1.0"),
        (Mechanism::Null, greeting(1, "")[..11].to_vec(), FaultKind::Version, "ZMTP 2.0"),
        (Mechanism::Null, greeting(3, "CURVE"), FaultKind::Mechanism, "CURVE"),
        (Mechanism::Plain, greeting(3, "NULL"), FaultKind::Mechanism, "ZMQ_PLAIN_USERNAME"),
        (Mechanism::Null, null(b"\0\x02go"), FaultKind::Handshake, "a message before"),
        (Mechanism::Null, null(&command("HELLO", b"")), FaultKind::Handshake, "unexpected command"),
        (Mechanism::Null, null(&command("READY", &metadata("SUB"))), FaultKind::Handshake, "type SUB"),
        (Mechanism::Null, null(&command("READY", b"\x0bSocket-Type\0\0\0\x09REQ")), FaultKind::Handshake, "metadata"),
        (Mechanism::Null, null(&command("READY", b"")), FaultKind::Handshake, "type unknown"),
        (Mechanism::Null, null(b"\x04\x02\x09A"), FaultKind::Handshake, "without a name"),
        (Mechanism::Null, null(b"\x06\0\0\0\0\0\x01\0\0"), FaultKind::Handshake, "a command of more than"),
        (Mechanism::Plain, plain(&command("HELLO", b"\x04anna\x07secret")), FaultKind::Handshake, "malformed HELLO"),
        (Mechanism::Plain, plain(&command("INITIATE", &metadata("REQ"))), FaultKind::Handshake, "unexpected command"),
        (Mechanism::Plain, plain(&command("ERROR", b"\x02no")), FaultKind::Handshake, "gave up"),
    ] {
        let (fault, why) = shake_hands(mechanism, &bytes).0.unwrap_err();
        assert!(fault == kind && why.contains(text), "{}: {fault:?} {why}", bytes.escape_ascii());
    }
}

/// Decodes all that the bytes hold.
fn decode(bytes: &[u8]) -> (Vec<Received>, Option<String>, usize) {
    let (mut decoder, mut input, mut received) = (FrameDecoder::default(), BytesMut::from(bytes), Vec::new());
    loop {
        match decoder.next(&mut input) {
            Ok(Some(next)) => received.push(next),
            Ok(None) => return (received, None, input.len()),
            Err(error) => return (received, Some(error.to_string()), input.len()),
        }
    }
}

#[test]
fn a_message_beyond_a_bound_is_skipped_and_told_and_one_without_end_ends_the_connection() {
    let large = vec![b'x'; MAX_MESSAGE + 1];
    let mut bytes = Vec::new();
    put_message(&mut bytes, [b"".as_slice(), &large]);
    put_message(&mut bytes, vec![b"a".as_slice(); MAX_FRAMES + 5]);
    put_message(&mut bytes, [b"".as_slice(), &large[..MAX_MESSAGE]]);
    let (received, error, left) = decode(&bytes);
    let excess = |received: &Received| match received {
        Received::Message(message) => (message.frames.len(), message.excess),
        Received::Command(_) => panic!("it is no command"),
    };
    let wanted = [(1, Some(Excess::Bytes)), (MAX_FRAMES, Some(Excess::Frames)), (2, None)];
    assert_eq!((received.iter().map(excess).collect::<Vec<_>>(), error, left), (wanted.to_vec(), None, 0));
    let (received, error, _) = decode(b"\x02\x7f\xff\xff\xff\xff\xff\xff\xff");
    assert!(received.is_empty() && error.is_some_and(|why| why.contains("a message of more than")));
    let (received, error, _) = decode(&b"\x01\0".repeat(1_000_000));
    assert!(received.is_empty() && error.is_some_and(|why| why.contains("a message of more than")));
    for faulty in [b"\x08\0".as_slice(), b"\x05\0"] {
        assert!(decode(faulty).1.is_some(), "{}", faulty.escape_ascii());
    }
}

fn read(frames: &[&[u8]]) -> message::AskMessage {
    message::read(MultipartMessage { frames: frames.iter().map(|frame| frame.to_vec()).collect(), excess: None })
}

#[test]
fn the_envelope_ends_with_the_first_empty_frame_or_before_the_last_one() {
    for (frames, wanted) in [
        (vec![b"".as_slice(), b"ask"], 1),
        (vec![b"id", b"", b"ask"], 2),
        (vec![b"id", b"", b"a", b"", b"b"], 2),
        (vec![b"id", b"ask"], 1),
        (vec![b"ask"], 0),
        (vec![b""], 0),
        (vec![b"", b""], 1),
    ] {
        let request = read(&frames);
        assert_eq!(request.envelope, frames[..wanted].iter().map(|frame| frame.to_vec()).collect::<Vec<_>>());
        assert!(request.form == AnswerForm::Word && request.ask.is_ok(), "any message asks");
    }
}

#[test]
fn an_ask_in_json_states_limit_key_cost_and_wait_and_a_wrong_one_is_told_what_would_be_right() {
    let ask = |text: &str| read(&[b"", text.as_bytes()]).ask;
    let full = ask(" {\"limit\": \"a\", \"key\": [\"x\", \"y\"], \"cost\": 2, \"wait\": 0.5}").unwrap();
    let (limit, keys) = (Some("a".to_owned()), vec!["x".to_owned(), "y".to_owned()]);
    let wanted =
        ProgramAsk { limit, keys, cost: Some("2".to_owned()), wait: Some(Duration::from_millis(500)), bytes: 62 };
    assert_eq!(ProgramAsk { bytes: 62, ..full }, wanted);
    assert_eq!(ask("{\"key\": \"x\"}").unwrap().keys, ["x"]);
    assert_eq!(ask("{\"wait\": \"250ms\"}").unwrap().wait, Some(Duration::from_millis(250)));
    assert_eq!(ask("{}").unwrap().limit, None);
    for wrong in [
        "{",
        "{\"limit\": 1}",
        "{\"key\": [1]}",
        "{\"key\": {}}",
        "{\"cost\": \"2\"}",
        "{\"wait\": -1}",
        "{\"wait\": \"soon\"}",
        "{\"wait\": 1e300}",
        "{\"costs\": 2}",
        "{} {}",
    ] {
        let why = ask(wrong).unwrap_err();
        assert!(why.contains("an ask is {\"limit\""), "{wrong}: {why}");
    }
}

#[test]
fn an_answer_has_the_form_of_its_ask() {
    let sorry = AskVerdict::Sorry { retry_after_ms: Some(7), reason: "full" };
    let decided = |verdict| AskDecision { limit: "a".to_owned(), waited: Duration::from_micros(1500), verdict };
    let text = |form, verdict| String::from_utf8(message::answer(form, &decided(verdict))).unwrap();
    assert_eq!(text(AnswerForm::Word, AskVerdict::Go), "go");
    assert_eq!(text(AnswerForm::Word, sorry.clone()), "sorry");
    assert_eq!(
        text(AnswerForm::Word, AskVerdict::Invalid("x".to_owned())),
        "sorry",
        "its client knows these two words"
    );
    let json = |verdict| serde_json::from_str::<serde_json::Value>(&text(AnswerForm::Json, verdict)).unwrap();
    let go = json(AskVerdict::Go);
    assert!(go["verdict"] == "go" && go["waited_ms"] == 1.5 && go["retry_after_ms"] == 0 && go["limit"] == "a", "{go}");
    let refused = json(sorry);
    assert!(
        refused["verdict"] == "sorry" && refused["retry_after_ms"] == 7 && refused["reason"] == "full",
        "{refused}"
    );
    assert_eq!(json(AskVerdict::Invalid("x".to_owned()))["error"], "x");
}

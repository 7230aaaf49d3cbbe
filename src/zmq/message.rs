//! Messages: the envelope of an ask, the ask itself, and the answer.
//!
//! The envelope of a message is the frames up to and with the first empty one, as REQ sockets and proxies of ROUTER
//! sockets put it there (rfc.zeromq.org/spec/28); without an empty frame it is all frames but the last one. It comes back
//! in front of the answer.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::frames::{Excess, MAX_FRAMES, MAX_MESSAGE, MultipartMessage};
use crate::proxy::program_ask::{AskDecision, AskVerdict, ProgramAsk, parse_wait};

/// Form of an ask, for errors.
const FORM: &str = "an ask is {\"limit\": \"NAME\", \"key\": \"VALUE\" or [\"VALUE\", ...], \"cost\": 1, \"wait\": 2.5}, all of them optional";

/// Form in which an ask is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AnswerForm {
    /// `go` or `sorry`.
    Word,
    /// A JSON object.
    Json,
}

/// A message, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct AskMessage {
    /// Frames that come back in front of the answer.
    pub(super) envelope: Vec<Vec<u8>>,
    pub(super) form: AnswerForm,
    /// The ask; an error is the text of its answer.
    pub(super) ask: Result<ProgramAsk, String>,
}

/// Reads a message: one that begins with a brace is an ask in JSON, and any other asks by being there.
pub(super) fn read(message: MultipartMessage) -> AskMessage {
    let MultipartMessage { frames: mut envelope, excess } = message;
    if let Some(excess) = excess {
        let end = envelope.iter().position(Vec::is_empty).map_or(envelope.len(), |delimiter| delimiter + 1);
        envelope.truncate(end);
        let why = match excess {
            Excess::Bytes => format!("a message has at most {MAX_MESSAGE} bytes"),
            Excess::Frames => format!("a message has at most {MAX_FRAMES} frames"),
        };
        return AskMessage { envelope, form: AnswerForm::Json, ask: Err(why) };
    }
    let last = envelope.len().saturating_sub(1);
    let delimiter = envelope.iter().take(last).position(Vec::is_empty);
    let body = envelope.split_off(delimiter.map_or(last, |delimiter| delimiter + 1));
    let bytes: usize = body.iter().map(Vec::len).sum();
    let bytes = bytes as u64;
    let is_json = |frame: &Vec<u8>| frame.trim_ascii_start().first() == Some(&b'{');
    match body.as_slice() {
        [frame] if is_json(frame) => {
            let ask = read_json(frame).map(|ask| ProgramAsk { bytes, ..ask });
            AskMessage { envelope, form: AnswerForm::Json, ask }
        }
        _ => AskMessage { envelope, form: AnswerForm::Word, ask: Ok(ProgramAsk { bytes, ..ProgramAsk::default() }) },
    }
}

/// Reads an ask in JSON.
///
/// # Errors
/// The text of the answer: the fault, and what would be right.
fn read_json(text: &[u8]) -> Result<ProgramAsk, String> {
    let object: Map<String, Value> = serde_json::from_slice(text).map_err(|error| format!("{error}: {FORM}"))?;
    let mut ask = ProgramAsk::default();
    for (name, value) in object {
        let wrong = |right: &str| Err(format!("`{name}` must be {right}: {FORM}"));
        match (name.as_str(), value) {
            ("limit", Value::String(limit)) => ask.limit = Some(limit),
            ("limit", _) => return wrong("the name of a limit"),
            ("key", Value::String(key)) => ask.keys = vec![key],
            ("key", Value::Array(keys)) => match keys.into_iter().map(string).collect() {
                Some(keys) => ask.keys = keys,
                None => return wrong("a string, or a list of strings"),
            },
            ("key", _) => return wrong("a string, or a list of strings"),
            // Its range is that of the limit.
            ("cost", Value::Number(cost)) => ask.cost = Some(cost.to_string()),
            ("cost", _) => return wrong("a whole number"),
            ("wait", value) => match wait(&value) {
                Some(wait) => ask.wait = Some(wait),
                None => return wrong("a number of seconds, or a duration such as \"500ms\""),
            },
            (_, _) => return Err(format!("`{}` is unknown: {FORM}", name.escape_debug())),
        }
    }
    Ok(ask)
}

/// The string of a value, if it is one.
fn string(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A wait: a number of seconds, or a string that [`parse_wait`] reads.
fn wait(value: &Value) -> Option<Duration> {
    match value {
        Value::Number(number) => Duration::try_from_secs_f64(number.as_f64()?).ok(),
        Value::String(text) => parse_wait(text),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Body of the answer to an ask that was decided.
pub(super) fn answer(form: AnswerForm, decision: &AskDecision) -> Vec<u8> {
    let AskDecision { limit, waited, verdict } = decision;
    if form == AnswerForm::Word {
        let word: &[u8] = if *verdict == AskVerdict::Go { b"go" } else { b"sorry" };
        return word.to_vec();
    }
    let waited_ms = waited.as_micros() as f64 / 1e3;
    match verdict {
        AskVerdict::Go => json!({ "verdict": "go", "waited_ms": waited_ms, "retry_after_ms": 0, "limit": limit }),
        AskVerdict::Sorry { retry_after_ms, reason } => json!({
            "verdict": "sorry", "waited_ms": waited_ms, "retry_after_ms": retry_after_ms, "limit": limit, "reason": reason
        }),
        AskVerdict::Invalid(why) => return error_answer(why),
    }
    .to_string()
    .into_bytes()
}

/// Body of the answer to an ask that cannot be decided.
pub(super) fn error_answer(why: &str) -> Vec<u8> {
    json!({ "error": why }).to_string().into_bytes()
}

/// Body of the answer to an ask beyond the bound on those that one peer may have waiting.
pub(super) fn too_many_answer(form: AnswerForm) -> Vec<u8> {
    match form {
        AnswerForm::Word => b"sorry".to_vec(),
        AnswerForm::Json => {
            json!({ "verdict": "sorry", "waited_ms": 0, "retry_after_ms": null, "limit": null, "reason": "too_many_asks" })
                .to_string()
                .into_bytes()
        }
    }
}

//! Differential test: the calls of a trace go to the script on a real server, which must reply as
//! the model does and leave the same state.

use std::fmt::Write;

use redis::{Connection, Value, cmd, pipe};

use super::call_trace::{TraceStep, call_trace};
use super::model_state::{KeyContent, credit_field};
use super::seeds;
use super::server::Server;
use crate::gate::store::store_conn::SCRIPT;

/// Reads the content of the keys, and the time for which each is kept, in ms.
const READ_STATE: &str = "
local state = {}
for index, key in ipairs(KEYS) do
  local content, kind = {}, redis.call('TYPE', key).ok
  if kind == 'hash' then content = redis.call('HGETALL', key) end
  if kind == 'zset' then content = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
  if kind == 'list' then content = redis.call('LRANGE', key, 0, -1) end
  state[index] = { redis.call('PTTL', key), kind, content }
end
return state";

/// Time that a slow machine may take between a call and the look at its state, in ms. Keys are kept
/// for a minute longer than they are needed.
const LOOK_DELAY: i64 = 45_000;

/// A script on a server, ready for traces.
pub(super) struct TracedScript {
    connection: Connection,
    script: String,
    reader: String,
}

/// First difference between the script and the model: the step, and a description.
#[derive(Debug)]
pub(super) struct Divergence {
    pub(super) step: usize,
    pub(super) text: String,
}

impl TracedScript {
    pub(super) fn load(mut connection: Connection, script: &str) -> TracedScript {
        let mut load = |text: &str| cmd("SCRIPT").arg("LOAD").arg(text).query(&mut connection).unwrap();
        let (script, reader) = (load(script), load(READ_STATE));
        TracedScript { connection, script, reader }
    }

    /// Makes the calls of a trace on an empty store.
    pub(super) fn replay(&mut self, trace: &[TraceStep]) -> Result<(), Divergence> {
        cmd("FLUSHDB").exec(&mut self.connection).unwrap();
        for (number, step) in trace.iter().enumerate() {
            if let Some(text) = self.difference(step) {
                return Err(Divergence { step: number, text: format!("{text}\n{}", step.what) });
            }
        }
        Ok(())
    }

    fn difference(&mut self, step: &TraceStep) -> Option<String> {
        for foreign in &step.foreign {
            cmd(&foreign[0]).arg(&foreign[1..]).exec(&mut self.connection).unwrap();
        }
        let mut both = pipe();
        both.cmd("EVALSHA").arg(&self.script).arg(step.keys.len()).arg(&step.keys).arg(&step.args);
        both.cmd("EVALSHA").arg(&self.reader).arg(step.keys.len()).arg(&step.keys);
        let answers: Result<(Vec<i64>, Vec<KeptKey>), _> = both.query(&mut self.connection);
        let (reply, state) = match answers {
            Ok(answers) => answers,
            Err(error) => return Some(format!("the script fails: {error}")),
        };
        if reply != step.reply {
            return Some(format!("reply: {reply:?}, model: {:?}", step.reply));
        }
        let born = state[0].2.chunks(2).find(|pair| text(&pair[0]) == "born").map(|pair| text(&pair[1]));
        let content = state.iter().enumerate().map(|(place, kept)| canonical(place, kept));
        let mut content: Vec<KeyContent> = content.collect();
        for place in (4..content.len()).step_by(2) {
            // The script drops the windows of an earlier epoch as it meets them.
            if !born.as_ref().is_some_and(|born| content[place].contains(&format!("b={born}"))) {
                content[place].clear();
                content[place + 1].clear();
            }
        }
        let mut text = String::new();
        for ((key, found), expected) in step.keys.iter().zip(&content).zip(&step.content) {
            if found != expected {
                let only = |these: &KeyContent, others: &KeyContent| {
                    these.iter().filter(|line| !others.contains(line)).cloned().collect::<Vec<_>>()
                };
                write!(text, "{key}: {:?}, model: {:?}; ", only(found, expected), only(expected, found)).unwrap();
            }
        }
        for (number, needed) in step.needed_for.iter().enumerate().filter(|_| step.reply[0] == 0) {
            for kept in &state[4 + 2 * number..6 + 2 * number] {
                if kept.1 != "none" && kept.0 < needed / 1000 + 60_000 - LOOK_DELAY {
                    write!(text, "window {number} is kept for {} ms, needed for {needed} µs; ", kept.0).unwrap();
                }
            }
        }
        (!text.is_empty()).then_some(text)
    }
}

/// A key as read: time for which it is kept, type, and content.
type KeptKey = (i64, String, Vec<Value>);

fn text(value: &Value) -> String {
    redis::from_redis_value_ref(value).unwrap()
}

/// Content of a key in the form of the model.
fn canonical(place: usize, (_, kind, content): &KeptKey) -> KeyContent {
    let texts: Vec<String> = content.iter().map(text).collect();
    if kind == "list" {
        return texts;
    }
    let mut lines: KeyContent = Vec::new();
    for pair in texts.chunks(2) {
        let (field, value) = (&pair[0], &pair[1]);
        match field.split_once(':') {
            // The identity in the key of version 1 is that of the group.
            _ if place == 3 && field == "id" => {}
            Some(("d", session)) if place > 3 => {
                let credit: f64 = value.parse().unwrap();
                lines.extend((credit != 0.0).then(|| credit_field(session, credit)));
            }
            Some(_) | None => lines.push(format!("{field}={value}")),
        }
    }
    lines.sort_unstable();
    lines
}

#[test]
fn the_script_does_what_the_model_does() {
    let server = Server::start();
    let mut script = TracedScript::load(server.connect(), SCRIPT);
    for seed in seeds(0..100) {
        if let Err(Divergence { step, text }) = script.replay(&call_trace(seed)) {
            panic!("seed {seed} (LOCKGATE_SEED={seed} runs it alone), step {step}: {text}");
        }
    }
}

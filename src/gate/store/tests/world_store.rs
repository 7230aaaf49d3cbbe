//! Store of a simulated world: the model, or the script on a real server. It may be emptied,
//! replaced by a snapshot, renamed, halted, and have its clock set.

use redis::{Connection, cmd};

use super::Dice;
use super::model::Model;
use super::world_mutants::WorldMutant;
use crate::gate::store::store_conn::SCRIPT;

/// The store's clock at the start of the simulation, in µs of Unix time.
pub(super) const WALL: u64 = 1_795_000_000_000_000;

/// Keys and arguments of a call.
pub(super) type CallWords = (Vec<String>, Vec<String>);

/// Data of a store that takes the place of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Content {
    Empty,
    Snapshot,
    Same,
}

/// Implementation of the store in a world.
pub(super) enum Backend {
    Model { model: Box<Model>, snapshot: Box<Model> },
    Script(ScriptStore),
}

/// The script on a server. Each store is a group of its own there.
pub(super) struct ScriptStore {
    connection: Connection,
    sha: String,
    group: u64,
    snapshot: u64,
    groups: u64,
}

impl ScriptStore {
    pub(super) fn new(mut connection: Connection) -> ScriptStore {
        cmd("FLUSHDB").exec(&mut connection).unwrap();
        let sha = cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query(&mut connection).unwrap();
        ScriptStore { connection, sha, group: 0, snapshot: 0, groups: 0 }
    }

    /// Copies all keys of a group to a new one; returns that.
    fn copy(&mut self, from: u64) -> u64 {
        self.groups += 1;
        let (old, new) = (format!("{{g{from}}}"), format!("{{g{}}}", self.groups));
        let keys: Vec<String> = cmd("KEYS").arg(format!("{old}:*")).query(&mut self.connection).unwrap();
        for key in keys {
            cmd("COPY").arg(&key).arg(key.replace(&old, &new)).exec(&mut self.connection).unwrap();
        }
        self.groups
    }

    fn call(&mut self, (keys, args): &CallWords) -> Vec<i64> {
        let group = format!("{{g{}}}", self.group);
        let keys: Vec<String> = keys.iter().map(|key| key.replacen("{g}", &group, 1)).collect();
        cmd("EVALSHA").arg(&self.sha).arg(keys.len()).arg(keys).arg(args).query(&mut self.connection).unwrap()
    }
}

/// The store of a world.
pub(super) struct WorldStore {
    backend: Backend,
    /// Number of the store: its identity.
    pub(super) number: u64,
    /// Unix time of its clock at the start of the simulation, in µs.
    pub(super) clock: u64,
    /// Time until which it executes no call.
    pub(super) halted: u64,
}

impl WorldStore {
    pub(super) fn new(backend: Backend, dice: &mut Dice) -> WorldStore {
        WorldStore { backend, number: 0, clock: WALL + dice.below(1_000_000), halted: 0 }
    }

    /// A model with this mutant, or without one.
    pub(super) fn model(mutant: Option<WorldMutant>) -> Backend {
        let model = Model { mutant, ..Model::default() };
        Backend::Model { model: Box::new(model.clone()), snapshot: Box::new(model) }
    }

    /// Executes a call at `now`, in ns of the simulation.
    pub(super) fn call(&mut self, words: &mut CallWords, now: u64) -> Vec<i64> {
        words.1[0] = (self.clock + now / 1000).to_string();
        match &mut self.backend {
            Backend::Model { model, .. } => model.call(&words.0, &words.1),
            Backend::Script(script) => script.call(words),
        }
    }

    pub(super) fn take_snapshot(&mut self) {
        match &mut self.backend {
            Backend::Model { model, snapshot } => *snapshot = model.clone(),
            Backend::Script(script) => script.snapshot = script.copy(script.group),
        }
    }

    /// Replaces the data.
    pub(super) fn set_content(&mut self, content: Content) {
        match (content, &mut self.backend) {
            (Content::Same, _) => {}
            (Content::Empty, Backend::Model { model, .. }) => {
                **model = Model { mutant: model.mutant, ..Model::default() };
            }
            (Content::Snapshot, Backend::Model { model, snapshot }) => *model = snapshot.clone(),
            (Content::Empty, Backend::Script(script)) => {
                script.groups += 1;
                script.group = script.groups;
            }
            (Content::Snapshot, Backend::Script(script)) => script.group = script.copy(script.snapshot),
        }
    }
}

//! Mutants of the script: each changes one rule of it, and must differ from the model in one of the
//! first traces. A mutant that lives shows a rule that no test checks.

use super::call_trace::call_trace;
use super::differential::TracedScript;
use super::script_mutant_list::{EQUIVALENTS, MUTANTS, ScriptMutant};
use super::server::Server;
use crate::gate::store::store_conn::SCRIPT;

/// Number of traces, the first seeds, in which a mutant must differ.
const TRACES: u64 = 48;

impl ScriptMutant {
    /// The script with this change. Panics if the needle does not occur exactly as often as stated.
    fn script(&self) -> String {
        let ScriptMutant(name, times, needle, replacement) = self;
        assert_eq!(SCRIPT.matches(needle).count(), *times, "{name}: occurrences of `{needle}`");
        SCRIPT.replace(needle, replacement)
    }
}

/// Seed and step of the first difference that each mutant makes.
fn killers(mutants: &[ScriptMutant]) -> Vec<(&'static str, Option<(u64, usize)>)> {
    let server = Server::start();
    let traces: Vec<_> = (0..TRACES).map(call_trace).collect();
    let mut found = Vec::new();
    for mutant in mutants {
        let mut script = TracedScript::load(server.connect(), &mutant.script());
        let killer = traces.iter().zip(0..).find_map(|(trace, seed)| {
            let divergence = script.replay(trace).err()?;
            assert!(!divergence.text.starts_with("the script fails"), "{}: {}", mutant.0, divergence.text);
            Some((seed, divergence.step))
        });
        println!("{}: {killer:?} (seed, step)", mutant.0);
        found.push((mutant.0, killer));
    }
    found
}

#[test]
fn each_change_of_a_rule_in_the_script_is_seen() {
    let found = killers(&MUTANTS);
    let alive: Vec<_> = found.iter().filter(|(_, killer)| killer.is_none()).map(|(name, _)| name).collect();
    assert!(alive.is_empty(), "killed by nothing: {alive:#?}");
}

#[test]
fn changes_without_an_effect_have_none() {
    for (name, killer) in killers(&EQUIVALENTS) {
        assert_eq!(killer, None, "{name} has an effect: move it to the others");
    }
}

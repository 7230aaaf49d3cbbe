//! Mutants of the script: each changes one rule of it, and must differ from the model in one of the
//! first traces. A mutant that lives shows a rule that no test checks.

use super::call_trace::{TraceStep, call_trace};
use super::differential::TracedScript;
use super::script_mutant_list::{EQUIVALENTS, MUTANTS, ScriptMutant};
use super::server::Server;
use crate::gate::store::store_conn::SCRIPT;

/// Number of traces, the first seeds, in which a mutant must differ.
const TRACES: usize = 96;
/// Number of traces in which a change without an effect must not differ.
const EQUAL_TRACES: usize = 16;

impl ScriptMutant {
    /// The script with this change. Panics if the needle does not occur exactly as often as stated.
    fn script(&self) -> String {
        let ScriptMutant(name, times, needle, replacement) = self;
        assert_eq!(SCRIPT.matches(needle).count(), *times, "{name}: occurrences of `{needle}`");
        SCRIPT.replace(needle, replacement)
    }
}

/// A mutant's name, and the seed and step of the first difference that it makes.
type Killed = (&'static str, Option<(usize, usize)>);

/// Finds the first difference that each mutant makes in so many traces.
fn killers(mutants: &[ScriptMutant], most: usize) -> Vec<Killed> {
    let server = Server::start();
    let mut traces: Vec<Vec<TraceStep>> = Vec::new();
    let mut found = Vec::new();
    for mutant in mutants {
        let mut script = TracedScript::load(server.connect(), &mutant.script());
        let killer = (0..most).find_map(|seed| {
            if traces.len() == seed {
                traces.push(call_trace(seed as u64));
            }
            let divergence = script.replay(&traces[seed]).err()?;
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
    let found = killers(&MUTANTS, TRACES);
    let alive: Vec<_> = found.iter().filter(|(_, killer)| killer.is_none()).map(|(name, _)| name).collect();
    assert!(alive.is_empty(), "killed by nothing: {alive:#?}");
}

#[test]
fn changes_without_an_effect_have_none() {
    for (name, killer) in killers(&EQUIVALENTS, EQUAL_TRACES) {
        assert_eq!(killer, None, "{name} has an effect: move it to the others");
    }
}

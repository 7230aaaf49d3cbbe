//! Tests of the store: the Lua script against a model of it, and simulated gateways with that model under faults.

mod call_trace;
mod differential;
mod model;
mod model_params;
mod model_state;
mod model_window;
mod scenarios;
mod scenarios_more;
mod scenarios_params;
mod script_mutant_list;
mod script_mutants;
mod server;
mod trace_params;
mod world;
mod world_gateway;
mod world_judge;
mod world_link;
mod world_mutants;
mod world_store;
mod world_story;

use std::ops::Range;

use redis::{Arg, Cmd};

use super::script_call::{self, ClientId, Command};
use crate::locker::{Limit, SyncRequest};
use crate::time::Time;

/// Keys and arguments of a script call.
fn arguments(
    group: &str,
    client_id: &ClientId,
    command: Command,
    sync: &SyncRequest,
    began: Time,
    limits: &[Limit],
) -> (Vec<String>, Vec<String>) {
    let mut cmd = Cmd::new();
    script_call::write(&mut cmd, client_id, command, sync, limits, began);
    let args = cmd.args_iter().map(|arg| {
        let Arg::Simple(bytes) = arg else { unreachable!("all arguments are strings") };
        String::from_utf8(bytes.to_vec()).unwrap()
    });
    (script_call::keys(group, sync, limits), args.collect())
}

/// Deterministic pseudo-random numbers: the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64 (Steele, Lea, Flood, 2014).
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    /// One of the first `usual` values; in one of ten cases any value.
    fn pick<T: Copy>(&mut self, usual: usize, all: &[T]) -> T {
        let count = if self.one_in(10) { all.len() } else { usual };
        all[self.below(count as u64) as usize]
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

/// Seeds of a random test: those given, as many as `PROPTEST_CASES` says, or the one in
/// `LOCKGATE_SEED`, by which a failure is repeated.
fn seeds(usual: Range<u64>) -> Range<u64> {
    let number = |name| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    match (number("LOCKGATE_SEED"), number("PROPTEST_CASES")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(cases)) => usual.start..usual.start + cases,
        (None, None) => usual,
    }
}

//! The script beside a model of it, and gateways with that model in a world that loses, delays and kills.

mod differential;
mod model;
mod model_terms;
mod model_window;
mod scenarios;
mod scenarios_more;
mod scenarios_terms;
mod server;
mod world;
mod world_gateway;

use redis::{Arg, Cmd};

use super::script_call::{self, ClientId, Command};
use crate::locker::{Limit, SyncRequest};
use crate::time::Time;

/// What the script is called with.
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
    let words = cmd.args_iter().map(|arg| {
        let Arg::Simple(bytes) = arg else { unreachable!("all of it is words") };
        String::from_utf8(bytes.to_vec()).unwrap()
    });
    (script_call::keys(group, sync, limits), words.collect())
}

/// Numbers that look random, and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        // Steele et al., SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    /// One of the first `usual`, but now and then any.
    fn pick<T: Copy>(&mut self, usual: usize, all: &[T]) -> T {
        let count = if self.one_in(10) { all.len() } else { usual };
        all[self.below(count as u64) as usize]
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

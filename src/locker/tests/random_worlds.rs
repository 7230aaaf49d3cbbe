//! Random worlds of all kinds, each with its invariants: what differs is the rules, the sizes of the
//! limits, and whether rules change or the locker is held.

use proptest::prelude::*;

use super::generators::{Sizes, WorldConfig, cases};
use super::locker_world::LockerWorld;

/// Steps of one to three units, so that work is left after nearly all that happens.
pub(super) fn in_short_steps(seed: u64, world_config: WorldConfig) -> WorldConfig {
    WorldConfig { units: 1 + (seed % 3) as u32, ..world_config }
}

/// One limit, of sliding and smooth windows, first come, first served.
pub(super) const ONE_LIMIT: WorldConfig =
    WorldConfig { limits: 1, fixed: 0, calendar: 0, turns: false, ..WorldConfig::PLAIN };
pub(super) const IN_ORDER: WorldConfig = WorldConfig { fixed: 2, turns: false, ..WorldConfig::PLAIN };
pub(super) const HELD: WorldConfig = WorldConfig { limits: 2, turns: false, holds: true, ..WorldConfig::PLAIN };
pub(super) const CHANGING: WorldConfig = WorldConfig { limits: 2, changes: true, turns: false, ..WorldConfig::PLAIN };
const CHANGING_TURNS: WorldConfig = WorldConfig { turns: true, ..CHANGING };
const CHANGING_HELD: WorldConfig = WorldConfig { turns: true, holds: true, ..CHANGING };
pub(super) const LARGE: WorldConfig =
    WorldConfig { limits: 2, sizes: Sizes::Large, turns: false, ..WorldConfig::PLAIN };
pub(super) const FEW_KEYS: WorldConfig =
    WorldConfig { limits: 2, sizes: Sizes::FewKeys, turns: false, ..WorldConfig::PLAIN };
pub(super) const FRACTION: WorldConfig =
    WorldConfig { limits: 2, sizes: Sizes::Fraction, turns: false, ..WorldConfig::PLAIN };

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn in_a_random_world_of_sliding_and_smooth_windows_every_invariant_holds(seed: u64) {
        LockerWorld::new(seed, ONE_LIMIT).run();
    }

    #[test]
    fn in_a_random_world_of_several_limits_every_invariant_holds(seed: u64) {
        LockerWorld::new(seed, IN_ORDER).run();
    }

    #[test]
    fn in_a_random_world_of_turns_and_urgencies_every_invariant_holds(seed: u64) {
        LockerWorld::new(seed, WorldConfig::PLAIN).run();
    }

    #[test]
    fn in_a_random_world_where_nobody_goes_now_and_then_every_invariant_holds(seed: u64) {
        LockerWorld::new(seed, HELD).run();
        LockerWorld::new(seed, CHANGING_HELD).run();
    }

    #[test]
    fn in_a_random_world_of_changing_rules_every_invariant_holds(seed: u64) {
        LockerWorld::new(seed, CHANGING).run();
        LockerWorld::new(seed, CHANGING_TURNS).run();
    }

    #[test]
    fn in_a_random_world_of_short_steps_every_invariant_holds(seed: u64) {
        for world_config in [IN_ORDER, WorldConfig::PLAIN, HELD, CHANGING, CHANGING_TURNS, CHANGING_HELD, FEW_KEYS] {
            LockerWorld::new(seed, in_short_steps(seed, world_config)).run();
        }
    }

    #[test]
    fn in_a_random_world_of_limits_too_large_for_exact_times_every_invariant_holds(seed: u64) {
        LockerWorld::new(seed, LARGE).run();
    }

    #[test]
    fn in_a_random_world_of_few_keys_and_dry_runs_every_invariant_holds(seed: u64) {
        LockerWorld::new(seed, FEW_KEYS).run();
    }

    #[test]
    fn in_a_random_world_of_a_gateways_part_of_each_limit_every_invariant_holds(seed: u64) {
        LockerWorld::new(seed, FRACTION).run();
    }
}

#[test]
fn random_worlds_let_many_go() {
    let worlds = [ONE_LIMIT, IN_ORDER, WorldConfig::PLAIN, HELD, CHANGING, LARGE, FEW_KEYS, FRACTION];
    for (number, world_config) in (0..).zip(worlds) {
        let granted: u64 = (0..10).map(|seed| LockerWorld::new(seed, world_config).run()).sum();
        assert!(granted > 200, "world {number}: {granted} went; worlds in which nothing happens prove nothing");
    }
}

//! Random generators of numbers, rules and world configurations.

use proptest::prelude::ProptestConfig;

use super::*;

/// Seeded pseudo-random number generator (SplitMix64).
pub(in crate::locker) struct SeededRng(u64);

impl SeededRng {
    pub(in crate::locker) fn new(seed: u64) -> SeededRng {
        SeededRng(seed ^ 0x9E37_79B9_7F4A_7C15)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// A number from `from` (inclusive) to `to` (exclusive).
    pub(in crate::locker) fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }

    /// True with a probability of 1 / `of`.
    pub(in crate::locker) fn one_in(&mut self, of: u64) -> bool {
        self.range(0, of) == 0
    }
}

/// Configuration of a random world.
#[derive(Clone, Copy)]
pub(super) struct WorldConfig {
    /// Maximum number of limits.
    pub(super) limits: u64,
    /// Weight of `fixed` windows among the kinds.
    pub(super) fixed: u64,
    /// Weight of `calendar` windows among the kinds.
    pub(super) calendar: u64,
    /// True if rules change, including their kinds.
    pub(super) changes: bool,
    /// True if callers take turns and state urgencies.
    pub(super) turns: bool,
    /// True if the locker is held at times.
    pub(super) holds: bool,
    /// Odd sizes of limits, see [`Sizes`].
    pub(super) sizes: Sizes,
    /// Number of random steps.
    pub(super) steps: u64,
    /// Units of each step of the locker.
    pub(super) units: u32,
}

/// Sizes of a world's limits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sizes {
    /// A few slots, and room for every key.
    Small,
    /// At times so many slots that settle times are rounded; requests of high cost.
    Large,
    /// Fewer keys than are asked for, and at times a dry run.
    FewKeys,
    /// A third of N, as of a gateway that has lost its store.
    Fraction,
}

impl WorldConfig {
    /// A world of three limits of all kinds whose callers take turns.
    pub(super) const PLAIN: WorldConfig = WorldConfig {
        limits: 3,
        fixed: 1,
        calendar: 1,
        changes: false,
        turns: true,
        holds: false,
        sizes: Sizes::Small,
        steps: 400,
        units: step_budget::UNITS,
    };
}

/// A random rule.
pub(super) fn rule(rng: &mut SeededRng, world_config: WorldConfig) -> Limit {
    let kind = match rng.range(0, 3 + world_config.fixed + world_config.calendar) {
        0 | 1 => Kind::Sliding,
        2 => Kind::Smooth { burst: rng.range(1, 4) as u32 },
        drawn if drawn < 3 + world_config.fixed => Kind::Fixed,
        _ => Kind::Calendar { unit: Unit::Minute, zone: jiff::tz::TimeZone::UTC },
    };
    let mut rule = limit(rng.range(1, 7) as u32, rng.range(5, 120), kind);
    if let Some(Rate { kind: Kind::Calendar { .. }, per, .. }) = &mut rule.rate {
        *per = Duration::from_secs(60);
    }
    if let Some(rate) = &mut rule.rate {
        rate.guard = Duration::from_millis(if rng.one_in(3) { rng.range(0, 20) } else { 0 });
        if matches!(rate.kind, Kind::Calendar { .. }) && world_config.changes {
            // A guard that grows covers only boundaries to come, which the oracle does not know.
            rate.guard = Duration::ZERO;
        }
        rate.counts = if rng.one_in(3) { Counts::Answered } else { Counts::Sent };
    }
    if rng.one_in(4) {
        rule.in_flight = Some(rng.range(1, 4) as u32);
        if rng.one_in(3) && !world_config.changes {
            rule.rate = None;
        }
    }
    if rng.one_in(5) {
        rule.when_full = WhenFull::Refuse;
    }
    if !world_config.turns {
        rule.share_by = ShareBy::Nobody;
    } else if rng.one_in(2) {
        rule.priority = if rng.one_in(2) { Priority::Strict } else { Priority::None };
    }
    match world_config.sizes {
        Sizes::Small => {}
        Sizes::Large => {
            if let Some(rate) = &mut rule.rate {
                rate.requests = rng.range(900, 4000) as u32;
            }
        }
        Sizes::FewKeys => {
            rule.dry_run = rng.one_in(3);
            rule.max_keys = if rule.dry_run { 1000 } else { rng.range(1, 4) as usize };
        }
        Sizes::Fraction => {
            rule.shared = true;
            // A part of a spacing is no spacing of a part: it would have to be rounded otherwise.
            if let Some(Rate { kind: kind @ Kind::Smooth { .. }, .. }) = &mut rule.rate {
                *kind = Kind::Sliding;
            }
        }
    }
    rule.max_wait = Duration::from_millis(rng.range(0, 3000));
    rule.max_waiting = rng.range(1, 30) as usize;
    rule
}

/// A quarter of the default number of cases; `PROPTEST_CASES` sets the default.
pub(super) fn cases() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases / 4, failure_persistence: None, max_shrink_iters: 0, ..default }
}

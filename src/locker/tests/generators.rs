//! What is drawn: numbers, rules, worlds' natures.

use proptest::prelude::ProptestConfig;

use super::*;

/// Numbers from a seed.
pub(super) struct SeededRng(u64);

impl SeededRng {
    pub(super) fn new(seed: u64) -> SeededRng {
        SeededRng(seed ^ 0x9E37_79B9_7F4A_7C15)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// A number from `from` up to but not including `to`.
    pub(super) fn roll(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }

    /// Whether one chance in `of` came up.
    pub(super) fn one_in(&mut self, of: u64) -> bool {
        self.roll(0, of) == 0
    }
}

/// What may differ from world to world.
#[derive(Clone, Copy)]
pub(super) struct WorldConfig {
    pub(super) limits: u64,
    pub(super) fixed: u64,
    pub(super) calendar: u64,
    /// Rules change, kinds too.
    pub(super) changes: bool,
    /// Callers take turns and have urgencies.
    pub(super) turns: bool,
    /// Now and then nobody goes for a while.
    pub(super) holds: bool,
    pub(super) steps: u64,
}

/// A rule drawn at random.
pub(super) fn rule(dice: &mut SeededRng, nature: WorldConfig) -> Limit {
    let kind = match dice.roll(0, 3 + nature.fixed + nature.calendar) {
        0 | 1 => Kind::Sliding,
        2 => Kind::Smooth { burst: dice.roll(1, 4) as u32 },
        drawn if drawn < 3 + nature.fixed => Kind::Fixed,
        _ => Kind::Calendar { unit: Unit::Minute, zone: jiff::tz::TimeZone::UTC },
    };
    let mut rule = limit(dice.roll(1, 7) as u32, dice.roll(5, 120), kind);
    if let Some(Rate { kind: Kind::Calendar { .. }, per, .. }) = &mut rule.rate {
        *per = Duration::from_secs(60);
    }
    if let Some(rate) = &mut rule.rate {
        rate.guard = Duration::from_millis(if dice.one_in(3) { dice.roll(0, 20) } else { 0 });
        if matches!(rate.kind, Kind::Calendar { .. }) && nature.changes {
            // One that grows covers the boundaries that are to come.
            rate.guard = Duration::ZERO;
        }
        rate.counts = if dice.one_in(3) { Counts::Answered } else { Counts::Sent };
    }
    if dice.one_in(4) {
        rule.in_flight = Some(dice.roll(1, 4) as u32);
        if dice.one_in(3) && !nature.changes {
            rule.rate = None;
        }
    }
    if dice.one_in(5) {
        rule.when_full = WhenFull::Refuse;
    }
    if !nature.turns {
        rule.share_by = ShareBy::Nobody;
    } else if dice.one_in(2) {
        rule.priority = if dice.one_in(2) { Priority::Strict } else { Priority::None };
    }
    rule.max_wait = Duration::from_millis(dice.roll(0, 3000));
    rule.max_waiting = dice.roll(1, 30) as usize;
    rule
}

/// A quarter of the usual cases; `PROPTEST_CASES` sets how many those are.
pub(super) fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases / 4, failure_persistence: None, max_shrink_iters: 0, ..default }
}

//! Tests of the window table: reuse of places, freeing of chunks, look-up by key.

use std::time::Duration;

use super::*;
use crate::locker::Kind;
use crate::locker::tests::limit;
use crate::locker::window::window_rule::MAX_UNPERSISTED_SPAN;
use crate::locker::window_lists::ListCursor;

#[test]
fn a_place_that_is_vacated_holds_no_memory_besides_its_own() {
    let mut rule = WindowRule::new(&limit(300, 2 * MAX_UNPERSISTED_SPAN / 1_000_000, Kind::Sliding));
    (rule.persisted, rule.initial_prewritten, rule.live) = (true, rule.block, 2);
    assert!(rule.initial_prewritten > 0, "a key begins with slots that are written down for it");
    let mut rules = vec![rule];
    let (now, limit) = (Time::START + Duration::from_secs(1), LimitId(0));
    let mut table = WindowTable::new(4);
    let busy = table.insert(Window::new(limit, Key(1), &rules[0], now));
    table.window_mut(busy).unsettled = 1;
    let idle = table.insert(Window::new(limit, Key(2), &rules[0], now));
    table.sweep(16, &mut rules, now);
    assert_eq!(table.live(), 1);
    assert!(table.chunks[0].windows[idle as usize].is_bare());
}

#[test]
fn keys_that_were_chosen_to_meet_in_one_index_are_apart_in_another() {
    let (one, other) = (WindowTable::new(4), WindowTable::new(4));
    let meets = |table: &WindowTable, key: &Key| {
        let (shard, hash) = table.seed.shard_and_hash(LimitId(0), *key);
        shard == 0 && hash & 15 == 0
    };
    let chosen: Vec<Key> = (0u128..).map(|n| Key(n << 64 | n)).filter(|key| meets(&one, key)).take(500).collect();
    let current = chosen.iter().filter(|key| meets(&other, key)).count();
    assert!(current < 20, "{current} of 500, of which each meets by one chance in 4096");
}

/// A pseudo-random generator: returns a number below its argument.
fn random_numbers(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |most| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % most
    }
}

#[test]
fn the_windows_of_a_limit_are_found_while_windows_come_and_go() {
    let (mut roll, mut table) = (random_numbers(7), WindowTable::new(3));
    let mut rules: Vec<WindowRule> = (0..5).map(|_| WindowRule::new(&limit(3, 100, Kind::Sliding))).collect();
    let mut known: Vec<(LimitId, u32)> = Vec::new();
    for round in 0..4000 {
        // Many windows at one time, few at another, and at times none.
        if !known.is_empty() && roll(100) < if round % 1000 < 500 { 40 } else { 60 } {
            let (_, index) = known.swap_remove(roll(known.len() as u64) as usize);
            table.remove(index, &mut rules);
        } else {
            let limit = LimitId(roll(5) as u32);
            rules[limit.at()].live += 1;
            let window = Window::new(limit, Key(round), &rules[limit.at()], Time::START);
            known.push((limit, table.insert(window)));
        }
        for limit in (0..5).map(LimitId) {
            let mut wanted: Vec<u32> = known.iter().filter(|(of, _)| *of == limit).map(|(_, index)| *index).collect();
            let mut found = table.of_limit(limit);
            wanted.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, wanted, "round {round}");
        }
    }
}

#[test]
fn a_walk_meets_every_window_that_was_there_when_it_began_and_is_there_still() {
    for seed in 0..300 {
        let (mut roll, mut table, limit) = (random_numbers(seed), WindowTable::new(3), LimitId(0));
        let mut rules = vec![WindowRule::new(&super::super::tests::limit(3, 100, Kind::Sliding))];
        let insert = |table: &mut WindowTable, rules: &mut [WindowRule], key: u128| {
            rules[0].live += 1;
            table.insert(Window::new(limit, Key(key), &rules[0], Time::START))
        };
        let mut there: Vec<u32> = (0..roll(40)).map(|key| insert(&mut table, &mut rules, key.into())).collect();
        let (mut met, mut steps) = (Vec::new(), 0);
        table.lists.begin(ListCursor::Journal, limit);
        while let Some(index) = table.lists.step(ListCursor::Journal) {
            met.push(table.window(index).key);
            if roll(2) == 0 && !there.is_empty() {
                let gone = there.swap_remove(roll(there.len() as u64) as usize);
                table.remove(gone, &mut rules);
            }
            // Places are reused by newer windows, which the walk may skip.
            insert(&mut table, &mut rules, u128::from(1000 + roll(1_000_000_000)));
            steps += 1;
            assert!(steps <= 40, "it ends");
        }
        let missed = there.iter().find(|index| !met.contains(&table.window(**index).key));
        assert!(missed.is_none(), "seed {seed}: {missed:?}");
    }
}

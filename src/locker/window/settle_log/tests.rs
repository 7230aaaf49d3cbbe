//! Tests of the log against a list that is kept in the simplest way.

use super::*;
use crate::locker::api::{Key, LimitId};
use crate::locker::limit::Kind;
use crate::locker::tests::{SeededRng, limit, ms};
use crate::locker::window::WindowRule;

/// The entries that the log must have: times and counts, oldest first.
#[derive(Default, Debug)]
struct Model(Vec<(Time, u32)>);

impl Model {
    fn push(&mut self, at: Time, count: u32) {
        match self.0.last_mut() {
            Some(last) if last.0 >= at => last.1 += count,
            Some(_) | None => self.0.push((at, count)),
        }
    }

    fn join(&mut self, since: Time, at: Time, count: u32) {
        match self.0.last_mut() {
            Some(last) if last.0 >= since => *last = (last.0.max(at), last.1 + count),
            Some(_) | None => self.push(at, count),
        }
    }

    fn insert(&mut self, at: Time, count: u32) {
        match self.0.binary_search_by_key(&at, |entry| entry.0) {
            Ok(known) => self.0[known].1 += count,
            Err(place) => self.0.insert(place, (at, count)),
        }
    }
}

/// Changes a log at random, as long as it stays in order, and compares it after every change.
fn changed(seed: u64) -> usize {
    let mut rng = SeededRng::new(seed);
    let mut window = Window::bare(LimitId(0), Key::WHOLE);
    let mut model = Model::default();
    let mut longest = 0;
    let mut now = 100;
    for step in 0..200 {
        now += rng.range(0, 3);
        let (at, count) = (ms(now), rng.range(1, 4) as u32);
        match rng.range(0, 6) {
            0 | 1 => (window.log_push(at, count), model.push(at, count)).0,
            2 => {
                let since = ms(now - rng.range(0, 4));
                (window.log_join(since, at, count), model.join(since, at, count)).0
            }
            3 => {
                let earlier = ms(now - rng.range(0, 20));
                (window.log_insert(earlier, count), model.insert(earlier, count)).0
            }
            4 if !model.0.is_empty() => (window.log_pop(), _ = model.0.remove(0)).0,
            _ => {
                window.log_push(at, 0);
                window.log_join(at, at, 0);
            }
        }
        let entries: Vec<(Time, u32)> = window.log_entries().map(|entry| (entry.at, entry.count)).collect();
        assert_eq!(entries, model.0, "seed {seed}, step {step}");
        assert_eq!(window.in_log, model.0.iter().map(|(_, count)| count).sum::<u32>(), "seed {seed}, step {step}");
        assert!(model.0.first().is_none_or(|first| first.0 == window.first_at()), "seed {seed}, step {step}");
        longest = longest.max(entries.len());
    }
    longest
}

#[test]
fn the_log_holds_what_was_put_in_whatever_the_order() {
    let longest = (0..300).map(changed).max().unwrap_or(0);
    assert!(longest > 3 * INLINE, "{longest} entries, most of them outside of the window");
}

#[test]
fn the_oldest_are_removed_all_the_way() {
    let mut window = Window::bare(LimitId(0), Key::WHOLE);
    (0..20).for_each(|at| window.log_push(ms(at), 1));
    for left in (0..20).rev() {
        window.log_pop();
        assert_eq!((window.in_log, window.log_entries().count()), (left, left as usize));
    }
    (0..20).for_each(|at| window.log_push(ms(at), 1));
    window.log_clear();
    assert_eq!((window.in_log, window.log_entries().count()), (0, 0));
}

#[test]
fn a_short_log_counts_all_slots_and_none_earlier_than_it_settled() {
    let rule = WindowRule::new(&limit(100, 1000, Kind::Sliding));
    let mut window = Window::bare(LimitId(0), Key::WHOLE);
    (0..10).for_each(|at| window.log_push(ms(at * 100 + 50), 1));
    assert_eq!(window.short_log(&rule, 10).len(), 10, "all of them fit");
    assert_eq!(window.short_log(&rule, 2), [(ms(450), 5), (ms(950), 5)]);
}

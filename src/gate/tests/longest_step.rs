//! Longest step: the largest since the last look.

use super::*;
use crate::gate::StepReader;

#[test]
fn the_longest_step_since_the_last_look_is_reported() {
    let world = World::new(vec![limit(1, ms(100))]);
    world.gate.take_longest_step(StepReader::Scrape);
    for millis in [3, 7, 2] {
        let began = world.gate.clock.now();
        world.gate.step(began, |_| world.hand.pass(ms(millis)));
    }
    assert_eq!(world.gate.take_longest_step(StepReader::Scrape), ms(7));
    assert_eq!(world.gate.take_longest_step(StepReader::Scrape), Duration::ZERO);
    assert!(world.gate.take_longest_step(StepReader::Export) >= ms(7), "one reader takes nothing from the other");
}

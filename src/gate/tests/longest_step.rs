//! Longest step: the largest since the last look.

use super::*;

#[test]
fn the_longest_step_since_the_last_look_is_reported() {
    let world = World::new(vec![limit(1, ms(100))]);
    world.gate.take_longest_step();
    for millis in [3, 7, 2] {
        let began = world.gate.clock.now();
        world.gate.step(began, |_| world.hand.pass(ms(millis)));
    }
    assert_eq!(world.gate.take_longest_step(), ms(7));
    assert_eq!(world.gate.take_longest_step(), Duration::ZERO);
}

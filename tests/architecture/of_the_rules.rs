//! The house rules find what breaks them, and leave alone what only looks like it.

use super::*;

fn broken(rule: fn(&File) -> Vec<String>, path: &str, text: &str) -> usize {
    rule(&File { path: path.to_owned(), text: text.to_owned() }).len()
}

#[test]
fn a_neighbour_or_a_higher_floor_is_found_however_it_is_written() {
    for text in [
        "use crate::net::dial;",
        "use crate::{time::Time, net::{a, b}};",
        "fn f() { crate::proxy::x() }",
        "use super::super::gate::Gate;",
    ] {
        assert_eq!(broken(breaks_floors, "src/locker/queue.rs", text), 1, "{text}");
    }
    assert_eq!(broken(breaks_floors, "src/locker/mod.rs", "use super::net::dial;"), 1);
    assert_eq!(broken(breaks_floors, "src/cellar/mod.rs", ""), 1, "a room without a floor");
    for text in ["use crate::time::Time;", "use crate::locker::window;", "// crate::proxy", "use super::window;"] {
        assert_eq!(broken(breaks_floors, "src/locker/queue.rs", text), 0, "{text}");
    }
    let tests = "#[cfg(test)]\nmod tests { use crate::proxy::x; }";
    assert_eq!(broken(breaks_floors, "src/locker/queue.rs", tests), 0, "unit tests may look up");
}

#[test]
fn impurity_is_found_and_likeness_is_not() {
    for text in ["std::time::Instant", "use std::{io, fmt};", "async fn f() {}", "use std::sync::{Arc, Mutex};"] {
        assert_ne!(broken(impurities, "src/locker/mod.rs", text), 0, "{text}");
    }
    for text in ["use std::sync::Arc;", "struct Instantly;", "use std::time::Duration;", "// tokio"] {
        assert_eq!(broken(impurities, "src/locker/mod.rs", text), 0, "{text}");
    }
    assert_eq!(broken(impurities, "src/gate/mod.rs", "async fn f() {}"), 0);
}

#[test]
fn doors_shapes_and_leftovers_are_found() {
    assert_eq!(broken(doors_out, "src/proxy/origin.rs", "TcpStream::connect(a)"), 1);
    assert_eq!(broken(doors_out, "src/net/dial.rs", "TcpStream::connect(a)"), 0);
    assert_eq!(broken(doors_out, "src/net/dial.rs", "Instant::now()"), 1);
    assert_eq!(broken(shapes, "src/a.rs", "use x;"), 1);
    assert_eq!(broken(shapes, "src/a.rs", &"//! a\n".repeat(401)), 1);
    assert_eq!(broken(shapes, "src/a.lua", &"-- a\n".repeat(401)), 1);
    assert_eq!(broken(shapes, "src/a.lua", "local a"), 1);
    assert_eq!(broken(shapes, "src/a.rs", &"//! a\n".repeat(400)), 0);
    assert_eq!(broken(left_for_later, "src/a.rs", concat!("// TO", "DO: more")), 1);
}

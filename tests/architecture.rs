//! The house rules that types cannot keep: floors, purity, who may open a connection or read a clock, sizes.

use std::path::{Path, PathBuf};

mod of_the_rules;

/// A room and the floor it stands on; a room may use only itself and rooms on lower floors.
const FLOORS: [(&str, u8); 15] = [
    ("time", 0),
    ("locker", 1),
    ("net", 1),
    ("gate", 2),
    ("tls", 2),
    ("wire", 2),
    ("proxy", 3),
    ("config", 4),
    ("lobby", 4),
    ("admin", 5),
    ("locks", 5),
    ("log", 5),
    ("app", 6),
    ("cli", 7),
    ("main", 8),
];

/// What the two rooms that decide may never name: they are given the time and do nothing by themselves.
const IMPURE: [&str; 20] = [
    "tokio",
    "hyper",
    "httparse",
    "socket2",
    "rustix",
    "rustls",
    "toml",
    "serde",
    "tracing",
    "rand",
    "getrandom",
    "async",
    "Instant",
    "SystemTime",
    "std::net",
    "std::fs",
    "std::io",
    "std::env",
    "std::thread",
    "std::process",
];

const LONGEST_FILE: usize = 400;

/// One file of ours, by its path from the top.
struct File {
    path: String,
    text: String,
}

impl File {
    /// The room that a file of `src` belongs to.
    fn room(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        Some(inside.split_once('/').map_or_else(|| inside.trim_end_matches(".rs"), |(room, _)| room))
    }

    /// Its code: without comments, and without unit tests, which stand last.
    fn code(&self) -> String {
        if self.path.ends_with("/tests.rs") || self.path.contains("/tests/") {
            return String::new();
        }
        let text = self.text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        lines.collect::<Vec<_>>().join("\n")
    }
}

fn files(of: &[&str]) -> Vec<File> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut open: Vec<PathBuf> = of.iter().map(|dir| top.join(dir)).collect();
    let mut found = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.expect("a directory entry can be read").path();
            if path.is_dir() {
                if path.file_name().is_none_or(|name| name != "node_modules") {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs" || e == "lua") {
                let text = std::fs::read_to_string(&path).expect("a source file is text");
                let inside = path.strip_prefix(top).expect("it is below the top");
                found.push(File { path: inside.to_string_lossy().into_owned(), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Whether `word` stands in `code` as a word of its own.
fn names(code: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word)
        .any(|(at, _)| !part(code[..at].chars().next_back()) && !part(code[at + word.len()..].chars().next()))
}

/// The first names after `head` (`crate::`): of `crate::a::b` it is `a`, of `crate::{a, b::c}` both.
fn first_names(code: &str, head: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(head) {
        if code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
            continue;
        }
        let rest = &code[at + head.len()..];
        match rest.strip_prefix('{') {
            None => found.push(word(rest)),
            Some(group) => found.extend(group_heads(group)),
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first word of each part of `a::{x, y}, b}`, up to the brace that closes the group.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = vec![String::new()];
    let mut depth = 0;
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(String::new()),
            _ => {}
        }
        if depth == 0 && c != ',' {
            heads.last_mut().expect("it is never empty").push(c);
        }
    }
    heads.iter().map(|head| word(head.trim())).filter(|head| !head.is_empty()).collect()
}

fn floor(room: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

fn breaks_floors(file: &File) -> Vec<String> {
    let Some(room) = file.room() else {
        return Vec::new();
    };
    if room == "lib" {
        return Vec::new();
    }
    let Some(own) = floor(room) else {
        return vec![format!("{}: no floor is known for the room {room}", file.path)];
    };
    let code = file.code();
    let mut used = first_names(&code, "crate::");
    // From a room's own door, `super` is the whole house.
    let is_door = file.path.ends_with("/mod.rs") || file.path.matches('/').count() == 1;
    used.extend(first_names(&code, "super::super::"));
    if is_door {
        used.extend(first_names(&code, "super::"));
    }
    used.iter()
        .filter(|other| *other != room && floor(other).is_some_and(|floor| floor >= own))
        .map(|other| format!("{}: {room} (floor {own}) may not use {other}: only lower floors", file.path))
        .collect()
}

fn impurities(file: &File) -> Vec<String> {
    if !matches!(file.room(), Some("time" | "locker")) {
        return Vec::new();
    }
    let code = file.code();
    let mut found: Vec<&str> = IMPURE.into_iter().filter(|word| names(&code, word)).collect();
    if first_names(&code, "std::sync::").iter().any(|name| name != "Arc") {
        found.push("std::sync (but Arc)");
    }
    let groups = first_names(&code, "std::");
    found.extend(["net", "fs", "io", "env", "thread", "process"].iter().filter(|m| groups.iter().any(|g| g == *m)));
    found.into_iter().map(|word| format!("{}: names {word}, but this room only decides", file.path)).collect()
}

fn doors_out(file: &File) -> Vec<String> {
    const CONNECTS: [&str; 6] =
        ["TcpStream::connect", "TcpSocket", "UnixStream::connect", "UdpSocket", "::connect_timeout", "lookup_host"];
    const CLOCKS: [&str; 6] =
        ["Instant::now", "SystemTime::now", "Timestamp::now", "Zoned::now", "clock_gettime", ".elapsed()"];
    let code = file.code();
    let mut found = Vec::new();
    if file.path.starts_with("src/") && file.path != "src/net/dial.rs" {
        let doors = CONNECTS.iter().filter(|door| code.contains(*door));
        found.extend(doors.map(|d| format!("{}: {d}: only src/net/dial.rs opens connections", file.path)));
    }
    if file.path.starts_with("src/") && file.path != "src/gate/clock.rs" {
        let clocks = CLOCKS.iter().filter(|clock| code.contains(*clock));
        found.extend(clocks.map(|c| format!("{}: {c}: only src/gate/clock.rs reads a clock", file.path)));
    }
    found
}

fn shapes(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    let mark = if file.path.ends_with(".lua") { "-- " } else { "//! " };
    if !file.text.starts_with(mark) {
        found.push(format!("{}: begins with `{mark}`, which says what the file is for", file.path));
    }
    let lines = file.text.lines().count();
    if lines > LONGEST_FILE {
        found.push(format!("{}: {lines} lines; a file has at most {LONGEST_FILE}", file.path));
    }
    found
}

fn left_for_later(file: &File) -> Vec<String> {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("to", "do!("), concat!("unimple", "mented!(")];
    let left = marks.into_iter().filter(|mark| file.text.contains(mark));
    left.map(|mark| format!("{}: {mark}: nothing is left for later", file.path)).collect()
}

#[track_caller]
fn hold(rule: fn(&File) -> Vec<String>, files: &[File]) {
    let broken: Vec<String> = files.iter().flat_map(rule).collect();
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn a_room_uses_only_rooms_on_lower_floors() {
    hold(breaks_floors, &files(&["src"]));
}

#[test]
fn the_rooms_that_decide_know_no_clock_no_io_and_no_runtime() {
    hold(impurities, &files(&["src"]));
}

#[test]
fn connections_are_opened_and_clocks_are_read_in_one_file_each() {
    hold(doors_out, &files(&["src"]));
}

#[test]
fn every_file_says_what_it_is_for_and_stays_short() {
    hold(shapes, &files(&["src", "tests", "benches"]));
}

#[test]
fn nothing_is_left_for_later() {
    hold(left_for_later, &files(&["src", "tests", "benches"]));
}

#[test]
fn every_file_of_tests_is_run() {
    let all = include_str!("all.rs");
    for file in files(&["tests"]).iter().filter(|f| f.path.matches('/').count() == 1 && f.path != "tests/all.rs") {
        let name = file.path.trim_start_matches("tests/").trim_end_matches(".rs");
        assert!(all.contains(&format!("\nmod {name};")), "{}: tests/all.rs has no line for it", file.path);
    }
}

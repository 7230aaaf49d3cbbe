//! Purity: the modules that decide do nothing by themselves, and one file each opens connections and reads clocks.

use super::File;

/// Words that `time` and `locker` never name: both are given the time and do no I/O.
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

const CONNECTS: [&str; 6] =
    ["TcpStream::connect", "TcpSocket", "UnixStream::connect", "UdpSocket", "::connect_timeout", "lookup_host"];

const CLOCKS: [&str; 6] =
    ["Instant::now", "SystemTime::now", "Timestamp::now", "Zoned::now", "clock_gettime", ".elapsed()"];

/// True if `word` is in `code` as a word of its own.
fn names(code: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word)
        .any(|(at, _)| !part(code[..at].chars().next_back()) && !part(code[at + word.len()..].chars().next()))
}

/// The first names after `head` (`std::`): `a` of `std::a::b`, both of `std::{a, b::c}`.
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

pub(super) fn impurities(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| matches!(file.module(), Some("time" | "locker"))) {
        let code = file.code();
        let mut found: Vec<&str> = IMPURE.into_iter().filter(|word| names(&code, word)).collect();
        if first_names(&code, "std::sync::").iter().any(|name| name != "Arc") {
            found.push("std::sync (but Arc)");
        }
        let groups = first_names(&code, "std::");
        found.extend(["net", "fs", "io", "env", "thread", "process"].iter().filter(|m| groups.iter().any(|g| g == *m)));
        let message =
            |word| format!("{}: purity: names {word}; a module that decides is given what it needs", file.path);
        faults.extend(found.into_iter().map(message));
    }
    faults
}

/// Files with UDP sockets that connect to nothing: they answer the queries of a program under `exec --all`.
const ANSWERING: [&str; 2] = ["src/cli/exec/all/inside.rs", "src/cli/exec/all/relay.rs"];

/// Connections opened outside of `net/dial.rs`, and clocks read outside of `gate/clock.rs`.
pub(super) fn side_doors(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for (words, only, does) in
        [(CONNECTS, "src/net/dial.rs", "opens connections"), (CLOCKS, "src/gate/clock.rs", "reads a clock")]
    {
        for file in files.iter().filter(|file| file.path.starts_with("src/") && file.path != only) {
            let code = file.code();
            let answers = ANSWERING.contains(&&*file.path);
            let found = words.iter().filter(|word| code.contains(*word) && !(answers && word.ends_with("UdpSocket")));
            faults.extend(found.map(|word| format!("{}: one door: {word}: only {only} {does}", file.path)));
        }
    }
    faults
}

#[test]
fn the_modules_that_decide_know_no_clock_no_io_and_no_runtime() {
    super::hold(impurities, &["src"]);
}

#[test]
fn connections_are_opened_and_clocks_are_read_in_one_file_each() {
    super::hold(side_doors, &["src"]);
}

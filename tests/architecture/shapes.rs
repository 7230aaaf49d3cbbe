//! Shapes of files: a first line that says what the file is for, a bound on their length, nothing left for later.

use super::{File, files};

const LONGEST_FILE: usize = 400;

pub(super) fn shapes(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for File { path, text } in files {
        let mark = if path.ends_with(".lua") { "-- " } else { "//! " };
        if !text.starts_with(mark) {
            faults
                .push(format!("{path}:1: first line: it does not begin with `{mark}`; say there what the file is for"));
        }
        let lines = text.lines().count();
        if lines > LONGEST_FILE {
            faults.push(format!(
                "{path}: long file: {lines} lines, at most {LONGEST_FILE}; move a part into a file of its own"
            ));
        }
    }
    faults
}

pub(super) fn left_for_later(files: &[File]) -> Vec<String> {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("to", "do!("), concat!("unimple", "mented!(")];
    let mut faults = Vec::new();
    for file in files {
        let left = marks.into_iter().filter(|mark| file.text.contains(mark));
        faults.extend(left.map(|mark| format!("{}: {mark}: nothing is left for later; do it now", file.path)));
    }
    faults
}

#[test]
fn every_file_says_what_it_is_for_and_stays_short() {
    super::hold(shapes, &["src", "tests", "benches"]);
}

#[test]
fn nothing_is_left_for_later() {
    super::hold(left_for_later, &["src", "tests", "benches"]);
}

#[test]
fn every_file_of_tests_is_run() {
    let all = include_str!("../all.rs");
    for file in files(&["tests"]).iter().filter(|f| f.path.matches('/').count() == 1 && f.path != "tests/all.rs") {
        let name = file.path.trim_start_matches("tests/").trim_end_matches(".rs");
        assert!(all.contains(&format!("\nmod {name};")), "{}: tests/all.rs has no line for it", file.path);
    }
}

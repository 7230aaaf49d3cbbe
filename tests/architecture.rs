//! Architecture checks: layers, import circles, names, sizes, signatures and prose, which the compiler does not check.
//!
//! Each check is a function over a list of files that returns one message per fault: `file:line: rule: fault; how to mend
//! it`. `planted` gives each check faults that it must report and look-alikes that it must pass.

use std::path::{Path, PathBuf};

mod bodies;
mod casts;
mod circles;
mod functions;
mod layers;
mod loops;
mod mutants;
mod names;
mod planted;
mod prose;
mod purity;
mod scans;
mod shapes;
mod syntax;

/// A source file: its path from the top of the repository, and its text.
struct File {
    path: String,
    text: String,
}

impl File {
    /// True for a file of unit tests: `tests.rs`, or below a folder `tests`.
    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// The module of the crate's root that a file of `src` belongs to: `proxy` of `src/proxy/route.rs`.
    fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        Some(inside.split_once('/').map_or_else(|| inside.trim_end_matches(".rs"), |(module, _)| module))
    }

    /// Its code: without comments, and without the unit tests at its end.
    fn code(&self) -> String {
        if self.is_test() {
            return String::new();
        }
        let text = self.text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Reads all Rust and Lua files below the folders `of`, sorted by path.
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

/// Fails with all messages of a check, if it has any for the files below the folders `of`.
#[track_caller]
fn hold(check: fn(&[File]) -> Vec<String>, of: &[&str]) {
    let faults = check(&files(of));
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

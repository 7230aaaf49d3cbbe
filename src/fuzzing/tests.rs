//! Replay of the corpora, and random changes of their inputs.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use super::{TARGETS, run};

mod llhttp;

/// Number of changed inputs that each target is fed with.
const CHANGED: usize = 300;
/// Most inputs in the corpus of a target, and most bytes of them together: every test run reads them.
const MAX_INPUTS: usize = 120;
const MAX_BYTES: usize = 200 * 1024;

fn corpus_folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// Inputs of a target's corpus, by file name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = corpus_folder(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap())
        })
        .collect();
    inputs.sort();
    inputs
}

/// Runs a target on an input; returns a description of both if the target panics.
fn failure(target: &str, name: &str, input: &[u8]) -> Option<String> {
    let outcome = catch_unwind(|| run(target, input));
    outcome.is_err().then(|| format!("{target}, {name}: {}", input.escape_ascii()))
}

#[test]
fn every_target_has_a_small_corpus_and_accepts_all_of_it() {
    let mut failures = Vec::new();
    for (target, _) in TARGETS {
        let inputs = corpus(target);
        let bytes: usize = inputs.iter().map(|(_, input)| input.len()).sum();
        assert!(!inputs.is_empty() && inputs.len() <= MAX_INPUTS && bytes <= MAX_BYTES, "{target}: {bytes} bytes");
        failures.extend(inputs.iter().filter_map(|(name, input)| failure(target, name, input)));
        failures.extend(failure(target, "nothing", b""));
    }
    assert!(failures.is_empty(), "{failures:#?}");
    let folders = std::fs::read_dir(corpus_folder("")).unwrap();
    for folder in folders.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()) {
        assert!(TARGETS.iter().any(|(target, _)| *target == folder), "fuzz/corpus/{folder} belongs to no target");
    }
}

/// Generator of the same numbers in every run (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((bits ^ (bits >> 31)) % most.max(1) as u64).unwrap()
    }

    /// One to four changes: a byte is replaced, inserted or removed, or a part of another input is inserted.
    fn changed(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        const ODD: &[u8] = b"\r\n\t\0 :;,0aFx\x80\xff\x7f\x1b/\"%.\\=";
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let odd = ODD[self.below(ODD.len())];
            match self.below(5) {
                0 if !bytes.is_empty() => bytes[at] = odd,
                1 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                2 if !bytes.is_empty() => drop(bytes.remove(at)),
                3 => bytes.insert(at, odd),
                _ => {
                    let start = self.below(other.len());
                    let end = (start + self.below(30)).min(other.len());
                    bytes.splice(at..at, other[start..end].iter().copied());
                }
            }
        }
        bytes
    }
}

#[test]
fn every_target_accepts_changed_inputs() {
    let mut failures = Vec::new();
    for (target, _) in TARGETS {
        let inputs = corpus(target);
        let mut numbers = Numbers(7);
        for count in 0..CHANGED {
            let input = &inputs[numbers.below(inputs.len())].1;
            let other = &inputs[numbers.below(inputs.len())].1;
            let changed = numbers.changed(input, other);
            failures.extend(failure(target, &format!("change {count}"), &changed));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

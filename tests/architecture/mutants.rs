//! Mutants: each fault that the core can be given is in one row of a table, with the test that sees it.

use std::collections::BTreeMap;

use super::File;

/// First string literal after each occurrence of `mark`.
fn literals(text: &str, mark: &str) -> Vec<String> {
    let after = text.split(mark).skip(1);
    after.filter_map(|rest| rest.split('"').nth(1).map(str::to_owned)).collect()
}

/// Faults without a row, rows without a fault, and faults with two rows.
pub(super) fn rows_of_mutants(files: &[File]) -> Vec<String> {
    let mut sites: BTreeMap<String, &str> = BTreeMap::new();
    let mut rows: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for file in files {
        if !file.is_test() && file.path != "src/mutant.rs" {
            sites.extend(literals(&file.text, "mutant!(").into_iter().map(|fault| (fault, &*file.path)));
        } else if file.path.ends_with("/mutants.rs") {
            for fault in literals(&file.text, "\n    (") {
                rows.entry(fault).or_default().push(&file.path);
            }
        }
    }
    let mut faults = Vec::new();
    for (fault, path) in &sites {
        if !rows.contains_key(fault) {
            faults.push(format!("{path}: mutants: \"{fault}\" is in no table; add a row with the test that kills it"));
        }
    }
    for (fault, paths) in &rows {
        if !sites.contains_key(fault) {
            faults.push(format!("{}: mutants: no code has the fault \"{fault}\"; remove the row", paths[0]));
        }
        if paths.len() > 1 {
            faults.push(format!("{}: mutants: \"{fault}\" has {} rows; keep one", paths[0], paths.len()));
        }
    }
    faults
}

#[test]
fn every_mutant_is_in_a_table() {
    super::hold(rows_of_mutants, &["src"]);
}

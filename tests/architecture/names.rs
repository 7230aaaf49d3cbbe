//! Names: one name for one type, and one file name for one meaning.

use std::collections::BTreeMap;

use super::File;
use super::syntax::sources;

/// Names that a type of each module may have: its one error enum, and its part of the settings.
const SHARED_TYPES: [&str; 2] = ["Error", "Settings"];

/// Files whose name says their part in a module, not their meaning.
const SHARED_FILES: [&str; 2] = ["mod.rs", "tests.rs"];

/// Structs, enums, unions, traits and type aliases that share a name, local ones too.
pub(super) fn types_with_one_name(files: &[File]) -> Vec<String> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, facts) in sources(files) {
        for (name, line) in &facts.types {
            places.entry(name.clone()).or_default().push(format!("{}:{line}", file.path));
        }
    }
    let shared = places.iter().filter(|(name, places)| places.len() > 1 && !SHARED_TYPES.contains(&name.as_str()));
    let message = |(name, places): (&String, &Vec<String>)| {
        format!(
            "{}: type names: {} types are named `{name}`, also at {}; give each the field's word for what it is",
            places[0],
            places.len(),
            places[1..].join(", ")
        )
    };
    shared.map(message).collect()
}

#[test]
fn no_two_types_share_a_name() {
    super::hold(types_with_one_name, &["src"]);
}

/// Files of `src` that share a name.
pub(super) fn files_with_one_name(files: &[File]) -> Vec<String> {
    let mut paths: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.path.starts_with("src/") && !file.is_test()) {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        paths.entry(name).or_default().push(&file.path);
    }
    let shared = paths.iter().filter(|(name, paths)| paths.len() > 1 && !SHARED_FILES.contains(name));
    let message = |(name, paths): (&&str, &Vec<&str>)| {
        format!(
            "{}:1: file names: {} files are named {name}, also {}; name each by what it holds",
            paths[0],
            paths.len(),
            paths[1..].join(", ")
        )
    };
    shared.map(message).collect()
}

#[test]
fn no_two_files_share_a_name() {
    super::hold(files_with_one_name, &["src"]);
}

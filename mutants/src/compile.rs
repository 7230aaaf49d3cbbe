//! Finds the mutants that do not compile, by the places that the compiler names.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::Path,
    process::Command,
};

use serde_json::Value;

use crate::sites::Switched;

/// Checks the crate and its unit tests in `tree`, and returns the numbers of the mutants that its errors are about.
///
/// An error inside of a mutant is about that one; an error around mutants is about all of the innermost place.
pub fn refused(tree: &Path, files: &BTreeMap<String, Switched>) -> Result<BTreeSet<usize>, String> {
    let output = Command::new("cargo")
        .args(["check", "--quiet", "--locked", "--lib", "--profile", "test", "--message-format", "json"])
        .env("RUSTFLAGS", "--cap-lints=allow")
        .current_dir(tree)
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    let mut refused = BTreeSet::new();
    let mut strange = Vec::new();
    for line in output.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let message: Value = serde_json::from_slice(line).map_err(|error| format!("message of Cargo: {error}"))?;
        let message = &message["message"];
        if message["level"] != "error" {
            continue;
        }
        let found = about(message, files);
        if found.is_empty() && message["spans"].as_array().is_some_and(|spans| !spans.is_empty()) {
            strange.push(message["rendered"].as_str().unwrap_or_default().to_owned());
        }
        refused.extend(found);
    }
    if refused.is_empty() && !output.status.success() {
        return Err(format!(
            "an error is about no mutant: {} {}",
            strange.join("\n"),
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(refused)
}

/// Mutants that an error is about: those at its primary places, else at the others, else the one added last before it.
fn about(message: &Value, files: &BTreeMap<String, Switched>) -> BTreeSet<usize> {
    let spans = |owner: &Value, primary: Option<bool>| -> Vec<Value> {
        let all = owner["spans"].as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|span| primary.is_none_or(|primary| span["is_primary"] == primary)).collect()
    };
    let advice: Vec<Value> =
        message["children"].as_array().into_iter().flatten().flat_map(|child| spans(child, None)).collect();
    let places = [spans(message, Some(true)), spans(message, Some(false)), advice];
    let inside = places.iter().map(|spans| found(spans, files, at)).find(|found| !found.is_empty());
    // A match that lacks an arm is advised where to add one: behind the arm whose mutant it lacks. Any other error that is
    // in no mutant is about what a function returns, whose mutants stand at its beginning.
    let around = if message["code"]["code"] == "E0004" { &places[2] } else { &places[0] };
    inside.unwrap_or_else(|| found(around, files, before))
}

/// Mutants that a search finds for the places of an error.
fn found(
    spans: &[Value],
    files: &BTreeMap<String, Switched>,
    search: fn(Range<usize>, &Switched) -> BTreeSet<usize>,
) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    for span in spans {
        let (Some(start), Some(end)) = (span["byte_start"].as_u64(), span["byte_end"].as_u64()) else { continue };
        let Some(file) = span["file_name"].as_str().and_then(|name| files.get(name)) else { continue };
        found.extend(search(start as usize..end as usize, file));
    }
    found
}

/// The mutants of the place that was added to last before this one.
fn before(place: Range<usize>, file: &Switched) -> BTreeSet<usize> {
    let mut added: Vec<_> = file.placed.iter().filter(|placed| placed.mutant == placed.site).collect();
    added.retain(|placed| placed.site.end <= place.start);
    added.sort_by_key(|placed| placed.site.end);
    let mut found = BTreeSet::new();
    let mut start = None;
    for placed in added.into_iter().rev() {
        if start.is_some_and(|start| start != placed.site.end) {
            break;
        }
        start = Some(placed.site.start);
        found.insert(placed.number);
    }
    found
}

/// The mutants that a place is in; if it is in none, all of the innermost choice that it is in.
fn at(place: Range<usize>, file: &Switched) -> BTreeSet<usize> {
    let inside = |range: &Range<usize>| range.start <= place.start && place.end <= range.end;
    let mutants: BTreeSet<usize> =
        file.placed.iter().filter(|placed| inside(&placed.mutant)).map(|placed| placed.number).collect();
    if !mutants.is_empty() {
        return mutants;
    }
    let Some(innermost) = file
        .placed
        .iter()
        .filter(|placed| inside(&placed.site))
        .map(|placed| &placed.site)
        .min_by_key(|site| site.len())
    else {
        return BTreeSet::new();
    };
    file.placed.iter().filter(|placed| placed.site == *innermost).map(|placed| placed.number).collect()
}

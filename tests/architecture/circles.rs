//! Import circles among the files inside one module.
//!
//! A file or folder `a` uses its sibling `b` if any file of `a` names a path into `b`, also through a re-export by a module
//! above them. Uses between a module and its own children are not counted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::File;
use super::syntax::{Facts, ItemPath, sources};

/// Re-exports of re-exports are followed this far; the longest chain has two.
const LONGEST_CHAIN: usize = 8;

/// The siblings that each module uses, with the place of the first use: `file:line`.
type Uses = BTreeMap<ItemPath, BTreeMap<ItemPath, String>>;

pub(super) fn circles(files: &[File]) -> Vec<String> {
    let sources = sources(files);
    let uses = sibling_uses(&sources);
    let mut seen = BTreeSet::new();
    let mut faults = Vec::new();
    for start in uses.keys() {
        if seen.contains(start) {
            continue;
        }
        let members: Vec<&ItemPath> =
            uses.keys().filter(|other| reaches(&uses, start, other) && reaches(&uses, other, start)).collect();
        let Some(way) = shortest_circle(&uses, start).filter(|_| !members.is_empty()) else {
            continue;
        };
        seen.extend(members.iter().copied());
        let names: Vec<&str> = members.iter().filter_map(|path| path.last()).map(String::as_str).collect();
        let inner = inner_uses(&uses, &members);
        faults.push(format!(
            "{}: circle: {} files of {} use each other in a circle: {}; let each use only files below it: \
             move what two need into a file that both use, or pass it as an argument\n{}",
            way[0],
            names.len(),
            start[..start.len() - 1].join("::"),
            names.join(", "),
            inner.join("\n")
        ));
    }
    faults
}

#[test]
fn files_inside_a_module_import_each_other_in_one_direction() {
    super::hold(circles, &["src"]);
}

fn sibling_uses(sources: &[(&File, Arc<Facts>)]) -> Uses {
    let modules: BTreeSet<&ItemPath> = sources.iter().map(|(_, facts)| &facts.module).collect();
    let imports: BTreeMap<&ItemPath, &ItemPath> =
        sources.iter().flat_map(|(_, facts)| facts.imports.iter().map(|(name, path)| (name, path))).collect();
    let mut uses = Uses::new();
    for (file, facts) in sources {
        for (path, line) in &facts.references {
            let target = defining_module(path, &modules, &imports, LONGEST_CHAIN);
            let own = &facts.module;
            let shared = own.iter().zip(&target).take_while(|(a, b)| a == b).count();
            // At the root the layer table rules.
            if shared > 0 && shared < own.len() && shared < target.len() {
                let sibling = target[..=shared].to_vec();
                let place = uses.entry(own[..=shared].to_vec()).or_default();
                place.entry(sibling).or_insert_with(|| format!("{}:{line}", file.path));
            }
        }
    }
    uses
}

/// The module that defines what `path` names: the longest part of the path that is a module, or, if that module only
/// imports the next name, the module that defines the import.
fn defining_module(
    path: &[String],
    modules: &BTreeSet<&ItemPath>,
    imports: &BTreeMap<&ItemPath, &ItemPath>,
    chain: usize,
) -> ItemPath {
    let length = (0..=path.len()).rev().find(|length| modules.contains(&path[..*length].to_vec())).unwrap_or(0);
    if chain > 0
        && length < path.len()
        && let Some(import) = imports.get(&path[..=length].to_vec())
        && import[..] != path[..=length]
    {
        let mut followed = (*import).clone();
        followed.extend_from_slice(&path[length + 1..]);
        return defining_module(&followed, modules, imports, chain - 1);
    }
    path[..length].to_vec()
}

/// True if a way of one or more uses leads from `from` to `to`.
fn reaches(uses: &Uses, from: &ItemPath, to: &ItemPath) -> bool {
    way(uses, from, to).is_some()
}

/// The places of the uses on the shortest way from a module back to itself.
fn shortest_circle(uses: &Uses, start: &ItemPath) -> Option<Vec<String>> {
    way(uses, start, start)
}

fn way(uses: &Uses, from: &ItemPath, to: &ItemPath) -> Option<Vec<String>> {
    let mut open = VecDeque::from([(from, Vec::new())]);
    let mut seen = BTreeSet::new();
    while let Some((module, places)) = open.pop_front() {
        for (used, place) in uses.get(module).into_iter().flatten() {
            let mut places = places.clone();
            places.push(place.clone());
            if used == to {
                return Some(places);
            }
            if seen.insert(used) {
                open.push_back((used, places));
            }
        }
    }
    None
}

/// One line for each use inside a circle: `  file:line uses sibling`.
fn inner_uses(uses: &Uses, members: &[&ItemPath]) -> Vec<String> {
    let mut lines = Vec::new();
    for member in members {
        for (used, place) in uses.get(*member).into_iter().flatten() {
            if members.contains(&used) {
                lines.push(format!("  {place} uses {}", used.join("::")));
            }
        }
    }
    lines
}

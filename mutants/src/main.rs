//! Compiles every mutant that cargo-mutants lists into one program, each behind a switch.
//!
//! `lockgate-mutants LIST TREE KEPT`: LIST is the output of `cargo mutants --list --json`, TREE a copy of the sources, which
//! is changed, and KEPT receives the mutants that compile, in the form of LIST with a number for each. A mutant is on if
//! LOCKGATE_MUTANT has its number; with LOCKGATE_MUTANT_TRACE=FILE, the numbers of all that are reached go to that file.
//! `mutants/run` builds the program and runs its tests. One build takes the place of thousands ("mutant schemata":
//! Untch, Offutt and Harrold, Mutation analysis using mutant schemata, ISSTA 1993).

mod compile;
mod sites;
mod switch;
mod syntax;

use std::{collections::BTreeMap, collections::BTreeSet, fs, path::Path, process::ExitCode};

use serde_json::Value;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [list, tree, kept] = arguments.as_slice() else {
        eprintln!("usage: lockgate-mutants LIST TREE KEPT");
        return ExitCode::from(2);
    };
    match run(Path::new(list), Path::new(tree), Path::new(kept)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lockgate-mutants: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Rewrites the files of `tree`, and again without those mutants that do not compile, until all of it compiles.
fn run(list: &Path, tree: &Path, kept: &Path) -> Result<(), String> {
    let mutants: Vec<Value> =
        serde_json::from_str(&read(list)?).map_err(|error| format!("{}: {error}", list.display()))?;
    let mut files: BTreeMap<String, (String, Vec<usize>)> = BTreeMap::new();
    for (number, mutant) in mutants.iter().enumerate() {
        let name = mutant["file"].as_str().ok_or("a mutant without a file")?.to_owned();
        let text = read(&tree.join(&name))?;
        files.entry(name).or_insert_with(|| (text, Vec::new())).1.push(number);
    }
    add_switch(tree)?;
    let mut dropped = BTreeSet::new();
    loop {
        let mut changed = BTreeMap::new();
        for (name, (text, numbers)) in &files {
            let file =
                sites::switched(text, &mutants, numbers, &dropped).map_err(|error| format!("{name}: {error}"))?;
            fs::write(tree.join(name), &file.text).map_err(|error| format!("{name}: {error}"))?;
            changed.insert(name.clone(), file);
        }
        let refused = compile::refused(tree, &changed)?;
        if refused.is_empty() {
            let built: BTreeSet<usize> =
                changed.values().flat_map(|file| file.placed.iter().map(|placed| placed.number)).collect();
            return write_kept(kept, &mutants, &built);
        }
        eprintln!("lockgate-mutants: {} mutants do not compile", refused.len());
        for number in &refused {
            eprintln!("    {}", mutants[*number]["name"].as_str().unwrap_or_default());
        }
        dropped.extend(refused);
    }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Adds the module that says which mutant is on to the crate in `tree`.
fn add_switch(tree: &Path) -> Result<(), String> {
    let root = tree.join("src/lib.rs");
    let text = read(&root)? + "\n#[path = \"mutant_switch.rs\"]\nmod mutant_switch;\n";
    fs::write(&root, text).map_err(|error| error.to_string())?;
    fs::write(tree.join("src/mutant_switch.rs"), switch::SOURCE).map_err(|error| error.to_string())
}

fn write_kept(path: &Path, mutants: &[Value], built: &BTreeSet<usize>) -> Result<(), String> {
    let kept: Vec<Value> = built
        .iter()
        .map(|&number| {
            let mut mutant = mutants[number].clone();
            mutant["number"] = number.into();
            mutant
        })
        .collect();
    eprintln!("lockgate-mutants: {} of {} mutants are in the program", kept.len(), mutants.len());
    fs::write(path, Value::from(kept).to_string()).map_err(|error| format!("{}: {error}", path.display()))
}

//! Functions: their length, and signatures without `bool` parameters.

use super::File;
use super::syntax::{facts, sources};

/// Lines of code between the braces, without blank and comment lines, as clippy's `too_many_lines` counts them; a longer
/// function does not fit on a screen.
const LONGEST_FUNCTION: usize = 70;

pub(super) fn long_functions(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        let text: Vec<&str> = file.text.lines().map(str::trim).collect();
        for function in &facts(file).functions {
            let is_code = |line: usize| !text[line - 1].is_empty() && !text[line - 1].starts_with("//");
            let lines = function.body.clone().filter(|line| is_code(*line)).count();
            if lines > LONGEST_FUNCTION {
                faults.push(format!(
                    "{}:{}: long function: `{}` has {lines} lines of code, at most {LONGEST_FUNCTION}; move a step of it \
                     into a function",
                    file.path,
                    function.line,
                    function.name
                ));
            }
        }
    }
    faults
}

/// Parameters of type `bool`: a caller reads `true` and cannot tell what for.
pub(super) fn bool_parameters(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for (file, facts) in sources(files) {
        for function in facts.functions.iter().filter(|function| !function.in_test) {
            faults.extend(function.bools.iter().map(|(parameter, line)| {
                format!(
                    "{}:{line}: bool parameter: `{}` takes `{parameter}: bool`; take an enum with a name for each case",
                    file.path, function.name
                )
            }));
        }
    }
    faults
}

#[test]
fn no_function_is_longer_than_a_screen() {
    super::hold(long_functions, &["src", "tests", "benches"]);
}

#[test]
fn no_function_takes_a_bool() {
    super::hold(bool_parameters, &["src"]);
}

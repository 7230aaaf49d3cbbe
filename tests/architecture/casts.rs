//! Casts: the modules that decide turn on clippy's lints against `as` that loses bits.

use super::File;

/// Modules that decide, all declared in `src/lib.rs`.
const MODULES: [&str; 3] = ["gate", "locker", "time"];

const LINTS: [&str; 4] = ["cast_possible_truncation", "cast_possible_wrap", "cast_precision_loss", "cast_sign_loss"];

/// Lints that are missing at the declaration of a module.
pub(super) fn lints(files: &[File]) -> Vec<String> {
    let declarations = files.iter().find(|file| file.path == "src/lib.rs").map_or("", |file| file.text.as_str());
    let items = syn::parse_file(declarations).expect("the compiler has parsed it").items;
    let warned = |module: &str| {
        let declared = items.iter().find_map(|item| {
            if let syn::Item::Mod(item) = item { (item.ident == module).then_some(item) } else { None }
        });
        // Also `#[cfg_attr(not(test), warn(…))]`: a test's numbers are small.
        let lists = declared.into_iter().flat_map(|item| &item.attrs).filter_map(|attr| attr.meta.require_list().ok());
        let warned = lists.filter_map(|list| match list.path.is_ident("warn") {
            true => Some(list.tokens.to_string()),
            false => list.tokens.to_string().strip_prefix("not (test) , warn").map(str::to_owned),
        });
        warned.collect::<String>()
    };
    let missing = |module: &'static str| {
        let warned = warned(module);
        LINTS.into_iter().filter(move |lint| !warned.contains(lint)).map(move |lint| {
            format!(
                "src/lib.rs: casts: `mod {module}` lacks `warn(clippy::{lint})`, which finds lost bits; add it there"
            )
        })
    };
    MODULES.into_iter().flat_map(missing).collect()
}

/// Casts of those modules that are allowed without a word.
pub(super) fn silent(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.module().is_some_and(|module| MODULES.contains(&module))) {
        for (number, line) in file.code().lines().enumerate() {
            if line.contains("allow(clippy::cast_") && !line.contains("reason = ") {
                let place = number + 1;
                faults.push(format!("{}:{place}: casts: allowed without a reason on its line; say why", file.path));
            }
        }
    }
    faults
}

#[test]
fn the_modules_that_decide_are_linted_for_lost_bits() {
    super::hold(lints, &["src"]);
    super::hold(silent, &["src"]);
}

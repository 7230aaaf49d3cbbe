//! Layers: a module uses only modules of lower layers, by the table in the documentation of `src/lib.rs`.

use super::File;
use super::syntax::sources;

const TABLE: &str = "src/lib.rs";

/// A module in the layer table, with the line of its row.
struct Row {
    module: String,
    layer: u8,
    line: usize,
}

/// Reads the layer table: doc lines `| layer | modules | …`, each module in backticks.
fn table(files: &[File]) -> Vec<Row> {
    let text = files.iter().find(|file| file.path == TABLE).map_or("", |file| file.text.as_str());
    let mut rows = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut cells = line.strip_prefix("//! |").unwrap_or_default().split('|');
        let Some(Ok(layer)) = cells.next().map(|cell| cell.trim().parse()) else {
            continue;
        };
        let modules = cells.next().unwrap_or_default().split('`').skip(1).step_by(2);
        rows.extend(modules.map(|module| Row { module: module.to_owned(), layer, line: index + 1 }));
    }
    rows
}

pub(super) fn upward_uses(files: &[File]) -> Vec<String> {
    let rows = table(files);
    let layer = |module: &str| rows.iter().find(|row| row.module == module).map(|row| row.layer);
    let mut faults = Vec::new();
    for (file, facts) in sources(files) {
        let Some((module, own)) = file.module().and_then(|module| Some((module, layer(module)?))) else {
            continue;
        };
        for (path, line) in &facts.references {
            let Some((used, other)) = path.first().and_then(|used| Some((used, layer(used)?))) else {
                continue;
            };
            if used != module && other >= own {
                faults.push(format!(
                    "{}:{line}: layers: {module} (layer {own}) uses {used} (layer {other}); a module uses only modules of \
                     lower layers: move what both need down, or pass it as an argument",
                    file.path
                ));
            }
        }
    }
    faults
}

/// Compares the modules of the table with those that exist.
pub(super) fn table_gaps(files: &[File]) -> Vec<String> {
    let rows = table(files);
    let mut faults = Vec::new();
    let mut modules: Vec<(&str, &str)> = Vec::new();
    for file in files {
        if let Some(module) = file.module().filter(|module| *module != "lib")
            && !modules.iter().any(|(known, _)| *known == module)
        {
            modules.push((module, &file.path));
        }
    }
    for (module, path) in &modules {
        if !rows.iter().any(|row| row.module == *module) {
            faults.push(format!(
                "{path}:1: layer table: no row of {TABLE} names `{module}`; add it to the row of its layer"
            ));
        }
    }
    for (index, Row { module, line, .. }) in rows.iter().enumerate() {
        if !modules.iter().any(|(known, _)| known == module) {
            faults
                .push(format!("{TABLE}:{line}: layer table: `{module}` is no module of src; remove it from the table"));
        }
        if rows[..index].iter().any(|row| row.module == *module) {
            faults.push(format!("{TABLE}:{line}: layer table: `{module}` is named twice; keep one row"));
        }
    }
    faults
}

#[test]
fn a_module_uses_only_modules_of_lower_layers() {
    super::hold(upward_uses, &["src"]);
}

#[test]
fn the_layer_table_names_the_modules_that_exist() {
    super::hold(table_gaps, &["src"]);
}

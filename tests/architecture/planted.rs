//! Planted faults: each check reports them with file, line, rule and mend, and passes look-alikes.

use super::*;

const TABLE: &str = "//! | layer | modules | tasks |\n//! |---|---|---|\n//! | 2 | [`gate`], [`tls`] | |\n\
                     //! | 1 | [`locker`], [`net`] | |\n//! | 0 | [`time`] | |\n";

type Check = fn(&[File]) -> Vec<String>;

fn check(check: Check, files: &[(&str, &str)]) -> Vec<String> {
    let file = |(path, text): &(&str, &str)| File { path: (*path).to_owned(), text: (*text).to_owned() };
    check(&files.iter().map(file).collect::<Vec<_>>())
}

/// Asserts that a check reports one fault, in a message that contains each of `parts`.
#[track_caller]
fn reported(rule: Check, files: &[(&str, &str)], parts: &[&str]) {
    let faults = check(rule, files);
    assert_eq!(faults.len(), 1, "{files:?}: {faults:?}");
    for part in parts {
        assert!(faults[0].contains(part), "no {part:?} in {:?}", faults[0]);
    }
}

#[track_caller]
fn passed(rule: Check, files: &[(&str, &str)]) {
    assert_eq!(check(rule, files), Vec::<String>::new(), "{files:?}");
}

#[test]
fn a_use_of_a_neighbour_or_of_a_higher_layer_is_found_however_it_is_written() {
    for text in [
        "\nuse crate::net::dial;",
        "\nuse crate::{time::Time, net::{a, b}};",
        "\nfn f() { crate::tls::x() }",
        "\nuse super::super::gate::Gate;",
        "\nfn f() { assert!(1 == crate::net::x()); }",
        "\nmod a { use super::super::super::net::x; }",
    ] {
        let faults = check(layers::upward_uses, &[("src/lib.rs", TABLE), ("src/locker/queue.rs", text)]);
        assert!(!faults.is_empty(), "{text}");
        assert!(faults[0].starts_with("src/locker/queue.rs:2: layers: locker (layer 1) uses "), "{faults:?}");
    }
    let door = ("src/locker/mod.rs", "use super::net::dial;");
    reported(layers::upward_uses, &[("src/lib.rs", TABLE), door], &["uses net (layer 1)", "lower layers: move"]);
    for text in ["use crate::time::Time;", "use crate::locker::window;", "// crate::gate", "use super::net;"] {
        passed(layers::upward_uses, &[("src/lib.rs", TABLE), ("src/locker/queue.rs", text)]);
    }
    let tests = ("src/locker/queue.rs", "#[cfg(test)]\nmod tests { use crate::gate::x; }");
    passed(layers::upward_uses, &[("src/lib.rs", TABLE), tests]);
}

#[test]
fn a_layer_table_that_differs_from_the_modules_is_found() {
    let all = ["src/gate/mod.rs", "src/tls/mod.rs", "src/locker/mod.rs", "src/net/mod.rs", "src/time.rs"];
    let mut files: Vec<(&str, &str)> = all.iter().map(|path| (*path, "")).collect();
    files.push(("src/lib.rs", TABLE));
    passed(layers::table_gaps, &files);
    files.push(("src/cellar/mod.rs", ""));
    files.push(("src/cellar/shelf.rs", ""));
    reported(layers::table_gaps, &files, &["src/cellar/mod.rs:1: layer table: no row", "`cellar`; add it"]);
    files.retain(|(path, _)| !path.contains("cellar") && *path != "src/time.rs");
    reported(layers::table_gaps, &files, &["src/lib.rs:5: layer table: `time` is no module of src; remove it"]);
    files.retain(|(path, _)| *path != "src/lib.rs");
    let twice = format!("{TABLE}//! | 4 | `net` | |");
    files.extend([("src/lib.rs", twice.as_str()), ("src/time.rs", "")]);
    reported(layers::table_gaps, &files, &["src/lib.rs:6: layer table: `net` is named twice"]);
}

#[test]
fn impurity_is_found_and_likeness_is_not() {
    for text in ["std::time::Instant", "use std::{io, fmt};", "async fn f() {}", "use std::sync::{Arc, Mutex};"] {
        let faults = check(purity::impurities, &[("src/locker/mod.rs", text)]);
        assert!(faults[0].starts_with("src/locker/mod.rs: purity: names "), "{text}: {faults:?}");
    }
    for text in ["use std::sync::Arc;", "struct Instantly;", "use std::time::Duration;", "// tokio"] {
        passed(purity::impurities, &[("src/locker/mod.rs", text)]);
    }
    passed(purity::impurities, &[("src/gate/mod.rs", "async fn f() {}")]);
}

#[test]
fn side_doors_shapes_and_leftovers_are_found() {
    reported(purity::side_doors, &[("src/proxy/origin.rs", "TcpStream::connect(a)")], &["only src/net/dial.rs opens"]);
    passed(purity::side_doors, &[("src/net/dial.rs", "TcpStream::connect(a)")]);
    reported(purity::side_doors, &[("src/net/dial.rs", "Instant::now()")], &["only src/gate/clock.rs reads a clock"]);
    reported(shapes::shapes, &[("src/a.rs", "use x;")], &["src/a.rs:1: first line: "]);
    reported(shapes::shapes, &[("src/a.rs", &"//! a\n".repeat(401))], &["src/a.rs: long file: 401 lines"]);
    reported(shapes::shapes, &[("src/a.lua", &"-- a\n".repeat(401))], &["long file"]);
    reported(shapes::shapes, &[("src/a.lua", "local a")], &["src/a.lua:1: first line: "]);
    passed(shapes::shapes, &[("src/a.rs", &"//! a\n".repeat(400))]);
    reported(shapes::left_for_later, &[("src/a.rs", concat!("// TO", "DO: more"))], &["src/a.rs: TO"]);
}

#[test]
fn a_circle_among_siblings_is_found_however_it_is_written() {
    let way = ("src/proxy/way.rs", "//! Way.\nuse super::step::{self, Step};\nfn run() {}");
    for back in [
        "use super::way::run;",
        "use crate::proxy::{host, way::{self, run}};",
        "fn f() { super::way::run() }",
        "fn f() { select! { _ = super::way::run() => {} } }",
        "use super::run;",
        "use super::{Renamed as Other};",
        "mod inner { use super::super::way; }",
    ] {
        let door = ("src/proxy/mod.rs", "mod step;\nmod way;\npub use way::run;\nuse self::way::{run as Renamed};");
        let parts = [
            "src/proxy/step.rs:1: circle: 2 files of proxy",
            "step, way; let each use",
            "src/proxy/way.rs:2 uses proxy::step",
        ];
        reported(circles::circles, &[door, way, ("src/proxy/step.rs", back)], &parts);
    }
    let folder = ("src/proxy/step/deep.rs", "use super::super::way::run;");
    reported(
        circles::circles,
        &[way, ("src/proxy/step/mod.rs", "mod deep;"), folder],
        &["step/deep.rs:1 uses proxy::way"],
    );
}

#[test]
fn a_circle_of_three_is_one_fault_and_what_only_looks_like_one_is_none() {
    let a = ("src/net/a.rs", "use super::b::x;");
    let b = ("src/net/b.rs", "use super::c::y;");
    reported(circles::circles, &[a, b, ("src/net/c.rs", "use super::a::z;")], &["3 files of net", "a, b, c"]);
    for text in [
        "// super::a::x",
        "//! [`super::a`]",
        "pub(in crate::net::a) struct X;",
        "#[cfg(test)]\nmod tests { use crate::net::a::x; }",
        "#[cfg(test)]\nuse super::a::x;",
        "const X: &str = \"super::a::x\";",
        "use super::Shared;",
        "use crate::tls::a;",
    ] {
        passed(circles::circles, &[a, b, ("src/net/c.rs", text), ("src/net/mod.rs", "use a::x;\nstruct Shared;")]);
    }
    let tests = ("src/net/c/tests.rs", "use super::super::a::x;");
    passed(circles::circles, &[a, b, ("src/net/c.rs", "#[cfg(test)]\nmod tests;"), tests]);
    let helper = ("src/net/c/world.rs", "use super::super::a::x;");
    passed(circles::circles, &[a, b, ("src/net/c.rs", "#[cfg(test)]\nmod world;"), helper]);
}

#[test]
fn two_types_with_one_name_are_found_local_ones_too() {
    let one = ("src/proxy/pool.rs", "\npub struct Link;");
    for other in ["enum Link {}", "trait Link {}", "type Link = u8;", "union Link { a: u8 }", "fn f() { struct Link; }"]
    {
        let parts =
            ["src/gate/link.rs:1: type names: 2 types are named `Link`, also at src/proxy/pool.rs:2; give each"];
        reported(names::types_with_one_name, &[("src/gate/link.rs", other), one], &parts);
    }
    for other in
        ["use a::Link;", "#[cfg(test)]\nmod tests { struct Link; }", "impl Link {}", "enum E { Link }", "fn Link() {}"]
    {
        passed(names::types_with_one_name, &[("src/gate/link.rs", other), one]);
    }
    passed(names::types_with_one_name, &[("src/a.rs", "enum Error {}"), ("src/b.rs", "enum Error {}")]);
    passed(names::types_with_one_name, &[("src/a/tests.rs", "struct Link;"), one]);
}

#[test]
fn two_files_with_one_name_are_found() {
    let parts = ["src/gate/line.rs:1: file names: 2 files are named line.rs, also src/proxy/line.rs; name each"];
    reported(names::files_with_one_name, &[("src/gate/line.rs", ""), ("src/proxy/line.rs", "")], &parts);
    let shared =
        ["src/a/mod.rs", "src/b/mod.rs", "src/a/tests.rs", "src/b/tests.rs", "src/a/tests/x.rs", "src/b/tests/x.rs"];
    passed(names::files_with_one_name, &shared.map(|path| (path, "")));
}

#[test]
fn a_long_function_is_found() {
    let body = "    step();\n".repeat(71);
    let parts = ["src/a.rs:2: long function: `f` has 71 lines of code, at most 70; move a step"];
    reported(functions::long_functions, &[("src/a.rs", &format!("//! A.\nfn f(\n) {{\n{body}}}"))], &parts);
    let method = format!("impl A {{ fn f() {{\n{body}}} }}");
    reported(functions::long_functions, &[("tests/a.rs", &method)], &["tests/a.rs:1: long function"]);
    let longest = format!("/// A.\nfn f(\n) {{\n\n    // Why.\n{}}}", "    step();\n".repeat(70));
    passed(functions::long_functions, &[("src/a.rs", &longest)]);
    passed(functions::long_functions, &[("src/a.rs", "trait A { fn f(); }\nfn g() {}")]);
}

#[test]
fn a_bool_parameter_is_found_and_a_prescribed_one_is_not() {
    for text in [
        "\nfn f(\n    a: u8, b: bool) {}",
        "\nimpl A { pub async fn f(&self,\n b: bool) {} }",
        "\ntrait A { fn f(&self,\n b: &mut bool); }",
    ] {
        let parts = ["src/a.rs:3: bool parameter: `f` takes `b: bool`; take an enum"];
        reported(functions::bool_parameters, &[("src/a.rs", text)], &parts);
    }
    for text in [
        "impl Visitor for A { fn visit_bool(&self, b: bool) {} }",
        "fn f() -> bool { let g = |b: bool| b; g(true) }",
        "struct A { b: bool }",
        "#[cfg(test)]\nmod tests { fn f(b: bool) {} }",
        "fn f(b: Option<bool>, c: fn(bool)) {}",
    ] {
        passed(functions::bool_parameters, &[("src/a.rs", text)]);
    }
}

#[test]
fn comment_lines_that_begin_with_a_clause_are_found() {
    let plain = "// Reads buffered bytes first, when there are any, and what is left later.\n".repeat(100);
    for line in ["//! What is there is read.", "    // Whether it goes.", "/// How often: never.", "//When it goes"] {
        let text = format!("{}{}fn f() {{}}\n", plain, format!("{line}\n").repeat(4));
        let first =
            "src/a.rs:101: wh-clause: 4 of 104 comment lines (3.8 %) begin with a wh-clause, under 3.0 % are allowed";
        reported(
            prose::clauses,
            &[("src/a.rs", &text)],
            &[first, "; begin with a noun", "\n  src/a.rs: 4 of 104\n    101: "],
        );
        let text = format!("{}{}fn f() {{}}\n", plain, format!("{line}\n").repeat(3));
        passed(prose::clauses, &[("src/a.rs", &text)]);
    }
    for text in ["fn f() {} // Who waits", "// Whatsoever", "// what", "#[cfg(test)]\nmod tests {\n    // Who waits\n}"]
    {
        passed(prose::clauses, &[("src/a.rs", text), ("src/a/tests.rs", "// Who waits")]);
    }
}

#[test]
fn comment_lines_that_speak_of_persons_are_found() {
    let plain = "// Reads buffered bytes first.\n".repeat(100);
    for line in
        ["// It waits for whoever comes.", "/// Nobody waits.", "//! The caller whose turn it is.", "// Who's there"]
    {
        let text = format!("{plain}{line}\nfn f() {{}}");
        let first = "src/b.rs:101: persons: 1 of 101 comment lines (0.9 %) speak of persons, under 0.5 % are allowed";
        reported(
            prose::persons,
            &[("src/b.rs", &text)],
            &[first, "; name the process", "\n  src/b.rs: 1 of 101\n    101: "],
        );
    }
    for text in ["fn f() {} // who waits", "// somebodyelse", "#[cfg(test)]\nmod tests {\n    // for whoever waits\n}"]
    {
        passed(prose::persons, &[("src/a.rs", text), ("src/a/tests.rs", "// for whoever waits")]);
    }
}

#[test]
fn too_few_docs_are_found() {
    let few = format!("//! A.\n/// B.\n// no doc\n{}", "fn f() {}\n".repeat(8));
    let parts =
        ["src/a.rs:1: docs: 2 of 11 lines are docs (18.1 %), at least 20 %", "\n  src/a.rs: 2 of 11 lines (18.1 %)"];
    reported(prose::docs, &[("src/a.rs", &few)], &parts);
    let tests = format!("//! A.\nfn f() {{}}\n#[cfg(test)]\nmod tests {{\n{}}}", "fn f() {}\n".repeat(20));
    passed(prose::docs, &[("src/a.rs", &tests), ("src/a/tests.rs", &few)]);
}

#[test]
fn a_mutant_without_a_row_and_a_row_without_a_mutant_are_found() {
    let site = ("src/locker/settle.rs", "let a = mutant!(b(\n1), \"b is lost\", c);");
    let rows = |rows: &'static str| ("src/locker/tests/mutants.rs", rows);
    passed(mutants::rows_of_mutants, &[site, rows("\n    (\"b is lost\", ONE),\n")]);
    reported(mutants::rows_of_mutants, &[site, rows("")], &["src/locker/settle.rs", "is in no table"]);
    reported(mutants::rows_of_mutants, &[rows("\n    (\"b is lost\", ONE),\n")], &["remove the row"]);
    let twice = rows("\n    (\"b is lost\", ONE),\n    (\"b is lost\", TWO),\n");
    reported(mutants::rows_of_mutants, &[site, twice], &["has 2 rows"]);
}

#[test]
fn a_loop_of_a_task_that_awaits_nothing_is_found() {
    for text in [
        "\nasync fn f() { loop { step(); } }",
        "\nfn f(cx: &mut Context<'_>) { while x() { step(); } }",
        "\nfn f() { spawn(async move { loop { step(); } }); }",
        "\nfn f() { poll_fn(|cx| { loop { step(); } }); }",
        "\nasync fn f() { loop { spawn(async { x().await }); } }",
    ] {
        let parts = ["src/proxy/a.rs:2: spinning loop: in `a::f`; await something"];
        reported(loops::spins, &[("src/proxy/a.rs", text)], &parts);
    }
    reported(
        loops::spins,
        &[("src/a.rs", "impl A { async fn f() { x().await; while y { loop { break; } z().await } } }")],
        &["in `A::f`"],
    );
    for text in [
        "async fn f() { loop { x().await; } }",
        "async fn f() { while x().await {} }",
        "fn f(cx: &mut Context<'_>) { loop { ready!(x(cx)); } }",
        "fn f(cx: &mut Context<'_>) -> Poll<()> { loop { if x() { return Poll::Pending; } } }",
        "async fn f() { loop { select! { _ = x() => {} } } }",
        "async fn f() { for x in y {} }",
        "fn f() { loop { step(); } }",
        "async fn f() { blocking(|| loop { step(); }).await }",
        "#[cfg(test)]\nmod tests { async fn f() { loop {} } }",
    ] {
        passed(loops::spins, &[("src/proxy/a.rs", text)]);
    }
}

#[test]
fn a_retry_without_a_bound_is_found() {
    for text in [
        "\nfn f() { loop { match x() { Ok(y) => return y, Err(_) => continue } } }",
        "\nfn f() { loop { match x() { Ok(y) => return y, Err(Errno::INTR) => {} } } }",
        "\nfn f() { while !over { if let Err(error) = x() { log(error); } } }",
        "\nfn f() { loop { if x().is_err() { pause(); } } }",
        "\nfn f() { loop { let Ok(y) = x() else { continue }; return y; } }",
        "\nfn f() { while let Some(y) = next() { loop { match x() { Ok(y) => break, Some(Err(_)) => {} } } } }",
    ] {
        let parts = ["src/a.rs:2: unbounded retry: in `a::f`; name a constant"];
        reported(loops::retries, &[("src/a.rs", text)], &parts);
    }
    for text in [
        "fn f() { loop { match x() { Ok(y) => return y, Err(_) => return } } }",
        "fn f() { loop { match x() { Ok(y) => return y, Err(_) if tries < MAX_TRIES => tries += 1 } } }",
        "fn f() { while tries < Self::MAX { if x().is_err() { tries += 1; } } }",
        "fn f() { loop { if let Err(error) = x() { break; } } }",
        "fn f() { while let Some(y) = next() { if let Err(error) = x(y) { log(error); } } }",
        "fn f() { loop { let Ok(y) = x() else { return }; } }",
        "fn f() { if let Err(error) = x() { log(error); } }",
    ] {
        passed(loops::retries, &[("src/a.rs", text)]);
    }
}

#[test]
fn a_scan_under_the_lock_is_found() {
    for text in [
        "\nimpl Q { fn f(&self) { self.waiters.indices(); } }",
        "\nimpl Q { fn f(&self) { for id in &self.limits.ids {} } }",
        "\nimpl Q { fn f(&self) { self.table.chunks.iter().count(); } }",
        "\nimpl Q { fn f(&mut self) { self.by_windows.retain(|_, _| true); } }",
        "\nimpl Q { fn f(&self) { let a = self.limits.next_roll(); } }",
        "\nimpl Q { fn f(&self) { table.of_limit(id); } }",
    ] {
        let parts = ["src/locker/a.rs:2: scan: `Q::f` visits all of ", "; do what changes only"];
        reported(scans::scans, &[("src/locker/a.rs", text)], &parts);
        passed(scans::scans, &[("src/proxy/a.rs", text), ("src/locker/tests/a.rs", text)]);
    }
    for text in [
        "fn f() { for demand in &waiter.demands {} }",
        "fn f() { self.waiters.get(id); self.chunks[3].windows.len(); }",
        "fn f() { self.deadlines.first(); self.chunks[3].windows.iter(); }",
        "fn f() { let waiters = 1..3; for x in waiters {} }",
    ] {
        passed(scans::scans, &[("src/locker/a.rs", text)]);
    }
}

#[test]
fn a_module_of_the_core_without_its_cast_lints_is_found() {
    let all = "#[warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]\n\
               #[cfg_attr(not(test), warn(clippy::cast_precision_loss, clippy::cast_sign_loss))]";
    let head = |attrs: &str| format!("{all}\npub mod gate;\n{all}\nmod locker;\nmod net;\n{attrs}\npub mod time;");
    passed(casts::lints, &[("src/lib.rs", &head(all))]);
    let parts = ["src/lib.rs: casts: `mod time` lacks `warn(clippy::cast_sign_loss)`, which finds"];
    reported(casts::lints, &[("src/lib.rs", &head(&all.replace("cast_sign_loss", "")))], &parts);
    assert_eq!(check(casts::lints, &[("src/lib.rs", &head(""))]).len(), 4);
    let quiet = "fn f() {\n    #[allow(clippy::cast_sign_loss)]\n    x as u64\n}";
    reported(casts::silent, &[("src/gate/clock.rs", quiet)], &["src/gate/clock.rs:2: casts: allowed without a reason"]);
    let reason = "#[allow(clippy::cast_sign_loss, reason = \"it is positive\")]";
    passed(casts::silent, &[("src/gate/clock.rs", reason), ("src/proxy/a.rs", quiet)]);
}

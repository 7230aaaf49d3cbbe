//! Preload files: programs of ours that Python, Node and Bun run at their start, and that make the libraries in them use
//! the proxy of the environment which do not by themselves.
//!
//! Python runs `sitecustomize` of the first folder in `PYTHONPATH` that has one, Node each `--require` of `NODE_OPTIONS`,
//! and Bun the file in `BUN_INSPECT_PRELOAD`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::{Env, Variables};
use crate::tls::bundle::write_atomically;

/// Makes aiohttp use the proxy, and certifi name the bundle of roots.
const PYTHON: &str = include_str!("preload/sitecustomize.py");
/// Makes `http`, `https` and `fetch` of Node use the proxy, where Node or Bun does not.
const NODE: &str = include_str!("preload/preload.cjs");

/// Variable that names a file for Bun to run first.
///
/// It is meant for debuggers. Bun's documented `BUN_OPTIONS` is of no use: programs that `bun build --compile` of
/// Bun 1.2 and 1.3 made take what is in it for arguments of their own.
const BUN: &str = "BUN_INSPECT_PRELOAD";

/// Written files.
pub(super) struct Preload {
    /// Folder with `sitecustomize.py`, and nothing else that Python imports.
    python: PathBuf,
    /// File for Node and Bun.
    node: PathBuf,
}

/// Writes the files into `folder`; those that are there already are not touched.
///
/// # Errors
/// If a file cannot be written; the text names it.
pub(super) fn write(folder: &Path) -> io::Result<Preload> {
    let preload = Preload { python: folder.join("python"), node: folder.join("node/preload.cjs") };
    for name in ["python", "node"] {
        fs::create_dir_all(folder.join(name))?;
    }
    write_atomically(&preload.python.join("sitecustomize.py"), PYTHON.as_bytes())?;
    write_atomically(&preload.node, NODE.as_bytes())?;
    Ok(preload)
}

/// Sets `PYTHONPATH`, `NODE_OPTIONS` and `BUN_INSPECT_PRELOAD`. What is in the first two stays, behind ours; the third
/// holds one file, so one of the user's stays alone.
///
/// A folder that cannot stand in them, as it has a colon in its name, is noted.
pub(super) fn add(preload: &Preload, env: Env<'_>, variables: &mut Variables) {
    let before = env("PYTHONPATH").unwrap_or_default();
    // An empty entry is the folder in which Python runs; an empty variable has none.
    let before = Some(&before).filter(|before| !before.is_empty());
    let entries = before.into_iter().flat_map(std::env::split_paths).filter(|entry| *entry != preload.python);
    match std::env::join_paths([preload.python.clone()].into_iter().chain(entries)) {
        Ok(path) => variables.set.push(("PYTHONPATH", path)),
        Err(error) => variables.notes.push(format!("{}: {error}", preload.python.display())),
    }
    variables.set.push(("NODE_OPTIONS", node_options(&preload.node, &env("NODE_OPTIONS").unwrap_or_default())));
    if env(BUN).is_none_or(|file| file.is_empty()) {
        variables.set.push((BUN, preload.node.clone().into()));
    }
}

/// The value of `NODE_OPTIONS` with our file before the options that are there, and once.
///
/// `--max-old-space-size=100` becomes `--require=/cache/preload.cjs --max-old-space-size=100`.
fn node_options(file: &Path, before: &OsStr) -> OsString {
    let option = quote(&[b"--require=", file.as_os_str().as_bytes()].concat());
    let rest = before.as_bytes().strip_prefix(option.as_slice()).unwrap_or(before.as_bytes()).trim_ascii();
    let all = if rest.is_empty() { option } else { [&option, &b" "[..], rest].concat() };
    OsString::from_vec(all)
}

/// Quotes a word for `NODE_OPTIONS`, if it needs that: double quotes, in which a backslash stands
/// before a quote or a backslash.
fn quote(word: &[u8]) -> Vec<u8> {
    if !word.iter().any(|byte| matches!(byte, b' ' | b'"' | b'\\')) {
        return word.to_vec();
    }
    let mut quoted = vec![b'"'];
    for &byte in word {
        if matches!(byte, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(byte);
    }
    quoted.push(b'"');
    quoted
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("lockgate-preload-{name}-{}", std::process::id()))
    }

    fn added(preload: &Preload, before: &[(&str, &str)]) -> Vec<String> {
        let env = |name: &str| before.iter().find(|(env, _)| *env == name).map(|(_, value)| OsString::from(*value));
        let mut variables = Variables::default();
        add(preload, &env, &mut variables);
        assert!(variables.notes.is_empty(), "{:?}", variables.notes);
        variables.set.into_iter().map(|(_, value)| value.into_string().unwrap()).collect()
    }

    #[test]
    fn what_the_user_has_set_stays_behind_ours_and_ours_is_set_once() {
        let preload = Preload { python: "/c/python".into(), node: "/c/node/preload.cjs".into() };
        let alone = ["/c/python", "--require=/c/node/preload.cjs", "/c/node/preload.cjs"];
        assert_eq!(added(&preload, &[]), alone);
        assert_eq!(added(&preload, &[("PYTHONPATH", ""), ("NODE_OPTIONS", " ")]), alone);
        let options = "--require \"/x y.js\" --trace-warnings";
        let theirs = [("PYTHONPATH", "/a:/b"), ("NODE_OPTIONS", options), (BUN, "/debugger.js")];
        let both = ["/c/python:/a:/b", "--require=/c/node/preload.cjs --require \"/x y.js\" --trace-warnings"];
        assert_eq!(added(&preload, &theirs), both);
        let unnamed = [("PYTHONPATH", ":/a"), ("NODE_OPTIONS", options), (BUN, "/debugger.js")];
        assert_eq!(added(&preload, &unnamed)[0], "/c/python::/a", "the folder in which the program runs");
        let again = [("PYTHONPATH", both[0]), ("NODE_OPTIONS", both[1]), (BUN, "/c/node/preload.cjs")];
        assert_eq!(added(&preload, &again), both);
    }

    #[test]
    fn node_reads_a_path_with_blanks_and_quotes_as_it_is() {
        let folder = folder("a b\"c\\d");
        let preload = write(&folder).unwrap();
        fs::write(&preload.node, "console.log(__filename)").unwrap();
        let mut node = Command::new("node");
        node.args(["-e", "0"]).env("NODE_OPTIONS", node_options(&preload.node, "".as_ref()));
        let output = node.output().expect("the tests need Node");
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.trim(), preload.node.display().to_string(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::remove_dir_all(&folder).unwrap();
    }
}

//! Preload files: programs of ours that Python and Node run at their start, and that make the libraries in them use the
//! proxy of the environment which do not by themselves.
//!
//! Python runs `sitecustomize` of the first folder in `PYTHONPATH` that has one, Node each `--require` of `NODE_OPTIONS`.
//! The files lie in a folder that only this user can write, since their code becomes a part of the user's programs.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::{Env, Variables};
use crate::tls::bundle::write_atomically;

/// Makes aiohttp use the proxy.
const PYTHON: &str = include_str!("preload/sitecustomize.py");
/// Makes `http`, `https` and `fetch` of Node use the proxy, where Node does not.
const NODE: &str = include_str!("preload/preload.cjs");
/// Permissions of others that let them change a file or folder: writing by the group and by all.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Written files.
pub(super) struct Preload {
    /// Folder with `sitecustomize.py`, and nothing else that Python imports.
    python: PathBuf,
    /// File for Node.
    node: PathBuf,
}

/// Writes the files into the first of these folders that can be used; files that are there already
/// are not touched.
///
/// # Errors
/// The reason for the last folder: it cannot be written, belongs to another user, or others may
/// write it.
pub(super) fn write(folders: &[PathBuf]) -> io::Result<Preload> {
    let none = io::Error::new(io::ErrorKind::NotFound, "neither XDG_CACHE_HOME nor HOME names a folder");
    folders.iter().map(|folder| write_into(folder)).reduce(Result::or).unwrap_or(Err(none))
}

fn write_into(folder: &Path) -> io::Result<Preload> {
    let preload = Preload { python: folder.join("python"), node: folder.join("node/preload.cjs") };
    let node = folder.join("node");
    for folder in [folder, &preload.python, &node] {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(named)?;
        let metadata = fs::metadata(folder).map_err(named)?;
        if metadata.uid() != geteuid().as_raw() || metadata.mode() & WRITABLE_BY_OTHERS != 0 {
            return Err(named(io::Error::new(io::ErrorKind::PermissionDenied, "other users may write it")));
        }
    }
    write_atomically(&preload.python.join("sitecustomize.py"), PYTHON.as_bytes())?;
    write_atomically(&preload.node, NODE.as_bytes())?;
    Ok(preload)
}

/// Sets `PYTHONPATH` and `NODE_OPTIONS`. What is in them stays, behind ours.
///
/// A folder that cannot stand in them, as it has a colon in its name, is noted.
pub(super) fn add(preload: &Preload, env: Env<'_>, variables: &mut Variables) {
    let before = env("PYTHONPATH").unwrap_or_default();
    let entries = std::env::split_paths(&before).filter(|entry| !entry.as_os_str().is_empty());
    let entries = entries.filter(|entry| *entry != preload.python);
    match std::env::join_paths([preload.python.clone()].into_iter().chain(entries)) {
        Ok(path) => variables.set.push(("PYTHONPATH", path)),
        Err(error) => variables.notes.push(format!("{}: {error}", preload.python.display())),
    }
    variables.set.push(("NODE_OPTIONS", node_options(&preload.node, &env("NODE_OPTIONS").unwrap_or_default())));
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
    use std::os::unix::fs::PermissionsExt;
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
        let alone = ["/c/python", "--require=/c/node/preload.cjs"];
        assert_eq!(added(&preload, &[]), alone);
        assert_eq!(added(&preload, &[("PYTHONPATH", ""), ("NODE_OPTIONS", " ")]), alone);
        let theirs = [("PYTHONPATH", "/a:/b"), ("NODE_OPTIONS", "--require \"/x y.js\" --trace-warnings")];
        let both = ["/c/python:/a:/b", "--require=/c/node/preload.cjs --require \"/x y.js\" --trace-warnings"];
        assert_eq!(added(&preload, &theirs), both);
        assert_eq!(added(&preload, &[("PYTHONPATH", both[0]), ("NODE_OPTIONS", both[1])]), both);
    }

    #[test]
    fn node_reads_a_path_with_blanks_and_quotes_as_it_is() {
        let folder = folder("a b\"c\\d");
        let preload = write(std::slice::from_ref(&folder)).unwrap();
        fs::write(&preload.node, "console.log(__filename)").unwrap();
        let mut node = Command::new("node");
        node.args(["-e", "0"]).env("NODE_OPTIONS", node_options(&preload.node, "".as_ref()));
        let output = node.output().expect("the tests need Node");
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.trim(), preload.node.display().to_string(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn files_go_where_no_other_user_can_write() {
        let (open, closed) = (folder("open"), folder("closed"));
        DirBuilder::new().create(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let error = write(std::slice::from_ref(&open)).err().unwrap();
        assert!(error.to_string().contains("other users may write it"), "{error}");
        let preload = write(&[open.clone(), closed.clone()]).unwrap();
        assert!(preload.python.starts_with(&closed) && preload.node.is_file());
        assert_eq!(fs::metadata(&preload.python).unwrap().mode() & 0o777, 0o700);
        assert!(write(&[]).is_err());
        for folder in [open, closed] {
            fs::remove_dir_all(folder).unwrap();
        }
    }
}

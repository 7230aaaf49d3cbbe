//! `npm_config_cafile`: npm's own setting, which goes before `NODE_EXTRA_CA_CERTS`.
//!
//! Many machines set it in an `npmrc`, to a company's roots. The variable goes before each of these
//! files, so the roots that they name become part of our bundle.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Env, ini};

/// Variable that names a PEM file in place of npm's roots. npm ignores the case of its variables.
pub(super) const VARIABLE: &str = "npm_config_cafile";
/// The same, as some write it.
pub(super) const UPPER_CASE: &str = "NPM_CONFIG_CAFILE";

/// Files of roots that npm would use without us: of the variables, else of each `npmrc`.
pub(super) fn inherited(env: Env<'_>) -> Vec<PathBuf> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    if let Some(path) = set(VARIABLE).or_else(|| set(UPPER_CASE)) {
        return vec![path.into()];
    }
    let home = set("HOME").map(PathBuf::from);
    let of_user = set("npm_config_userconfig").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".npmrc")));
    let of_prefix = set("PATH").and_then(|path| Some(prefix(&path)?.join("etc/npmrc")));
    let of_all = set("npm_config_globalconfig").map(PathBuf::from).or(of_prefix);
    let files = [Some(".npmrc".into()), of_user, of_all, Some("/etc/npmrc".into())];
    let texts = files.into_iter().flatten().filter_map(|file: PathBuf| std::fs::read_to_string(file).ok());
    texts.filter_map(|text| cafile(&text, env)).map(|path| expand(path, home.as_deref())).collect()
}

/// Folder above the `bin` in which `node` lies, where npm looks for `etc/npmrc`.
fn prefix(path: &OsString) -> Option<PathBuf> {
    let node = std::env::split_paths(path).map(|dir| dir.join("node")).find(|node| node.is_file())?;
    Some(node.canonicalize().ok()?.parent()?.parent()?.to_owned())
}

/// The value of `cafile` in an `npmrc`; `${NAME}` stands for a variable.
fn cafile(text: &str, env: Env<'_>) -> Option<String> {
    let value = ini::value(text, "cafile").filter(|value| *value != "null")?;
    let mut parts = value.split("${");
    let mut expanded = parts.next()?.to_owned();
    for part in parts {
        let (name, rest) = part.split_once('}')?;
        expanded.push_str(env(name)?.to_str()?);
        expanded.push_str(rest);
    }
    Some(expanded)
}

/// Replaces `~/` by the home folder.
fn expand(path: String, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        (_, _) => path.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<String> {
        cafile(text, &|name| (name == "HOME").then(|| "/of/its/user".into()))
    }

    #[test]
    fn an_npmrc_is_read_as_npm_reads_it() {
        assert_eq!(read("registry=https://a/\ncafile = \"/a b.pem\"\n").as_deref(), Some("/a b.pem"));
        assert_eq!(read("cafile=${HOME}/ca.pem").as_deref(), Some("/of/its/user/ca.pem"));
        assert_eq!(read("cafile=/a\ncafile=/b").as_deref(), Some("/b"));
        for none in ["", "; cafile=/a", "# cafile=/a", "cafile=", "cafile=null", "cafile=${UNSET}/a", "ca=/a"] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn the_variable_goes_before_the_files() {
        let folder = std::env::temp_dir().join(format!("lockgate-npm-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(".npmrc"), "cafile=~/company.pem\n").unwrap();
        let inherited = |variable: &str| {
            inherited(&|name| match name {
                "HOME" => Some(folder.clone().into()),
                UPPER_CASE => Some(variable.into()),
                _ => None,
            })
        };
        assert!(inherited("").contains(&folder.join("company.pem")));
        assert_eq!(inherited("/other.pem"), [PathBuf::from("/other.pem")]);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

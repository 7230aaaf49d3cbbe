//! Configuration files for programs that no variable tells of roots, but one where their configuration lies: wget, PHP
//! and apt.
//!
//! Each such variable takes the place of a file or folder of the user's. So our file begins with what the user has, or
//! is read after it, and adds our roots. Names tell contents apart: a program with other settings has files of its own.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::{Env, Variables, ini};
use crate::tls::bundle::write_atomically;

/// Begins our lines in a `wgetrc`, so that an exec under exec finds the user's part.
const WGET_MARK: &str = "# lockgate exec\n";
/// The same in a configuration of apt.
const APT_MARK: &str = "// lockgate exec\n";
/// Settings of PHP that name a PEM file: of its curl, and of its streams.
const PHP_KEYS: [&str; 2] = ["curl.cainfo", "openssl.cafile"];
/// Configurations of PHP beside those of each version in `/etc/php`.
const PHP_FILES: [&str; 2] = ["/etc/php.ini", "/usr/local/etc/php/php.ini"];

/// Writes the files into `folder`, and sets `WGETRC`, `PHP_INI_SCAN_DIR` and `APT_CONFIG`. `roots`:
/// the PEM file that they name.
///
/// # Errors
/// If a file cannot be written; the text names it.
pub(super) fn add(folder: &Path, roots: &Path, env: Env<'_>, variables: &mut Variables) -> io::Result<()> {
    let own = format!("ca_certificate = {}\n", roots.display());
    let wgetrc = write(folder, "wgetrc", &joined(&wgetrc(env).unwrap_or_default(), WGET_MARK, &own))?;
    variables.set.push(("WGETRC", wgetrc.into()));

    let settings = PHP_KEYS.map(|key| format!("{key} = \"{}\"\n", roots.display())).concat();
    let ini = write(folder, "php.ini", settings.as_bytes())?;
    let dirs = scan_dirs(env("PHP_INI_SCAN_DIR"), folder, &ini);
    variables.set.push(("PHP_INI_SCAN_DIR", dirs));

    if is_readable_by_apt(roots) {
        let before = env("APT_CONFIG").and_then(|path| fs::read(path).ok()).unwrap_or_default();
        let own = format!("Acquire::https::CaInfo \"{}\";\n", roots.display());
        let config = write(folder, "apt.conf", &joined(&before, APT_MARK, &own))?;
        variables.set.push(("APT_CONFIG", config.into()));
    }
    Ok(())
}

/// PEM files that the user's configurations of wget and PHP name.
pub(super) fn inherited(env: Env<'_>) -> Vec<PathBuf> {
    let wgetrc = String::from_utf8(wgetrc(env).unwrap_or_default()).unwrap_or_default();
    let wgetrc = wgetrc.split(WGET_MARK).next().unwrap_or_default();
    let mut found: Vec<PathBuf> = ini::value(wgetrc, "ca_certificate").into_iter().map(PathBuf::from).collect();
    for file in php_files(env) {
        let text = fs::read_to_string(file).unwrap_or_default();
        found.extend(PHP_KEYS.iter().filter_map(|key| ini::value(&text, key)).map(PathBuf::from));
    }
    found
}

/// The `wgetrc` that wget would read.
fn wgetrc(env: Env<'_>) -> Option<Vec<u8>> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    fs::read(set("WGETRC").or_else(|| Some(set("HOME")?.join(".wgetrc")))?).ok()
}

/// Configurations of PHP: of each version as Debian lays them, and in the folders that the user names.
fn php_files(env: Env<'_>) -> Vec<PathBuf> {
    let entries = |dir: &Path| -> Vec<PathBuf> {
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let mut files: Vec<PathBuf> = PHP_FILES.map(PathBuf::from).into();
    files.extend(entries(Path::new("/etc/php")).into_iter().map(|version| version.join("cli/php.ini")));
    for dir in env("PHP_INI_SCAN_DIR").iter().flat_map(std::env::split_paths) {
        files.extend(entries(&dir).into_iter().filter(|file| file.extension() == Some(OsStr::new("ini"))));
    }
    files
}

/// The user's part of a file, and ours behind it.
fn joined(before: &[u8], mark: &str, own: &str) -> Vec<u8> {
    let end = before.windows(mark.len()).position(|part| part == mark.as_bytes()).unwrap_or(before.len());
    let before = &before[..end];
    let newline = if before.is_empty() || before.ends_with(b"\n") { "" } else { "\n" };
    [before, newline.as_bytes(), mark.as_bytes(), own.as_bytes()].concat()
}

/// The value of `PHP_INI_SCAN_DIR`: the user's folders, and that of our file as the last, which is
/// stronger. An empty folder stands for PHP's own; a variable that is set to nothing for none.
fn scan_dirs(before: Option<OsString>, folder: &Path, ini: &Path) -> OsString {
    let before = before.map(OsString::into_vec);
    let theirs: Vec<&[u8]> = match &before {
        None => vec![b""],
        Some(list) if list.is_empty() => Vec::new(),
        // Ours, of an exec around this one, lie in our folder.
        Some(list) => list.split(|byte| *byte == b':').filter(|dir| !dir.starts_with(bytes(folder))).collect(),
    };
    let dir = ini.parent().unwrap_or(folder);
    OsString::from_vec(theirs.into_iter().chain([bytes(dir)]).collect::<Vec<_>>().join(&b':'))
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// True if apt can read the file: under root it loads as a user of its own.
fn is_readable_by_apt(path: &Path) -> bool {
    let others = |path: &Path, bit: u32| fs::metadata(path).is_ok_and(|found| found.permissions().mode() & bit != 0);
    !geteuid().is_root() || others(path, 0o004) && path.ancestors().skip(1).all(|dir| others(dir, 0o001))
}

/// Writes a file into a folder that is named by the content. Returns its path.
fn write(folder: &Path, name: &str, content: &[u8]) -> io::Result<PathBuf> {
    let digest = ring::digest::digest(&ring::digest::SHA256, content);
    let hex: String = digest.as_ref()[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    let folder = folder.join(format!("{name}-{hex}"));
    fs::create_dir_all(&folder)?;
    let path = folder.join(name);
    write_atomically(&path, content)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(content: &[u8]) -> &str {
        std::str::from_utf8(content).unwrap()
    }

    #[test]
    fn what_the_user_has_stands_before_ours_and_ours_stands_there_once() {
        assert_eq!(text(&joined(b"", WGET_MARK, "a = b\n")), "# lockgate exec\na = b\n");
        let once = joined(b"quiet = on", WGET_MARK, "a = b\n");
        assert_eq!(text(&once), "quiet = on\n# lockgate exec\na = b\n");
        assert_eq!(text(&joined(&once, WGET_MARK, "a = c\n")), "quiet = on\n# lockgate exec\na = c\n");
    }

    #[test]
    fn phps_own_folder_and_the_users_are_read_before_ours() {
        let after = |before: Option<&str>| {
            let dirs = scan_dirs(before.map(OsString::from), Path::new("/c"), Path::new("/c/php-1/php.ini"));
            dirs.into_string().unwrap()
        };
        assert_eq!(after(None), ":/c/php-1");
        assert_eq!(after(Some("")), "/c/php-1", "no folder is read");
        assert_eq!(after(Some("/a:")), "/a::/c/php-1");
        assert_eq!(after(Some(":/c/php-0")), ":/c/php-1", "an exec around this one");
    }

    #[test]
    fn roots_of_the_users_configurations_are_found() {
        let home = std::env::temp_dir().join(format!("lockgate-config-files-{}", std::process::id()));
        fs::create_dir_all(home.join("php")).unwrap();
        fs::write(home.join(".wgetrc"), "ca_certificate = /a.pem\n# lockgate exec\nca_certificate = /ours.pem\n")
            .unwrap();
        fs::write(home.join("php/own.ini"), "; curl.cainfo = /no\nopenssl.cafile = \"/b.pem\"\n").unwrap();
        let found = inherited(&|name| match name {
            "HOME" => Some(home.clone().into()),
            "PHP_INI_SCAN_DIR" => Some(home.join("php").into()),
            _ => None,
        });
        for path in ["/a.pem", "/b.pem"] {
            assert!(found.contains(&PathBuf::from(path)), "{path}: {found:?}");
        }
        assert!(!found.contains(&PathBuf::from("/ours.pem")) && !found.contains(&PathBuf::from("/no")), "{found:?}");
        fs::remove_dir_all(home).unwrap();
    }
}

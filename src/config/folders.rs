//! Checks of the state and authority folders: can the user of this process create and write them?
//!
//! A file in the place of a folder is a mistake on every machine. A folder that this user cannot
//! write is none by itself: the configuration may be checked by another user, or on another
//! machine, than the gateway's. `lockgate check` alone reports it, as a warning.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::report::{Report, Reports};
use super::toml_value::SourceSpan;
use crate::gate::journal;

/// Reason why a folder cannot be used.
///
/// The path is that of the first obstacle, which may be a folder above the one that was asked for.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// A file in the place of the folder, or of one above it.
    ///
    /// No user can create the folder then.
    InTheWay(PathBuf),
    /// An existing folder or file that this user cannot write, with the error.
    ///
    /// The test is that of the effective user (`AT_EACCESS`).
    Denied(PathBuf, io::ErrorKind),
}

/// Checks the state folder. Returns a warning about faults of this user and this machine alone.
/// `span`: that of the key, or of the file's beginning.
///
/// Reports an error for a file in the way if the counts must be remembered after a crash: the
/// gateway would not start.
pub(super) fn check_state(settings: &journal::Settings, span: &SourceSpan, reports: &Reports<'_>) -> Option<Report> {
    let fault = fault(&settings.dir, &journal::FILES)?;
    let dir = settings.dir.display();
    match fault {
        // The gateway does without it then, and says so.
        Fault::InTheWay(file) if settings.after_crash == journal::AfterCrash::Forget => {
            let message = format!("the state folder {dir} cannot be made: {} is a file", file.display());
            Some(reports.warning(span, message, "the gateway runs without it, and a restart forgets what was counted"))
        }
        Fault::InTheWay(file) => {
            let message = format!("the state folder {dir} cannot be made: {} is a file", file.display());
            reports.error(span, message, "name another folder, or move the file away");
            None
        }
        Fault::Denied(path, kind) => {
            let message =
                format!("this user cannot write {}, which the state folder {dir} needs: {kind}", path.display());
            Some(reports.warning(span, message, "the gateway must run as a user that can"))
        }
    }
}

/// Checks the folder of an authority that does not exist yet.
///
/// Every fault is a warning here: another user may be able to create the authority.
pub(super) fn check_authority(dir: &Path, span: &SourceSpan, reports: &Reports<'_>) -> Option<Report> {
    let warning = |path: &Path, why: &dyn std::fmt::Display| {
        let (dir, path) = (dir.display(), path.display());
        let message = format!("no authority is in {dir}, and this user cannot make one: {path}: {why}");
        reports.warning(
            span,
            message,
            "the gateway must run as a user that can write there, or name another folder in ca_dir",
        )
    };
    match fault(dir, &[])? {
        Fault::InTheWay(file) => Some(warning(&file, &"it is a file")),
        Fault::Denied(path, kind) => Some(warning(&path, &kind)),
    }
}

/// Reason why this user cannot create a folder, or write it and these files in it.
///
/// Looks at `dir`, then at the folders above it, and judges the first one that exists: what is
/// above it can be created if that one can be written. An error other than "not found" ends the
/// search.
fn fault(dir: &Path, files: &[&str]) -> Option<Fault> {
    for folder in dir.ancestors() {
        // The first ancestor of "a" is "", which stands for the working directory.
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        match std::fs::metadata(folder) {
            Ok(found) if !found.is_dir() => return Some(Fault::InTheWay(folder.to_owned())),
            Ok(_) => {
                let denied = denied(folder, Access::WRITE_OK | Access::EXEC_OK);
                let inside = files.iter().map(|name| dir.join(name));
                let file = || inside.into_iter().find_map(|path| denied_file(&path));
                return denied.or_else(file);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => return Some(Fault::Denied(folder.to_owned(), error.kind())),
        }
    }
    None
}

/// A file that does not exist is no fault: it will be created.
fn denied_file(path: &Path) -> Option<Fault> {
    path.exists().then(|| denied(path, Access::READ_OK | Access::WRITE_OK)).flatten()
}

/// Asks the system by faccessat(2); nothing is opened or written.
fn denied(path: &Path, access: Access) -> Option<Fault> {
    let error = io::Error::from(accessat(CWD, path, access, AtFlags::EACCESS).err()?);
    Some(Fault::Denied(path.to_owned(), error.kind()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_is_as_good_as_what_is_above_it() {
        let top = std::env::temp_dir().join(format!("lockgate-folders-{}", std::process::id()));
        std::fs::create_dir_all(&top).unwrap();
        assert_eq!(fault(&top.join("a/b/c"), &journal::FILES), None);
        std::fs::write(top.join("file"), "").unwrap();
        assert_eq!(fault(&top.join("file"), &[]), Some(Fault::InTheWay(top.join("file"))));
        assert_eq!(fault(&top.join("file/state"), &[]), Some(Fault::InTheWay(top.join("file"))));
        assert_eq!(fault(Path::new("no-such-folder/state"), &[]), None);
        std::fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn what_the_system_says_of_a_folder_is_reported() {
        // No user may write there.
        let Some(Fault::Denied(path, _)) = fault(Path::new("/proc/self/attr/state"), &[]) else { return };
        assert_eq!(path, Path::new("/proc/self/attr"));
    }
}

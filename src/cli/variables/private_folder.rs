//! Folder for files that programs of this user load: no other user can write or read it, since code in it becomes a part
//! of these programs, and settings in it may hold passwords.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// Permissions of a folder that belongs to its owner alone.
const MODE: u32 = 0o700;

/// Makes the first of these folders that can be used.
///
/// # Errors
/// The reason for the last one: it cannot be made, or belongs to another user. `NotFound` if none is
/// given.
pub(super) fn make_first(folders: &[PathBuf]) -> io::Result<PathBuf> {
    let none = io::Error::new(io::ErrorKind::NotFound, "neither XDG_CACHE_HOME nor HOME names a folder");
    let made = folders.iter().map(|folder| make(folder).map(|()| folder.clone()));
    made.reduce(Result::or).unwrap_or(Err(none))
}

fn make(folder: &Path) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
    DirBuilder::new().recursive(true).mode(MODE).create(folder).map_err(named)?;
    let metadata = fs::metadata(folder).map_err(named)?;
    if metadata.uid() != geteuid().as_raw() {
        return Err(named(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user")));
    }
    if metadata.mode() & 0o777 != MODE {
        fs::set_permissions(folder, fs::Permissions::from_mode(MODE)).map_err(named)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_belongs_to_its_owner_alone() {
        let top = std::env::temp_dir().join(format!("lockgate-private-folder-{}", std::process::id()));
        let (file, open) = (top.join("file"), top.join("open"));
        fs::create_dir_all(&open).unwrap();
        fs::write(&file, "").unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(make_first(&[file.join("below"), open.clone()]).unwrap(), open, "the first cannot be made");
        assert_eq!(fs::metadata(&open).unwrap().mode() & 0o777, MODE);
        assert!(make_first(&[]).is_err());
        // Root may write everywhere; the folder is another user's all the same.
        if geteuid().is_root() {
            std::os::unix::fs::chown(&open, Some(65534), None).unwrap();
            let error = make_first(std::slice::from_ref(&open)).unwrap_err();
            assert!(error.to_string().contains("belongs to another user"), "{error}");
        }
        fs::remove_dir_all(top).unwrap();
    }
}

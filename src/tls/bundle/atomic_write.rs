//! Atomic file writes: a reader sees the whole old content or the whole new content.
//!
//! The content goes to a hidden temporary file beside the target, `.NAME.RANDOM`, which is then
//! renamed. There is no fsync: a file that a crash of the machine has cut is written anew by the
//! next call.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};

/// Most names that are tried for a temporary file. One is enough, unless random numbers repeat.
const MAX_NAMES: usize = 8;

/// Replaces the file's content, unless it has this content already. The file is world-readable.
///
/// # Errors
/// If the file cannot be written; the text names it.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|there| there == content) {
        return Ok(());
    }
    let (mut file, new) = create_beside(path).map_err(|error| write_error(path, &error))?;
    let written = file
        .write_all(content)
        .and_then(|()| file.set_permissions(Permissions::from_mode(0o644)))
        .and_then(|()| fs::rename(&new, path));
    written.map_err(|error| {
        // The first error is reported.
        fs::remove_file(&new).ok();
        write_error(path, &error)
    })
}

/// Creates a temporary file beside the target, and returns it with its path.
///
/// Several processes may write at the same time, and in containers that share a folder their process ids may be equal:
/// the name is random, and no file that exists is opened.
///
/// # Errors
/// Of the file system, or if the system has no random numbers.
fn create_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    for _ in 0..MAX_NAMES {
        let mut random = [0; 8];
        SystemRandom::new().fill(&mut random).map_err(|_| io::Error::other("the system has no random numbers"))?;
        let new = path.with_file_name(format!(".{name}.{:016x}", u64::from_be_bytes(random)));
        match File::create_new(&new) {
            Ok(file) => return Ok((file, new)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Error of the same kind, with the path in its text.
pub(super) fn write_error(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))
}

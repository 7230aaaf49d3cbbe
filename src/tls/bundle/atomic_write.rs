//! Atomic file writes: a reader sees the whole old content or the whole new content.
//!
//! The content goes to a hidden temporary file beside the target, `.NAME.PID`, which is then
//! renamed. There is no fsync: a file that a crash of the machine has cut is written anew by the
//! next call.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Replaces the file's content, unless it has this content already. The file is world-readable.
///
/// # Errors
/// If the file cannot be written; the text names it.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|there| there == content) {
        return Ok(());
    }
    // Several processes may write at the same time; each renames a temporary file of its own.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = File::create(&new)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.set_permissions(Permissions::from_mode(0o644))
        })
        .and_then(|()| fs::rename(&new, path));
    written.map_err(|error| {
        // The temporary file may not exist.
        fs::remove_file(&new).ok();
        write_error(path, &error)
    })
}

/// Error of the same kind, with the path in its text.
pub(super) fn write_error(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))
}

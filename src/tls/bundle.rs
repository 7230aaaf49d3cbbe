//! What programs need to believe our authority: a bundle with the system's roots beside ours, and a trust store for Java.

use std::io;
use std::path::{Path, PathBuf};

/// The files that programs are pointed at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bundle {
    /// Our certificate alone (PEM), for programs that add it to what they trust.
    pub ours: PathBuf,
    /// The system's roots and ours (PEM), for programs whose variable replaces what they trust.
    pub all: PathBuf,
    /// The same for Java (JKS).
    pub java: PathBuf,
}

impl Bundle {
    /// Where the files of the authority in `dir` are.
    pub fn of(_dir: &Path) -> Bundle {
        todo!()
    }

    /// Writes those that are missing or out of date. `ours` is there already.
    ///
    /// # Errors
    /// If a file cannot be read or written; the text names it.
    pub fn write(&self, _wall_unix_nanos: i128) -> io::Result<()> {
        todo!()
    }
}

//! Warning about the configuration in force, for the admin API.

use std::sync::Arc;

/// A setting that is allowed, but has less effect than it seems to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// File, as named on the command line.
    pub file: String,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// The mistake, as a sentence.
    pub message: String,
    /// The change that would be right.
    pub advice: String,
}

/// All warnings, in the order of the file.
pub type Warnings = Arc<[Warning]>;

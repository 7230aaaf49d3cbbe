//! Warning about the configuration in force, for the admin API.

use std::sync::Arc;

/// A line of the file that is allowed, and does less than it seems to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// The file, as it was named on the command line.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// Counted in characters, from 1.
    pub column: usize,
    /// The fault, in a sentence.
    pub message: String,
    /// The change that would be right.
    pub advice: String,
}

/// All warnings, in the order of the file.
pub type Warnings = Arc<[Warning]>;

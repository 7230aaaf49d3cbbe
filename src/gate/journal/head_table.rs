//! Head table of the journal's database, and the encoding of its values.

use std::io;

use redb::TableDefinition;

/// Table of the head records, by name.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("whole");

/// Encodes a value with postcard.
///
/// # Errors
/// An I/O error that wraps the one of postcard.
pub(super) fn encode(value: &impl serde::Serialize) -> Result<Vec<u8>, redb::Error> {
    postcard::to_stdvec(value).map_err(|error| redb::Error::Io(io::Error::other(error)))
}

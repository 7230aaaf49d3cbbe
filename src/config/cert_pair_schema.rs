//! Schema of a certificate with its key: `tls` of a listener, and `[[tls.client]]`.

use std::path::PathBuf;

use super::toml_table::TomlTable;
use super::toml_value::{Setting, SourceSpan};
use super::value_parsers::path;

/// A certificate and its private key.
///
/// Both files are needed.
#[derive(Debug)]
pub(super) struct CertPair {
    /// SourceSpan of the table, for mistakes that concern no key of it.
    pub(super) span: SourceSpan,
    /// True if the file has the table.
    pub(super) is_present: bool,
    /// Path of a PEM file with the chain, the leaf first.
    pub(super) cert: Setting<PathBuf>,
    /// Path of a PEM file with the private key.
    pub(super) key: Setting<PathBuf>,
}

impl CertPair {
    /// Reads the key `tls` of a listener.
    pub(super) fn of_listener(table: &mut TomlTable<'_>) -> CertPair {
        table.inline_table("tls", "{ cert = \"gateway.pem\", key = \"gateway.key\" }", CertPair::read)
    }

    /// Misspelt keys count as invalid, so that each slip is reported once.
    pub(super) fn read(table: &mut TomlTable<'_>) -> CertPair {
        let (span, is_present) = (table.span(), table.is_present());
        let mut pair = CertPair { span, is_present, cert: table.get("cert", path), key: table.get("key", path) };
        for key in table.misspelt_keys() {
            match key {
                "cert" => pair.cert.mark_misspelt(),
                "key" => pair.key.mark_misspelt(),
                _ => {}
            }
        }
        pair
    }
}

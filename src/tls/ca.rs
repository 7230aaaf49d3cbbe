//! The gateway's certificate authority: made, kept, rotated; leaf certificates on demand.

mod cert_summary;
mod fault;
mod files;
mod leaf;
mod name_scope;
#[cfg(test)]
mod tests;
mod validity;

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;

pub use self::cert_summary::CertSummary;
pub use self::fault::{CaFault, Error};
pub use self::files::{Settings, certificate_path, key_path, old_certificate_path};
use self::leaf::LeafIssuer;
pub use self::name_scope::{NameScope, Subtree};

/// Our authority, with the leaves that it has signed.
pub struct CertAuthority {
    leaves: LeafIssuer,
    /// SHA-256 of its certificate.
    fingerprint: [u8; 32],
}

impl CertAuthority {
    /// Reads the authority in its folder, or makes it there. Of several processes that do so at one time one makes it,
    /// and the others read what it made.
    ///
    /// # Errors
    /// If the files cannot be read or made, do not fit together, are out of their time, or do not cover what the
    /// settings name; the gateway does not start.
    pub fn open(settings: &Settings, wall_unix_nanos: i128) -> Result<CertAuthority, Error> {
        let kept = files::open(settings, wall_unix_nanos)?;
        files::warn_before_expiry(&kept.summary, wall_unix_nanos);
        let fingerprint = kept.summary.fingerprint;
        Ok(CertAuthority { leaves: LeafIssuer::new(kept)?, fingerprint })
    }

    /// SHA-256 of its certificate.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// Whether both have one certificate, so that the leaves of either will do.
    pub fn is_same(&self, other: &CertAuthority) -> bool {
        self.fingerprint == other.fingerprint
    }

    /// What a caller is shown that wants to speak to `host` (in its one spelling): HTTP/2 and HTTP/1.1 by ALPN.
    /// A leaf is made off the event loop, and shown again as long as more than two of its seven days are left.
    ///
    /// # Errors
    /// If the host is no name that a certificate can bear, or the authority's own time is over.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: whoever else waits for the leaf gets it.
    pub async fn leaf(&self, host: &str, wall_unix_nanos: i128) -> Result<Arc<ServerConfig>, Error> {
        Ok(self.leaves.leaf(host, wall_unix_nanos).await?)
    }
}

/// Looks at the authority that is there, and makes none.
///
/// # Errors
/// As [`CertAuthority::open`].
pub fn inspect(settings: &Settings, wall_unix_nanos: i128) -> Result<Option<CertSummary>, Error> {
    Ok(files::inspect(settings, wall_unix_nanos)?.map(|kept| kept.summary))
}

/// Looks at the certificate alone, for whoever may not see the key.
///
/// # Errors
/// If it cannot be read, or is not an authority's.
pub fn inspect_certificate(dir: &Path) -> Result<CertSummary, Error> {
    Ok(files::read_certificate(&certificate_path(dir))?.1)
}

/// Makes the authority if there is none, and looks at it.
///
/// # Errors
/// As [`CertAuthority::open`].
pub fn open_or_create(settings: &Settings, wall_unix_nanos: i128) -> Result<CertSummary, Error> {
    Ok(files::open(settings, wall_unix_nanos)?.summary)
}

/// Makes a new authority in the place of the one that is there, whatever state it is in. Its certificate is kept as
/// [`old_certificate_path`], so that programs can believe both while gateways are restarted; its key is gone.
///
/// # Errors
/// If the files cannot be written.
pub fn rotate(settings: &Settings, wall_unix_nanos: i128) -> Result<CertSummary, Error> {
    Ok(files::rotate(settings, wall_unix_nanos)?.summary)
}

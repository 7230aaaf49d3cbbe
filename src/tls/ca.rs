//! Local certificate authority: created, stored, rotated; signs leaf certificates on demand.
//!
//! Callers trust the authority once; the gateway then shows each intercepted host's name in a leaf
//! of its own. The wall clock is an argument everywhere (nanoseconds of Unix time), and files are
//! touched only by `files`. [`CertAuthority`] is the running gateway's; the free functions serve
//! `lockgate ca`.

mod cert_summary;
mod fault;
mod files;
mod leaf;
mod name_scope;
#[cfg(test)]
mod tests;
mod validity;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;

pub use self::cert_summary::CertSummary;
pub use self::fault::{CaFault, Error};
pub use self::files::{Settings, certificate_path, key_path, old_certificate_path};
use self::leaf::LeafIssuer;
pub use self::name_scope::Subtree;

/// Authority of the gateway, with its leaves.
pub struct CertAuthority {
    /// Issuer and cache of the leaves.
    leaves: LeafIssuer,
    /// SHA-256 of its certificate.
    fingerprint: [u8; 32],
    /// Absolute path of its certificate.
    certificate: PathBuf,
}

impl CertAuthority {
    /// Reads the authority in its folder, or creates it there. Of several processes that start at
    /// once one creates it, and the others read the result.
    ///
    /// # Errors
    /// If the files cannot be read or written, do not match, are expired or not yet valid, or do
    /// not cover the hosts of the settings. The gateway does not start then.
    pub fn open(settings: &Settings, wall_unix_nanos: i128) -> Result<CertAuthority, Error> {
        let kept = files::open(settings, wall_unix_nanos)?;
        files::warn_before_expiry(&kept.summary, wall_unix_nanos);
        let fingerprint = kept.summary.fingerprint;
        let path = certificate_path(&settings.dir);
        // As given if the working directory is unknown.
        let certificate = std::path::absolute(&path).unwrap_or(path);
        Ok(CertAuthority { leaves: LeafIssuer::new(kept)?, fingerprint, certificate })
    }

    /// Absolute path of its certificate, for messages.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// SHA-256 of its certificate.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// True if both have one certificate, in one place, so that their leaves are interchangeable.
    pub fn is_same(&self, other: &CertAuthority) -> bool {
        self.fingerprint == other.fingerprint && self.certificate == other.certificate
    }

    /// TLS server settings with a leaf for `host` (in its one spelling): HTTP/2 and HTTP/1.1 by
    /// ALPN. The leaf is made off the event loop, and reused while more than two of its seven days
    /// remain.
    ///
    /// # Errors
    /// If a certificate cannot bear the host's name, or the authority has expired.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: another call for the host completes the leaf.
    pub async fn leaf(&self, host: &str, wall_unix_nanos: i128) -> Result<Arc<ServerConfig>, Error> {
        Ok(self.leaves.leaf(host, wall_unix_nanos).await?)
    }
}

/// Reads the existing authority and creates none.
///
/// Takes no lock and writes nothing, unless another process is writing at this moment. `None`:
/// there is no authority.
///
/// # Errors
/// As [`CertAuthority::open`].
pub fn inspect(settings: &Settings, wall_unix_nanos: i128) -> Result<Option<CertSummary>, Error> {
    Ok(files::inspect(settings, wall_unix_nanos)?.map(|kept| kept.summary))
}

/// Reads the certificate alone, for users that may not read the key.
///
/// # Errors
/// If it cannot be read, or is not an authority's.
pub fn inspect_certificate(dir: &Path) -> Result<CertSummary, Error> {
    Ok(files::read_certificate(&certificate_path(dir))?.1)
}

/// Creates the authority if there is none, and returns its summary.
///
/// # Errors
/// As [`CertAuthority::open`].
pub fn open_or_create(settings: &Settings, wall_unix_nanos: i128) -> Result<CertSummary, Error> {
    Ok(files::open(settings, wall_unix_nanos)?.summary)
}

/// Replaces the authority, whatever state it is in. The old certificate is kept as
/// [`old_certificate_path`], so that programs can trust both while gateways restart; the old key is
/// gone.
///
/// # Errors
/// If the files cannot be written.
pub fn rotate(settings: &Settings, wall_unix_nanos: i128) -> Result<CertSummary, Error> {
    Ok(files::rotate(settings, wall_unix_nanos)?.summary)
}

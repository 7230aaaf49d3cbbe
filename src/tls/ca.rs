//! Our authority: made, kept, rotated; leaf certificates on demand.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;

/// Where the authority is kept, and for whom it may vouch.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder of its key and certificate.
    pub dir: PathBuf,
    /// The hosts whose tunnels may be opened.
    pub covers: Vec<Subtree>,
}

/// Names that an authority may vouch for (RFC 5280 §4.2.1.10).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subtree {
    /// Whatever there is.
    Any,
    /// A DNS name and all below it.
    Name(String),
    /// One address.
    Address(IpAddr),
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
#[error("skeleton")]
pub struct Error;

/// Our authority, with the leaves that it has signed.
pub struct Authority {}

impl Authority {
    /// Reads the authority in its folder, or makes it there.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(_settings: &Settings, _wall_unix_nanos: i128) -> Result<Authority, Error> {
        todo!()
    }

    /// What a caller is shown that wants to speak to `host` (in its one spelling): HTTP/2 and HTTP/1.1 by ALPN.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn leaf(&self, _host: &str, _wall_unix_nanos: i128) -> Result<Arc<ServerConfig>, Error> {
        todo!()
    }

    /// The file with the certificate of the authority.
    pub fn path(_dir: &Path) -> PathBuf {
        todo!()
    }
}

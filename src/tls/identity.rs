//! Who we are where we were given a certificate: towards callers on a listener, towards origins that ask.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate chain and its key.
#[derive(Debug)]
pub struct Identity {
    /// The leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the leaf.
    pub key: PrivateKeyDer<'static>,
}

/// Why a certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("skeleton")]
pub struct Error;

impl Clone for Identity {
    fn clone(&self) -> Identity {
        Identity { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Identity {
    /// Reads the two PEM files.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(_cert: &Path, _key: &Path) -> Result<Identity, Error> {
        todo!()
    }

    /// What callers of a listener are shown: HTTP/2 and HTTP/1.1 by ALPN.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn server(&self) -> Result<Arc<ServerConfig>, Error> {
        todo!()
    }
}

//! TLS identity: a certificate chain with its key, shown to callers of a listener or to origins that ask for one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{InconsistentKeys, ServerConfig};

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::pem;

/// Certificate chain with its key.
///
/// Read at the start and at each reload; a renewed file has no effect before.
#[derive(PartialEq, Debug)]
pub struct Identity {
    /// Certificates (DER), the leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Private key of the leaf.
    pub key: PrivateKeyDer<'static>,
}

/// Reason why a certificate and its key cannot be used. The gateway's user is at fault in each case.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of the files cannot be used.
    #[error(transparent)]
    File(#[from] pem::Error),
    /// The key belongs to another certificate.
    #[error("{} is not the key of {}", key.display(), cert.display())]
    Mismatch {
        /// Path of the certificate.
        cert: PathBuf,
        /// Path of the key.
        key: PathBuf,
    },
    /// TLS cannot use the certificate or the key.
    #[error("{} with the key {} cannot be used: {source}", cert.display(), key.display())]
    Unusable {
        /// Path of the certificate.
        cert: PathBuf,
        /// Path of the key.
        key: PathBuf,
        /// Error of rustls.
        source: rustls::Error,
    },
    /// TLS cannot be set up with it.
    #[error("TLS cannot be spoken: {0}")]
    Tls(#[from] rustls::Error),
}

impl Error {
    /// Advice on how to mend it.
    pub fn remedy(&self) -> String {
        match self {
            Error::File(error) => error.remedy(),
            Error::Mismatch { .. } => "name the key that the certificate was made for".to_owned(),
            Error::Unusable { .. } => {
                "a certificate and its key: ECDSA (P-256, P-384), Ed25519, or RSA with 2048 bits or more".to_owned()
            }
            Error::Tls(_) => "is the system out of random numbers?".to_owned(),
        }
    }

    /// Path of the file at fault, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Error::File(error) => Some(error.path()),
            Error::Mismatch { key, .. } => Some(key),
            Error::Unusable { cert, .. } => Some(cert),
            Error::Tls(_) => None,
        }
    }
}

impl Clone for Identity {
    fn clone(&self) -> Identity {
        Identity { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Identity {
    /// Reads the two PEM files and checks that they match.
    ///
    /// The key must belong to the first certificate of the file. Whether the chain is complete is
    /// for its callers to find out.
    ///
    /// # Errors
    /// If a file cannot be read or holds something else, if others may read the key, or if the key does not match.
    pub fn read(cert: &Path, key: &Path) -> Result<Identity, Error> {
        let identity = Identity { chain: pem::certificates(cert)?, key: pem::private_key(key)? };
        let (cert, key) = (cert.to_owned(), key.to_owned());
        match identity.certified_key() {
            Ok(_) => Ok(identity),
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(Error::Mismatch { cert, key }),
            Err(source) => Err(Error::Unusable { cert, key, source }),
        }
    }

    /// TLS server settings of a listener: HTTP/2 and HTTP/1.1 by ALPN.
    ///
    /// Sessions are resumed with tickets (RFC 8446 §4.6.1), for which each call makes new
    /// keys: sessions of earlier settings are not resumed.
    ///
    /// # Errors
    /// If key and certificate do not match, or the system has no random numbers.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.certified_key()?)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Sessions are kept by callers: a store of ours would hold some KiB for each, or be too small for a fleet.
        config.ticketer = Ticketer::new()?;
        Ok(Arc::new(config))
    }

    /// A DNS name that the certificate is valid for, without an asterisk; `None` if it has none.
    pub fn first_dns_name(&self) -> Option<String> {
        let (_, certificate) = X509Certificate::from_der(self.chain.first()?).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        names.value.general_names.iter().find_map(|name| {
            let GeneralName::DNSName(name) = name else { return None };
            // Any one label stands for the asterisk (RFC 6125 §6.4.3).
            Some(name.replacen('*', "gateway", 1))
        })
    }

    /// Pairs key and chain for rustls, which compares the public keys.
    fn certified_key(&self) -> Result<CertifiedKey, rustls::Error> {
        CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &default_provider())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use rcgen::generate_simple_self_signed;

    use super::*;

    /// Temporary folder with a certificate and its key.
    struct CertDir(PathBuf);

    impl CertDir {
        fn new(test: &str) -> CertDir {
            let folder = std::env::temp_dir().join(format!("lockgate-identity-{}-{test}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            let made = generate_simple_self_signed(vec!["gw.example".to_owned()]).unwrap();
            let folder = CertDir(folder);
            folder.write("gw.pem", &made.cert.pem(), 0o644);
            folder.write("gw.key", &made.signing_key.serialize_pem(), 0o600);
            folder
        }

        fn write(&self, name: &str, text: &str, mode: u32) {
            fs::write(self.0.join(name), text).unwrap();
            fs::set_permissions(self.0.join(name), Permissions::from_mode(mode)).unwrap();
        }

        fn read(&self) -> Result<Identity, String> {
            Identity::read(&self.0.join("gw.pem"), &self.0.join("gw.key"))
                .map_err(|error| error.to_string().replace(&self.0.display().to_string(), "D"))
        }
    }

    impl Drop for CertDir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    #[test]
    fn a_certificate_with_its_key_serves_both_protocols() {
        let folder = CertDir::new("good");
        let config = folder.read().unwrap().clone().server_config().unwrap();
        assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        assert!(config.ticketer.enabled());
    }

    #[test]
    fn a_key_that_is_another_certificates_is_refused() {
        let folder = CertDir::new("mismatch");
        folder.write("gw.key", &rcgen::KeyPair::generate().unwrap().serialize_pem(), 0o600);
        assert_eq!(folder.read().unwrap_err(), "D/gw.key is not the key of D/gw.pem");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = CertDir::new("exposed");
        fs::set_permissions(folder.0.join("gw.key"), Permissions::from_mode(0o644)).unwrap();
        let told = folder.read().unwrap_err();
        assert_eq!(told, "the private key D/gw.key may be read or written by others (its mode is 644)");
    }

    #[test]
    fn what_tls_cannot_use_is_refused() {
        let folder = CertDir::new("unfit");
        folder.write("gw.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644);
        let told = folder.read().unwrap_err();
        assert!(told.starts_with("D/gw.pem with the key D/gw.key cannot be used: "), "{told}");
    }
}

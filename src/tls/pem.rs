//! PEM files: certificates, and private keys that only their owner may read.
//!
//! Every error names the file and comes with advice ([`Error::remedy`]), since these are the
//! files that a user of the gateway provides. Text around the PEM blocks is ignored (RFC 7468 §2),
//! and so are blocks of other kinds.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Most bytes read from a file: more than any chain or key has. A path given by mistake may name a disk.
/// Bytes behind it are not read.
const MAX_FILE: u64 = 1 << 20;

/// Reason why a PEM file cannot be used. The gateway's user is at fault in each case.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file does not exist, or may not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// Others than its owner may read or write the private key.
    #[error("the private key {} may be read or written by others (its mode is {mode:03o})", path.display())]
    Exposed {
        /// Path of the file.
        path: PathBuf,
        /// Permission bits of the file (`st_mode & 0o777`).
        mode: u32,
    },
    /// The PEM encoding is broken.
    #[error("{} is not PEM: {why}", path.display())]
    NotPem {
        /// Path of the file.
        path: PathBuf,
        /// Description of the defect.
        why: String,
    },
    /// The file has no certificate.
    #[error("{} holds no certificate", .0.display())]
    NoCertificate(PathBuf),
    /// The file has no private key.
    #[error("{} holds no private key", .0.display())]
    NoKey(PathBuf),
    /// The private key is encrypted with a password.
    #[error("the private key in {} is encrypted", .0.display())]
    Encrypted(PathBuf),
}

impl Error {
    /// Advice on how to mend it.
    pub fn remedy(&self) -> String {
        match self {
            Error::Read { .. } => "name a file that the gateway's user can read".to_owned(),
            Error::Exposed { path, .. } => format!("run `chmod 600 {}`", path.display()),
            Error::NotPem { .. } => "a text file with lines such as -----BEGIN CERTIFICATE-----".to_owned(),
            Error::NoCertificate(_) => "a PEM file with a certificate (-----BEGIN CERTIFICATE-----)".to_owned(),
            Error::NoKey(_) => "a PEM file with a private key (-----BEGIN PRIVATE KEY-----)".to_owned(),
            Error::Encrypted(path) => {
                format!("decrypt it: `openssl pkey -in {0} -out {0}.plain`", path.display())
            }
        }
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        match self {
            Error::Read { path, .. } | Error::Exposed { path, .. } | Error::NotPem { path, .. } => path,
            Error::NoCertificate(path) | Error::NoKey(path) | Error::Encrypted(path) => path,
        }
    }

    /// True if the file exists but may not be read.
    ///
    /// Such as the key of another user's authority.
    pub fn is_denied(&self) -> bool {
        matches!(self, Error::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }

    /// True if the file does not exist.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Error::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads all certificates (DER) of a file, at least one.
///
/// # Errors
/// If the file cannot be read, or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read(path, open(path)?)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| not_pem(path, &error))?;
    if found.is_empty() { Err(Error::NoCertificate(path.to_owned())) } else { Ok(found) }
}

/// Reads the first private key of a file that only its owner may read, [with one exception](is_exposed): PKCS #8, SEC 1 (`EC PRIVATE KEY`) or PKCS #1
/// (`RSA PRIVATE KEY`).
///
/// # Errors
/// If the file cannot be read, if others may read or write it, or if it holds no unencrypted key.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let file = open(path)?;
    // Checks the open file, not its path, which may lead elsewhere a moment later.
    let metadata = file.metadata().map_err(|source| unreadable(path, source))?;
    let mode = metadata.permissions().mode() & 0o777;
    if is_exposed(mode, metadata.uid(), rustix::process::geteuid().as_raw()) {
        return Err(Error::Exposed { path: path.to_owned(), mode });
    }
    let text = read(path, file)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) if is_encrypted(&text) => Err(Error::Encrypted(path.to_owned())),
        Err(pem::Error::NoItemsFound) => Err(Error::NoKey(path.to_owned())),
        Err(error) => Err(not_pem(path, &error)),
    }
}

/// True if others than a file's owner may read or write it. `mode`: its permission bits; `owner`: its
/// user; `user`: that of this process.
///
/// A file of root's may be readable for its group, as with PostgreSQL: so Kubernetes gives secrets to
/// the group of a pod (`fsGroup`, mode 0440), and a package a key to the group of a service.
fn is_exposed(mode: u32, owner: u32, user: u32) -> bool {
    const ROOT: u32 = 0;
    let allowed = if owner == ROOT && user != ROOT { 0o740 } else { 0o700 };
    mode & !allowed != 0
}

/// Encodes certificates (DER) as PEM, one after the other.
pub(super) fn encode_certificates(certificates: &[&[u8]]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let mut rest = STANDARD.encode(certificate);
        while !rest.is_empty() {
            // RFC 7468 §2: lines of 64 characters, which are ASCII.
            let after = rest.split_off(rest.len().min(64));
            text.push_str(&rest);
            text.push('\n');
            rest = after;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

/// Opens a file, with the path in the error.
fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|source| unreadable(path, source))
}

/// Reads at most [`MAX_FILE`] bytes of an open file.
fn read(path: &Path, file: File) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text).map_err(|source| unreadable(path, source))?;
    Ok(text)
}

fn unreadable(path: &Path, source: io::Error) -> Error {
    Error::Read { path: path.to_owned(), source }
}

fn not_pem(path: &Path, error: &pem::Error) -> Error {
    Error::NotPem { path: path.to_owned(), why: error.to_string() }
}

/// True if the text holds an encrypted key: PKCS #8 has a label for it, the older forms a header (RFC 1421 §4.6.1.1).
fn is_encrypted(text: &[u8]) -> bool {
    let has = |mark: &[u8]| memchr::memmem::find(text, mark).is_some();
    has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED")
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    fn file(test: &str, text: &str, mode: u32) -> PathBuf {
        let path = std::env::temp_dir().join(format!("lockgate-pem-{}-{test}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    fn key(test: &str, text: &str, mode: u32) -> Result<PrivateKeyDer<'static>, String> {
        let path = file(test, text, mode);
        let found = private_key(&path).map_err(|error| error.to_string().replace(&path.display().to_string(), "F"));
        std::fs::remove_file(path).unwrap();
        found
    }

    #[test]
    fn a_key_that_others_may_read_or_write_is_refused() {
        let text = rcgen::KeyPair::generate().unwrap().serialize_pem();
        for mode in [0o600, 0o400, 0o700] {
            assert!(key("mine", &text, mode).is_ok(), "{mode:o}");
        }
        for mode in [0o644, 0o640, 0o620, 0o604, 0o602, 0o610] {
            let told = format!("the private key F may be read or written by others (its mode is {mode:03o})");
            assert_eq!(key("ours", &text, mode).unwrap_err(), told);
        }
        let exposed = Error::Exposed { path: "a/b.key".into(), mode: 0o644 };
        assert_eq!(exposed.remedy(), "run `chmod 600 a/b.key`");
    }

    #[test]
    fn a_key_of_roots_may_be_readable_for_the_group_of_a_process_that_is_not_root() {
        for mode in [0o440, 0o640, 0o400, 0o600] {
            assert!(!is_exposed(mode, 0, 65532), "{mode:o}");
        }
        for (mode, owner, user) in [
            (0o444, 0, 65532),
            (0o460, 0, 65532),
            (0o441, 0, 65532),
            (0o440, 65532, 65532),
            (0o440, 1000, 65532),
            (0o440, 0, 0),
        ] {
            assert!(is_exposed(mode, owner, user), "{mode:o} of {owner} for {user}");
        }
    }

    #[test]
    fn what_holds_no_usable_key_is_told_apart() {
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert_eq!(key("locked", encrypted, 0o600).unwrap_err(), "the private key in F is encrypted");
        assert_eq!(key("none", "nothing\n", 0o600).unwrap_err(), "F holds no private key");
        let broken = "-----BEGIN PRIVATE KEY-----\n%%\n-----END PRIVATE KEY-----\n";
        assert!(key("broken", broken, 0o600).unwrap_err().starts_with("F is not PEM: "));
        let missing = private_key(Path::new("/nowhere/none.key")).unwrap_err();
        assert!(missing.is_missing() && !missing.is_denied(), "{missing}");
    }

    #[test]
    fn a_certificate_file_holds_at_least_one() {
        let path = file("empty", "nothing\n", 0o644);
        assert!(matches!(certificates(&path), Err(Error::NoCertificate(_))));
        std::fs::remove_file(path).unwrap();
    }
}

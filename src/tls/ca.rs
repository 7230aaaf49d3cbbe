//! Our authority: made, kept, rotated; leaf certificates on demand.

mod files;
mod leaf;
mod name_scope;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;

use self::leaf::LeafIssuer;
pub use self::name_scope::NameScope;
use super::pem;

/// The key's file in the folder of the authority.
const KEY: &str = "lockgate-ca.key";
/// The certificate's file.
const CERTIFICATE: &str = "lockgate-ca.pem";
/// The certificate of the authority before this one.
const OLD: &str = "lockgate-ca-old.pem";

/// Where the authority is kept, and for whom it may vouch.
#[derive(Clone, PartialEq, Eq, Debug)]
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

impl fmt::Display for Subtree {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subtree::Any => out.write_str("every host"),
            Subtree::Name(name) => out.write_str(name),
            Subtree::Address(address) => address.fmt(out),
        }
    }
}

/// Why there is no authority, or no leaf of it. `Display` says what is wrong, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{fault}; {}", fault.remedy())]
pub struct Error {
    /// What is wrong. It is not the source, for its words are in ours.
    pub fault: CaFault,
}

impl From<CaFault> for Error {
    fn from(fault: CaFault) -> Error {
        Error { fault }
    }
}

/// What is wrong with an authority.
#[derive(Debug, thiserror::Error)]
pub enum CaFault {
    /// A file of it cannot be used.
    #[error(transparent)]
    File(#[from] pem::Error),
    /// A file of it cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// One of the two files is gone.
    #[error("{} is there, but {} is not", there.display(), missing.display())]
    Incomplete {
        /// What is left.
        there: PathBuf,
        /// What is gone.
        missing: PathBuf,
    },
    /// A file holds something else, or what is broken.
    #[error("{} cannot be used as our authority: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The key is another certificate's.
    #[error("{} is not the key of {}", key.display(), certificate.display())]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// Its time is over.
    #[error("the authority in {} expired on {until}", path.display())]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// Its last moment.
        until: String,
    },
    /// Its time ended while the gateway ran.
    #[error("our authority expired on {until}")]
    ExpiredSinceStart {
        /// Its last moment.
        until: String,
    },
    /// Its time has not come.
    #[error("the authority in {} is not valid before {from}", path.display())]
    NotYetValid {
        /// The certificate's file.
        path: PathBuf,
        /// Its first moment.
        from: String,
    },
    /// It was made when `intercept` named other hosts.
    #[error("the authority in {} may not vouch for {host}, only for {scope}", path.display())]
    NotCovered {
        /// The certificate's file.
        path: PathBuf,
        /// What it may not vouch for.
        host: Subtree,
        /// What it may vouch for.
        scope: Box<NameScope>,
    },
    /// A leaf cannot be made for this host.
    #[error("{0:?} is not a name that a certificate can bear")]
    Name(String),
    /// Making a key or a certificate failed.
    #[error("a certificate cannot be made: {0}")]
    Generation(String),
}

impl CaFault {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        const ROTATE: &str = "`lockgate ca rotate` makes a new authority";
        match self {
            CaFault::File(error) => match error {
                pem::Error::Exposed { .. } => error.remedy(),
                pem::Error::Read { .. } => "only the user whose file it is can run the gateway".to_owned(),
                pem::Error::NotPem { .. }
                | pem::Error::NoCertificate(_)
                | pem::Error::NoKey(_)
                | pem::Error::Encrypted(_) => ROTATE.to_owned(),
            },
            CaFault::Write { .. } => {
                "let the gateway's user write there, or name another folder in [tls] ca_dir".to_owned()
            }
            CaFault::Incomplete { missing, .. } => format!("put {} back; or {ROTATE}", missing.display()),
            CaFault::Unusable { .. }
            | CaFault::Mismatch { .. }
            | CaFault::Expired { .. }
            | CaFault::ExpiredSinceStart { .. } => ROTATE.to_owned(),
            CaFault::NotYetValid { .. } => format!("is the clock right? If so, {ROTATE}"),
            CaFault::NotCovered { .. } => {
                format!("{ROTATE} for the hosts that [tls] intercept names now")
            }
            CaFault::Name(_) => "no tunnel to it can be opened".to_owned(),
            CaFault::Generation(_) => "is the system out of random numbers, or is the gateway stopping?".to_owned(),
        }
    }

    /// Whether a file is there, and is kept from us: somebody else's authority, which that one can use.
    pub fn is_denied(&self) -> bool {
        matches!(self, CaFault::File(error) if error.is_denied())
    }
}

/// What there is to say about the certificate of an authority.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertSummary {
    /// Its name.
    pub subject: String,
    /// Its first second, in Unix time.
    pub not_before: i64,
    /// Its last second, in Unix time.
    pub not_after: i64,
    /// SHA-256 of it.
    pub fingerprint: [u8; 32],
    /// For whom it may vouch.
    pub scope: NameScope,
}

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

    /// The file with the certificate of the authority.
    pub fn path(dir: &Path) -> PathBuf {
        dir.join(CERTIFICATE)
    }

    /// The file with its key.
    pub fn key_path(dir: &Path) -> PathBuf {
        dir.join(KEY)
    }

    /// The file with the certificate of the authority before the last [`rotate`], if there was one.
    pub fn old_path(dir: &Path) -> PathBuf {
        dir.join(OLD)
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
    Ok(files::read_certificate(&CertAuthority::path(dir))?.1)
}

/// Makes the authority if there is none, and looks at it.
///
/// # Errors
/// As [`CertAuthority::open`].
pub fn open_or_create(settings: &Settings, wall_unix_nanos: i128) -> Result<CertSummary, Error> {
    Ok(files::open(settings, wall_unix_nanos)?.summary)
}

/// Makes a new authority in the place of the one that is there, whatever state it is in. Its certificate is kept as
/// [`CertAuthority::old_path`], so that programs can believe both while gateways are restarted; its key is gone.
///
/// # Errors
/// If the files cannot be written.
pub fn rotate(settings: &Settings, wall_unix_nanos: i128) -> Result<CertSummary, Error> {
    Ok(files::rotate(settings, wall_unix_nanos)?.summary)
}

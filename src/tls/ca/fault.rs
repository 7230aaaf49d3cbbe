//! Errors of the authority, each with a remedy.

use std::io;
use std::path::PathBuf;

use super::super::pem;
use super::name_scope::{NameScope, Subtree};

/// Error of the authority or of its leaves. `Display` says what is wrong, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{fault}; {}", fault.remedy())]
pub struct Error {
    /// Kind of the error. It is not the `source`, since `Display` repeats its text.
    pub fault: CaFault,
}

impl From<CaFault> for Error {
    fn from(fault: CaFault) -> Error {
        Error { fault }
    }
}

/// Fault of the authority, of its files or of a leaf.
#[derive(Debug, thiserror::Error)]
pub enum CaFault {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] pem::Error),
    /// A file or folder cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Path of the file or folder.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// One of the two files is missing.
    #[error("{} is there, but {} is not", there.display(), missing.display())]
    Incomplete {
        /// Path of the file that exists.
        there: PathBuf,
        /// Path of the file that is missing.
        missing: PathBuf,
    },
    /// A file holds something else, or is broken.
    #[error("{} cannot be used as our authority: {why}", path.display())]
    Unusable {
        /// Path of the file.
        path: PathBuf,
        /// Description of the defect.
        why: String,
    },
    /// The key belongs to another certificate.
    #[error("{} is not the key of {}", key.display(), certificate.display())]
    Mismatch {
        /// Path of the key.
        key: PathBuf,
        /// Path of the certificate.
        certificate: PathBuf,
    },
    /// The certificate has expired.
    #[error("the authority in {} expired on {until}", path.display())]
    Expired {
        /// Path of the certificate.
        path: PathBuf,
        /// Last moment of validity.
        until: String,
    },
    /// The certificate expired while the gateway ran.
    #[error("our authority expired on {until}")]
    ExpiredSinceStart {
        /// Last moment of validity.
        until: String,
    },
    /// The certificate is not valid yet.
    #[error("the authority in {} is not valid before {from}", path.display())]
    NotYetValid {
        /// Path of the certificate.
        path: PathBuf,
        /// First moment of validity.
        from: String,
    },
    /// The authority was created for other hosts than `intercept` names now.
    #[error("the authority in {} may not vouch for {host}, only for {scope}", path.display())]
    NotCovered {
        /// Path of the certificate.
        path: PathBuf,
        /// Host that is not covered.
        host: Subtree,
        /// Hosts that are covered.
        scope: Box<NameScope>,
    },
    /// A certificate cannot bear this name.
    #[error("{0:?} is not a name that a certificate can bear")]
    Name(String),
    /// Generating a key or a certificate failed.
    #[error("a certificate cannot be made: {0}")]
    Generation(String),
}

impl CaFault {
    /// Advice on how to mend it.
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

    /// True if a file exists but may not be read: it is the authority of another user.
    pub fn is_denied(&self) -> bool {
        matches!(self, CaFault::File(error) if error.is_denied())
    }
}

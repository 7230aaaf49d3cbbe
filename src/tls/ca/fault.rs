//! Errors of the authority: what is wrong, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::super::pem;
use super::name_scope::{NameScope, Subtree};

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

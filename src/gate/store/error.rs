//! What can go wrong with the store, and how to mend it.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why the store cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers there.
    #[error("the store at {address} cannot be reached: {why}")]
    Unreachable {
        /// Where.
        address: String,
        /// What was tried, and what came of it.
        why: String,
    },
    /// It did not answer in time.
    #[error("the store does not answer")]
    Silent,
    /// It answered what it cannot mean, or that it cannot.
    #[error("the store says: {0}")]
    Refused(String),
    /// It does not let us in.
    #[error("the store does not let us in: {0}; look at [store] user and password_file")]
    Denied(String),
    /// It is not the one that writes.
    #[error("{0} is a replica, which cannot count; name its primary, or the Sentinels that know it, in [store] url")]
    Replica(String),
    /// It does not say which it is.
    #[error(
        "{0} does not say which store it is (its INFO has no run_id or no master_replid), so nobody could notice that another has taken its place: name a Valkey or Redis itself in [store] url"
    )]
    Nameless(String),
    /// It may drop what is counted.
    #[error(
        "the store may drop what is counted when its memory is full (maxmemory-policy is {0:?}): set it to \"noeviction\""
    )]
    Evicts(String),
    /// It is another one than before.
    #[error("the store is another one than it was")]
    Other,
    /// This gateway was not heard of for too long.
    #[error("the store has taken this gateway for gone")]
    Lapsed,
    /// This machine was suspended.
    #[error("this machine was suspended: what was granted before is not used")]
    Slept,
    /// There are more gateways than the file says.
    #[error(
        "the store knows as many gateways as there may be, and this name is none of theirs: look at [store] gateways and name"
    )]
    TooMany,
    /// Others count in it in another way.
    #[error(
        "gateways of another version count in the store, in another way: this one is granted nothing until they are gone; or give [store] another group"
    )]
    OtherVersion,
    /// Its clock was set.
    #[error(
        "the store's clock was set, by some {0} ms: what it has counted cannot be relied on, and its windows close once"
    )]
    Clock(i64),
    /// Too few replicas have it.
    #[error("of {wanted} replicas {found} have confirmed: nothing that the store grants is used")]
    Unconfirmed {
        /// How many have.
        found: u32,
        /// How many must.
        wanted: u32,
    },
    /// Its home is another node.
    #[error("the keys are at {0}:{1}")]
    Moved(String, u16),
}

impl Error {
    /// What the library says.
    pub(super) fn of(error: &RedisError) -> Error {
        if let Some((host, port)) = error.redirect_node().and_then(|(address, _slot)| address.rsplit_once(':'))
            && let Ok(port) = port.parse()
        {
            return Error::Moved(host.to_owned(), port);
        }
        let words = error.detail().map_or_else(|| error.to_string(), |detail| detail.to_owned());
        let (kind, code) = (error.kind(), error.code());
        let may_not = kind == ErrorKind::AuthenticationFailed || kind == ErrorKind::Server(ServerErrorKind::NoPerm);
        if may_not || matches!(code, Some("NOAUTH" | "WRONGPASS")) {
            return Error::Denied(words);
        }
        if error.is_timeout() {
            return Error::Silent;
        }
        Error::Refused(match code.filter(|code| !words.starts_with(code)) {
            Some(code) => format!("{code} {words}"),
            None => words,
        })
    }
}

//! Errors of the store client, with advice where a setting can fix them.
//!
//! `Display` is written for operators: it is logged once for each series of equal errors, and shown
//! as the reason of an outage by the admin API.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Reason why the store is not usable. Each ends the session; the client then retries.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Name resolution, TCP, TLS or the protocol's handshake failed.
    #[error("the store at {address} cannot be reached: {why}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// Description of the failure.
        why: String,
    },
    /// No reply in time.
    /// The call may have been executed.
    #[error("the store does not answer")]
    Silent,
    /// An error reply, or a reply of unknown form.
    #[error("the store returned an error: {0}")]
    Refused(String),
    /// The login failed, or the user may not run a command.
    #[error("the store denied access: {0}; check [store] user and password_file")]
    Denied(String),
    /// The server is a replica.
    #[error(
        "{0} is a replica, which cannot be written; name its primary, or the Sentinels that know it, in [store] url"
    )]
    Replica(String),
    /// The server has no identity by which a replacement could be noticed.
    #[error(
        "{0} does not identify itself (its INFO has no run_id or no master_replid), so its replacement by another store would go unnoticed: name a Valkey or Redis itself in [store] url"
    )]
    Nameless(String),
    /// The server may evict counters.
    #[error(
        "the store may evict counters when its memory is full (maxmemory-policy is {0:?}): set it to \"noeviction\""
    )]
    Evicts(String),
    /// Another store has taken the place of the one that this session was opened with.
    #[error("the store was replaced by another one, or restarted")]
    Other,
    /// The store has not heard from this gateway for [`PRESENCE`](super::PRESENCE).
    #[error("the store takes this gateway for gone, as it was not heard from in time")]
    Lapsed,
    /// This machine was suspended.
    #[error("this machine was suspended: earlier grants are not used")]
    Slept,
    /// More gateways than `[store] gateways` says.
    #[error(
        "the store already knows as many gateways as [store] gateways allows, all with other names: check [store] gateways and name"
    )]
    TooMany,
    /// Gateways of a version with another data format use the store.
    #[error(
        "gateways of an incompatible version use the store: this one is granted nothing until they are gone; or set another [store] group"
    )]
    OtherVersion,
    /// The store's clock jumped, by so many milliseconds.
    #[error("the store's clock jumped by about {0} ms: its counts are unreliable, and its windows are closed once")]
    Clock(i64),
    /// Too few replicas confirmed the call (`WAIT`).
    #[error("only {found} of {wanted} replicas confirmed: grants of the store are not used")]
    Unconfirmed {
        /// Number of replicas that confirmed.
        found: u32,
        /// Number of replicas that must confirm.
        wanted: u32,
    },
    /// The keys are on another node of the Cluster: its host (empty: the host that was asked) and port.
    #[error("the keys are at {0}:{1}")]
    Moved(String, u16),
    /// Any of the others that names no server, with the server or Sentinel that it came from.
    #[error("{error} (at {address})")]
    At {
        /// Host and port.
        address: String,
        /// The other error.
        error: Box<Error>,
    },
}

impl Error {
    /// Adds the server or Sentinel that the error came from, unless it names one already.
    pub(super) fn at(self, address: &str) -> Error {
        let names_one = matches!(
            self,
            Error::Unreachable { .. } | Error::Replica(_) | Error::Nameless(_) | Error::Moved(..) | Error::At { .. }
        );
        if names_one { self } else { Error::At { address: address.to_owned(), error: Box::new(self) } }
    }

    /// Classifies an error of the client library.
    ///
    /// In this order: a redirection of a Cluster, a denied access, a timeout, any other error with
    /// its code in front, e.g. `READONLY You can't write against a read only replica.`
    pub(super) fn of(error: &RedisError) -> Error {
        if let Some((host, port)) = error.redirect_node().and_then(|(address, _slot)| address.rsplit_once(':'))
            && let Ok(port) = port.parse()
        {
            return Error::Moved(host.to_owned(), port);
        }
        let text = error.detail().map_or_else(|| error.to_string(), |detail| detail.to_owned());
        let (kind, code) = (error.kind(), error.code());
        let is_denied = kind == ErrorKind::AuthenticationFailed || kind == ErrorKind::Server(ServerErrorKind::NoPerm);
        if is_denied || matches!(code, Some("NOAUTH" | "WRONGPASS")) {
            return Error::Denied(text);
        }
        if error.is_timeout() {
            return Error::Silent;
        }
        Error::Refused(match code.filter(|code| !text.starts_with(code)) {
            Some(code) => format!("{code} {text}"),
            None => text,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_one_server() {
        let at = |error: Error| error.at("a:1").at("b:2").to_string();
        assert_eq!(at(Error::Silent), "the store does not answer (at a:1)");
        let unreachable = Error::Unreachable { address: "c:3".to_owned(), why: "refused".to_owned() };
        assert_eq!(at(unreachable), "the store at c:3 cannot be reached: refused");
        for named in [Error::Replica("c:3".to_owned()), Error::Nameless("c:3".to_owned()), Error::Moved("c".into(), 3)]
        {
            let before = named.to_string();
            assert_eq!(at(named), before);
        }
    }
}

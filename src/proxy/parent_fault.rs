//! Faults of parent proxies: reasons for which no parent could carry a request on, with their statuses and texts.

use std::sync::Arc;
use std::time::Duration;

/// Time after which a request is tried again while no parent takes connections: the first back-off of a parent.
const RETRY_AFTER_OUTAGE: Duration = Duration::from_secs(1);

/// Reason for which a parent proxy did not carry a request on.
///
/// `proxy` is its URL, without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParentFault {
    /// None of the parents takes connections: 503.
    Unavailable {
        /// Each parent with its fault.
        faults: String,
    },
    /// The parent demands a login, or refuses that of the configuration: 502, never 407, which would ask the caller.
    Login {
        /// Parent.
        proxy: Arc<str>,
    },
    /// The parent refused to connect to the origin: 502, or 504 if it says that the origin took too long.
    Refused {
        /// Parent.
        proxy: Arc<str>,
        /// Its answer in words: `403 to CONNECT`, or a reply of SOCKS.
        answer: String,
        /// True if it says that the origin did not answer in time.
        is_timeout: bool,
    },
    /// The parent is a lockgate that refused for one of its own limits, or shuts down: its own status, 429 or 503.
    Limited {
        /// Parent.
        proxy: Arc<str>,
        /// Its status.
        status: u16,
        /// Time that it names in Retry-After.
        retry_after: Duration,
    },
    /// The connection broke after the parent was asked for the origin, which may have been reached: 502.
    Broken {
        /// Parent.
        proxy: Arc<str>,
        /// Fault in words.
        why: String,
    },
    /// The parent was asked for the origin, and did not answer in time: 504. The origin may have been reached.
    Late {
        /// Parent.
        proxy: Arc<str>,
    },
}

impl ParentFault {
    /// Status of the response.
    pub(super) fn status(&self) -> u16 {
        match self {
            ParentFault::Unavailable { .. } => 503,
            ParentFault::Limited { status, .. } => *status,
            ParentFault::Refused { is_timeout: true, .. } | ParentFault::Late { .. } => 504,
            ParentFault::Refused { .. } | ParentFault::Login { .. } | ParentFault::Broken { .. } => 502,
        }
    }

    /// `error=` of Proxy-Status (RFC 9209 §2.3).
    pub(super) fn error(&self) -> &'static str {
        match self {
            ParentFault::Unavailable { .. } => "destination_unavailable",
            ParentFault::Login { .. } => "proxy_configuration_error",
            ParentFault::Refused { is_timeout: false, .. } => "connection_refused",
            ParentFault::Refused { is_timeout: true, .. } | ParentFault::Late { .. } => "connection_timeout",
            ParentFault::Limited { .. } => "http_request_error",
            ParentFault::Broken { .. } => "connection_terminated",
        }
    }

    /// Reason in a word, for logs and metrics.
    pub(super) fn note(&self) -> &'static str {
        match self {
            ParentFault::Unavailable { .. } => "parent_unavailable",
            ParentFault::Login { .. } => "parent_login",
            ParentFault::Refused { .. } => "parent_refused",
            ParentFault::Limited { .. } => "parent_limited",
            ParentFault::Broken { .. } => "parent_broken",
            ParentFault::Late { .. } => "parent_timeout",
        }
    }

    /// Time until a repeated request can succeed.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            ParentFault::Unavailable { .. } => Some(RETRY_AFTER_OUTAGE),
            ParentFault::Limited { retry_after, .. } => Some(*retry_after),
            ParentFault::Login { .. }
            | ParentFault::Refused { .. }
            | ParentFault::Broken { .. }
            | ParentFault::Late { .. } => None,
        }
    }

    /// True if the parent may have connected to the origin all the same.
    pub(super) fn may_have_connected(&self) -> bool {
        matches!(self, ParentFault::Broken { .. } | ParentFault::Late { .. })
    }

    /// Description of the event and of its remedy, for people.
    pub(super) fn detail(&self) -> String {
        match self {
            ParentFault::Unavailable { faults } => {
                format!("No parent proxy takes the connection: {faults}. Ask again in a moment.")
            }
            ParentFault::Login { proxy } => format!(
                "The parent proxy {proxy} demands a login, or does not accept the gateway's (407): set or mend `user` and `password_file` of its [[parent]]."
            ),
            ParentFault::Refused { proxy, answer, .. } => {
                format!("The parent proxy {proxy} did not connect to the origin: {answer}.")
            }
            ParentFault::Limited { proxy, status, .. } => format!(
                "The parent proxy {proxy}, another lockgate, refused with {status}: one of its limits is full, or it shuts down. Ask again as Retry-After says."
            ),
            ParentFault::Broken { proxy, why } => format!("The parent proxy {proxy} failed: {why}."),
            ParentFault::Late { proxy } => {
                format!("The parent proxy {proxy} did not connect to the origin in time.")
            }
        }
    }

    /// The fault in a few words, for the access log and `Proxy-Status`.
    pub(super) fn cause(&self) -> &str {
        match self {
            ParentFault::Unavailable { faults } => faults,
            ParentFault::Refused { answer, .. } => answer,
            ParentFault::Broken { why, .. } => why,
            ParentFault::Login { proxy } | ParentFault::Limited { proxy, .. } | ParentFault::Late { proxy } => proxy,
        }
    }
}

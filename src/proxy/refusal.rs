//! Refusals: every error response of the gateway's own, with its status and reason, in one enum and
//! one table.

use std::sync::Arc;
use std::time::Duration;

use super::parent_fault::ParentFault;
use super::path::TooManyReadings;
use super::timeouts::Timeout;
use crate::locker::RefusalReason;
use crate::net::dial;
use crate::wire::HeadError;
use crate::wire::framing::FramingError;

/// Reason for which the gateway answers a request with an error of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A limit does not let the request through now.
    Limited {
        /// Name of the limit.
        limit: Arc<str>,
        /// Reason for which the limit refused.
        why: RefusalReason,
        /// Time until the same request can be granted.
        retry_after: Duration,
        /// True if `retry_after` is exact as long as no other request comes first; else it is a
        /// lower bound.
        exact: bool,
        /// N of the limit, or M if it only caps `in_flight`.
        requests: u32,
        /// T of the limit; zero if it only caps `in_flight`.
        per: Duration,
    },
    /// The message breaks the grammar of HTTP, so its boundary is in doubt.
    Malformed(&'static str),
    /// The content is in a transfer coding that is not supported.
    UnknownCoding,
    /// The target is invalid; the text says why.
    BadTarget(&'static str),
    /// The cost that the request states is not a whole number from 1 to `most`.
    BadCost {
        /// Name of the limit.
        limit: Arc<str>,
        /// Highest cost that it grants.
        most: u32,
    },
    /// Servers may read a part of the limit's key in several ways.
    Ambiguous {
        /// Name of the limit.
        limit: Arc<str>,
        /// Description of the ambiguity, without values of the request.
        why: String,
    },
    /// The fields are too large or too many.
    HeadTooLarge,
    /// The request line is too long.
    UriTooLong,
    /// The head did not arrive in time.
    HeadTimeout,
    /// The content made no progress for too long.
    BodyTimeout,
    /// The request has an expectation other than 100-continue (RFC 9110 §10.1.1).
    Expectation,
    /// `[access]` does not allow it.
    Denied(&'static str),
    /// The address that would be dialled is not allowed.
    AddressDenied,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// Too many wrong passwords came from the caller's address.
    TooManyTries {
        /// Time until the next password is verified.
        retry_after: Duration,
    },
    /// An origin-form request that no route takes.
    NoRoute,
    /// A request for a permit with another method than POST.
    NotPost,
    /// There is no limit of the requested name.
    NoLimit,
    /// The values for the parts of the limit's key do not fit it.
    BadKey,
    /// The request is for a host that is not served here; the text says how to mend it.
    Misdirected(&'static str),
    /// The caller sent bytes that are no TLS to a listener with TLS.
    NotTls,
    /// The caller sent TLS to a listener without it.
    TlsToPlain,
    /// The origin refused the connection.
    ConnectionRefused,
    /// No address of the origin can be reached.
    Unreachable,
    /// The origin closed or reset the connection before its response was complete.
    ConnectionTerminated,
    /// The origin's response is not HTTP.
    ProtocolError(&'static str),
    /// The origin's certificate is not valid for it.
    Certificate(String),
    /// TLS with the origin failed for another reason.
    TlsError(String),
    /// The origin's name does not resolve.
    DnsError,
    /// The origin's name did not resolve in time.
    DnsTimeout,
    /// The gateway shuts down.
    Closing {
        /// Time until another gateway, or this one after a restart, may answer.
        retry_after: Duration,
    },
    /// The gateway is out of connections, descriptors or ports.
    Exhausted,
    /// Each permit for the request came too late to be used.
    LatePermit,
    /// The origin did not accept the connection in time.
    ConnectTimeout,
    /// The origin's response head did not arrive in time.
    AnswerTimeout,
    /// One of the above, with the timeout that has ended.
    Overdue {
        /// Refusal without it.
        refusal: Box<Refusal>,
        /// Timeout, with its place in the file.
        timeout: Timeout,
    },
    /// The request would be forwarded to the gateway itself.
    Loop,
    /// The request is in another version of HTTP.
    Version,
    /// No parent proxy could carry the request on.
    Parent(Box<ParentFault>),
}

/// Fixed properties of a refusal.
struct Row {
    status: u16,
    /// `error=` of Proxy-Status (RFC 9209 §2.3).
    error: &'static str,
    /// See [`Refusal::refused_by`].
    refused_by: &'static str,
    /// See [`Refusal::note`].
    note: &'static str,
}

const fn row(status: u16, error: &'static str, refused_by: &'static str, note: &'static str) -> Row {
    Row { status, error, refused_by, note }
}

impl Refusal {
    /// The table: status, `error=`, party that refused, and a label for logs and metrics.
    fn row(&self) -> Row {
        match self {
            Refusal::Limited { why: RefusalReason::Full, .. } => row(429, "http_request_error", "limit", "full"),
            Refusal::Limited { why: RefusalReason::TooLong, .. } => row(429, "http_request_error", "limit", "too_long"),
            Refusal::Limited { why: RefusalReason::QueueFull, .. } => {
                row(429, "http_request_error", "limit", "queue_full")
            }
            Refusal::Limited { why: RefusalReason::TimedOut, .. } => {
                row(429, "http_request_error", "limit", "timed_out")
            }
            Refusal::Limited { why: RefusalReason::TooManyKeys, .. } => {
                row(503, "connection_limit_reached", "limit", "too_many_keys")
            }
            Refusal::Limited { why: RefusalReason::StoreLost, .. } => {
                row(503, "proxy_internal_error", "limit", "store_lost")
            }
            Refusal::Limited { why: RefusalReason::Unwritten, .. } => {
                row(503, "proxy_internal_error", "limit", "unwritten")
            }
            Refusal::Limited { why: RefusalReason::CostTooHigh, .. } => {
                row(400, "http_request_error", "limit", "cost_too_high")
            }
            Refusal::Malformed(_) => row(400, "http_request_error", "caller", "malformed"),
            Refusal::UnknownCoding => row(501, "http_request_error", "gateway", "unknown_coding"),
            Refusal::BadTarget(_) => row(400, "http_request_error", "caller", "bad_target"),
            Refusal::BadCost { .. } => row(400, "http_request_error", "caller", "bad_cost"),
            Refusal::Ambiguous { .. } => row(400, "http_request_error", "caller", "ambiguous"),
            Refusal::HeadTooLarge => row(431, "http_request_error", "caller", "head_too_large"),
            Refusal::UriTooLong => row(414, "http_request_error", "caller", "uri_too_long"),
            Refusal::HeadTimeout => row(408, "http_request_error", "caller", "head_timeout"),
            Refusal::BodyTimeout => row(408, "http_request_error", "caller", "body_timeout"),
            Refusal::Expectation => row(417, "http_request_error", "caller", "expectation"),
            Refusal::Denied(_) => row(403, "http_request_denied", "access", "denied"),
            Refusal::AddressDenied => row(403, "destination_ip_prohibited", "access", "address_denied"),
            Refusal::Unauthorized => row(407, "http_request_denied", "access", "unauthorized"),
            Refusal::TooManyTries { .. } => row(429, "http_request_denied", "access", "too_many_tries"),
            Refusal::NoRoute => row(404, "http_request_error", "caller", "no_route"),
            Refusal::NotPost => row(405, "http_request_error", "caller", "not_post"),
            Refusal::NoLimit => row(404, "http_request_error", "caller", "no_limit"),
            Refusal::BadKey => row(400, "http_request_error", "caller", "bad_key"),
            Refusal::Misdirected(_) => row(421, "http_request_error", "caller", "misdirected"),
            Refusal::NotTls => row(400, "http_request_error", "caller", "not_tls"),
            Refusal::TlsToPlain => row(400, "http_request_error", "caller", "tls_to_plain_listener"),
            Refusal::ConnectionRefused => row(502, "connection_refused", "origin", "connection_refused"),
            Refusal::Unreachable => row(502, "destination_ip_unroutable", "origin", "unreachable"),
            Refusal::ConnectionTerminated => row(502, "connection_terminated", "origin", "connection_terminated"),
            Refusal::ProtocolError(_) => row(502, "http_protocol_error", "origin", "protocol_error"),
            Refusal::Certificate(_) => row(502, "tls_certificate_error", "origin", "certificate"),
            Refusal::TlsError(_) => row(502, "tls_protocol_error", "origin", "tls"),
            Refusal::DnsError => row(502, "dns_error", "origin", "dns"),
            Refusal::DnsTimeout => row(504, "dns_timeout", "origin", "dns_timeout"),
            Refusal::Closing { .. } => row(503, "proxy_internal_response", "gateway", "closing"),
            Refusal::Exhausted => row(503, "connection_limit_reached", "gateway", "exhausted"),
            Refusal::LatePermit => row(503, "proxy_internal_error", "gateway", "late_permit"),
            Refusal::ConnectTimeout => row(504, "connection_timeout", "origin", "connect_timeout"),
            Refusal::AnswerTimeout => row(504, "http_response_timeout", "origin", "answer_timeout"),
            Refusal::Overdue { refusal, .. } => refusal.row(),
            Refusal::Loop => row(508, "proxy_loop_detected", "gateway", "loop"),
            Refusal::Version => row(505, "http_request_error", "gateway", "version"),
            Refusal::Parent(fault) => row(fault.status(), fault.error(), "parent", fault.note()),
        }
    }

    /// The same with the timeout that has caused it.
    pub(super) fn of_timeout(self, timeout: Timeout) -> Refusal {
        Refusal::Overdue { refusal: Box::new(self), timeout }
    }

    /// Status code, 400 to 599.
    pub fn status(&self) -> u16 {
        self.row().status
    }

    /// `error=` of Proxy-Status (RFC 9209 §2.3).
    pub fn error(&self) -> &'static str {
        self.row().error
    }

    /// Party that refused, for the access log: `limit`, `access`, `gateway`, `parent`, `origin`, or `caller` for requests
    /// that were invalid from the start.
    pub fn refused_by(&self) -> &'static str {
        self.row().refused_by
    }

    /// Reason in a word, for logs and metrics.
    pub fn note(&self) -> &'static str {
        self.row().note
    }

    /// True if a parent proxy may have connected to the origin before it failed.
    pub(super) fn may_have_connected(&self) -> bool {
        matches!(self, Refusal::Parent(fault) if fault.may_have_connected())
    }

    /// True if the message boundary is in doubt, so that the connection must close.
    pub fn closes(&self) -> bool {
        let refusal = if let Refusal::Overdue { refusal, .. } = self { refusal } else { self };
        matches!(
            refusal,
            Refusal::Malformed(_)
                | Refusal::UnknownCoding
                | Refusal::HeadTooLarge
                | Refusal::UriTooLong
                | Refusal::HeadTimeout
                | Refusal::Expectation
                | Refusal::Version
                | Refusal::NotTls
                | Refusal::TlsToPlain
        )
    }

    /// Time until a repeated request can succeed; `None` if unknown, or if repeating cannot help.
    pub fn retry_after(&self) -> Option<Duration> {
        if let Refusal::Parent(fault) = self {
            return fault.retry_after();
        }
        if matches!(self, Refusal::Limited { why: RefusalReason::CostTooHigh, .. }) {
            return None;
        }
        if let Refusal::Limited { retry_after, .. }
        | Refusal::TooManyTries { retry_after }
        | Refusal::Closing { retry_after } = self
        {
            return Some(*retry_after);
        }
        matches!(self, Refusal::Exhausted | Refusal::LatePermit).then_some(Duration::from_secs(1))
    }
}

impl From<ParentFault> for Refusal {
    fn from(fault: ParentFault) -> Refusal {
        Refusal::Parent(Box::new(fault))
    }
}

impl From<dial::Error> for Refusal {
    /// The fault lies with the name, the address policy, the origin or this machine.
    fn from(error: dial::Error) -> Refusal {
        match error {
            dial::Error::Dns(_) => Refusal::DnsError,
            dial::Error::DnsTimeout => Refusal::DnsTimeout,
            dial::Error::Denied => Refusal::AddressDenied,
            dial::Error::Loop => Refusal::Loop,
            dial::Error::Refused(_) => Refusal::ConnectionRefused,
            dial::Error::Unreachable(_) => Refusal::Unreachable,
            dial::Error::Timeout => Refusal::ConnectTimeout,
            dial::Error::Exhausted(_) => Refusal::Exhausted,
        }
    }
}

impl From<FramingError> for Refusal {
    fn from(error: FramingError) -> Refusal {
        match error {
            FramingError::Ambiguous(why) => Refusal::Malformed(why),
            FramingError::UnknownCoding => Refusal::UnknownCoding,
        }
    }
}

impl From<HeadError> for Refusal {
    fn from(error: HeadError) -> Refusal {
        match error {
            HeadError::Malformed(why) => Refusal::Malformed(why),
            HeadError::TooLarge => Refusal::HeadTooLarge,
            HeadError::LineTooLong => Refusal::UriTooLong,
            HeadError::Version => Refusal::Version,
        }
    }
}

impl From<TooManyReadings> for Refusal {
    fn from(_: TooManyReadings) -> Refusal {
        Refusal::BadTarget(
            "servers could read its path in too many ways: leave out needless slashes, dots and encodings",
        )
    }
}

/// Rounds up to whole milliseconds, at least 1.
pub(super) fn millis_up(wait: Duration) -> u128 {
    wait.as_nanos().div_ceil(1_000_000).max(1)
}

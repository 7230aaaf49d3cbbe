//! Refusals: every error response of the gateway's own, with its status and reason, in one enum and
//! one table.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::path::TooManyReadings;
use super::timeouts::Timeout;
use crate::locker::RefusalReason;
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
    /// There is no limit of the requested name.
    NoLimit,
    /// The values for the parts of the limit's key do not fit it.
    BadKey,
    /// The request is for a host that is not served here; the text says how to mend it.
    Misdirected(&'static str),
    /// The caller sent bytes that are no TLS to a listener with TLS.
    NotTls,
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
            Refusal::NoLimit => row(404, "http_request_error", "caller", "no_limit"),
            Refusal::BadKey => row(400, "http_request_error", "caller", "bad_key"),
            Refusal::Misdirected(_) => row(421, "http_request_error", "caller", "misdirected"),
            Refusal::NotTls => row(400, "http_request_error", "caller", "not_tls"),
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

    /// Party that refused, for the access log: `limit`, `access`, `gateway`, `origin`, or `caller`
    /// for requests that were invalid from the start.
    pub fn refused_by(&self) -> &'static str {
        self.row().refused_by
    }

    /// Reason in a word, for logs and metrics.
    pub fn note(&self) -> &'static str {
        self.row().note
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
        )
    }

    /// Description of the event and of its remedy, for people: a sentence or two of plain text.
    pub fn detail(&self) -> Cow<'static, str> {
        let plain = match self {
            Refusal::Limited { limit, why, retry_after, exact, .. } => {
                let at_least = if *exact { "" } else { " at the earliest" };
                return limited(limit, *why, &format!("Ask again in {} ms{at_least}.", millis_up(*retry_after))).into();
            }
            Refusal::BadCost { limit, most } => {
                return format!("The cost that the request states for the limit {limit:?} must be a whole number from 1 to {most}.").into();
            }
            Refusal::Ambiguous { limit, why } => {
                return format!("The limit {limit:?} cannot tell how to count the request: {why}.").into();
            }
            Refusal::Overdue { refusal, timeout } => return format!("{} The bound is {timeout}.", refusal.detail()).into(),
            Refusal::Malformed(why) => return format!("The request is not well-formed HTTP: {why}.").into(),
            Refusal::BadTarget(why) => return format!("The request's target is not valid: {why}.").into(),
            Refusal::Denied(why) => return format!("The gateway does not allow this: {why}.").into(),
            Refusal::Misdirected(why) => return format!("The request is for a host that is not served here: {why}.").into(),
            Refusal::ProtocolError(why) => return format!("The origin's response is not well-formed HTTP: {why}.").into(),
            Refusal::Certificate(why) => return format!("The origin's certificate is not valid: {why}. If it is of an authority of your own, name that in [tls] trust.").into(),
            Refusal::TlsError(why) => return format!("TLS with the origin failed: {why}.").into(),
            Refusal::UnknownCoding => "The gateway knows no other transfer coding than chunked. Name others in Content-Encoding.",
            Refusal::HeadTooLarge => "The request's header fields are too large or too many. Cookies are the usual cause.",
            Refusal::UriTooLong => "The request's URL is too long. Send the data in a body instead.",
            Refusal::HeadTimeout => "The request's header fields did not arrive in time.",
            Refusal::BodyTimeout => "The request's content stood still for too long, or took too long.",
            Refusal::Expectation => {
                "The only expectation that HTTP knows is 100-continue. Leave the Expect field out, or mend it."
            }
            Refusal::AddressDenied => "The host leads to an address that the gateway must not call: a private one, one of [access] deny_addresses, or that of a cloud's metadata service. A private one is allowed by a limit that names the host (not by a wildcard), or by [access] allow_addresses.",
            Refusal::Unauthorized => "The gateway wants a user name and password that it knows. Put them into the proxy URL, such as http://name:password@gateway:8080; `lockgate user add NAME` makes new ones.",
            Refusal::TooManyTries { .. } => "Too many wrong passwords came from your address. Mend the proxy URL, then wait as long as Retry-After says.",
            Refusal::NoRoute => "No route takes this host and path. To use the gateway as a forward proxy, set HTTP_PROXY and HTTPS_PROXY to its address; to use it as a base URL, add a [[route]] to proxy.toml.",
            Refusal::NoLimit => "There is no limit of that name. `lockgate check` lists those of proxy.toml.",
            Refusal::BadKey => "The limit is counted per key: give one `key` parameter for each part of its `key` in proxy.toml, in that order, but none for \"caller\".",
            Refusal::NotTls => "The gateway speaks TLS on this address. Write https:// in the URL of the proxy.",
            Refusal::ConnectionRefused => "The origin refused the connection. Is it running, and is the port right?",
            Refusal::Unreachable => "No address of the origin can be reached from the gateway.",
            Refusal::ConnectionTerminated => "The origin closed the connection before its answer was complete. Whether it acted on the request is unknown.",
            Refusal::DnsError => "The origin's name does not resolve. Is it spelled right and in full (a short name is not completed unless a limit or a route names it), and can the gateway's machine resolve it?",
            Refusal::DnsTimeout => "The origin's name did not resolve in time.",
            Refusal::Closing { .. } => "The gateway is shutting down. Ask again as Retry-After says.",
            Refusal::Exhausted => "The gateway has no connection left for this request. Ask again in a moment; if it lasts, raise the limit of open files.",
            Refusal::LatePermit => "Each permit for the request came too late to be used: the gateway, the store of its limits, or the connection to the origin is too slow at the moment. Ask again.",
            Refusal::ConnectTimeout => "The origin did not take the connection in time.",
            Refusal::AnswerTimeout => "The origin took the request but did not answer in time. Whether it acted on it is unknown.",
            Refusal::Loop => "The request would come back to this gateway. A proxy variable or a route points at the gateway itself.",
            Refusal::Version => "The gateway speaks HTTP/1.0, HTTP/1.1 and HTTP/2.",
        };
        plain.into()
    }

    /// Value of `details` in Proxy-Status: the text specific to this refusal, else its note.
    pub(super) fn proxy_detail(&self) -> Cow<'_, str> {
        if let Refusal::Limited { limit, .. } = self {
            return format!("{}: {limit}", self.note()).into();
        }
        if let Refusal::Certificate(why) | Refusal::TlsError(why) | Refusal::Ambiguous { why, .. } = self {
            return why.as_str().into();
        }
        if let Refusal::Malformed(why) | Refusal::BadTarget(why) | Refusal::Denied(why) | Refusal::ProtocolError(why) =
            self
        {
            return (*why).into();
        }
        if let Refusal::Overdue { timeout, .. } = self {
            return format!("{}: {timeout}", self.note()).into();
        }
        self.note().into()
    }

    /// Time until a repeated request can succeed; `None` if unknown, or if repeating cannot help.
    pub fn retry_after(&self) -> Option<Duration> {
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

/// Detail of a refusal by a limit. `again`: sentence with the time of the next try.
fn limited(limit: &str, why: RefusalReason, again: &str) -> String {
    match why {
        RefusalReason::Full => {
            format!("The limit {limit:?} has no free slot, and requests do not wait for it. {again}")
        }
        RefusalReason::TooLong => format!(
            "The limit {limit:?} has no slot within the time that the request may wait (max_wait, or Prefer: wait). {again}"
        ),
        RefusalReason::QueueFull => format!("The queue of the limit {limit:?} is full (max_waiting). {again}"),
        RefusalReason::TimedOut => {
            format!("The request waited for the limit {limit:?} as long as it may (max_wait, or Prefer: wait). {again}")
        }
        RefusalReason::TooManyKeys => {
            format!("The limit {limit:?} counts the most keys that it may at one time. {again}")
        }
        RefusalReason::StoreLost => {
            format!(
                "The limit {limit:?} is counted in a store that cannot be reached, so its free slots are unknown. {again}"
            )
        }
        RefusalReason::Unwritten => {
            format!(
                "The gateway cannot save the counts of the limit {limit:?}, and grants no slots without that. {again}"
            )
        }
        RefusalReason::CostTooHigh => {
            format!("The request costs more than the limit {limit:?} ever has free. Lower its cost.")
        }
    }
}

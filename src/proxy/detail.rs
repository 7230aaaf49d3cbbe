//! Details of refusals: their texts for people, in the response and in `Proxy-Status`.

use std::borrow::Cow;

use super::refusal::{Refusal, millis_up};
use crate::locker::RefusalReason;

impl Refusal {
    /// Description of the event and of its remedy, for people: a sentence or two of plain text.
    pub fn detail(&self) -> Cow<'static, str> {
        match self {
            Refusal::Limited { limit, why, retry_after, exact, .. } => {
                let at_least = if *exact { "" } else { " at the earliest" };
                limited(limit, *why, &format!("Ask again in {} ms{at_least}.", millis_up(*retry_after))).into()
            }
            Refusal::BadCost { limit, most } => format!(
                "The cost that the request states for the limit {limit:?} must be a whole number from 1 to {most}."
            )
            .into(),
            Refusal::Ambiguous { limit, why } => {
                format!("The limit {limit:?} cannot tell how to count the request: {why}.").into()
            }
            Refusal::Parent(fault) => fault.detail().into(),
            Refusal::Overdue { refusal, timeout } => format!("{} The bound is {timeout}.", refusal.detail()).into(),
            Refusal::Malformed(why) => format!("The request is not well-formed HTTP: {why}.").into(),
            Refusal::BadTarget(why) => format!("The request's target is not valid: {why}.").into(),
            Refusal::Denied(why) => format!("The gateway does not allow this: {why}.").into(),
            Refusal::Misdirected(why) => format!("The request is for a host that is not served here: {why}.").into(),
            Refusal::ProtocolError(why) => format!("The origin's response is not well-formed HTTP: {why}.").into(),
            Refusal::Certificate(why) | Refusal::TlsError(why) => format!("TLS with the origin failed: {why}.").into(),
            Refusal::UnknownCoding
            | Refusal::HeadTooLarge
            | Refusal::UriTooLong
            | Refusal::HeadTimeout
            | Refusal::BodyTimeout
            | Refusal::Expectation
            | Refusal::AddressDenied
            | Refusal::Unauthorized
            | Refusal::TooManyTries { .. }
            | Refusal::NoRoute
            | Refusal::NotPost
            | Refusal::NoLimit
            | Refusal::BadKey
            | Refusal::NotTls
            | Refusal::TlsToPlain
            | Refusal::Loop
            | Refusal::Version => self.detail_of_request().into(),
            Refusal::ConnectionRefused
            | Refusal::Unreachable
            | Refusal::ConnectionTerminated
            | Refusal::DnsError
            | Refusal::DnsTimeout
            | Refusal::Closing { .. }
            | Refusal::Exhausted
            | Refusal::LatePermit
            | Refusal::ConnectTimeout
            | Refusal::AnswerTimeout => self.detail_of_way().into(),
        }
    }

    /// Detail of a request that is not forwarded, where it is always the same.
    #[allow(clippy::wildcard_enum_match_arm, reason = "each other kind has its text in `detail`")]
    fn detail_of_request(&self) -> &'static str {
        match self {
            Refusal::UnknownCoding => {
                "The gateway supports no other transfer coding than chunked. Name others in Content-Encoding."
            }
            Refusal::HeadTooLarge => {
                "The request's header fields are too large or too many: at most 64 KiB, and 128 fields. Cookies are the usual cause."
            }
            Refusal::UriTooLong => "The request's URL is too long: at most 64 KiB. Send the data in a body instead.",
            Refusal::HeadTimeout => "The request's header fields did not arrive in time.",
            Refusal::BodyTimeout => "The request's content stood still for too long, or took too long.",
            Refusal::Expectation => {
                "The only expectation that HTTP defines is 100-continue. Leave the Expect field out, or mend it."
            }
            Refusal::AddressDenied => {
                "The host leads to an address that the gateway must not call: a private one, one of [access] deny_addresses, or that of a cloud's metadata service. A private one is allowed by a limit that names the host (not by a wildcard), or by [access] allow_addresses."
            }
            Refusal::Unauthorized => {
                "The gateway requires a user name and a password of its users file. Put them into the proxy URL, such as http://name:password@gateway:8080; `lockgate user add NAME` makes new ones."
            }
            Refusal::TooManyTries { .. } => {
                "Too many wrong passwords came from your address. Mend the proxy URL, then wait as long as Retry-After says."
            }
            Refusal::NoRoute => {
                "No route takes this host and path. To use the gateway as a forward proxy, set HTTP_PROXY and HTTPS_PROXY to its address; to use it as a base URL, add a [[route]] to proxy.toml."
            }
            Refusal::NotPost => {
                "This path gives permits, and takes POST alone. Ask with POST, such as `curl -X POST` or a client's post()."
            }
            Refusal::NoLimit => "There is no limit of that name. `lockgate check` lists those of proxy.toml.",
            Refusal::BadKey => {
                "The limit is counted per key: give one `key` parameter for each part of its `key` in proxy.toml, in that order, but none for \"caller\"."
            }
            Refusal::NotTls => "The gateway speaks TLS on this address. Write https:// in the URL of the proxy.",
            Refusal::TlsToPlain => {
                "The connection begins with TLS, and the gateway speaks plain HTTP on this address. Write http:// in the URL of the proxy, in HTTPS_PROXY too; or give the gateway a certificate in [listen] tls."
            }
            Refusal::Loop => {
                "The request would come back to this gateway. A proxy variable or a route points at the gateway itself."
            }
            Refusal::Version => "The gateway speaks HTTP/1.0, HTTP/1.1 and HTTP/2.",
            _ => "",
        }
    }

    /// Detail of a failure at the origin or in the gateway, where it is always the same.
    #[allow(clippy::wildcard_enum_match_arm, reason = "each other kind has its text in `detail`")]
    fn detail_of_way(&self) -> &'static str {
        match self {
            Refusal::ConnectionRefused => "The origin refused the connection. Is it running, and is the port right?",
            Refusal::Unreachable => "No address of the origin can be reached from the gateway.",
            Refusal::ConnectionTerminated => {
                "The origin closed the connection before its answer was complete. Whether it acted on the request is unknown."
            }
            Refusal::DnsError => {
                "The origin's name does not resolve. Is it spelled right and in full (a short name is not completed unless a limit or a route names it), and can the gateway's machine resolve it?"
            }
            Refusal::DnsTimeout => "The origin's name did not resolve in time.",
            Refusal::Closing { .. } => "The gateway is shutting down. Ask again as Retry-After says.",
            Refusal::Exhausted => {
                "The gateway has no connection left for this request. Ask again in a moment; if it lasts, raise the limit of open files."
            }
            Refusal::LatePermit => {
                "Each permit for the request came too late to be used: the gateway, the store of its limits, or the connection to the origin is too slow at the moment. Ask again."
            }
            Refusal::ConnectTimeout => "The origin did not take the connection in time.",
            Refusal::AnswerTimeout => {
                "The origin took the request but did not answer in time. Whether it acted on it is unknown."
            }
            _ => "",
        }
    }

    /// Note of the access log: the reason in a word, and the cause if the word does not say it.
    pub(super) fn log_note(&self) -> Cow<'static, str> {
        let note = self.note();
        self.cause().map_or(note.into(), |cause| format!("{note}: {cause}").into())
    }

    /// Cause in words of its own; `None` if the note says it all.
    fn cause(&self) -> Option<&str> {
        if let Refusal::Parent(fault) = self {
            return Some(fault.cause());
        }
        if let Refusal::Certificate(why) | Refusal::TlsError(why) | Refusal::Ambiguous { why, .. } = self {
            return Some(why);
        }
        if let Refusal::Malformed(why)
        | Refusal::BadTarget(why)
        | Refusal::Denied(why)
        | Refusal::Misdirected(why)
        | Refusal::ProtocolError(why) = self
        {
            return Some(why);
        }
        None
    }

    /// Value of `details` in Proxy-Status: the text specific to this refusal, else its note.
    pub(super) fn proxy_detail(&self) -> Cow<'_, str> {
        if let Refusal::Limited { limit, .. } = self {
            return format!("{}: {limit}", self.note()).into();
        }
        if let Some(cause) = self.cause() {
            return cause.into();
        }
        if let Refusal::Overdue { timeout, .. } = self {
            return format!("{}: {timeout}", self.note()).into();
        }
        self.note().into()
    }
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

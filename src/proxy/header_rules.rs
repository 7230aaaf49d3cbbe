//! Header rules: fields that are removed, kept or added when a message is forwarded (RFC 9110
//! §7.6).

use std::time::Duration;

use super::location::LocationMap;
use super::trace::{self, TraceContext};
use crate::wire::framing;
use crate::wire::{ConnectionOptions, Fields, Length, Name, RequestHead, ResponseHead, Version, members};

/// End-to-end fields: they have a meaning for the origin, or proxies before this one have added
/// them for it. A `Connection` that names one asks us to drop it (forbidden by RFC 9110 §7.6.1),
/// which is a trick to make two servers see different requests, or to hide the source of one.
const END_TO_END: [&str; 35] = [
    "host",
    "authorization",
    "cookie",
    "set-cookie",
    "cache-control",
    "date",
    "expect",
    "range",
    "prefer",
    "priority",
    "early-data",
    "via",
    "max-forwards",
    "from",
    "referer",
    "origin",
    "user-agent",
    "forwarded",
    "x-forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
    "client-cert",
    "client-cert-chain",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
    "x-request-id",
    "x-correlation-id",
    "traceparent",
    "tracestate",
    "baggage",
];

/// Prefixes of the names of further such fields.
const END_TO_END_FAMILIES: [&str; 6] = ["content-", "if-", "sec-", "x-forwarded-", "x-b3-", "x-amzn-"];

/// Most members that the `Connection` of a message may have. Each is compared with each field; real
/// messages have two or three.
const MAX_OPTIONS: usize = 32;

/// True if the message's `Connection` has more than [`MAX_OPTIONS`] members.
pub(super) fn has_too_many_options(head: &Fields) -> bool {
    head.all(Name::Connection).flat_map(members).nth(MAX_OPTIONS).is_some()
}

/// End-to-end field that the message's `Connection` names, if it does.
pub(super) fn connection_names_end_to_end(head: &RequestHead) -> Option<&[u8]> {
    head.all(Name::Connection).flat_map(members).find(|member| is_end_to_end(member))
}

/// True for [`END_TO_END`] and [`END_TO_END_FAMILIES`], in any letter case.
fn is_end_to_end(name: &[u8]) -> bool {
    let begins =
        |family: &str| name.get(..family.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(family.as_bytes()));
    END_TO_END.iter().any(|field| name.eq_ignore_ascii_case(field.as_bytes()))
        || END_TO_END_FAMILIES.into_iter().any(begins)
}

/// True if the request has an expectation other than 100-continue (RFC 9110 §10.1.1). HTTP/1.0 has
/// no expectations.
pub(super) fn has_unsupported_expect(head: &RequestHead) -> bool {
    let mut expected = head.all(Name::Expect).flat_map(members);
    head.version() != Version::Http10 && expected.any(|one| !one.eq_ignore_ascii_case(b"100-continue"))
}

/// Settings for the head of a forwarded request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing {
    /// Framing of its body.
    pub(super) length: Length,
    /// Options of its `Connection`.
    pub(super) options: ConnectionOptions,
    /// True if the connection may change its protocol, see [`wants_upgrade`].
    pub(super) upgrade: bool,
    /// True if the origin is told of this gateway by `Via`.
    pub(super) via: bool,
    /// Position in its trace, if it is traced.
    pub(super) trace: Option<TraceContext>,
}

impl Outgoing {
    /// Calls `put` with the request's `Via`, unless the file turns it off.
    pub(super) fn put_via(self, head: &RequestHead, put: impl FnOnce(&[u8], &[u8])) {
        if self.via {
            put(b"Via", via(head.version()));
        }
    }
}

/// Entry of the gateway in `Via`: the version in which a message was received, and a name (RFC 9110 §7.6.3).
pub(super) fn via(received: Version) -> &'static [u8] {
    match received {
        Version::Http10 => b"1.0 lockgate",
        Version::Http11 => b"1.1 lockgate",
        Version::Http2 => b"2.0 lockgate",
    }
}

/// True if the request asks for protocols all of which it `may` change to; if not, it is forwarded
/// without the Upgrade field.
///
/// Limits do not see traffic after the change, so few protocols are allowed. A body is sent before the
/// change, in its framing (RFC 9110 §7.8).
pub(super) fn wants_upgrade(head: &RequestHead, options: ConnectionOptions, may: impl Fn(&[u8]) -> bool) -> bool {
    let mut protocols = head.all(Name::Upgrade).flat_map(members).peekable();
    options.upgrade && head.version() == Version::Http11 && protocols.peek().is_some() && protocols.all(may)
}

/// Calls `put` with every field of the request that is meant for the origin; leaves framing,
/// `Host`, `TE` and `Via` out.
pub(super) fn for_origin(head: &RequestHead, outgoing: Outgoing, mut put: impl FnMut(&[u8], &[u8])) {
    let traced = matches!(head.method(), "TRACE" | "OPTIONS");
    let mut has_length = false;
    for (name, field, value) in head.fields() {
        match name {
            Name::Host
            | Name::Connection
            | Name::KeepAlive
            | Name::ProxyConnection
            | Name::ProxyAuthorization
            | Name::TransferEncoding
            | Name::Te
            | Name::Http2Settings => continue,
            // Equal lengths are one length (RFC 9110 §8.6), and written anew.
            Name::ContentLength => {
                let is_ours = outgoing.length != Length::Empty || std::mem::replace(&mut has_length, true);
                put_length(field, framing::stated_length(head).filter(|_| !is_ours), &mut put);
                continue;
            }
            Name::Upgrade if !outgoing.upgrade => continue,
            // HTTP/1.0 has no expectations (RFC 9110 §10.1.1).
            Name::Expect if head.version() == Version::Http10 => continue,
            Name::MaxForwards if traced => {
                put(field, max_forwards(value).saturating_sub(1).to_string().as_bytes());
                continue;
            }
            Name::Upgrade
            | Name::MaxForwards
            | Name::Trailer
            | Name::Expect
            | Name::ProxyAuthenticate
            | Name::Via
            | Name::Date
            | Name::RetryAfter
            | Name::Prefer
            | Name::Priority
            | Name::Authorization
            | Name::WwwAuthenticate
            | Name::PersistentAuth
            | Name::Forwarded
            | Name::Other => {}
        }
        if outgoing.trace.is_some_and(|context| context.replaces(field)) {
            continue;
        }
        // An Upgrade field that gets here is forwarded, although Connection always names it (RFC 9110 §7.8).
        if name == Name::Upgrade || !(outgoing.options.names_fields && is_named(head.all(Name::Connection), field)) {
            put(field, value);
        }
    }
    if let Some(context) = outgoing.trace {
        put(trace::TRACEPARENT.as_bytes(), context.traceparent().as_bytes());
    }
}

/// Settings for the head of a forwarded response.
#[derive(Clone, Copy, Debug)]
pub(super) struct Returned<'p> {
    /// Framing of its body towards the caller.
    pub(super) length: Length,
    /// True if the caller's connection stays open after it.
    pub(super) keep: bool,
    /// Version that the caller speaks.
    pub(super) version: Version,
    /// Time that the request waited for its permit; zero if it did not.
    pub(super) waited: Duration,
    /// Time of receipt, in nanoseconds since 1970, if the response has no Date.
    pub(super) received_unix_nanos: Option<i128>,
    /// Rewrites the origin's references to itself, if it was reached through a route.
    pub(super) locations: Option<&'p LocationMap>,
    /// True if the connection to the origin is pinned to the caller's, which may log in on it.
    pub(super) pinned: bool,
}

/// True if the response names other protocols for its connection.
pub(super) fn switches(head: &ResponseHead) -> bool {
    matches!(head.status(), 101 | 426)
}

/// Calls `put` with every field of the response that is meant for the caller; leaves framing, `Via`
/// and `Server-Timing` out.
pub(super) fn for_caller(head: &ResponseHead, returned: Returned<'_>, mut put: impl FnMut(&[u8], &[u8])) {
    let (status, switches) = (head.status(), switches(head) && returned.version != Version::Http2);
    let connection = || head.all(Name::Connection);
    let named = ConnectionOptions::of(connection()).names_fields;
    let mut has_length = false;
    for (name, field, value) in head.fields() {
        let dropped = match name {
            Name::Connection | Name::KeepAlive | Name::ProxyConnection | Name::Te | Name::TransferEncoding => true,
            // The length of a body that is not sent (HEAD, 304) is information; that of a body that is sent is part of
            // our framing. A sender must not forward one that is no number (RFC 9110 §8.6).
            Name::ContentLength => {
                let is_ours = returned.length != Length::Empty || status < 200 || status == 204;
                let is_dropped = is_ours || std::mem::replace(&mut has_length, true);
                put_length(field, framing::stated_length(head).filter(|_| !is_dropped), &mut put);
                true
            }
            Name::Upgrade => !switches,
            Name::Host
            | Name::Trailer
            | Name::Expect
            | Name::ProxyAuthorization
            | Name::ProxyAuthenticate
            | Name::Via
            | Name::MaxForwards
            | Name::Date
            | Name::RetryAfter
            | Name::Prefer
            | Name::Priority
            | Name::Authorization
            | Name::WwwAuthenticate
            | Name::PersistentAuth
            | Name::Forwarded
            | Name::Http2Settings
            | Name::Other => false,
        };
        if dropped || named && name != Name::Upgrade && is_named(connection(), field) {
            continue;
        }
        match returned.locations.filter(|_| name == Name::Other) {
            None => put(field, value),
            Some(locations) => {
                if let Some(value) = locations.field(field, value) {
                    put(field, &value);
                }
            }
        }
    }
}

/// Calls `put` with a length, if there is one.
fn put_length(field: &[u8], length: Option<u64>, put: &mut impl FnMut(&[u8], &[u8])) {
    if let Some(length) = length {
        put(field, length.to_string().as_bytes());
    }
}

/// True if the request's credentials log its connection in, and not the request (NTLM; Negotiate,
/// RFC 4559).
pub(super) fn logs_in(head: &RequestHead) -> bool {
    head.all(Name::Authorization).any(is_of_connection)
}

/// True if the origin asks for such a login, or confirms one.
pub(super) fn mentions_login(head: &ResponseHead) -> bool {
    head.get(Name::PersistentAuth).is_some() || head.all(Name::WwwAuthenticate).flat_map(members).any(is_of_connection)
}

/// True if the scheme of credentials or of a challenge (RFC 9110 §11.3) applies to a connection.
fn is_of_connection(value: &[u8]) -> bool {
    let scheme = value.split(u8::is_ascii_whitespace).next().unwrap_or_default();
    scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
}

/// True if the sender of the request accepts trailers.
pub(super) fn takes_trailers(head: &RequestHead) -> bool {
    // HTTP/2 always has room for trailers.
    head.version() == Version::Http2 || asks_for_trailers(head)
}

/// True if TE names trailers (RFC 9110 §10.1.4).
pub(super) fn asks_for_trailers(head: &RequestHead) -> bool {
    head.all(Name::Te).flat_map(members).any(|member| member.eq_ignore_ascii_case(b"trailers"))
}

/// Value of `Max-Forwards`; an invalid one means no bound.
pub(super) fn max_forwards(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}

/// True if the members of Connection name the field.
pub(super) fn is_named<'a>(connection: impl Iterator<Item = &'a [u8]>, field: &[u8]) -> bool {
    connection.flat_map(members).any(|member| member.eq_ignore_ascii_case(field))
}

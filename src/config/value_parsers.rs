//! Value parsers: strings of `proxy.toml` that are more than a keyword, such as hosts, addresses
//! and key parts.
//!
//! Each parser takes a value of the file and returns the type that a module below uses, or reports
//! the value with an example of a valid one. Letter case is folded where it does not matter (hosts,
//! field names) and kept where it does (methods, paths).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use jiff::tz::TimeZone;

use super::toml_value::{TomlValue, nearest};
use crate::proxy::claims::Cost;
use crate::proxy::key::KeyPart;
use crate::proxy::pattern::{HostPattern, PathPattern};
use crate::proxy::target::{Origin, PlainVersion, Scheme};

/// Most slots of a window, and most waiters: bounds the memory of one window.
pub(super) const MOST_SLOTS: u32 = 10_000_000;

/// A pattern with its text, for messages and sentences.
#[derive(Clone, Debug)]
pub(super) struct TextPattern<P> {
    /// As written, in lower case if it is a host.
    pub(super) text: String,
    /// The same, parsed.
    pub(super) pattern: P,
}

/// `to` of a route, or `otlp` of `[trace]`: a URL.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    /// Scheme, host and port; the port of the scheme if the URL has none.
    pub(super) origin: Origin,
    /// Version that an origin without TLS speaks.
    pub(super) plain: PlainVersion,
    /// Path as written; empty if the URL has none.
    pub(super) path: String,
}

/// A listening address.
///
/// Names are not accepted: their addresses might change, or be several.
pub(super) fn address(value: &TomlValue<'_>) -> Option<SocketAddr> {
    value.parse("an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"", |text| text.parse().ok())
}

/// A range of addresses; a single address is a range of one.
///
/// Such as `10.0.0.0/8`, `::1`.
pub(super) fn range(value: &TomlValue<'_>) -> Option<IpNet> {
    let read = |text: &str| text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    value.parse("an IP address or a range, such as \"10.0.0.0/8\" or \"::1\"", read)
}

/// A TCP port, from 1.
///
/// From 1 to 65 535.
pub(super) fn port(value: &TomlValue<'_>) -> Option<u16> {
    value.number(1..=u32::from(u16::MAX)).and_then(|port| u16::try_from(port).ok())
}

/// The path of a file.
///
/// It need not exist. Empty paths and NUL bytes are refused.
pub(super) fn path(value: &TomlValue<'_>) -> Option<PathBuf> {
    value.parse("the path of a file, relative to the folder of this one", some_path)
}

/// The path of a folder.
///
/// As [`path`], with another advice.
pub(super) fn folder(value: &TomlValue<'_>) -> Option<PathBuf> {
    value.parse("the path of a folder, relative to the folder of this file", some_path)
}

/// `None` for an empty path and for one with a NUL byte, which no system call takes.
fn some_path(text: &str) -> Option<PathBuf> {
    (!text.is_empty() && !text.contains('\0')).then(|| PathBuf::from(text))
}

/// A name of a limit, group or gateway. Names appear in header fields, log lines and metrics: these
/// characters need no quoting in any of them.
pub(super) fn name(value: &TomlValue<'_>) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    value.parse("1 to 64 letters, digits, dots, dashes and underscores", |text| {
        ((1..=64).contains(&text.len()) && text.chars().all(fits)).then(|| text.to_owned())
    })
}

/// A host pattern, in lower case.
///
/// A whole URL is refused with the host in it as advice.
pub(super) fn host(value: &TomlValue<'_>) -> Option<TextPattern<HostPattern>> {
    let advice = "a host such as \"api.example.com\", \"*.example.com\" or \"api.example.com:8080\"";
    let text = value.parse(advice, |text| Some(text.to_ascii_lowercase()))?;
    match HostPattern::parse(&text) {
        Ok(pattern) => Some(TextPattern { text, pattern }),
        Err(why) => match host_in_url(&text) {
            Some(host) => value.reject(why, format_args!("write \"{host}\"")),
            None => value.reject(why, advice),
        },
    }
}

/// The host and port of a URL, with or without scheme, if they are a pattern by themselves.
fn host_in_url(text: &str) -> Option<&str> {
    let authority = text.split_once("://").map_or(text, |(_, rest)| rest).split(['/', '?', '#']).next()?;
    HostPattern::parse(authority).is_ok().then_some(authority)
}

/// A path pattern.
///
/// Letter case is kept; `ignore_case` of the limit is applied later.
pub(super) fn path_pattern(value: &TomlValue<'_>) -> Option<TextPattern<PathPattern>> {
    let advice = "a path such as \"/v2/**\", \"/v1/*/items\" or \"/exact\"";
    let text = value.parse(advice, |text| Some(text.to_owned()))?;
    match PathPattern::parse(&text) {
        Ok(pattern) => Some(TextPattern { text, pattern }),
        Err(why) => value.reject(why, advice),
    }
}

/// A method. Methods are case-sensitive (RFC 9110 §9.1): no request ever has "get".
///
/// The advice for `"get"` is `"GET"`.
pub(super) fn method(value: &TomlValue<'_>) -> Option<String> {
    let advice = match value.as_str().map(str::to_ascii_uppercase) {
        Some(upper) if is_name(&upper) => format!("methods are case-sensitive: write \"{upper}\""),
        _ => "a method, such as \"GET\"".to_owned(),
    };
    value.parse(advice, |text| {
        (is_name(text) && !text.contains(|c: char| c.is_ascii_lowercase())).then(|| text.to_owned())
    })
}

/// A part of a limit's key.
///
/// Field names become lower case (RFC 9110 §5.1); names of query parameters stay.
pub(super) fn key_part(value: &TomlValue<'_>) -> Option<KeyPart> {
    let advice = "\"host\", \"caller\", \"method\", \"path[1]\", \"header:NAME\" or \"query:NAME\"";
    let part = value.parse(advice, |text| match text {
        "host" => Some(KeyPart::Host),
        "caller" => Some(KeyPart::Caller),
        "method" => Some(KeyPart::Method),
        _ => match text.split_once(':') {
            Some(("header", name)) => is_name(name).then(|| KeyPart::Header(name.to_ascii_lowercase())),
            Some(("query", name)) => (!name.is_empty()).then(|| KeyPart::Query(name.to_owned())),
            Some(_) => None,
            None => segment(text).map(KeyPart::Path),
        },
    })?;
    if let KeyPart::Header(name) = &part {
        reaches_the_server(value, name)?;
    }
    Some(part)
}

/// A part of a request that stands for its credential: a part of a key that servers read in one way.
pub(super) fn credential_part(value: &TomlValue<'_>) -> Option<KeyPart> {
    match key_part(value)? {
        KeyPart::Path(_) | KeyPart::Query(_) => value.reject(
            format_args!("`{}` cannot be part of the path or the query", value.key),
            "\"header:authorization\", another \"header:NAME\", or \"caller\"; or key = […], with windows that pause by themselves",
        ),
        part @ (KeyPart::Host | KeyPart::Caller | KeyPart::Header(_) | KeyPart::Method) => Some(part),
    }
}

/// Name of a header field (RFC 9110 §5.1), in lower case.
pub(super) fn field_name(value: &TomlValue<'_>) -> Option<String> {
    value.parse("the name of a header field, such as \"x-read-timeout\"", |text| {
        is_name(text).then(|| text.to_ascii_lowercase())
    })
}

/// Status of a refusal or a failure (RFC 9110 §15.5, §15.6).
pub(super) fn failure_status(value: &TomlValue<'_>) -> Option<u16> {
    value.number(400..=599).and_then(|status| u16::try_from(status).ok())
}

/// Reports a field that ends at the gateway or is rewritten by it (RFC 9110 §7.6.1, RFC 9112 §3.2):
/// no server reads the caller's value, so a caller could choose its key and its cost freely.
///
/// Returns `None` after the report, `Some(())` for any other field.
fn reaches_the_server(value: &TomlValue<'_>, name: &str) -> Option<()> {
    const OURS: [&str; 9] = [
        "host",
        "proxy-authorization",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    ];
    if !OURS.contains(&name) {
        return Some(());
    }
    let written = value.as_str().and_then(|text| text.strip_prefix("header:")).unwrap_or(name);
    let advice = match name {
        "host" => "use \"host\": the host that the request goes to",
        "proxy-authorization" => "use \"caller\": the user whose credentials these are",
        _ => "use a field that is meant for the server",
    };
    value.reject(format_args!("the server never sees the caller's field {written}"), advice)
}

/// The N of `path[N]`, from 1 to 64.
///
/// Counted from 1 without leading zeros: `path[1]` of `/v1/items` is `v1`.
fn segment(text: &str) -> Option<usize> {
    let digits = text.strip_prefix("path[")?.strip_suffix(']')?;
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|n| plain && (1..=64).contains(n))
}

/// A protocol of `Upgrade` (RFC 9110 §7.8): `websocket`, `name/version`.
///
/// Returned in lower case: the tokens are compared without letter case.
pub(super) fn upgrade(value: &TomlValue<'_>) -> Option<String> {
    let advice = "a protocol such as \"websocket\", or one with its version: \"name/1.0\"";
    let protocol = value.parse(advice, |text| text.split('/').all(is_name).then(|| text.to_ascii_lowercase()))?;
    // These carry further requests past every limit: RFC 2817, and HTTP/2 itself.
    if matches!(protocol.split('/').next(), Some("h2c" | "h2" | "http" | "tls")) {
        let advice = "leave it out: callers speak HTTP/2 and TLS to the gateway itself";
        let message = format_args!("a connection that changes to {protocol} carries requests that no limit sees");
        return value.reject(message, advice);
    }
    Some(protocol)
}

/// A time zone of the IANA database.
///
/// `UTC` is known on every machine, all others come from its database.
pub(super) fn zone(value: &TomlValue<'_>) -> Option<TimeZone> {
    let read = |text: &str| match text {
        "UTC" => Some(TimeZone::UTC),
        _ => TimeZone::get(text).ok(),
    };
    let text = value.as_str().unwrap_or_default();
    let known: Vec<_> = jiff::tz::db().available().map(|name| name.to_string()).collect();
    let advice = match nearest(text, known.iter().map(String::as_str)) {
        _ if known.is_empty() => "\"UTC\", for this machine has no time zone database (tzdata)".to_owned(),
        Some(near) if value.as_str().is_some() => format!("did you mean \"{near}\"?"),
        _ => "a time zone of the IANA database, such as \"Europe/Berlin\"".to_owned(),
    };
    value.parse(advice, read)
}

/// A cost: a fixed number, or a header field of the request.
///
/// A field that ends at the gateway is refused, as in a key.
pub(super) fn cost(value: &TomlValue<'_>) -> Option<Cost> {
    if value.is_number() {
        return value.number(1..=MOST_SLOTS).map(Cost::Fixed);
    }
    let name = value.parse("a whole number from 1, or \"header:NAME\" to read it from the request", |text| {
        text.strip_prefix("header:").filter(|name| is_name(name)).map(str::to_ascii_lowercase)
    })?;
    reaches_the_server(value, &name)?;
    Some(Cost::Header(name))
}

/// A path without query, fragment and star (RFC 3986 §3.3).
///
/// A path begins with a slash and has printable ASCII characters only; others must be
/// percent-encoded.
pub(super) fn plain_path(text: &str) -> Option<String> {
    let fits = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'*');
    (text.starts_with('/') && text.bytes().all(fits)).then(|| text.to_owned())
}

/// An http or https URL without user name and query.
///
/// `https://api.example.com/v2/` is https, the host `api.example.com`, port 443 and the path
/// `/v2/`.
pub(super) fn destination(value: &TomlValue<'_>) -> Option<Destination> {
    let advice = "an http or https URL without user name and query, such as \"https://api.example.com/v2/\"";
    read_destination(value, advice, |scheme| match scheme {
        "http" => Some((Scheme::Http, PlainVersion::Http1)),
        "https" => Some((Scheme::Https, PlainVersion::Http1)),
        _ => None,
    })
}

/// The same, or an h2c URL: an origin that speaks HTTP/2 without TLS.
///
/// `h2c://127.0.0.1:50051/` is such a server of gRPC; the default port is 80.
pub(super) fn route_destination(value: &TomlValue<'_>) -> Option<Destination> {
    let advice = "an http, https or h2c URL without user name and query, such as \"https://api.example.com/v2/\"";
    read_destination(value, advice, |scheme| match scheme {
        "http" => Some((Scheme::Http, PlainVersion::Http1)),
        "h2c" => Some((Scheme::Http, PlainVersion::H2c)),
        "https" => Some((Scheme::Https, PlainVersion::Http1)),
        _ => None,
    })
}

/// A URL with one of the schemes that `known` knows; these are in lower case.
fn read_destination(
    value: &TomlValue<'_>,
    advice: &'static str,
    known: impl Fn(&str) -> Option<(Scheme, PlainVersion)>,
) -> Option<Destination> {
    let ((scheme, plain), rest) = value.parse(advice, |text| {
        let (scheme, rest) = text.split_once("://")?;
        Some((known(&scheme.to_ascii_lowercase())?, rest))
    })?;
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let origin = match Origin::at(scheme, authority) {
        Ok(origin) => origin,
        Err(why) => return value.reject(format_args!("`to` cannot lead to {authority:?}: {why}"), advice),
    };
    let path = value.parse(advice, |_| if path.is_empty() { Some(String::new()) } else { plain_path(path) })?;
    Some(Destination { origin, plain, path })
}

/// True if the text is a token (RFC 9110 §5.6.2), the form of methods and field names.
fn is_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(fits)
}

//! How the values of `proxy.toml` that are neither numbers nor words are written.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use jiff::tz::TimeZone;

use super::toml_value::{TomlValue, nearest};
use crate::proxy::claims::Cost;
use crate::proxy::key::KeyPart;
use crate::proxy::pattern::{HostPattern, PathPattern};
use crate::proxy::target::{Origin, Scheme};

/// The most slots that a window may have.
pub(super) const MOST_SLOTS: u32 = 10_000_000;

/// A pattern with the words it was made of, for sentences.
#[derive(Clone, Debug)]
pub(super) struct TextPattern<P> {
    pub(super) text: String,
    pub(super) pattern: P,
}

/// `to` of a route.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    pub(super) origin: Origin,
    pub(super) path: String,
}

pub(super) fn address(item: &TomlValue<'_>) -> Option<SocketAddr> {
    item.parse("an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"", |text| text.parse().ok())
}

pub(super) fn range(item: &TomlValue<'_>) -> Option<IpNet> {
    let read = |text: &str| text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    item.parse("an IP address or a range, such as \"10.0.0.0/8\" or \"::1\"", read)
}

pub(super) fn port(item: &TomlValue<'_>) -> Option<u16> {
    item.number(1..=u32::from(u16::MAX)).and_then(|port| u16::try_from(port).ok())
}

pub(super) fn path(item: &TomlValue<'_>) -> Option<PathBuf> {
    item.parse("the path of a file, relative to the folder of this one", some_path)
}

pub(super) fn folder(item: &TomlValue<'_>) -> Option<PathBuf> {
    item.parse("the path of a folder, relative to the folder of this file", some_path)
}

fn some_path(text: &str) -> Option<PathBuf> {
    (!text.is_empty() && !text.contains('\0')).then(|| PathBuf::from(text))
}

/// Names appear in header fields, log lines and metrics: letters that need no quoting in any of them.
pub(super) fn name(item: &TomlValue<'_>) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    item.parse("1 to 64 letters, digits, dots, dashes and underscores", |text| {
        ((1..=64).contains(&text.len()) && text.chars().all(fits)).then(|| text.to_owned())
    })
}

pub(super) fn host(item: &TomlValue<'_>) -> Option<TextPattern<HostPattern>> {
    let right = "a host such as \"api.example.com\", \"*.example.com\" or \"api.example.com:8080\"";
    let text = item.parse(right, |text| Some(text.to_ascii_lowercase()))?;
    match HostPattern::parse(&text) {
        Ok(pattern) => Some(TextPattern { text, pattern }),
        Err(why) => match host_in_url(&text) {
            Some(host) => item.reject(why, format_args!("write \"{host}\"")),
            None => item.reject(why, right),
        },
    }
}

/// The host and port of a URL, or of one without scheme, if they are a pattern by themselves.
fn host_in_url(text: &str) -> Option<&str> {
    let authority = text.split_once("://").map_or(text, |(_, rest)| rest).split(['/', '?', '#']).next()?;
    HostPattern::parse(authority).is_ok().then_some(authority)
}

pub(super) fn path_pattern(item: &TomlValue<'_>) -> Option<TextPattern<PathPattern>> {
    let right = "a path such as \"/v2/**\", \"/v1/*/items\" or \"/exact\"";
    let text = item.parse(right, |text| Some(text.to_owned()))?;
    match PathPattern::parse(&text) {
        Ok(pattern) => Some(TextPattern { text, pattern }),
        Err(why) => item.reject(why, right),
    }
}

/// Methods are case-sensitive (RFC 9110 §9.1), so "get" would match nothing that is ever sent.
pub(super) fn method(item: &TomlValue<'_>) -> Option<String> {
    let right = match item.as_str().map(str::to_ascii_uppercase) {
        Some(upper) if is_name(&upper) => format!("methods are case-sensitive: write \"{upper}\""),
        _ => "a method, such as \"GET\"".to_owned(),
    };
    item.parse(right, |text| {
        (is_name(text) && !text.contains(|c: char| c.is_ascii_lowercase())).then(|| text.to_owned())
    })
}

pub(super) fn key_part(item: &TomlValue<'_>) -> Option<KeyPart> {
    let right = "\"host\", \"caller\", \"method\", \"path[1]\", \"header:NAME\" or \"query:NAME\"";
    let part = item.parse(right, |text| match text {
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
        reaches_the_server(item, name)?;
    }
    Some(part)
}

/// Reports a field that ends at the gateway, or is made anew by it (RFC 9110 §7.6.1, RFC 9112 §3.2): no server reads what a
/// caller writes there, so it could choose its key, and its cost, freely.
fn reaches_the_server(item: &TomlValue<'_>, name: &str) -> Option<()> {
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
    let written = item.as_str().and_then(|text| text.strip_prefix("header:")).unwrap_or(name);
    let right = match name {
        "host" => "use \"host\": the host that the request goes to",
        "proxy-authorization" => "use \"caller\": the user whose credentials these are",
        _ => "use a field that is meant for the server",
    };
    item.reject(format_args!("the server never sees the caller's field {written}"), right)
}

/// The N of `path[N]`, counted from 1.
fn segment(text: &str) -> Option<usize> {
    let digits = text.strip_prefix("path[")?.strip_suffix(']')?;
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|n| plain && (1..=64).contains(n))
}

/// A protocol that a connection may change to: `websocket`, `name/version`.
pub(super) fn upgrade(item: &TomlValue<'_>) -> Option<String> {
    let right = "a protocol such as \"websocket\", or one with its version: \"name/1.0\"";
    let protocol = item.parse(right, |text| text.split('/').all(is_name).then(|| text.to_ascii_lowercase()))?;
    // Requests go on in these, past every limit: RFC 2817 and HTTP/2's own.
    if matches!(protocol.split('/').next(), Some("h2c" | "h2" | "http" | "tls")) {
        let right = "leave it out: callers speak HTTP/2 and TLS to the gateway itself";
        let message = format_args!("a connection that changes to {protocol} carries requests that no limit sees");
        return item.reject(message, right);
    }
    Some(protocol)
}

pub(super) fn zone(item: &TomlValue<'_>) -> Option<TimeZone> {
    let read = |text: &str| match text {
        "UTC" => Some(TimeZone::UTC),
        _ => TimeZone::get(text).ok(),
    };
    let text = item.as_str().unwrap_or_default();
    let known: Vec<_> = jiff::tz::db().available().map(|name| name.to_string()).collect();
    let right = match nearest(text, known.iter().map(String::as_str)) {
        _ if known.is_empty() => "\"UTC\", for this machine has no time zone database (tzdata)".to_owned(),
        Some(near) if item.as_str().is_some() => format!("did you mean \"{near}\"?"),
        _ => "a time zone of the IANA database, such as \"Europe/Berlin\"".to_owned(),
    };
    item.parse(right, read)
}

pub(super) fn cost(item: &TomlValue<'_>) -> Option<Cost> {
    if item.is_number() {
        return item.number(1..=MOST_SLOTS).map(Cost::Fixed);
    }
    let name = item.parse("a whole number from 1, or \"header:NAME\" to read it from the request", |text| {
        text.strip_prefix("header:").filter(|name| is_name(name)).map(str::to_ascii_lowercase)
    })?;
    reaches_the_server(item, &name)?;
    Some(Cost::Header(name))
}

pub(super) fn plain_path(text: &str) -> Option<String> {
    let fits = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'*');
    (text.starts_with('/') && text.bytes().all(fits)).then(|| text.to_owned())
}

pub(super) fn destination(item: &TomlValue<'_>) -> Option<Destination> {
    let right = "an http or https URL without user name and query, such as \"https://api.example.com/v2/\"";
    let (scheme, rest) = item.parse(right, |text| {
        let (scheme, rest) = text.split_once("://")?;
        match scheme.to_ascii_lowercase().as_str() {
            "http" => Some((Scheme::Http, rest)),
            "https" => Some((Scheme::Https, rest)),
            _ => None,
        }
    })?;
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let origin = match Origin::at(scheme, authority) {
        Ok(origin) => origin,
        Err(why) => return item.reject(format_args!("`to` cannot lead to {authority:?}: {why}"), right),
    };
    let path = item.parse(right, |_| if path.is_empty() { Some(String::new()) } else { plain_path(path) })?;
    Some(Destination { origin, path })
}

/// Whether the text is a token of RFC 9110 §5.6.2: what methods and field names are made of.
fn is_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(fits)
}

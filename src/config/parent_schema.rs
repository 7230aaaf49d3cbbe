//! Schema of `[[parent]]`: every key, its form and its default.
//!
//! ```text
//! [[parent]]
//! match         = { host = "*" }
//! except        = ["*.corp.example", "10.0.0.0/8"]
//! proxy         = ["http://proxy-1.corp:3128", "http://proxy-2.corp:3128"]
//! user          = "gateway"
//! password_file = "parent.password"
//! ```

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::toml_table::TomlTable;
use super::toml_value::{Setting, SourceSpan, Spanned, TomlValue};
use super::value_parsers::{TextPattern, host, path};
use crate::proxy::parent::{ParentKind, ParentUrl};
use crate::proxy::pattern::HostPattern;
use crate::proxy::target::{Origin, Scheme};
use crate::wire::socks5_client::MAX_TEXT;

/// `[[parent]]`: a proxy through which requests to some hosts go.
#[derive(Debug)]
pub(super) struct ParentSection {
    /// Place of its header, for mistakes that concern no key of it.
    pub(super) span: SourceSpan,
    /// `host` of `match`. Default: all hosts.
    pub(super) hosts: Vec<Spanned<TextPattern<HostPattern>>>,
    /// Hosts and addresses that are reached without it. Default: none.
    pub(super) except: Vec<Spanned<ParentExcept>>,
    /// URL, or several in the order in which they are used; needed.
    pub(super) proxies: Setting<Vec<Spanned<ParentUrl>>>,
    /// Name by which the gateway logs in. Default: it does not.
    pub(super) user: Setting<String>,
    /// Path of a file with the password and nothing else; needed with `user`.
    pub(super) password_file: Setting<PathBuf>,
}

/// Entry of `except`.
#[derive(Clone, Debug)]
pub(super) enum ParentExcept {
    /// A host pattern.
    Host(TextPattern<HostPattern>),
    /// A range of addresses.
    Addresses(IpNet),
}

impl ParentSection {
    /// Reads the keys; `parent_check` decides if they fit together.
    pub(super) fn read(table: &mut TomlTable<'_>) -> ParentSection {
        table.suggest(&[("url", "proxy"), ("proxies", "proxy"), ("no_proxy", "except")], &[("host", "match")]);
        let hosts = |table: &mut TomlTable<'_>| table.get("host", |v| v.list(host)).or(Vec::new());
        let mut section = ParentSection {
            span: table.span(),
            hosts: table.inline_table("match", "{ host = \"*\" }", hosts),
            except: table.get("except", |v| v.list(except)).or(Vec::new()),
            proxies: table.get("proxy", |v| v.non_empty_list(url)),
            user: table.get("user", |v| v.parse("a name of 1 to 255 characters, without colon", user)),
            password_file: table.get("password_file", path),
        };
        for key in table.misspelt_keys() {
            match key {
                "proxy" => section.proxies.mark_misspelt(),
                "user" => section.user.mark_misspelt(),
                "password_file" => section.password_file.mark_misspelt(),
                _ => {}
            }
        }
        section
    }
}

/// A user name that both Basic (RFC 7617 §2) and SOCKS5 (RFC 1929) can carry.
fn user(text: &str) -> Option<String> {
    let fits = (1..=MAX_TEXT).contains(&text.len()) && !text.contains(|c: char| c == ':' || c.is_control());
    fits.then(|| text.to_owned())
}

/// A range of addresses, or a host pattern. A single address is a range of one.
fn except(item: &TomlValue<'_>) -> Option<ParentExcept> {
    let range = item.as_str().and_then(|text| {
        text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(|ip| IpNet::from(ip.to_canonical())))
    });
    match range {
        Some(range) => Some(ParentExcept::Addresses(range)),
        None => host(item).map(ParentExcept::Host),
    }
}

/// URL of a parent; refuses credentials in it.
fn url(item: &TomlValue<'_>) -> Option<ParentUrl> {
    let advice = "the URL of a proxy, without path, such as \"http://proxy.corp:3128\", \"https://proxy.corp:443\", \
                  \"socks5://proxy.corp:1080\" (names are resolved here) or \"socks5h://proxy.corp:1080\" (names are resolved there)";
    let text = item.parse(advice, |text| text.contains("://").then_some(text))?;
    if text.contains('@') {
        let advice =
            "a password does not belong in a file that is shown around: add user = \"…\" and password_file = \"…\"";
        return item.reject("this URL holds credentials", advice);
    }
    let (kind, authority) = item.parse(advice, split_url)?;
    match Origin::at(if kind == ParentKind::Https { Scheme::Https } else { Scheme::Http }, authority) {
        Ok(origin) => {
            let after_colon = authority.rsplit_once(':').map_or("", |(_, port)| port);
            let has_port = !after_colon.is_empty() && !after_colon.ends_with(']');
            let port = if has_port || kind.is_http() { origin.port } else { SOCKS_PORT };
            Some(ParentUrl { kind, host: origin.host, port })
        }
        Err(why) => item.reject(format_args!("`proxy` cannot be {authority:?}: {why}"), advice),
    }
}

/// Port of SOCKS proxies (IANA's registry of ports).
const SOCKS_PORT: u16 = 1080;

/// Splits a URL into its kind and authority; a path other than `/` makes it none.
fn split_url(text: &str) -> Option<(ParentKind, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let kinds = [ParentKind::Http, ParentKind::Https, ParentKind::Socks5, ParentKind::Socks5h];
    let kind = kinds.into_iter().find(|kind| scheme.eq_ignore_ascii_case(kind.scheme()))?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    (!authority.contains(['/', '?', '#'])).then_some((kind, authority))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_kind_and_an_authority() {
        assert_eq!(split_url("http://a:3128"), Some((ParentKind::Http, "a:3128")));
        assert_eq!(split_url("HTTPS://a/"), Some((ParentKind::Https, "a")));
        assert_eq!(split_url("socks5h://[::1]:1080"), Some((ParentKind::Socks5h, "[::1]:1080")));
        for wrong in ["a:3128", "socks4://a", "socks://a", "ftp://a", "http://a/b", "http://a?b"] {
            assert_eq!(split_url(wrong), None, "{wrong}");
        }
    }
}

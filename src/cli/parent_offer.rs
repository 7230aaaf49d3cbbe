//! Offer of a parent proxy: the lines of `[[parent]]` for the proxy that the environment names.
//!
//! The gateway never follows the variables by itself: where its requests go is written in the file. A proxy variable that
//! leads back to the gateway, as `lockgate exec` sets it for its programs, is no offer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::config::Settings;
use crate::proxy::parent::ParentKind;

/// Variables that name a proxy, in the order of curl: https first, as most requests are.
const VARIABLES: [&str; 6] = ["https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
/// Variables that name hosts without a proxy.
const EXCEPT_VARIABLES: [&str; 2] = ["no_proxy", "NO_PROXY"];
/// Most entries of those that are shown.
const MAX_EXCEPT: usize = 32;

/// Logs the lines to write if the environment names a proxy, and the configuration no parent.
pub(super) fn log(settings: &Settings) {
    if !settings.proxy.parents.is_empty() {
        return;
    }
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    if let Some((name, lines)) = offer(variable, &settings.listen) {
        tracing::warn!(
            "{name} names a proxy, which the gateway does not use by itself; for requests through it write into the file:\n{lines}"
        );
    }
}

/// Variable that names a proxy, and the lines for it; `None` without one, or if it is the gateway itself.
fn offer(variable: impl Fn(&str) -> Option<String>, own: &[SocketAddr]) -> Option<(&'static str, String)> {
    let (name, value) = VARIABLES.into_iter().find_map(|name| Some((name, variable(name)?)))?;
    let (url, user) = read_url(value.trim())?;
    if own.iter().any(|own| leads_to(&url, *own)) {
        return None;
    }
    let listed = EXCEPT_VARIABLES.into_iter().find_map(&variable).unwrap_or_default();
    let except = except(&listed)?;
    let login = user.map_or_else(String::new, |user| {
        format!("\nuser = \"{user}\"\npassword_file = \"parent.password\"   # a file with the password; chmod 600")
    });
    Some((name, format!("[[parent]]\nmatch = {{ host = \"*\" }}\nexcept = [{except}]\nproxy = \"{url}\"{login}")))
}

/// URL without credentials, and the user's name if it has some. `None` for a kind of proxy that the gateway does not use.
fn read_url(value: &str) -> Option<(String, Option<String>)> {
    let (scheme, rest) = value.split_once("://").unwrap_or(("http", value));
    let kinds = [ParentKind::Http, ParentKind::Https, ParentKind::Socks5, ParentKind::Socks5h];
    let kind = kinds.into_iter().find(|kind| scheme.eq_ignore_ascii_case(kind.scheme()))?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (login, authority) = match authority.rsplit_once('@') {
        Some((login, authority)) => (Some(login), authority),
        None => (None, authority),
    };
    let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"\"\\".contains(&b));
    let user = login.map(|login| login.split(':').next().filter(|user| is_plain(user)).unwrap_or("NAME").to_owned());
    is_plain(authority).then(|| (format!("{}://{authority}", kind.scheme()), user))
}

/// True if a URL leads to a listener of the gateway.
fn leads_to(url: &str, own: SocketAddr) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, authority)| authority);
    let Some((host, port)) = authority.rsplit_once(':') else { return false };
    let host = host.trim_matches(['[', ']']);
    let address = match host {
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => host.parse().ok(),
    };
    let is_own = |address: IpAddr| {
        address == own.ip() || own.ip().is_unspecified() || own.ip().is_loopback() && host == "localhost"
    };
    port.parse() == Ok(own.port()) && address.is_some_and(is_own)
}

/// Entries of NO_PROXY in the form of `except`. `None` if it excepts all hosts.
///
/// A name stands for all below it, too. This machine needs no entry: a star does not stand for it.
fn except(listed: &str) -> Option<String> {
    let mut entries = Vec::new();
    for entry in listed.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()) {
        if entry == "*" {
            return None;
        }
        let name = entry.trim_start_matches("*.").trim_start_matches('.');
        let is_fit = name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:/[]".contains(&b)) && !name.is_empty();
        if !is_fit || matches!(name, "localhost" | "127.0.0.1" | "::1" | "127.0.0.0/8") {
            continue;
        }
        let is_address = name.contains('/') || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        if is_address || name == entry {
            entries.push(format!("\"{name}\""));
        }
        if !is_address {
            entries.push(format!("\"*.{name}\""));
        }
    }
    entries.truncate(MAX_EXCEPT);
    Some(entries.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(variables: &[(&str, &str)]) -> Option<String> {
        let get = |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
        offer(get, &["127.0.0.1:8080".parse().unwrap()]).map(|(name, lines)| format!("{name}\n{lines}"))
    }

    #[test]
    fn the_proxy_of_the_environment_becomes_four_lines() {
        let variables = [
            ("HTTP_PROXY", "http://other:1"),
            ("HTTPS_PROXY", "http://proxy.corp:3128/"),
            ("NO_PROXY", "localhost, .corp.example,inner.example,10.0.0.0/8,192.168.1.1"),
        ];
        let wanted = "HTTPS_PROXY\n[[parent]]\nmatch = { host = \"*\" }\n\
            except = [\"*.corp.example\", \"inner.example\", \"*.inner.example\", \"10.0.0.0/8\", \"192.168.1.1\"]\n\
            proxy = \"http://proxy.corp:3128\"";
        assert_eq!(offered(&variables).as_deref(), Some(wanted));
        assert!(
            offered(&[("ALL_PROXY", "socks5h://proxy.corp:1080")])
                .unwrap()
                .contains("proxy = \"socks5h://proxy.corp:1080\"")
        );
    }

    #[test]
    fn a_password_of_the_environment_is_not_shown() {
        let lines = offered(&[("https_proxy", "ana:sec:r@t@proxy.corp:3128")]).unwrap();
        assert!(lines.contains("user = \"ana\"") && lines.contains("http://proxy.corp:3128\""), "{lines}");
        assert!(!lines.contains("sec") && !lines.contains("r@t"), "{lines}");
    }

    #[test]
    fn the_gateway_itself_is_no_offer() {
        for own in ["http://127.0.0.1:8080", "http://ana:pw@127.0.0.1:8080/", "http://localhost:8080"] {
            assert_eq!(offered(&[("HTTP_PROXY", own)]), None, "{own}");
        }
        assert!(offered(&[("HTTP_PROXY", "http://127.0.0.1:8081")]).is_some());
        for other in ["", "socks4://a:1", "http://a\"b:1"] {
            assert_eq!(offered(&[("HTTP_PROXY", other)]), None, "{other}");
        }
        assert_eq!(offered(&[("HTTP_PROXY", "http://a:1"), ("NO_PROXY", "*")]), None);
    }
}

//! Schema of `[store]`: every key, its form and its default.
//!
//! An example with a fallback:
//!
//! ```text
//! [store]
//! url              = "rediss://store.example:6379/0"
//! user             = "gateway"
//! password_file    = "store.password"
//! if_store_is_lost = "share"
//! gateways         = 3
//! name             = "gw-1"
//! ```

use std::path::PathBuf;
use std::time::Duration;

use super::toml_table::TomlTable;
use super::toml_value::{Setting, SourceSpan, Spanned, TomlValue};
use super::value_parsers::{name, path};

/// Default of `group`, the part that the store's keys of one group of gateways have in common.
///
/// Gateways with another group may use the same store and count apart.
const GROUP: &str = "lockgate";

/// `[store]`: the Valkey or Redis in which shared limits are counted.
#[derive(Debug)]
pub(super) struct StoreSection {
    /// Place of the header, for a missing `url`.
    pub(super) span: SourceSpan,
    /// True if the file has the section.
    pub(super) is_present: bool,
    /// Servers of the store: one, the nodes of a Cluster, or Sentinels.
    pub(super) url: Setting<Vec<Spanned<StoreUrl>>>,
    /// User of the store's access list (`AUTH user password`). Default: the store's default user.
    pub(super) user: Setting<String>,
    /// Path of a file with the password and nothing else. Default: no password.
    pub(super) password_file: Setting<PathBuf>,
    /// Default: [`GROUP`].
    pub(super) group: String,
    /// `if_store_is_lost`. Default: refuse.
    pub(super) lost: Setting<LostPolicy>,
    /// `if_store_is_empty`; true: an empty store is a new one. Default: its windows are closed for one `per`.
    pub(super) trusts_empty: bool,
    /// Number of gateways that share the limits, 1 to 1000; needed for "share".
    pub(super) gateways: Setting<u32>,
    /// Name of this gateway, kept over restarts; needed for "share".
    pub(super) name: Setting<String>,
    /// Longest time without the store in which this gateway uses its share.
    ///
    /// From 1 s to 31 days. Default: 1 h.
    pub(super) share_for: Setting<Duration>,
    /// Replicas that must have a grant before it is used, 0 to 9. Default: 0.
    ///
    /// More replicas make a grant safer after a failover, and slower.
    pub(super) confirm: u32,
}

/// Decision on requests of shared limits while the store is unreachable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LostPolicy {
    /// They are refused.
    Refuse,
    /// Each gateway grants its part of each limit, for at most `share_for`.
    Share,
    /// Each gateway counts for itself, so together they may exceed the limit.
    Allow,
}

/// URL of a server of the store, or of a Sentinel that knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct StoreUrl {
    /// True for the schemes `rediss` and `valkeys`, also with `+sentinel`.
    pub(super) tls: bool,
    /// True if it is the URL of a Sentinel.
    pub(super) is_sentinel: bool,
    /// Name or address in lower case, an IPv6 address without brackets.
    pub(super) host: String,
    /// From 1; 6379 if absent, 26379 for a Sentinel.
    pub(super) port: u16,
    /// Number of the database; of a Sentinel the name of the store.
    ///
    /// Empty stands for database 0.
    pub(super) path: String,
}

impl StoreSection {
    /// Reads the keys. `lost`, `gateways` and `name` are checked together in `store_check`.
    pub(super) fn read(table: &mut TomlTable<'_>) -> StoreSection {
        let words = [("refuse", LostPolicy::Refuse), ("share", LostPolicy::Share), ("allow", LostPolicy::Allow)];
        let empty = [("close", false), ("trust", true)];
        let (span, is_present) = (table.span(), table.is_present());
        let mut store = StoreSection {
            span,
            is_present,
            url: table.get("url", |v| v.non_empty_list(url)),
            user: table.get("user", |v| v.parse("the name of a user", |text| Some(text.to_owned()))),
            password_file: table.get("password_file", path),
            group: table.get("group", name).or(GROUP.to_owned()),
            lost: table.get("if_store_is_lost", |v| v.keyword(&words)),
            trusts_empty: table.get("if_store_is_empty", |v| v.keyword(&empty)).or(false),
            gateways: table.get("gateways", |v| v.number(1..=1000)),
            name: table.get("name", name),
            share_for: table
                .get("share_for", |v| v.duration(Duration::from_secs(1)..=Duration::from_secs(31 * 86_400))),
            confirm: table.get("confirm", |v| v.number(0..=9)).or(0),
        };
        for key in table.misspelt_keys() {
            match key {
                "url" => store.url.mark_misspelt(),
                "gateways" => store.gateways.mark_misspelt(),
                "name" => store.name.mark_misspelt(),
                _ => {}
            }
        }
        store
    }
}

/// Parses a URL of the store; refuses credentials in it.
///
/// Credentials are refused: a password does not belong in a file that is shown around.
fn url(item: &TomlValue<'_>) -> Option<StoreUrl> {
    let advice = "a URL such as \"redis://127.0.0.1:6379\", \"rediss://store.example:6379/0\" (TLS) or \
                 \"redis+sentinel://10.0.0.1:26379/mymaster\"";
    let text = item.parse(advice, |text| text.contains("://").then_some(text))?;
    if text.contains('@') {
        let advice =
            "a password does not belong in a file that is shown around: add user = \"…\" and password_file = \"…\"";
        return item.reject("this URL holds credentials", advice);
    }
    item.parse(advice, parse_url)
}

/// Splits a URL into its parts. Default ports: 6379, of Sentinels 26379.
///
/// `None` for another scheme, port 0, a database that is no number, or a Sentinel without a name.
///
/// ```text
/// redis://127.0.0.1:7000                 database 0 at port 7000
/// rediss://store.example/3               database 3 at port 6379, TLS
/// redis+sentinel://10.0.0.1/mymaster     the master that Sentinels know as "mymaster"
/// ```
fn parse_url(text: &str) -> Option<StoreUrl> {
    let (scheme, rest) = text.split_once("://")?;
    let (tls, is_sentinel) = match scheme {
        "redis" | "valkey" => (false, false),
        "rediss" | "valkeys" => (true, false),
        "redis+sentinel" | "valkey+sentinel" => (false, true),
        "rediss+sentinel" | "valkeys+sentinel" => (true, true),
        _ => return None,
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let usual = if is_sentinel { 26_379 } else { 6379 };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|port| *port > 0)?),
        Some(_) | None => (authority, usual),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_path = if is_sentinel { !path.is_empty() } else { path.is_empty() || path.parse::<u32>().is_ok() };
    let is_host = !bare.is_empty() && bare.chars().all(|c| c.is_ascii_graphic() && !"/?#@\"".contains(c));
    (is_path && is_host).then(|| StoreUrl {
        tls,
        is_sentinel,
        host: bare.to_ascii_lowercase(),
        port,
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(bool, bool, String, u16, String)> {
        parse_url(text).map(|url| (url.tls, url.is_sentinel, url.host, url.port, url.path))
    }

    #[test]
    fn urls_say_where_how_and_what() {
        let is = |tls, is_sentinel, host: &str, port, path: &str| {
            Some((tls, is_sentinel, host.to_owned(), port, path.to_owned()))
        };
        assert_eq!(parsed("redis://127.0.0.1:7000"), is(false, false, "127.0.0.1", 7000, ""));
        assert_eq!(parsed("rediss://Store.example/3"), is(true, false, "store.example", 6379, "3"));
        assert_eq!(parsed("redis://[::1]:7000"), is(false, false, "::1", 7000, ""));
        assert_eq!(parsed("redis://[::1]"), is(false, false, "::1", 6379, ""));
        assert_eq!(parsed("valkey+sentinel://10.0.0.1/main"), is(false, true, "10.0.0.1", 26_379, "main"));
        for wrong in ["redis://", "http://a", "redis://a:0", "redis://a:b", "redis://a/b", "redis+sentinel://a", "a:1"]
        {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}

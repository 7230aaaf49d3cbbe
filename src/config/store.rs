//! `[store]`: where limits are counted that several gateways keep together, and what holds when it is lost.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::limit_check::CheckedLimit;
use super::report::Reports;
use super::toml_table::TomlTable;
use super::toml_value::{Setting, Span, Spanned, TomlValue};
use super::value_parsers::{name, path};
use crate::gate::store::{Secret, Settings, WhenLost};
use crate::locker::Counts;

/// The part of keys that all gateways of a fleet have in common, unless the file says otherwise.
const GROUP: &str = "lockgate";
/// How long a gateway that is cut off goes on with its part, unless the file says otherwise.
const SHARE_FOR: Duration = Duration::from_secs(3600);

/// `[store]`
#[derive(Debug)]
pub(super) struct StoreSection {
    span: Span,
    is_present: bool,
    url: Setting<Vec<Spanned<StoreUrl>>>,
    user: Setting<String>,
    password_file: Setting<PathBuf>,
    group: Setting<String>,
    lost: Setting<LostPolicy>,
    trusts_empty: bool,
    gateways: Setting<u32>,
    name: Setting<String>,
    share_for: Setting<Duration>,
    confirm: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LostPolicy {
    Refuse,
    Share,
    Allow,
}

/// Where a server of the store is, or one that is_sentinel where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct StoreUrl {
    tls: bool,
    /// Whether it is a Sentinel.
    is_sentinel: bool,
    host: String,
    port: u16,
    /// The number of the database, or what the Sentinels call the store.
    path: String,
}

impl StoreSection {
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
            group: table.get("group", name),
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

/// Checks `[store]` together with the limits that are counted there. `None`: there is none, or none is needed.
/// `request`: the longest that a request may take to its answer, if that is bounded.
pub(super) fn check(
    written: &StoreSection,
    limits: &[CheckedLimit],
    request: Option<Duration>,
    folder: &Path,
    reports: &Reports<'_>,
) -> Option<Settings> {
    let shared: Vec<&CheckedLimit> = limits.iter().filter(|limit| limit.limit.shared).collect();
    if !written.is_present {
        if let Some(span) = shared.first().and_then(|limit| limit.shared.as_ref()) {
            let right = "add [store] with url = \"redis://127.0.0.1:6379\"";
            reports.error(span, "nothing says where the gateways that share it count", right);
        }
        return None;
    }
    if written.url.is_absent() {
        reports.error(&written.span, "nothing says where the store is", "add url = \"redis://127.0.0.1:6379\"");
    }
    if shared.is_empty() && !limits.is_empty() {
        reports.warn(&written.span, "no limit is counted in the store", "add shared = true to a limit");
    }
    let when_lost = when_lost(written, &shared, request, reports);
    let password = written.password_file.get().and_then(|at| password(at, folder, reports));
    let urls = &written.url.get()?.value;
    let first = &urls.first()?.value;
    for at in urls {
        let one = &at.value;
        if (one.tls, one.is_sentinel, &one.path) != (first.tls, first.is_sentinel, &first.path) {
            let right = "several are the nodes of one Cluster, or the Sentinels of one store: all of one kind";
            reports.error(&at.span, "this leads elsewhere than the first", right);
        }
    }
    Some(Settings {
        nodes: urls.iter().map(|at| (at.value.host.clone(), at.value.port)).collect(),
        sentinel: first.is_sentinel.then(|| first.path.clone()),
        tls: first.tls,
        user: written.user.get().map(|at| at.value.clone()),
        password,
        database: if first.is_sentinel { 0 } else { first.path.parse().unwrap_or(0) },
        group: written.group.get().map_or(GROUP, |at| &at.value).to_owned(),
        when_lost,
        trusts_empty: written.trusts_empty,
        confirm: written.confirm,
    })
}

/// What the keys of shared limits are hashed with.
pub(super) fn seed(written: &StoreSection) -> [u8; 16] {
    crate::gate::store::seed(written.group.get().map_or(GROUP, |at| &at.value))
}

fn when_lost(
    written: &StoreSection,
    shared: &[&CheckedLimit],
    request: Option<Duration>,
    reports: &Reports<'_>,
) -> WhenLost {
    let lost = written.lost.get();
    if lost.is_none_or(|lost| lost.value != LostPolicy::Share) {
        let idle = [
            ("gateways", written.gateways.get().map(|at| &at.span)),
            ("name", written.name.get().map(|at| &at.span)),
            ("share_for", written.share_for.get().map(|at| &at.span)),
        ];
        for (key, span) in idle {
            if let (Some(span), false) = (span, matches!(written.lost, Setting::Invalid)) {
                let message = format!("`{key}` has no effect without if_store_is_lost = \"share\"");
                reports.error(span, message, "add it, or leave this out");
            }
        }
        return if lost.is_some_and(|lost| lost.value == LostPolicy::Allow) {
            WhenLost::Allow
        } else {
            WhenLost::Refuse
        };
    }
    let span = lost.map_or(&written.span, |lost| &lost.span);
    if written.gateways.is_absent() {
        reports.error(span, "nothing says how many gateways share", "add gateways = 3, or as many as there are");
    }
    if written.name.is_absent() {
        let right = "add name = \"gw-1\", another one for each gateway, which it keeps over restarts";
        reports.error(span, "nothing says which of the gateways this is", right);
    }
    let gateways = written.gateways.get().and_then(|at| NonZeroU32::new(at.value)).unwrap_or(NonZeroU32::MIN);
    for limit in shared {
        let Some(span) = &limit.shared else { continue };
        let answered = limit.limit.rate.as_ref().is_some_and(|rate| rate.counts == Counts::Answered);
        if limit.limit.in_flight.is_some() {
            let message =
                "its responses may take any time, so it has no parts: it is as with \"refuse\" while the store is lost";
            reports.warn(span, message, "leave out in_flight if it must go on then");
            continue;
        }
        if answered && request.is_none() {
            let message = "a request may take any time to its answer, so it has no parts: it is as with \"refuse\" while the store is lost";
            reports.warn(
                span,
                message,
                "add request = \"1m\" to [timeouts], or as long as a request may take with its content",
            );
            continue;
        }
        let least = limit.limit.rate.as_ref().map(|rate| rate.requests);
        if let Some(least) = least.filter(|least| *least < gateways.get()) {
            let message = format!("a part of {least} for each of {gateways} gateways is less than one");
            reports.warn(span, message, "nobody passes this limit while the store is lost");
        }
    }
    WhenLost::Share {
        gateways,
        name: written.name.get().map_or_else(String::new, |at| at.value.clone()),
        share_for: written.share_for.get().map_or(SHARE_FOR, |at| at.value),
    }
}

fn password(at: &Spanned<PathBuf>, folder: &Path, reports: &Reports<'_>) -> Option<Secret> {
    let path = folder.join(&at.value);
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim_end_matches(['\r', '\n']).is_empty() => {
            Some(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
        }
        Ok(_) => {
            reports.error(&at.span, format_args!("{} is empty", path.display()), "write the password into it");
            None
        }
        Err(error) => {
            let message = format!("cannot read {}: {}", path.display(), error.kind());
            reports.error(&at.span, message, "a file that holds the password and nothing else");
            None
        }
    }
}

fn url(item: &TomlValue<'_>) -> Option<StoreUrl> {
    let right = "a URL such as \"redis://127.0.0.1:6379\", \"rediss://store.example:6379/0\" (TLS) or \
                 \"redis+sentinel://10.0.0.1:26379/mymaster\"";
    let text = item.parse(right, |text| text.contains("://").then_some(text))?;
    if text.contains('@') {
        let right =
            "a password does not belong into a file that is shown around: add user = \"…\" and password_file = \"…\"";
        return item.reject("this URL holds credentials", right);
    }
    item.parse(right, parse_url)
}

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

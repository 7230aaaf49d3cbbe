//! The shape of `proxy.toml`: its sections, and the keys of `[listen]`, `[tls]` and `[[route]]`.
//!
//! Each value is read on its own here; what several keys must agree on is `check`'s business.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::access_schema::{self, AccessSection};
use super::limit_schema::LimitSection;
use super::process_schema::{AdminSection, ConfigSection, LocksSection, LogSection, StateSection, TraceSection};
use super::store_schema::StoreSection;
use super::toml_table::TomlTable;
use super::toml_value::{Setting, Span, Spanned};
use super::value_parsers::{Destination, TextPattern, address, destination, folder, host, path, plain_path};
use crate::proxy::Timeouts;
use crate::proxy::pattern::HostPattern;
use crate::proxy::target::CrossSite;

/// More than any machine has descriptors for.
const MOST_CONNECTIONS: u32 = 10_000_000;

/// `proxy.toml`.
#[derive(Debug)]
pub(super) struct ConfigFile {
    pub(super) listen: ListenSection,
    pub(super) limits: Vec<LimitSection>,
    pub(super) routes: Vec<RouteSection>,
    pub(super) tls: TlsSection,
    pub(super) access: AccessSection,
    pub(super) timeouts: Timeouts,
    pub(super) store: StoreSection,
    pub(super) state: StateSection,
    pub(super) config: ConfigSection,
    pub(super) log: LogSection,
    pub(super) admin: AdminSection,
    pub(super) locks: LocksSection,
    pub(super) trace: TraceSection,
}

/// `[listen]`
#[derive(Debug)]
pub(super) struct ListenSection {
    pub(super) proxy: Setting<Vec<Spanned<SocketAddr>>>,
    pub(super) max_connections: Setting<u32>,
    pub(super) max_connections_per_address: Setting<u32>,
    pub(super) tls: CertPair,
}

/// A certificate and its key.
#[derive(Debug)]
pub(super) struct CertPair {
    pub(super) span: Span,
    pub(super) is_present: bool,
    pub(super) cert: Setting<PathBuf>,
    pub(super) key: Setting<PathBuf>,
}

/// `[tls]`
#[derive(Debug)]
pub(super) struct TlsSection {
    pub(super) intercept: Vec<Spanned<TextPattern<HostPattern>>>,
    pub(super) ca_dir: Setting<PathBuf>,
    pub(super) trust: Vec<Spanned<PathBuf>>,
    pub(super) clients: Vec<TlsClientSection>,
}

/// `[[tls.client]]`: what an origin is shown that asks who we are.
#[derive(Debug)]
pub(super) struct TlsClientSection {
    pub(super) hosts: Setting<Vec<Spanned<TextPattern<HostPattern>>>>,
    pub(super) pair: CertPair,
}

/// `[[route]]`
#[derive(Debug)]
pub(super) struct RouteSection {
    pub(super) span: Span,
    pub(super) path: Setting<String>,
    pub(super) host: Setting<TextPattern<HostPattern>>,
    pub(super) to: Setting<Destination>,
    pub(super) cross_site: Setting<CrossSite>,
}

impl ConfigFile {
    pub(super) fn read(root: &mut TomlTable<'_>) -> ConfigFile {
        ConfigFile {
            listen: root.section("listen", "[listen]", ListenSection::read),
            limits: root.sections("limit", "[[limit]]", LimitSection::read),
            routes: root.sections("route", "[[route]]", RouteSection::read),
            tls: root.section("tls", "[tls]", TlsSection::read),
            access: root.section("access", "[access]", AccessSection::read),
            timeouts: root.section("timeouts", "[timeouts]", access_schema::read_timeouts),
            store: root.section("store", "[store]", StoreSection::read),
            state: root.section("state", "[state]", StateSection::read),
            config: root.section("config", "[config]", ConfigSection::read),
            log: root.section("log", "[log]", LogSection::read),
            admin: root.section("admin", "[admin]", AdminSection::read),
            locks: root.section("locks", "[locks]", LocksSection::read),
            trace: root.section("trace", "[trace]", TraceSection::read),
        }
    }
}

impl ListenSection {
    fn read(table: &mut TomlTable<'_>) -> ListenSection {
        ListenSection {
            proxy: table.get("proxy", |v| v.non_empty_list(address)),
            max_connections: table.get("max_connections", |v| v.number(1..=MOST_CONNECTIONS)),
            max_connections_per_address: table.get("max_connections_per_address", |v| v.number(1..=MOST_CONNECTIONS)),
            tls: table.inline_table("tls", "{ cert = \"gateway.pem\", key = \"gateway.key\" }", CertPair::read),
        }
    }
}

impl CertPair {
    fn read(table: &mut TomlTable<'_>) -> CertPair {
        let (span, is_present) = (table.span(), table.is_present());
        let mut pair = CertPair { span, is_present, cert: table.get("cert", path), key: table.get("key", path) };
        for key in table.misspelt_keys() {
            match key {
                "cert" => pair.cert.mark_misspelt(),
                "key" => pair.key.mark_misspelt(),
                _ => {}
            }
        }
        pair
    }
}

impl TlsSection {
    fn read(table: &mut TomlTable<'_>) -> TlsSection {
        TlsSection {
            intercept: table.get("intercept", |v| v.list(host)).or(Vec::new()),
            ca_dir: table.get("ca_dir", folder),
            trust: table.get("trust", |v| v.list(path)).or(Vec::new()),
            clients: table.sections("client", "[[tls.client]]", TlsClientSection::read),
        }
    }
}

impl TlsClientSection {
    fn read(table: &mut TomlTable<'_>) -> TlsClientSection {
        let mut hosts = table.get("host", |v| v.non_empty_list(host));
        if table.misspelt_keys().contains(&"host") {
            hosts.mark_misspelt();
        }
        TlsClientSection { hosts, pair: CertPair::read(table) }
    }
}

impl RouteSection {
    fn read(table: &mut TomlTable<'_>) -> RouteSection {
        let sites = [("refuse", CrossSite::Refuse), ("allow", CrossSite::Allow)];
        let mut route = RouteSection {
            span: table.span(),
            path: table.get("path", |v| v.parse("a path that begins with \"/\", such as \"/partner/\"", plain_path)),
            host: table.get("host", host),
            to: table.get("to", destination),
            cross_site: table.get("cross_site", |v| v.keyword(&sites)),
        };
        for key in table.misspelt_keys() {
            match key {
                "path" => route.path.mark_misspelt(),
                "host" => route.host.mark_misspelt(),
                "to" => route.to.mark_misspelt(),
                _ => {}
            }
        }
        route
    }
}

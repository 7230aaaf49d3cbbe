//! Schema of `proxy.toml`: its sections, and the keys of `[listen]`, `[tls]` and `[[route]]`.
//!
//! Each value is parsed on its own here. Constraints between several keys are checked in `validate`
//! and the `*_check` files.
//!
//! Reading never stops at a mistake: an invalid value becomes `Setting::Invalid` or its default,
//! and its report keeps the file from being accepted. Paths stay as written; `validate` joins them
//! to the folder of the file.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::access_schema::AccessSection;
use super::balancer_schema::BalancerKeys;
use super::cert_pair_schema::CertPair;
use super::limit_schema::LimitSection;
use super::parent_schema::ParentSection;
use super::process_schema::{AdminSection, ConfigSection, LocksSection, LogSection, StateSection, TraceSection};
use super::store_schema::StoreSection;
use super::timeouts_schema::TimeoutsSection;
use super::toml_table::TomlTable;
use super::toml_value::{Setting, SourceSpan, Spanned, TomlValue};
use super::value_parsers::{Destination, TextPattern, address, folder, host, path, plain_path, route_destination};
use super::zmq::ZmqSection;
use crate::proxy::HostMismatch;
use crate::proxy::pattern::HostPattern;
use crate::proxy::target::CrossSite;
use crate::wire::HeadLimits;

/// Highest number of connections: more than the file descriptors of any machine.
const MOST_CONNECTIONS: u32 = 10_000_000;

/// The whole of `proxy.toml`, as written.
#[derive(Debug)]
pub(super) struct ConfigFile {
    /// `[listen]`.
    pub(super) listen: ListenSection,
    /// `[[limit]]`, in the order of the file, which is that of the locker.
    pub(super) limits: Vec<LimitSection>,
    /// `[[route]]`, in the order of the file.
    pub(super) routes: Vec<RouteSection>,
    /// `[[parent]]`, in the order of the file.
    pub(super) parents: Vec<ParentSection>,
    /// `[tls]` and `[[tls.client]]`.
    pub(super) tls: TlsSection,
    /// `[access]`.
    pub(super) access: AccessSection,
    /// `[timeouts]` and `[[timeouts.for]]`.
    pub(super) timeouts: TimeoutsSection,
    /// `[http]`.
    pub(super) http: HttpSection,
    /// `[store]`.
    pub(super) store: StoreSection,
    /// `[state]`.
    pub(super) state: StateSection,
    /// `[config]`.
    pub(super) config: ConfigSection,
    /// `[log]`.
    pub(super) log: LogSection,
    /// `[admin]`.
    pub(super) admin: AdminSection,
    /// `[locks]`.
    pub(super) locks: LocksSection,
    /// `[zmq]`.
    pub(super) zmq: ZmqSection,
    /// `[trace]`.
    pub(super) trace: TraceSection,
}

/// `[listen]`: where callers connect.
#[derive(Debug)]
pub(super) struct ListenSection {
    /// Listening addresses. Default: 127.0.0.1:8080.
    pub(super) proxy: Setting<Vec<Spanned<SocketAddr>>>,
    /// Listening addresses for redirected connections. Default: none.
    pub(super) transparent: Setting<Vec<Spanned<SocketAddr>>>,
    /// Treatment of hosts that do not have the address of their connection. Default: refuse.
    pub(super) transparent_mismatch: HostMismatch,
    /// Connections of all callers. Default: by the limit of open files.
    ///
    /// From 1 to [`MOST_CONNECTIONS`]; further connections wait in the kernel's backlog.
    pub(super) max_connections: Setting<u32>,
    /// Connections from one address. Default: half of all.
    ///
    /// At most `max_connections`. An IPv6 address counts by its `ipv6_prefix`.
    pub(super) max_connections_per_address: Setting<u32>,
    /// Certificate for callers that speak TLS. Default: TLS is off.
    pub(super) tls: CertPair,
    /// Balancers that callers come through. Default: none.
    pub(super) balancers: BalancerKeys,
}

/// `[tls]`: interception, and certificates for origins.
#[derive(Debug)]
pub(super) struct TlsSection {
    /// Hosts whose tunnels are intercepted. Default: none.
    ///
    /// Such as `*.example.com`; the port may follow.
    pub(super) intercept: Vec<Spanned<TextPattern<HostPattern>>>,
    /// Folder of the gateway's authority. Default: certs.
    pub(super) ca_dir: Setting<PathBuf>,
    /// PEM files with roots beside those of the system.
    pub(super) trust: Vec<Spanned<PathBuf>>,
    /// `[[tls.client]]`, in the order of the file.
    pub(super) clients: Vec<TlsClientSection>,
}

/// `[[tls.client]]`: a certificate that the gateway shows to origins that ask for one.
#[derive(Debug)]
pub(super) struct TlsClientSection {
    /// Origins that the certificate is shown to.
    pub(super) hosts: Setting<Vec<Spanned<TextPattern<HostPattern>>>>,
    /// The keys `cert` and `key` of the same table.
    pub(super) pair: CertPair,
}

/// `[[route]]`: requests in reverse mode, and the origin that they go to.
#[derive(Debug)]
pub(super) struct RouteSection {
    /// SourceSpan of its header, for mistakes that concern no key of it.
    pub(super) span: SourceSpan,
    /// Path of the gateway that the route begins with; it, or `host`, is needed.
    pub(super) path: Setting<String>,
    /// Host of the requests that the route is for. Default: any.
    pub(super) host: Setting<TextPattern<HostPattern>>,
    /// Origin, and the path that replaces `path`.
    ///
    /// For instance `https://api.example.com/v2/`; needed.
    pub(super) to: Setting<Destination>,
    /// Requests from web pages of other sites. Default: depends on `users` and `host`.
    ///
    /// `refuse` protects services that trust every request of this machine or network.
    pub(super) cross_site: Setting<CrossSite>,
}

impl ConfigFile {
    /// Reads every section, also those that the file leaves out: their defaults come from the same
    /// code.
    pub(super) fn read(root: &mut TomlTable<'_>) -> ConfigFile {
        ConfigFile {
            listen: root.section("listen", "[listen]", ListenSection::read),
            limits: root.sections("limit", "[[limit]]", LimitSection::read),
            routes: root.sections("route", "[[route]]", RouteSection::read),
            parents: root.sections("parent", "[[parent]]", ParentSection::read),
            tls: root.section("tls", "[tls]", TlsSection::read),
            access: root.section("access", "[access]", AccessSection::read),
            timeouts: root.section("timeouts", "[timeouts]", TimeoutsSection::read),
            http: root.section("http", "[http]", HttpSection::read),
            store: root.section("store", "[store]", StoreSection::read),
            state: root.section("state", "[state]", StateSection::read),
            config: root.section("config", "[config]", ConfigSection::read),
            log: root.section("log", "[log]", LogSection::read),
            admin: root.section("admin", "[admin]", AdminSection::read),
            locks: root.section("locks", "[locks]", LocksSection::read),
            zmq: root.section("zmq", "[zmq]", ZmqSection::read),
            trace: root.section("trace", "[trace]", TraceSection::read),
        }
    }
}

/// `[http]`, with all defaults applied.
#[derive(Debug)]
pub(super) struct HttpSection {
    /// `max_response_headers_kb` 64, from 16 to 256, and `max_response_headers_count` 256, from 10 to 1024.
    pub(super) response_head: HeadLimits,
    /// `via_to_origins`, by default true.
    pub(super) via_to_origins: bool,
}

impl HttpSection {
    fn read(table: &mut TomlTable<'_>) -> HttpSection {
        let default = HeadLimits::default();
        let mut number = |key, range| {
            let number = table.get(key, |v| v.number(range)).get().map(|at| at.value);
            number.and_then(|number| usize::try_from(number).ok())
        };
        let response_head = HeadLimits {
            bytes: number("max_response_headers_kb", 16..=256).map_or(default.bytes, |kib| kib * 1024),
            fields: number("max_response_headers_count", 10..=1024).unwrap_or(default.fields),
        };
        HttpSection { response_head, via_to_origins: table.get("via_to_origins", TomlValue::boolean).or(true) }
    }
}

impl ListenSection {
    fn read(table: &mut TomlTable<'_>) -> ListenSection {
        let mismatches = [("refuse", HostMismatch::Refuse), ("address", HostMismatch::Address)];
        ListenSection {
            proxy: table.get("proxy", |v| v.non_empty_list(address)),
            transparent: table.get("transparent", |v| v.list(address)),
            transparent_mismatch: table
                .get("transparent_mismatch", |v| v.keyword(&mismatches))
                .or(HostMismatch::Refuse),
            max_connections: table.get("max_connections", |v| v.number(1..=MOST_CONNECTIONS)),
            max_connections_per_address: table.get("max_connections_per_address", |v| v.number(1..=MOST_CONNECTIONS)),
            tls: CertPair::of_listener(table),
            balancers: BalancerKeys::read(table),
        }
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
            to: table.get("to", route_destination),
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

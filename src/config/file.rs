//! The shape of `proxy.toml`: its sections, and the keys of `[listen]`, `[tls]` and `[[route]]`.
//!
//! Each value is read on its own here; what several keys must agree on is `check`'s business.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::access_schema::{self, Access};
use super::item::{At, Place, Written};
use super::limit_schema::Limit;
use super::process::{Admin, Config, Locks, Log, State, Trace};
use super::store::Store;
use super::value::{Destination, Pattern, address, destination, folder, host, path, plain_path};
use super::walk::Table;
use crate::proxy::Timeouts;
use crate::proxy::pattern::HostPattern;
use crate::proxy::target::CrossSite;

/// More than any machine has descriptors for.
const MOST_CONNECTIONS: u32 = 10_000_000;

/// `proxy.toml`.
#[derive(Debug)]
pub(super) struct File {
    pub(super) listen: Listen,
    pub(super) limits: Vec<Limit>,
    pub(super) routes: Vec<Route>,
    pub(super) tls: Tls,
    pub(super) access: Access,
    pub(super) timeouts: Timeouts,
    pub(super) store: Store,
    pub(super) state: State,
    pub(super) config: Config,
    pub(super) log: Log,
    pub(super) admin: Admin,
    pub(super) locks: Locks,
    pub(super) trace: Trace,
}

/// `[listen]`
#[derive(Debug)]
pub(super) struct Listen {
    pub(super) proxy: Written<Vec<At<SocketAddr>>>,
    pub(super) max_connections: Written<u32>,
    pub(super) max_connections_per_address: Written<u32>,
    pub(super) tls: Pair,
}

/// A certificate and its key.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) place: Place,
    pub(super) is_there: bool,
    pub(super) cert: Written<PathBuf>,
    pub(super) key: Written<PathBuf>,
}

/// `[tls]`
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) intercept: Vec<At<Pattern<HostPattern>>>,
    pub(super) ca_dir: Written<PathBuf>,
    pub(super) trust: Vec<At<PathBuf>>,
    pub(super) clients: Vec<Shown>,
}

/// `[[tls.client]]`: what an origin is shown that asks who we are.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) hosts: Written<Vec<At<Pattern<HostPattern>>>>,
    pub(super) pair: Pair,
}

/// `[[route]]`
#[derive(Debug)]
pub(super) struct Route {
    pub(super) place: Place,
    pub(super) path: Written<String>,
    pub(super) host: Written<Pattern<HostPattern>>,
    pub(super) to: Written<Destination>,
    pub(super) cross_site: Written<CrossSite>,
}

impl File {
    pub(super) fn read(root: &mut Table<'_>) -> File {
        File {
            listen: root.section("listen", "[listen]", Listen::read),
            limits: root.sections("limit", "[[limit]]", Limit::read),
            routes: root.sections("route", "[[route]]", Route::read),
            tls: root.section("tls", "[tls]", Tls::read),
            access: root.section("access", "[access]", Access::read),
            timeouts: root.section("timeouts", "[timeouts]", access_schema::timeouts),
            store: root.section("store", "[store]", Store::read),
            state: root.section("state", "[state]", State::read),
            config: root.section("config", "[config]", Config::read),
            log: root.section("log", "[log]", Log::read),
            admin: root.section("admin", "[admin]", Admin::read),
            locks: root.section("locks", "[locks]", Locks::read),
            trace: root.section("trace", "[trace]", Trace::read),
        }
    }
}

impl Listen {
    fn read(table: &mut Table<'_>) -> Listen {
        Listen {
            proxy: table.get("proxy", |v| v.some(address)),
            max_connections: table.get("max_connections", |v| v.number(1..=MOST_CONNECTIONS)),
            max_connections_per_address: table.get("max_connections_per_address", |v| v.number(1..=MOST_CONNECTIONS)),
            tls: table.inline("tls", "{ cert = \"gateway.pem\", key = \"gateway.key\" }", Pair::read),
        }
    }
}

impl Pair {
    fn read(table: &mut Table<'_>) -> Pair {
        let (place, is_there) = (table.place(), table.is_there());
        let mut pair = Pair { place, is_there, cert: table.get("cert", path), key: table.get("key", path) };
        for key in table.meant() {
            match key {
                "cert" => pair.cert.misspelt(),
                "key" => pair.key.misspelt(),
                _ => {}
            }
        }
        pair
    }
}

impl Tls {
    fn read(table: &mut Table<'_>) -> Tls {
        Tls {
            intercept: table.get("intercept", |v| v.each(host)).or(Vec::new()),
            ca_dir: table.get("ca_dir", folder),
            trust: table.get("trust", |v| v.each(path)).or(Vec::new()),
            clients: table.sections("client", "[[tls.client]]", Shown::read),
        }
    }
}

impl Shown {
    fn read(table: &mut Table<'_>) -> Shown {
        let mut hosts = table.get("host", |v| v.some(host));
        if table.meant().contains(&"host") {
            hosts.misspelt();
        }
        Shown { hosts, pair: Pair::read(table) }
    }
}

impl Route {
    fn read(table: &mut Table<'_>) -> Route {
        let sites = [("refuse", CrossSite::Refuse), ("allow", CrossSite::Allow)];
        let mut route = Route {
            place: table.place(),
            path: table.get("path", |v| v.parse("a path that begins with \"/\", such as \"/partner/\"", plain_path)),
            host: table.get("host", host),
            to: table.get("to", destination),
            cross_site: table.get("cross_site", |v| v.word(&sites)),
        };
        for key in table.meant() {
            match key {
                "path" => route.path.misspelt(),
                "host" => route.host.misspelt(),
                "to" => route.to.misspelt(),
                _ => {}
            }
        }
        route
    }
}

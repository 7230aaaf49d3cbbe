//! The shape of `proxy.toml`: every key, how its value is written, and its default.
//!
//! Each value is read on its own here; what several keys must agree on is `check`'s business.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use jiff::tz::TimeZone;

use super::item::Item;
use super::process::{Admin, Config, Locks, Log, State, Trace};
use super::store::Store;
use super::value::{
    address, cost, destination, folder, host, key_part, method, name, path, path_pattern, plain_path, port, range, zone,
};
use super::walk::{At, Place, Table, Written};
use crate::locker::{Counts, ShareBy, WhenFull};
use crate::proxy::Timeouts;
use crate::proxy::claims::{Cost, KeyPart, Pushback};
use crate::proxy::pattern::{HostPattern, PathPattern};
use crate::proxy::target::Origin;

const NONE: Duration = Duration::ZERO;
const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// The longest window, and so the longest that anything is worth waiting for.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);
/// The most slots that a window may have.
pub(super) const MOST_SLOTS: u32 = 10_000_000;
/// The most times that one request may be sent again.
const MOST_RETRIES: u32 = 5;

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

/// `[[limit]]`
#[derive(Debug)]
pub(super) struct Limit {
    pub(super) place: Place,
    pub(super) name: Written<String>,
    pub(super) matching: Match,
    pub(super) requests: Written<u32>,
    pub(super) per: Written<Duration>,
    pub(super) key: Vec<At<KeyPart>>,
    pub(super) window: Written<Window>,
    pub(super) zone: Written<TimeZone>,
    pub(super) burst: Written<u32>,
    pub(super) counts: Written<Counts>,
    pub(super) guard: Written<Duration>,
    pub(super) cost: Written<Cost>,
    pub(super) in_flight: Written<u32>,
    pub(super) when_full: WhenFull,
    pub(super) max_wait: Duration,
    pub(super) max_waiting: u32,
    pub(super) share_by: ShareBy,
    pub(super) pushback: Pushback,
    pub(super) retry: u8,
    pub(super) dry_run: bool,
    pub(super) shared: Written<bool>,
    pub(super) max_keys: u32,
}

/// `match` of a limit: what a request must be to count. An empty list is met by everything.
#[derive(Debug)]
pub(super) struct Match {
    pub(super) hosts: Vec<At<Pattern<HostPattern>>>,
    pub(super) paths: Vec<At<Pattern<PathPattern>>>,
    pub(super) methods: Vec<At<String>>,
}

/// A pattern with the words it was made of, for sentences.
#[derive(Clone, Debug)]
pub(super) struct Pattern<P> {
    pub(super) text: String,
    pub(super) pattern: P,
}

/// `window` of a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Window {
    Sliding,
    Fixed,
    Calendar,
    Smooth,
}

/// `[[route]]`
#[derive(Debug)]
pub(super) struct Route {
    pub(super) place: Place,
    pub(super) path: Written<String>,
    pub(super) host: Written<Pattern<HostPattern>>,
    pub(super) to: Written<Destination>,
}

/// `to` of a route.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    pub(super) origin: Origin,
    pub(super) path: String,
}

/// `[access]`
#[derive(Debug)]
pub(super) struct Access {
    pub(super) allow_from: Written<Vec<At<IpNet>>>,
    pub(super) users: Written<PathBuf>,
    pub(super) connect_ports: Vec<u16>,
    pub(super) only_listed: bool,
    pub(super) deny_addresses: Vec<IpNet>,
}

impl File {
    pub(super) fn read(root: &mut Table<'_>) -> File {
        File {
            listen: root.section("listen", "[listen]", Listen::read),
            limits: root.sections("limit", "[[limit]]", Limit::read),
            routes: root.sections("route", "[[route]]", Route::read),
            tls: root.section("tls", "[tls]", Tls::read),
            access: root.section("access", "[access]", Access::read),
            timeouts: root.section("timeouts", "[timeouts]", timeouts),
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

impl Limit {
    fn read(table: &mut Table<'_>) -> Limit {
        let mut limit = Limit {
            place: table.place(),
            name: table.get("name", name),
            matching: table.inline("match", "{ host = \"api.example.com\" }", Match::read),
            requests: table.get("requests", |v| v.number(1..=MOST_SLOTS)),
            per: table.get("per", |v| v.duration(MS..=LONGEST)),
            key: table.get("key", |v| v.each(key_part)).or(Vec::new()),
            window: table.get("window", |v| v.word(&WINDOWS)),
            zone: table.get("zone", zone),
            burst: table.get("burst", |v| v.number(1..=MOST_SLOTS)),
            counts: table.get("counts", |v| v.word(&[("sent", Counts::Sent), ("answered", Counts::Answered)])),
            guard: table.get("guard", |v| v.duration(NONE..=HOUR)),
            cost: table.get("cost", cost),
            in_flight: table.get("in_flight", |v| v.number(1..=MOST_SLOTS)),
            when_full: table
                .get("when_full", |v| v.word(&[("wait", WhenFull::Wait), ("refuse", WhenFull::Refuse)]))
                .or(WhenFull::Wait),
            max_wait: table.get("max_wait", |v| v.duration(NONE..=LONGEST)).or(secs(30)),
            max_waiting: table.get("max_waiting", |v| v.number(1..=MOST_SLOTS)).or(1_000),
            share_by: table
                .get("share_by", |v| v.word(&[("caller", ShareBy::Caller), ("none", ShareBy::Nobody)]))
                .or(ShareBy::Caller),
            pushback: table
                .get("pushback", |v| v.word(&[("pause", Pushback::Pause), ("ignore", Pushback::Ignore)]))
                .or(Pushback::Pause),
            retry: table.get("retry", |v| v.number(0..=MOST_RETRIES).and_then(|n| u8::try_from(n).ok())).or(0),
            dry_run: table.get("dry_run", Item::flag).or(false),
            shared: table.get("shared", Item::flag),
            max_keys: table.get("max_keys", |v| v.number(1..=MOST_SLOTS)).or(1_000_000),
        };
        for key in table.meant() {
            match key {
                "requests" => limit.requests.misspelt(),
                "per" => limit.per.misspelt(),
                "in_flight" => limit.in_flight.misspelt(),
                "window" => limit.window.misspelt(),
                _ => {}
            }
        }
        limit
    }
}

const WINDOWS: [(&str, Window); 4] = [
    ("sliding", Window::Sliding),
    ("fixed", Window::Fixed),
    ("calendar", Window::Calendar),
    ("smooth", Window::Smooth),
];

impl Match {
    fn read(table: &mut Table<'_>) -> Match {
        Match {
            hosts: table.get("host", |v| v.some(host)).or(Vec::new()),
            paths: table.get("path", |v| v.some(path_pattern)).or(Vec::new()),
            methods: table.get("method", |v| v.some(method)).or(Vec::new()),
        }
    }
}

impl Route {
    fn read(table: &mut Table<'_>) -> Route {
        let mut route = Route {
            place: table.place(),
            path: table.get("path", |v| v.parse("a path that begins with \"/\", such as \"/partner/\"", plain_path)),
            host: table.get("host", host),
            to: table.get("to", destination),
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

impl Access {
    fn read(table: &mut Table<'_>) -> Access {
        Access {
            allow_from: table.get("allow_from", |v| v.some(range)),
            users: table.get("users", path),
            connect_ports: table.get("connect_ports", |v| v.each(port)).map_all().unwrap_or_else(|| vec![443]),
            only_listed: table.get("unlisted_hosts", |v| v.word(&[("allow", false), ("deny", true)])).or(false),
            deny_addresses: table
                .get("deny_addresses", |v| v.each(range))
                .map_all()
                .unwrap_or_else(|| vec![LINK_LOCAL_V4, LINK_LOCAL_V6]),
        }
    }
}

/// Link-local addresses: where clouds keep their metadata services.
const LINK_LOCAL_V4: IpNet = IpNet::new_assert(IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 0, 0)), 16);
const LINK_LOCAL_V6: IpNet = IpNet::new_assert(IpAddr::V6(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10);

/// `[timeouts]`
fn timeouts(table: &mut Table<'_>) -> Timeouts {
    let mut wait = |key, default| table.get(key, |v| v.duration(MS..=DAY)).or(default);
    Timeouts {
        head: wait("head", secs(10)),
        connect: wait("connect", secs(5)),
        answer: wait("answer", secs(60)),
        idle: wait("idle", secs(90)),
        tunnel_idle: wait("tunnel_idle", secs(600)),
        drain: table.get("drain", |v| v.duration(NONE..=HOUR)).or(secs(30)),
    }
}

impl<T> Written<Vec<At<T>>> {
    /// The values without their places.
    fn map_all(self) -> Option<Vec<T>> {
        match self {
            Written::Value(list) => Some(list.value.into_iter().map(|at| at.value).collect()),
            Written::Absent | Written::Wrong => None,
        }
    }
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

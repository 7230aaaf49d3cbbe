//! Validation: checks the parsed file as a whole, and builds the settings.
//!
//! Each function below takes one section as written and returns the settings of one module. All of
//! them run, whatever the others report, so that one run of `lockgate check` finds every mistake.
//! Files that the configuration names are read here: users here, certificates in `tls_check`, the
//! password of the store in `store_check`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::access_schema::AccessSection;
use super::address_rules::Exposure;
use super::checked_settings::{Admin, Locks, Settings};
use super::limit_check::{CheckedLimit, KeyContext};
use super::process_schema::{AdminSection, LocksSection, StateSection};
use super::report::Reports;
use super::schema::{ConfigFile, RouteSection};
use super::store_schema::StoreSection;
use super::timeouts_schema::TimeoutsForSection;
use super::toml_value::{Setting, Spanned};
use super::value_parsers::Destination;
use super::{
    address_rules, balancer_schema, folders, limit_check, lint, listeners, parent_check, store_check, tls_check,
    trace_check, users, zmq,
};
use crate::gate::{self, journal};
use crate::locker::Limit;
use crate::net::connection_limit;
use crate::proxy::claims::Rule;
use crate::proxy::pattern::HostPattern;
use crate::proxy::target::CrossSite;
use crate::proxy::{self, PoolSettings, access, target};
use crate::wire::HeadLimits;

/// Default of `[state] dir`, beside the file.
const STATE: &str = "state";
/// Idle connections that each runtime keeps for one origin: enough for a fleet's burst, within what
/// servers commonly allow one peer.
const IDLE_PER_ORIGIN: usize = 64;

/// Builds the settings, and reports every mistake. With errors in `reports` the settings are of no
/// use. `folder`: where relative paths start.
///
/// Order: checks that need the whole file come first, then each section is taken apart. `text` and
/// `warnings` are filled in by the caller.
pub(super) fn validate(file: ConfigFile, folder: &Path, reports: &Reports<'_>) -> Settings {
    let (listen, transparent, all) = listen(&file, reports);
    let connections = connections(&file, reports);
    let exposure = if file.listen.balancers.name_any() { Exposure::Network } else { Exposure::of(&all) };
    check_open(&file, exposure, reports);
    let balancers = balancer_schema::check(&file.listen.balancers, &file.access, reports);
    let counted_tunnels = lint::lint(&file, reports);
    let dial = address_rules::check(&file, &all, exposure, reports);
    let parents = parent_check::check(&file.parents, &dial, folder, reports);
    let access = access(&file.access, exposure, folder, reports);
    let routes = routes(file.routes, &file.access, reports);
    let tls = tls_check::check(&file.tls, folder, reports);
    let checked = limit_check::check_limits(file.limits, &key_context(&file.store, &file.access), reports);
    let zmq = zmq::check(&file.zmq, &file.access, &checked, reports);
    let store = store_check::check(&file.store, &checked, file.timeouts.common.request, folder, reports);
    let state = state(&file.state, folder);
    let state_span = file.state.dir.get().map_or(0..0, |at| at.span.clone());
    let unusable = folders::check_state(&state, &state_span, reports).into_iter().chain(tls.unusable).collect();
    let counts_loopback = checked.iter().any(|limit| limit.counts_loopback);
    let (limits, rules, mut explanations) = take_apart(checked);
    explanations.extend(zmq.iter().map(|zmq| zmq.explanation.clone()));
    explanations.extend(file.timeouts.overrides.iter().map(TimeoutsForSection::explain));
    explanations.extend(file.parents.iter().filter_map(parent_check::explain));
    let (trace, metrics_export) = trace_check::check(&file.trace, &tls.verify.trust, reports);
    Settings {
        text: "".into(),
        gate: gate::Settings { limits, state: Some(state), store },
        proxy: proxy::Settings {
            rules,
            routes,
            access,
            dial,
            parents,
            tls: tls.verify,
            identities: tls.identities,
            intercept: tls.intercept,
            authority: tls.authority,
            identity: tls_check::identity(&file.listen.tls, folder, reports),
            access_log: file.log.access,
            trace,
            pool: pool(file.timeouts.common.idle, file.http.response_head),
            balancers,
            timeouts: file.timeouts.check(reports),
            via_to_origins: file.http.via_to_origins,
            asks: zmq.as_ref().map(|zmq| zmq.asks.clone()),
            mismatch: file.listen.transparent_mismatch,
            own: all,
            warnings: Arc::default(),
        },
        listen,
        transparent,
        connections,
        log: file.log.level,
        watch: file.config.watch,
        quiet: false,
        explanations,
        counted_tunnels,
        counts_loopback,
        admin: admin(&file.admin, folder, reports),
        locks: locks(&file.locks, &file.access, &file.state, folder, reports),
        zmq: zmq.map(|zmq| zmq.listen),
        metrics_export,
        admin_bound: None,
        locks_bound: None,
        zmq_bound: None,
        warnings: Vec::new(),
        unusable,
    }
}

/// Settings of other sections on which the keys of limits depend.
fn key_context(store: &StoreSection, access: &AccessSection) -> KeyContext {
    let callers = access.users.is_absent().then_some(access.ipv6_prefix);
    KeyContext { shared_seed: store_check::seed(store), callers }
}

/// Parts of all limits for the locker, the proxy and users, each in the order of the file.
fn take_apart(checked: Vec<CheckedLimit>) -> (Vec<Limit>, Vec<Rule>, Vec<String>) {
    let (mut limits, mut rules, mut explanations) = (Vec::new(), Vec::new(), Vec::new());
    for limit in checked {
        limits.push(limit.limit);
        rules.push(limit.rule);
        explanations.push(limit.explanation);
    }
    (limits, rules, explanations)
}

/// Bounds of the pool of connections to origins, from `[timeouts]` and `[http]`.
fn pool(idle_timeout: Duration, response_head: HeadLimits) -> PoolSettings {
    PoolSettings { idle_per_origin: IDLE_PER_ORIGIN, idle_timeout, response_head }
}

/// The state folder: as written, else systemd's `STATE_DIRECTORY`, else one beside the file.
///
/// The first of several folders in `STATE_DIRECTORY` counts (systemd.exec(5)).
fn state(written: &StateSection, folder: &Path) -> journal::Settings {
    let systemd = || std::env::split_paths(&std::env::var_os("STATE_DIRECTORY")?).next();
    let dir = match written.dir.get() {
        Some(at) => folder.join(&at.value),
        None => systemd().unwrap_or_else(|| folder.join(STATE)),
    };
    journal::Settings { dir, after_crash: written.after_crash }
}

/// Builds the admin API's settings. Its users may change limits, so it needs a password beyond
/// loopback.
///
/// Reports a missing `listen`. `None` without the section, or without a valid address.
fn admin(written: &AdminSection, folder: &Path, reports: &Reports<'_>) -> Option<Admin> {
    let listen = written.listen.get();
    if written.is_present && written.listen.is_absent() {
        reports.error(&written.span, "`listen` is missing", "add listen = \"127.0.0.1:8081\"");
    }
    let at = listen?;
    if !at.value.ip().is_loopback() && written.users.is_absent() {
        let message = format!("{} can be reached by other machines, without `users`", at.value);
        reports.error(
            &at.span,
            message,
            "add users = \"operators\", a file that `htpasswd -B -c operators NAME` makes",
        );
    }
    let users = written.users.get().map(|at| read_users(at, folder, reports).unwrap_or_default());
    Some(Admin { listen: at.value, users, tls: tls_check::identity(&written.tls, folder, reports) })
}

/// Builds the lock service's settings. Beyond loopback, the file must say which addresses may lock.
///
/// Locks are kept in the state folder. `None` without a valid `listen`.
fn locks(
    written: &LocksSection,
    access: &AccessSection,
    kept: &StateSection,
    folder: &Path,
    reports: &Reports<'_>,
) -> Option<Locks> {
    if written.is_present && written.listen.is_absent() {
        reports.error(&written.span, "`listen` is missing", "add listen = \"127.0.0.1:7777\"");
    }
    let at = written.listen.get()?;
    let allow_from = access.allow_from.get().map(|list| list.value.iter().map(|at| at.value).collect());
    if !at.value.ip().is_loopback() && allow_from.is_none() {
        let message = format!("{} can be reached by other machines, without `allow_from`", at.value);
        reports.error(&at.span, message, "add [access] with allow_from = [\"10.0.0.0/8\"] (your programs' addresses)");
    }
    let users = written.users.get().map(|at| read_users(at, folder, reports).unwrap_or_default());
    let tls = tls_check::identity(&written.tls, folder, reports);
    Some(Locks { listen: at.value, users, allow_from, dir: state(kept, folder).dir, tls })
}

/// Listening addresses for callers: of the proxy, for redirected connections, and all of them.
///
/// One loopback address of the proxy if its key is absent.
fn listen(file: &ConfigFile, reports: &Reports<'_>) -> (Vec<SocketAddr>, Vec<SocketAddr>, Vec<SocketAddr>) {
    let plain = |list: &Spanned<Vec<Spanned<SocketAddr>>>| list.value.iter().map(|at| at.value).collect();
    let proxy = file.listen.proxy.get().map_or_else(|| vec![listeners::LISTEN], plain);
    let transparent = listeners::check(file, reports);
    let all = proxy.iter().chain(&transparent).copied().collect();
    (proxy, transparent, all)
}

/// Bounds for connections of callers; reports a bound per address above that of all.
///
/// An absent bound stays `None`: `net::connection_limit` derives it.
fn connections(file: &ConfigFile, reports: &Reports<'_>) -> connection_limit::Settings {
    let written = &file.listen;
    let (total, per_address) = (written.max_connections.get(), written.max_connections_per_address.get());
    if let (Some(total), Some(per_address)) = (total, per_address)
        && per_address.value > total.value
    {
        let message = format!("no address can have {} of {} connections", per_address.value, total.value);
        reports.error(&per_address.span, message, format_args!("at most {}, as max_connections says", total.value));
    }
    let count = |at: Option<&Spanned<u32>>| at.map(|at| at.value as usize);
    let ipv6_prefix = file.access.ipv6_prefix;
    connection_limit::Settings { total: count(total), per_address: count(per_address), ipv6_prefix }
}

/// Reports an open proxy: a gateway that other machines reach must say which callers may use it.
///
/// Points at the first address that is not loopback.
fn check_open(file: &ConfigFile, exposure: Exposure, reports: &Reports<'_>) {
    if exposure == Exposure::Loopback || !file.access.allow_from.is_absent() || !file.access.users.is_absent() {
        return;
    }
    let lists = [&file.listen.proxy, &file.listen.transparent].into_iter().filter_map(Setting::get);
    let open = lists.flat_map(|list| &list.value).find(|at| !at.value.ip().is_loopback());
    if let Some(at) = open {
        let message = format!("{} can be reached by other machines, without `allow_from` or `users`", at.value);
        let advice = "add [access] with allow_from = [\"10.0.0.0/8\"] (your callers' addresses), or users = \"users\"";
        reports.error(&at.span, message, advice);
    }
}

/// Builds the access rules for callers; warns of a gateway that is open to all addresses.
///
/// `allow_from` is empty if any address may connect; a list of loopback ranges is the default.
fn access(written: &AccessSection, exposure: Exposure, folder: &Path, reports: &Reports<'_>) -> access::Settings {
    let allow_from = match written.allow_from.get() {
        Some(list) => list.value.iter().map(|at| at.value).collect(),
        // With passwords, callers may come from anywhere, unless the gateway listens on loopback alone.
        None if exposure == Exposure::Network && !written.users.is_absent() => Vec::new(),
        None => {
            vec![IpNet::new_assert(Ipv4Addr::new(127, 0, 0, 0).into(), 8), Ipv6Addr::LOCALHOST.to_canonical().into()]
        }
    };
    let anyone = |net: &IpNet| net.prefix_len() == 0;
    if let (Some(list), true) = (written.allow_from.get(), written.users.is_absent() && exposure == Exposure::Network)
        && let Some(at) = list.value.iter().find(|at| anyone(&at.value))
    {
        reports.warn(
            &at.span,
            "callers from all addresses may use this gateway",
            "name your callers' addresses, or add users",
        );
    }
    access::Settings {
        allow_from,
        users: written.users.get().and_then(|at| read_users(at, folder, reports)),
        connect_ports: written.connect_ports.clone(),
        allow_ports: written.allow_ports.clone(),
        only_listed: written.only_listed().is_some(),
        deny_opaque: written.deny_opaque().is_some(),
        ipv6_prefix: written.ipv6_prefix,
        upgrades: written.upgrades.clone(),
    }
}

/// Reads a users file; reports what is wrong in it under its own name.
///
/// `None` after a report: the file cannot be read, or has a bad line.
fn read_users(at: &Spanned<std::path::PathBuf>, folder: &Path, reports: &Reports<'_>) -> Option<Vec<users::User>> {
    let path = folder.join(&at.value);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            let advice = "create it with `lockgate user add NAME`, or name another file";
            reports.error(&at.span, format_args!("cannot read {}: {error}", path.display()), advice);
            return None;
        }
    };
    match users::parse(path.display().to_string(), &text) {
        Ok(users) => Some(users),
        Err(found) => {
            found.into_iter().for_each(|report| reports.push(report));
            None
        }
    }
}

/// Builds the routes; reports incomplete and double ones.
///
/// Two routes are the same if both path and host are. A route without a valid `to` is left out,
/// which a report explains. `cross_site` defaults to `allow` where a password or a name of the
/// operator's protects the origin, else to `refuse`.
fn routes(written: Vec<RouteSection>, access: &AccessSection, reports: &Reports<'_>) -> Vec<target::Route> {
    let mut seen: Vec<(Option<String>, Option<String>)> = Vec::new();
    let mut routes = Vec::new();
    for route in written {
        if route.path.is_absent() && route.host.is_absent() {
            reports.error(
                &route.span,
                "this route has neither `path` nor `host`",
                "add path = \"/partner/\", or a host",
            );
        }
        if route.to.is_absent() {
            reports.error(&route.span, "this route has no `to`", "add to = \"https://api.example.com/\"");
        }
        let path = route.path.get().map(|at| at.value.clone());
        let host = route.host.get().map(|at| at.value.text.clone());
        let told = path.is_none() && host.is_none();
        if !told && seen.contains(&(path.clone(), host.clone())) {
            reports.error(&route.span, "a route with this path and host exists already", "leave one of them out");
        }
        seen.push((path.clone(), host));
        if let Some(to) = route.to.get() {
            let host = route.host.get().map(|at| at.value.pattern.clone());
            let Destination { origin: to, plain, path: to_path } = to.value.clone();
            // A page of another site cannot send a password. A name of the operator's own is a site like any other: its
            // origin decides on calls of other sites (CORS).
            let is_protected = !access.users.is_absent() || host.as_ref().is_some_and(HostPattern::is_own_name);
            let default = if is_protected { CrossSite::Allow } else { CrossSite::Refuse };
            let cross_site = route.cross_site.or(default);
            routes.push(target::Route { host, path, to, plain, to_path, cross_site });
        }
    }
    routes
}

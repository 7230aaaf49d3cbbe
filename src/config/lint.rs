//! Lint: warnings about settings that are valid but have less effect than they seem to.
//!
//! The worst of them is a limit that silently counts nothing. A warning names each part of a limit
//! that cannot hold for one of its hosts, and the setting that mends it. Hosts that requests reach
//! in another way, as far as the file shows, get none.
//!
//! Each warning comes with advice, often a line to copy into the file. None keeps the file from
//! being accepted: the setting may be meant that way, for instance for hosts reached by http alone.
//!
//! An opaque tunnel is one that is not intercepted: the gateway sees its `CONNECT`, with host and
//! port, and none of the requests in it.

use std::net::IpAddr;

use super::limit_schema::LimitSection;
use super::report::Reports;
use super::schema::ConfigFile;
use super::timeouts_schema::TimeoutsForSection;
use super::toml_value::{SourceSpan, Spanned, nearest};
use super::value_parsers::TextPattern;
use crate::proxy::claims::Cost;
use crate::proxy::key::KeyPart;
use crate::proxy::pattern::HostPattern;

/// Port of https (RFC 9110 §4.2.2).
const HTTPS: u16 = 443;
/// Words for the hosts of a limit that names none.
const ANY_HOST: &str = "any host";

/// Warns of each setting of the file that has less effect than it seems to. Returns a sentence about hosts of whose
/// https requests only the tunnels are counted, if there are any: no warning, as that may be meant.
///
/// Runs before the checks that take the limits apart, on the file as written.
pub(super) fn lint(file: &ConfigFile, reports: &Reports<'_>) -> Option<String> {
    let lint = Lint { file, reports };
    for limit in &file.limits {
        lint.limit(limit);
    }
    lint.intercept();
    lint.access();
    lint.addresses();
    lint.passwords();
    file.timeouts.overrides.iter().for_each(|section| lint.timeouts(section));
    lint.counted_tunnels()
}

/// The file and the collector of its warnings, for the checks below.
struct Lint<'a> {
    file: &'a ConfigFile,
    reports: &'a Reports<'a>,
}

impl Lint<'_> {
    /// Warns of what a limit does not count.
    ///
    /// Cases, by the conditions of the limit: only `CONNECT` with a path counts nothing; only
    /// `CONNECT` needs opaque tunnels; a path or other methods need intercepted ones; without
    /// either, tunnels are counted, yet have no path, query or fields for the key.
    fn limit(&self, limit: &LimitSection) {
        if let Some(at) = limit.dry_run.get().filter(|at| at.value) {
            self.reports.warn(
                &at.span,
                "this limit holds nothing back: it is a dry run",
                "leave it out to have it hold",
            );
        }
        let matching = &limit.matching;
        let only_connect = !matching.methods.is_empty() && matching.methods.iter().all(|at| at.value == "CONNECT");
        match matching.paths.first() {
            Some(path) if only_connect => {
                let message = "this limit counts nothing: a CONNECT has no path";
                self.reports.warn(&path.span, message, "leave out the path, or the method");
            }
            _ if only_connect => self.only_tunnels(limit),
            Some(_) => self.unseen_in_tunnels(limit),
            None if matching.methods.is_empty() || matching.methods.iter().any(|at| at.value == "CONNECT") => {
                self.keys_of_tunnels(limit);
            }
            None => self.unseen_in_tunnels(limit),
        }
        for at in matching.hosts.iter().filter(|at| at.value.pattern.port() == Some(HTTPS)) {
            if !self.file.access.connect_ports.contains(&HTTPS) && !self.is_routed(&at.value.pattern) {
                let message = format!("no tunnel leads to {}: [access] connect_ports has no {HTTPS}", at.value.text);
                self.reports.warn(&at.span, message, "add the port there, or leave it out here");
            }
        }
    }

    /// Warns of a limit that counts tunnels alone, if none of its hosts can have any.
    fn only_tunnels(&self, limit: &LimitSection) {
        let hosts = &limit.matching.hosts;
        if !hosts.is_empty() && hosts.iter().all(|at| self.opaque_port(&at.value.pattern).is_none()) {
            let span = &limit.matching.methods[0].span;
            let message = "this limit counts nothing: there are no opaque tunnels to its hosts";
            self.reports.warn(span, message, "leave the method out: requests in intercepted tunnels have their own");
        }
    }

    /// Warns of hosts with requests that a limit cannot see, because it matches by path or method.
    ///
    /// One warning for each such host, at the path, else at the method.
    fn unseen_in_tunnels(&self, limit: &LimitSection) {
        let matching = &limit.matching;
        let sees = match (matching.paths.is_empty(), matching.methods.is_empty()) {
            (false, false) => "neither path nor method",
            (false, true) => "no path",
            (true, _) => "no method but CONNECT",
        };
        let span = matching.paths.first().map(|at| &at.span).or(matching.methods.first().map(|at| &at.span));
        for (host, span) in self.opaque_hosts(limit, span.unwrap_or(&limit.span)) {
            let message = format!("this limit counts no https requests to {host}: in an opaque tunnel it sees {sees}");
            self.reports.warn(span, message, remedy(host));
        }
    }

    /// Warns of keys and costs that a tunnel does not have.
    ///
    /// Names the first host alone: the remedy is the same for all.
    fn keys_of_tunnels(&self, limit: &LimitSection) {
        let Some((host, _)) = self.opaque_hosts(limit, &limit.span).into_iter().next() else { return };
        for at in &limit.key {
            let what = match &at.value {
                KeyPart::Path(_) => "have no path".to_owned(),
                KeyPart::Query(_) => "have no query".to_owned(),
                KeyPart::Header(name) => format!("are keyed by the {name} of their CONNECT, which hardly ever has one"),
                KeyPart::Host | KeyPart::Caller | KeyPart::Method => continue,
            };
            let message = format!("opaque tunnels to {host} {what}: they share one window");
            self.reports.warn(&at.span, message, remedy(host));
        }
        if let Some(Spanned { value: Cost::Header(name), span }) = limit.cost.get() {
            let message = format!("opaque tunnels to {host} cost 1 each: the header {name} is read from their CONNECT");
            self.reports.warn(span, message, remedy(host));
        }
    }

    /// Hosts of a limit to which opaque tunnels may lead, with their spans; `span` is for a limit
    /// without hosts.
    ///
    /// Routed hosts are left out.
    fn opaque_hosts<'l>(&self, limit: &'l LimitSection, span: &'l SourceSpan) -> Vec<(&'l str, &'l SourceSpan)> {
        if limit.matching.hosts.is_empty() {
            let any = HostPattern::any();
            let may_be = self.opaque_port(&any).is_some() && !self.is_routed(&any);
            return if may_be { vec![(ANY_HOST, span)] } else { Vec::new() };
        }
        let hosts = limit.matching.hosts.iter();
        let may_be = |at: &&Spanned<TextPattern<HostPattern>>| {
            self.opaque_port(&at.value.pattern).is_some() && !self.is_routed(&at.value.pattern)
        };
        hosts.filter(may_be).map(|at| (at.value.text.as_str(), &at.span)).collect()
    }

    /// A port at which a tunnel to these hosts is allowed but not intercepted.
    ///
    /// Only the ports of `connect_ports` count: no tunnel leads to others.
    fn opaque_port(&self, hosts: &HostPattern) -> Option<u16> {
        if hosts.is_specific() && self.file.access.deny_opaque().is_some() {
            return None;
        }
        let mut ports = self.file.access.connect_ports.iter().copied();
        ports.find(|port| {
            let is_for = hosts.port().is_none_or(|only| only == *port);
            is_for && !self.file.tls.intercept.iter().any(|at| at.value.pattern.covers(hosts, *port))
        })
    }

    /// True if requests to these hosts probably come by a route: programs use a route where one
    /// exists.
    ///
    /// Of a wildcard nothing is known: false. For all hosts any route suffices.
    fn is_routed(&self, hosts: &HostPattern) -> bool {
        let mut routes = self.file.routes.iter().filter_map(|route| route.to.get());
        match (hosts.is_specific(), hosts.exact()) {
            (false, _) => routes.next().is_some(),
            (true, None) => false,
            (true, Some(_)) => routes.any(|to| hosts.matches(&to.value.origin.host, to.value.origin.port)),
        }
    }

    /// Names the hosts of which limits without path and method count opaque tunnels, and the setting that opens
    /// them.
    fn counted_tunnels(&self) -> Option<String> {
        let by_host = |limit: &&LimitSection| limit.matching.paths.is_empty() && limit.matching.methods.is_empty();
        let mut hosts: Vec<&str> = Vec::new();
        for (host, _) in self.file.limits.iter().filter(by_host).flat_map(|limit| self.opaque_hosts(limit, &limit.span))
        {
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        if hosts.is_empty() {
            return None;
        }
        let remedy = match hosts.iter().any(|host| is_any_host(host)) {
            true => "name their hosts in intercept in [tls]".to_owned(),
            false => format!("add intercept = {hosts:?} to [tls]"),
        };
        Some(format!(
            "https requests to {}: only their tunnels are counted; to count each request {remedy}",
            hosts.join(", ")
        ))
    }

    /// Warns of timeouts that hold for no request in opaque tunnels.
    fn timeouts(&self, section: &TimeoutsForSection) {
        let hosts = section.hosts.get().map(|list| list.value.as_slice()).unwrap_or_default();
        let is_opaque = |at: &&Spanned<TextPattern<HostPattern>>| {
            self.opaque_port(&at.value.pattern).is_some() && !self.is_routed(&at.value.pattern)
        };
        let of_requests = [("answer", &section.answer), ("body_idle", &section.body_idle)];
        for host in hosts.iter().filter(is_opaque).map(|at| at.value.text.as_str()) {
            if let Some(path) = section.paths.first() {
                let message =
                    format!("these timeouts hold for no https request to {host}: an opaque tunnel shows no path");
                self.reports.warn(&path.span, message, opened(host));
                continue;
            }
            for (key, at) in of_requests.iter().filter_map(|(key, timeout)| Some((key, timeout.get()?))) {
                let message = format!("`{key}` holds for no https request to {host}: they are in opaque tunnels");
                self.reports.warn(&at.span, message, opened(host));
            }
        }
    }

    /// Warns of intercepted hosts to which no tunnel leads, or that no limit names.
    ///
    /// Hosts of `[[tls.client]]` count as named: their tunnels are intercepted for the certificate.
    fn intercept(&self) {
        let ConfigFile { limits, tls, access, .. } = self.file;
        let every_host = |limit: &LimitSection| limit.matching.hosts.is_empty();
        let named = || limits.iter().flat_map(|limit| &limit.matching.hosts);
        for at in &tls.intercept {
            let (hosts, text) = (&at.value.pattern, &at.value.text);
            match hosts.port() {
                Some(port) if !access.connect_ports.contains(&port) => {
                    let message = format!("no tunnel leads to {text}: [access] connect_ports has no {port}");
                    self.reports.warn(&at.span, message, "add the port there, or leave it out here");
                }
                None if access.connect_ports.is_empty() => {
                    let message = "no tunnel leads anywhere: [access] connect_ports is empty";
                    self.reports.warn(&at.span, message, "name ports there, or leave this out");
                }
                Some(_) | None => {}
            }
            // A client certificate of the gateway is shown in intercepted tunnels, too.
            let shown = tls.clients.iter().filter_map(|client| client.hosts.get()).flat_map(|list| &list.value);
            let is_used = named().chain(shown).any(|other| hosts.meets(&other.value.pattern));
            if !limits.is_empty() && hosts.is_specific() && !limits.iter().any(every_host) && !is_used {
                let near = nearest(text, named().map(|other| other.value.text.as_str()));
                let advice = near.map_or_else(
                    || "name it in the `match` of a limit, or leave it out".to_owned(),
                    |near| format!("did you mean \"{near}\"?"),
                );
                self.reports.warn(&at.span, format_args!("no limit counts the requests to {text}"), advice);
            }
        }
    }

    /// Warns of denials that apply to all hosts, or to none.
    fn access(&self) {
        let ConfigFile { limits, routes, access, .. } = self.file;
        let mut hosts = limits.iter().flat_map(|limit| &limit.matching.hosts);
        let is_named = hosts.any(|at| at.value.pattern.is_specific());
        if let (Some(at), false) = (access.only_listed(), is_named || !routes.is_empty()) {
            let message = "every request is refused: no limit and no route names a host";
            self.reports.warn(&at.span, message, "name hosts in the `match` of a limit; \"*\" names none");
        }
        if let (Some(at), false) = (access.deny_opaque(), is_named) {
            let message = "no tunnel is refused: no limit names a host";
            self.reports.warn(&at.span, message, "name hosts in the `match` of a limit; \"*\" names none");
        }
    }

    /// Warns of operators' passwords that cross the network in clear text.
    fn passwords(&self) {
        let ConfigFile { admin, locks, .. } = self.file;
        for (listen, users, tls) in
            [(&admin.listen, &admin.users, &admin.tls), (&locks.listen, &locks.users, &locks.tls)]
        {
            if let Some(at) = listen.get().filter(|at| !at.value.ip().is_loopback())
                && !users.is_absent()
                && !tls.is_present
            {
                let message = format!("passwords of `users` reach {} in clear text", at.value);
                let advice = "add tls = { cert = \"gateway.pem\", key = \"gateway.key\" }; or listen on loopback, behind a server \
                              with TLS";
                self.reports.warn(&at.span, message, advice);
            }
        }
    }

    /// Warns of hosts that are denied addresses.
    ///
    /// Concerns limits and routes that name an address; names are resolved only when they are
    /// dialled.
    fn addresses(&self) {
        let denied = |host: &str| {
            let address = host.parse::<IpAddr>().ok();
            address.is_some_and(|ip| self.file.access.deny_addresses.iter().any(|range| range.value.contains(&ip)))
        };
        let limited = self.file.limits.iter().flat_map(|limit| &limit.matching.hosts);
        let limited = limited.filter_map(|at| Some((at.value.pattern.exact()?, &at.span)));
        let routed = self.file.routes.iter().filter_map(|route| route.to.get());
        let routed = routed.map(|at| (&*at.value.origin.host, &at.span));
        for (host, span) in limited.chain(routed).filter(|(host, _)| denied(host)) {
            let message = format!("no request gets to {host}: [access] deny_addresses forbids it");
            self.reports.warn(span, message, "leave it out here, or its range there");
        }
    }
}

/// True for a pattern that all hosts match, for which advice cannot name one, and for [`ANY_HOST`].
fn is_any_host(host: &str) -> bool {
    host == "*" || host.starts_with("*:") || host == ANY_HOST
}

/// Advice that makes requests to a host visible to timeouts.
fn opened(host: &str) -> String {
    if is_any_host(host) {
        return "name its hosts, and have their tunnels intercepted: intercept in [tls]".to_owned();
    }
    format!("add {host:?} to intercept in [tls], or set tunnel_idle instead")
}

/// Advice that makes requests to a host visible to limits, or refuses opaque tunnels to it.
///
/// Two lines for a named host, since either of two settings mends it.
fn remedy(host: &str) -> String {
    if is_any_host(host) {
        return "name its hosts, and have their tunnels intercepted: intercept in [tls]".to_owned();
    }
    format!(
        "add intercept = [\"{host}\"] to [tls], so that its tunnels are intercepted;\n\
         or opaque_tunnels = \"deny\" to [access], to refuse https to it in opaque tunnels"
    )
}

//! Settings of the proxy, as checked by the configuration.

use std::net::SocketAddr;
use std::time::Duration;

use super::access;
use super::access_log;
use super::ask_defaults::AskDefaults;
use super::balancers;
use super::claims;
use super::parent;
use super::pattern::HostPattern;
use super::target;
use super::timeouts::Timeouts;
use super::trace;
use super::warning;
use crate::wire::HeadLimits;

/// Settings that a [`ConfigSnapshot`](super::snapshot::ConfigSnapshot) is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Rule of each limit, in the order of the gate's limits.
    pub rules: Vec<claims::Rule>,
    /// Reverse routes.
    pub routes: Vec<target::Route>,
    /// Access rules: callers, and the hosts and ports that they may call.
    pub access: access::Settings,
    /// Balancers that tell the addresses of callers.
    pub balancers: balancers::Settings,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// Policy for addresses that may be dialled.
    pub dial: crate::net::dial::Settings,
    /// Trust in certificates of origins.
    pub tls: crate::tls::verify::Settings,
    /// Client certificate for each pattern of origins that ask for one: an index into the
    /// identities of `tls`. The first pattern that matches applies.
    pub identities: Vec<(HostPattern, usize)>,
    /// Parent proxies, in the order in which they are looked at.
    pub parents: Vec<parent::Settings>,
    /// Hosts to which tunnels are intercepted.
    pub intercept: Vec<HostPattern>,
    /// Authority that signs our certificates in intercepted tunnels; set if `intercept` is not
    /// empty.
    pub authority: Option<crate::tls::ca::Settings>,
    /// Our certificate for callers; set if a listener has TLS.
    pub identity: Option<crate::tls::identity::Identity>,
    /// Format of the access log.
    pub access_log: access_log::Format,
    /// Collector of trace spans; `None`: no tracing.
    pub trace: Option<trace::Settings>,
    /// Bounds of the pool of connections to origins.
    pub pool: PoolSettings,
    /// True if forwarded requests bear the gateway's entry in `Via` (RFC 9110 §7.6.3).
    pub via_to_origins: bool,
    /// Defaults of asks over other protocols than HTTP; `None`: no listener takes any.
    pub asks: Option<AskDefaults>,
    /// Treatment of redirected callers whose host does not have the address that they have connected to.
    pub mismatch: HostMismatch,
    /// Addresses that the gateway listens on.
    pub own: Vec<SocketAddr>,
    /// Warnings about settings that have less effect than they seem to.
    pub warnings: warning::Warnings,
}

/// Treatment of a redirected connection whose first bytes name a host that does not have its address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HostMismatch {
    /// Refusal.
    #[default]
    Refuse,
    /// Counted, and forwarded, by its address alone.
    Address,
}

impl Settings {
    /// Hosts that limits, routes, interception and timeouts name.
    pub(super) fn host_names(&self) -> impl Iterator<Item = HostPattern> {
        let of_limits = self.rules.iter().flat_map(|rule| &rule.hosts);
        let of_timeouts = self.timeouts.overrides.iter().flat_map(|timeouts| &timeouts.hosts);
        let of_routes = self.routes.iter().filter_map(|route| {
            let mut authority = Vec::new();
            route.to.write_authority(&mut authority);
            HostPattern::parse(std::str::from_utf8(&authority).ok()?).ok()
        });
        of_limits.chain(of_timeouts).chain(&self.intercept).cloned().chain(of_routes)
    }
}

/// Bounds of the pool of connections to origins.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Idle connections kept per origin, by each runtime.
    pub idle_per_origin: usize,
    /// Time that an idle connection is kept.
    pub idle_timeout: Duration,
    /// Bounds of a response's head: `[http]` of the configuration file.
    pub response_head: HeadLimits,
}

//! Settings of the proxy, as the configuration file gives them after its checks.

use std::net::SocketAddr;
use std::time::Duration;

use super::access;
use super::access_log;
use super::claims;
use super::pattern::HostPattern;
use super::target;
use super::trace;
use super::warning;

/// Everything that the proxy is built from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What each limit counts, in the order of the gate's limits.
    pub rules: Vec<claims::Rule>,
    /// The reverse routes.
    pub routes: Vec<target::Route>,
    /// Access rules: callers, and the hosts and ports that they may call.
    pub access: access::Settings,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// Addresses that may be dialled.
    pub dial: crate::net::dial::Settings,
    /// Trust in certificates of origins.
    pub tls: crate::tls::verify::Settings,
    /// The identity in `tls` that an origin is shown which asks for one, by its index; the first pattern that matches counts.
    pub identities: Vec<(HostPattern, usize)>,
    /// The hosts whose tunnels are intercepted.
    pub intercept: Vec<HostPattern>,
    /// The authority that signs our certificates in intercepted tunnels; set if a tunnel may be intercepted.
    pub authority: Option<crate::tls::ca::Settings>,
    /// Our certificate for callers; set if they speak TLS to us.
    pub identity: Option<crate::tls::identity::Identity>,
    /// Format of the access log.
    pub access_log: access_log::Format,
    /// Collector of traces.
    pub trace: Option<trace::Settings>,
    /// Bounds of the pool of connections to origins.
    pub pool: PoolSettings,
    /// The addresses that we listen on.
    pub own: Vec<SocketAddr>,
    /// Warnings about lines of the file that do less than they seem to.
    pub warnings: warning::Warnings,
}

/// Timeouts: `[timeouts]` of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// A caller's request head, from its first byte on; the first of a connection from its accept on.
    pub head: Duration,
    /// DNS, TCP and TLS to an origin.
    pub connect: Duration,
    /// An origin's response head, from the moment that the whole request has been sent.
    pub answer: Duration,
    /// A request from its permit to the head of its response, its content included; `None`: as long as its content moves.
    pub request: Option<Duration>,
    /// A connection on which nothing moves.
    pub idle: Duration,
    /// A tunnel on which nothing moves.
    pub tunnel_idle: Duration,
    /// Requests that still run after a signal to stop.
    pub drain: Duration,
}

/// Bounds of the pool of connections to origins.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Idle connections kept per origin, by each runtime.
    pub idle_per_origin: usize,
    /// Time that an idle connection is kept.
    pub idle_timeout: Duration,
}

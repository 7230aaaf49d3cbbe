//! CARRIES one request and one response: whose it is, where it goes, when it may, and what comes back.
//!
//! The way of a request, numbered as in the contract: in (`connection`), may this caller go there ([`access`]), which
//! windows ([`claims`]), permit (the gate), out (`origin`, `body`), back (`headers`, [`record`]). `exchange` is the
//! straight line through them, and any failure leaves it as a [`refusal`].
//!
//! The room never decides whether a request may go: without a permit from the gate no byte leaves it.

pub mod access;
pub mod access_log;
mod acquire;
mod admit;
mod attempt;
mod blocked_ports;
mod body;
pub mod capabilities;
mod checkout;
pub mod claims;
mod connection;
mod credentials;
mod deadline;
mod exchange;
mod first_admission;
mod forward_response;
mod h2_pool;
mod header_rules;
mod host;
mod http2;
mod intercept;
mod json;
pub mod key;
mod key_field;
mod local_request;
mod local_response;
mod location;
mod matching;
pub mod metrics;
mod named_hosts;
mod outcome;
pub mod path;
pub mod pattern;
mod permit;
mod pinned;
mod plan;
mod pool;
mod problem;
mod query;
mod read_response;
pub mod refusal;
mod request_log;
mod retry;
mod reused;
mod route;
mod rule;
mod send;
mod serialize;
mod server_name;
mod session;
pub mod snapshot;
pub mod target;
pub mod task_pool;
pub mod trace;
mod tunnel;
mod tunnel_warnings;
mod upstream;
mod uri_origin;
mod wait;
mod wait_prefs;
pub mod warning;

pub use self::connection::Server;
pub use self::problem::Problem;
pub use self::snapshot::{Current, Worker};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use self::refusal::Refusal;
use self::reused::Reused;
use crate::gate::{Gate, Refused, Revision};
use crate::locker::LimitId;
use crate::net::connection_limit::ConnectionLimit;
use crate::net::dial::Dialer;
use crate::net::drain::Drain;
use crate::net::resolve::Resolver;
use crate::tls::verify::Connector;
use crate::tls::{ca, identity, verify};

/// What the room needs to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What each limit counts, in the order of the gate's limits.
    pub rules: Vec<claims::Rule>,
    /// The reverse routes.
    pub routes: Vec<target::Route>,
    /// Who may come, and where they may go.
    pub access: access::Settings,
    /// How long is waited for what.
    pub timeouts: Timeouts,
    /// Which addresses may be dialled.
    pub dial: crate::net::dial::Settings,
    /// Which certificates of origins are believed.
    pub tls: crate::tls::verify::Settings,
    /// Which of the identities in `tls` an origin is shown that asks who we are; the first that matches.
    pub identities: Vec<(pattern::HostPattern, usize)>,
    /// The hosts whose tunnels are opened.
    pub intercept: Vec<pattern::HostPattern>,
    /// Who vouches for us in an opened tunnel; there if a tunnel may be opened.
    pub authority: Option<crate::tls::ca::Settings>,
    /// What callers are shown: they speak TLS to us.
    pub identity: Option<crate::tls::identity::Identity>,
    /// How the access log is written.
    pub access_log: access_log::Format,
    /// To whom traces are told.
    pub trace: Option<trace::Settings>,
    /// How many connections to origins are kept.
    pub pool: PoolSettings,
    /// The addresses that we listen on.
    pub own: Vec<SocketAddr>,
    /// The lines of the file that do less than they seem to.
    pub warnings: warning::Warnings,
}

/// How long is waited for what; the `[timeouts]` of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// A caller's request head, from its first byte on; the first of a connection from its accept on.
    pub head: Duration,
    /// DNS, TCP and TLS to an origin.
    pub connect: Duration,
    /// An origin's response head, from the moment that the whole request is sent.
    pub answer: Duration,
    /// A request from its permit to the head of its response, its content included; `None`: as long as its content moves.
    pub request: Option<Duration>,
    /// A connection on which nothing moves.
    pub idle: Duration,
    /// A tunnel on which nothing moves.
    pub tunnel_idle: Duration,
    /// What still runs after a signal to stop.
    pub drain: Duration,
}

/// How many connections to origins are kept for the next request.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Idle connections kept per origin, by each runtime.
    pub idle_per_origin: usize,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
}

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No certificate of an origin could be checked.
    #[error("no root certificates can be read")]
    Roots(#[source] std::io::Error),
    /// Traces could not be told.
    #[error("traces cannot be told")]
    Traces(#[source] std::io::Error),
    /// No tunnel could be opened.
    #[error("the authority for opened tunnels cannot be used")]
    Authority(#[from] ca::Error),
    /// No caller could be spoken to.
    #[error("the certificate for callers cannot be used")]
    Identity(#[from] identity::Error),
}

/// The proxy, as one reading of the file made it. Requests keep the one that was there when they began.
pub struct Proxy {
    parts: Parts,
    rules: claims::Rules,
}

/// What every proxy of the process has in common.
#[derive(Clone)]
pub struct Shared {
    /// Who decides.
    pub gate: Arc<Gate>,
    /// Who is still running.
    pub drain: Drain,
    /// What became of requests.
    pub metrics: Arc<metrics::Metrics>,
    /// How many connections callers may have.
    pub connections: ConnectionLimit,
    /// Looks names up.
    pub resolver: Arc<Resolver>,
}

/// Everything of a proxy but the limits' rules, which bear the numbers that the gate gives them: what can fail is made
/// before anything of a new reading is in force.
pub struct Parts {
    targets: target::Targets,
    access: Reused<access::Settings, access::Access>,
    timeouts: Timeouts,
    gate: Arc<Gate>,
    drain: Drain,
    metrics: Arc<metrics::Metrics>,
    log: access_log::AccessLog,
    dialer: Arc<Dialer>,
    tls: Reused<verify::Settings, Connector>,
    tracer: Option<Reused<trace::Settings, trace::Tracer>>,
    pool: PoolSettings,
    warned_hosts: Arc<tunnel_warnings::WarnedHosts>,
    identities: Vec<(pattern::HostPattern, usize)>,
    intercept: Vec<pattern::HostPattern>,
    authority: Option<Arc<ca::CertAuthority>>,
    identity: Option<Reused<identity::Identity, ServerConfig>>,
    rules: Vec<claims::Rule>,
    named_hosts: named_hosts::NamedHosts,
    warnings: warning::Warnings,
}

impl std::ops::Deref for Proxy {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl Parts {
    /// How many spans nobody was told of.
    pub fn traces_dropped(&self) -> u64 {
        self.tracer.as_ref().map_or(0, |tracer| tracer.dropped.get())
    }

    /// Whether a connection from this address is served at all.
    pub fn may_connect_from(&self, peer: std::net::IpAddr) -> bool {
        self.access.may_connect_from(peer)
    }

    /// How long is waited for what.
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// The lines of the file that do less than they seem to.
    pub fn warnings(&self) -> &warning::Warnings {
        &self.warnings
    }

    /// Where requests are noted.
    pub fn log(&self) -> &access_log::AccessLog {
        &self.log
    }

    /// What of `before` is made from the same settings is taken over, with what it remembers.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(
        settings: Settings,
        shared: Shared,
        log: access_log::AccessLog,
        before: Option<&Proxy>,
    ) -> Result<Parts, Error> {
        let Shared { gate, drain, metrics, connections: _, resolver } = shared;
        let wall = gate.clock().wall_unix_nanos();
        let authority = settings.authority.map(|authority| ca::CertAuthority::open(&authority, wall)).transpose()?;
        let authority = authority.map(|new| {
            let old = before.and_then(|before| before.authority.as_ref());
            old.filter(|old| old.is_same(&new)).map_or_else(|| Arc::new(new), Arc::clone)
        });
        let before_identity = before.and_then(|before| before.identity.as_ref());
        let identity =
            settings.identity.map(|identity| Reused::again(before_identity, identity, |it| it.server_config()));
        let before_tracer = before.and_then(|before| before.tracer.as_ref());
        let clock = gate.clock();
        let start = |settings: &trace::Settings| trace::Tracer::start(settings, clock).map_err(Error::Traces);
        let tracer = settings.trace.map(|trace| Reused::again(before_tracer, trace, start));
        let seed = gate.seed();
        let access =
            |settings: &access::Settings| Ok::<_, Error>(Arc::new(access::Access::new(settings.clone(), seed)));
        let tls = |settings: &verify::Settings| Connector::new(settings.clone()).map(Arc::new).map_err(Error::Roots);
        Ok(Parts {
            named_hosts: named_hosts::NamedHosts::new(settings.rules.iter().flat_map(|rule| &rule.hosts)),
            targets: target::Targets::new(settings.routes),
            access: Reused::again(before.map(|before| &before.access), settings.access, access)?,
            timeouts: settings.timeouts,
            gate,
            drain,
            metrics,
            log,
            dialer: Arc::new(Dialer::new(settings.dial, resolver)),
            tls: Reused::again(before.map(|before| &before.tls), settings.tls, tls)?,
            tracer: tracer.transpose()?,
            pool: settings.pool,
            warned_hosts: before.map(|before| Arc::clone(&before.warned_hosts)).unwrap_or_default(),
            identities: settings.identities,
            intercept: settings.intercept,
            authority,
            identity: identity.transpose()?,
            rules: settings.rules,
            warnings: settings.warnings,
        })
    }

    /// The proxy whose rules are those of these limits, in the order of the file; requests ask with `revision`.
    pub fn with(mut self, limits: &[LimitId], revision: Revision) -> Proxy {
        let rules = std::mem::take(&mut self.rules);
        let seed = self.gate.seed();
        let metrics = &self.metrics;
        let rules = claims::Rules::new(rules, limits, revision, seed, |name| metrics.of(name));
        Proxy { rules, parts: self }
    }
}

impl Proxy {
    /// The answer to a request that the gate did not let through; it is counted.
    fn refusal(&self, refused: Refused) -> Refusal {
        let now = self.gate.clock().now();
        match refused {
            // Whoever is told so asks again, and does not come here.
            Refused::Anew => Refusal::Closing { retry_after: Duration::ZERO },
            Refused::Closing { until } => Refusal::Closing { retry_after: until.since(now) },
            Refused::Sorry(sorry) => {
                let limits = self.gate.limits();
                let limit = &limits[sorry.limit.0 as usize];
                self.metrics.limit_refused(&limit.name, sorry.why);
                Refusal::Limited {
                    limit: Arc::clone(&limit.name),
                    why: sorry.why,
                    retry_after: sorry.until.since(now),
                    exact: sorry.exact,
                    requests: limit.rate.as_ref().map_or(limit.in_flight.unwrap_or(0), |rate| rate.requests),
                    per: limit.rate.as_ref().map_or(Duration::ZERO, |rate| rate.per),
                }
            }
        }
    }

    /// How long a limit's slots stay taken; what an origin that pushes back without saying how long means.
    fn span(&self, limit: LimitId) -> Duration {
        let limits = self.gate.limits();
        limits[limit.0 as usize].rate.as_ref().map_or(Duration::from_secs(1), |rate| rate.per + rate.guard)
    }
}

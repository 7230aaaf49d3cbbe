//! Configuration snapshot: everything made from one configuration, immutable. A request keeps the snapshot that was in
//! force when it began.
//!
//! A reload has two steps. [`PreparedSnapshot::new`] does everything that can fail, before anything
//! changes; [`PreparedSnapshot::with`] adds the limits' numbers from the gate, and cannot fail.
//! Caches of passwords, trace queues and certificates survive as long as their own settings are
//! unchanged.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use super::access::{self, Access};
use super::access_log::AccessLog;
use super::account::Account;
use super::ask_defaults::AskDefaults;
use super::balancers;
use super::claims;
use super::host_metrics::HostTable;
use super::metrics::Metrics;
use super::named_hosts::NamedHosts;
use super::parent::Parents;
use super::pattern::HostPattern;
use super::pushback::pause_log::PauseLog;
use super::refusal::Refusal;
use super::reused::Reused;
use super::settings::{HostMismatch, PoolSettings, Settings};
use super::target::{Origin, Targets};
use super::timeouts::{TimeoutTable, Timeouts};
use super::trace;
use super::tunnel_warnings::WarnedHosts;
use super::warning;
use crate::gate::clock::Clock;
use crate::gate::{Gate, Refused, Revision};
use crate::locker::{LimitId, RefusalReason};
use crate::net::connection_limit::ConnectionLimit;
use crate::net::dial::Dialer;
use crate::net::drain::Drain;
use crate::net::resolve::Resolver;
use crate::time::Time;
use crate::tls::verify::Connector;
use crate::tls::{ca, identity, verify};

/// Least time until the next try, as a refusal states it, while the store or the disk is down. One
/// second, as `Retry-After` cannot state less: both are tried again within that time.
const RETRY_AFTER_OUTAGE: Duration = Duration::from_secs(1);

/// Reason for which no snapshot can be made from the settings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Certificates of origins could not be verified.
    #[error("no root certificates can be read")]
    Roots(#[source] std::io::Error),
    /// The exporter of traces could not be started.
    #[error("the exporter of traces cannot be started")]
    Traces(#[source] std::io::Error),
    /// Tunnels could not be intercepted.
    #[error("the authority for intercepted tunnels cannot be used")]
    Authority(#[from] ca::Error),
    /// TLS with callers would be impossible.
    #[error("the certificate for callers cannot be used")]
    Identity(#[from] identity::Error),
}

/// Configuration snapshot in force, or one of a running request.
pub struct ConfigSnapshot {
    /// The part that does not depend on the gate's numbers of limits.
    parts: PreparedSnapshot,
    /// Rules of the limits, by the gate's numbers.
    pub(super) rules: claims::Rules,
}

/// Process-wide objects that every snapshot refers to.
#[derive(Clone)]
pub struct Shared {
    /// The limiter.
    pub gate: Arc<Gate>,
    /// Drain state: counts connections and requests for shutdown.
    pub drain: Drain,
    /// Metrics of requests.
    pub metrics: Arc<Metrics>,
    /// Bound on the number of callers' connections.
    pub connections: ConnectionLimit,
    /// DNS resolver.
    pub resolver: Arc<Resolver>,
}

/// A snapshot without the limits' rules, which need the numbers that the gate assigns. Every step that can fail happens
/// here, before any part of a new configuration is in force.
pub struct PreparedSnapshot {
    pub(super) targets: Targets,
    pub(super) access: Reused<access::Settings, Access>,
    pub(super) balancers: balancers::Settings,
    pub(super) timeouts: TimeoutTable,
    pub(super) gate: Arc<Gate>,
    pub(super) drain: Drain,
    pub(super) metrics: Arc<Metrics>,
    pub(super) log: AccessLog,
    pub(super) dialer: Arc<Dialer>,
    pub(super) tls: Reused<verify::Settings, Connector>,
    pub(super) tracer: Option<Reused<trace::Settings, trace::Tracer>>,
    pub(super) pool: PoolSettings,
    /// See [`Settings::mismatch`].
    pub(super) mismatch: HostMismatch,
    /// See [`Settings::via_to_origins`].
    pub(super) via_to_origins: bool,
    /// See [`Settings::asks`].
    pub(super) asks: Option<AskDefaults>,
    /// Pauses that origins asked for; carried over by a reload.
    pub(super) pauses: Arc<PauseLog>,
    /// Hosts with a warning logged already; carried over by a reload.
    pub(super) warned_hosts: Arc<WarnedHosts>,
    /// Client certificates, see [`Settings::identities`].
    pub(super) identities: Vec<(HostPattern, usize)>,
    pub(super) parents: Arc<Parents>,
    pub(super) intercept: Vec<HostPattern>,
    pub(super) authority: Option<Arc<ca::CertAuthority>>,
    /// Our certificate for callers; `None` if no listener has TLS.
    pub(super) identity: Option<Reused<identity::Identity, ServerConfig>>,
    /// Rules in the order of the file, until [`PreparedSnapshot::with`] takes them.
    rules: Vec<claims::Rule>,
    pub(super) named_hosts: NamedHosts,
    /// Metrics of the hosts that the configuration names.
    pub(super) hosts: HostTable,
    warnings: warning::Warnings,
}

impl std::ops::Deref for ConfigSnapshot {
    type Target = PreparedSnapshot;

    fn deref(&self) -> &PreparedSnapshot {
        &self.parts
    }
}

impl PreparedSnapshot {
    /// True if connections from this address are served.
    pub fn may_connect_from(&self, peer: IpAddr) -> bool {
        self.access.may_connect_from(peer)
    }

    /// Accounts of the users of `[access] users`, by their names.
    pub fn accounts(&self) -> Vec<Arc<Account>> {
        self.access.accounts()
    }

    /// Clock of the gate.
    pub fn clock(&self) -> Clock {
        self.gate.clock()
    }

    /// True if callers need a password.
    pub fn asks_for_passwords(&self) -> bool {
        self.access.asks_for_passwords()
    }

    /// Timeouts of the configuration.
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Warnings about settings that have less effect than they seem to.
    pub fn warnings(&self) -> &warning::Warnings {
        &self.warnings
    }

    /// Access log.
    pub fn log(&self) -> &AccessLog {
        &self.log
    }

    /// Makes a snapshot. Objects of `before` that were made from equal settings are taken over, with their state.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(
        settings: Settings,
        shared: Shared,
        log: AccessLog,
        before: Option<&ConfigSnapshot>,
    ) -> Result<PreparedSnapshot, Error> {
        let Shared { gate, drain, metrics, connections: _, resolver } = shared;
        let wall = gate.clock().wall_unix_nanos();
        let hosts = HostTable::new(settings.host_names(), |name| metrics.of_host(name));
        let authority = settings.authority.map(|authority| ca::CertAuthority::open(&authority, wall)).transpose()?;
        let authority = authority.map(|new| {
            let old = before.and_then(|before| before.authority.as_ref());
            old.filter(|old| old.is_same(&new)).map_or_else(|| Arc::new(new), Arc::clone)
        });
        let before_identity = before.and_then(|before| before.identity.as_ref());
        let identity =
            settings.identity.map(|identity| Reused::reuse_or_make(before_identity, identity, |it| it.server_config()));
        let before_tracer = before.and_then(|before| before.tracer.as_ref());
        let clock = gate.clock();
        let start = |settings: &trace::Settings| trace::Tracer::start(settings, &metrics, clock).map_err(Error::Traces);
        let tracer = settings.trace.map(|trace| Reused::reuse_or_make(before_tracer, trace, start));
        let seed = gate.seed();
        let before_access = before.map(|before| &before.access);
        let access_rules = |settings: &access::Settings| {
            let access = Access::new(settings.clone(), seed, before_access.map(|access| &***access));
            Ok::<_, Error>(Arc::new(access))
        };
        let tls = |settings: &verify::Settings| Connector::new(settings.clone()).map(Arc::new).map_err(Error::Roots);
        Ok(PreparedSnapshot {
            hosts,
            named_hosts: NamedHosts::new(settings.rules.iter().flat_map(|rule| &rule.hosts)),
            targets: Targets::new(settings.routes),
            access: Reused::reuse_or_make(before_access, settings.access, access_rules)?,
            balancers: settings.balancers,
            timeouts: TimeoutTable::new(settings.timeouts),
            parents: Arc::new(Parents::new(settings.parents, &metrics)),
            gate,
            drain,
            metrics,
            log,
            dialer: Arc::new(Dialer::new(settings.dial, resolver)),
            tls: Reused::reuse_or_make(before.map(|before| &before.tls), settings.tls, tls)?,
            tracer: tracer.transpose()?,
            pool: settings.pool,
            mismatch: settings.mismatch,
            via_to_origins: settings.via_to_origins,
            asks: settings.asks,
            pauses: before.map(|before| Arc::clone(&before.pauses)).unwrap_or_default(),
            warned_hosts: before.map(|before| Arc::clone(&before.warned_hosts)).unwrap_or_default(),
            identities: settings.identities,
            intercept: settings.intercept,
            authority,
            identity: identity.transpose()?,
            rules: settings.rules,
            warnings: settings.warnings,
        })
    }

    /// Completes the snapshot with the rules of these limits, in the order of the file. `revision`: number by which the
    /// gate knows this set of limits.
    pub fn with(mut self, limits: &[LimitId], revision: Revision) -> ConfigSnapshot {
        let rules = std::mem::take(&mut self.rules);
        let seed = self.gate.seed();
        let metrics = &self.metrics;
        let rules = claims::Rules::new(rules, limits, revision, seed, |name| metrics.of(name));
        ConfigSnapshot { rules, parts: self }
    }
}

impl ConfigSnapshot {
    /// True if tunnels to this host are intercepted.
    pub(super) fn intercepts(&self, origin: &Origin) -> bool {
        self.intercept.iter().any(|host| host.matches(&origin.host, origin.port))
    }

    /// Refusal for a request that the gate did not grant; counts it in the metrics, and logs a limit that refuses many.
    ///
    /// Turns absolute times of the gate into times from now, as responses state them.
    pub(super) fn refusal(&self, refused: Refused) -> Refusal {
        let now = self.gate.clock().now();
        match refused {
            // A request that gets this asks the gate again, and does not come here.
            Refused::Reask => Refusal::Closing { retry_after: Duration::ZERO },
            Refused::Closing { until } => Refusal::Closing { retry_after: until.since(now) },
            Refused::Sorry(sorry) => {
                let limits = self.gate.limits();
                let limit = &limits[sorry.limit.0 as usize];
                if let Some(many) = self.metrics.of(&limit.name).refuse(sorry.reason, now) {
                    let (limit, refusals, within) = (&*limit.name, many.total(), many.within);
                    tracing::info!(limit, refusals, ?within, reasons = %many, "a limit refuses many requests");
                }
                // The forecast is of slots alone, and the end of an outage is unknown.
                let is_down = matches!(sorry.reason, RefusalReason::StoreLost | RefusalReason::Unwritten);
                let least = if is_down { RETRY_AFTER_OUTAGE } else { Duration::ZERO };
                Refusal::Limited {
                    limit: Arc::clone(&limit.name),
                    why: sorry.reason,
                    retry_after: sorry.until.since(now).max(least),
                    exact: sorry.exact && !is_down,
                    requests: limit.rate.as_ref().map_or(limit.in_flight.unwrap_or(0), |rate| rate.requests),
                    per: limit.rate.as_ref().map_or(Duration::ZERO, |rate| rate.per),
                }
            }
        }
    }

    /// Logs that a response of an origin pauses a limit, once a minute for each limit at most. A dry run delays nothing.
    pub(super) fn log_pause(&self, limit: LimitId, status: u16, pause: Duration, now: Time) {
        let limits = self.gate.limits();
        let limit = &limits[limit.0 as usize];
        if !limit.dry_run && self.metrics.of(&limit.name).pause(now) {
            let limit = &*limit.name;
            tracing::info!(limit, status, ?pause, "an origin's response pauses a limit; further ones are counted");
        }
    }

    /// T of a limit: first pause after a pushback that states no time.
    ///
    /// One second for a limit that only caps `in_flight`.
    pub(super) fn span(&self, limit: LimitId) -> Duration {
        let limits = self.gate.limits();
        limits[limit.0 as usize].rate.as_ref().map_or(Duration::from_secs(1), |rate| rate.per + rate.guard)
    }
}

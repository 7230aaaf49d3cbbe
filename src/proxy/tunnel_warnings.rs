//! Warnings about tunnels (CONNECT), one log line per host.
//!
//! A limit counts a tunnel that is not intercepted as one request, whatever passes through it.
//! These warnings tell the operator of hosts for which that is probably not what the limit was
//! written for, and of intercepted hosts whose callers do not trust the authority. They outlive a
//! reload, so that each host is named once per process and kind.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::claims::{Claims, Rules};
use super::target::Origin;

/// Most hosts that the log names: callers can ask for any number of names.
///
/// Later hosts are not named. The bound is for each kind of warning.
const MAX_HOSTS: usize = 1024;

/// Hosts with a warning logged already, for each kind of warning.
#[derive(Default)]
pub(super) struct WarnedHosts {
    /// Hosts with counted tunnels.
    counted: HostSet,
    /// Hosts that a limit names without counting the tunnel.
    uncounted: HostSet,
    /// Names for which tunnels were ended.
    ended: HostSet,
    /// Hosts with tunnels that were ended because of their port.
    ports: HostSet,
    /// Intercepted hosts for which a caller has rejected our certificate.
    rejected: HostSet,
    /// Addresses of callers that have rejected the certificate of a listener.
    distrusting: HostSet,
}

impl WarnedHosts {
    /// Warns once per host that a limit sees less of its tunnels than the operator may think:
    /// either the limit names the host but does not count this tunnel, or it counts the tunnel and
    /// not the requests inside.
    pub(super) fn warn_of_tunnel(&self, origin: &Origin, rules: &Rules, claims: &Claims) {
        let host = &*origin.host;
        if let Some(limit) = rules.uncounted_limit(host, origin.port, claims) {
            if self.uncounted.is_new(host) {
                tracing::warn!(
                    host,
                    %limit,
                    "a limit names this host but does not count its tunnels; intercept them with [tls] intercept"
                );
            }
        } else if !claims.claims.is_empty() && self.counted.is_new(host) {
            tracing::warn!(
                host,
                "a limit counts tunnels to this host, not the requests in them; intercept them with [tls] intercept"
            );
        }
    }

    /// Warns once per host that a caller has rejected our certificate for it. `alert`: name of its
    /// alert; `certificate`: file of the authority.
    pub(super) fn warn_of_rejection(&self, host: &str, peer: IpAddr, alert: &str, certificate: &Path) {
        if self.rejected.is_new(host) {
            tracing::warn!(
                host,
                %peer,
                alert,
                certificate = %certificate.display(),
                "a caller does not trust the gateway's authority: start its program under `lockgate exec`, or add the \
                 certificate to its trusted roots; one that accepts no other than the host's own needs the host out of \
                 [tls] intercept"
            );
        }
    }

    /// Warns once per address that a caller has rejected the certificate of a listener. `alert`: name of
    /// its alert.
    pub(super) fn warn_of_distrust(&self, peer: IpAddr, alert: &str) {
        if self.distrusting.is_new(&peer.to_string()) {
            tracing::warn!(
                %peer,
                alert,
                "a caller does not trust the certificate of [listen] tls: add its authority to the caller's trusted roots, \
                 or name a certificate of an authority that the caller trusts"
            );
        }
    }

    /// Warns once per name that a tunnel was ended because of its first bytes.
    pub(super) fn warn_of_end(&self, host: &str, why: &TunnelDenial) {
        let is_new = match why {
            TunnelDenial::Name { name, .. } => self.ended.is_new(name),
            TunnelDenial::Unreadable | TunnelDenial::LateRequest => self.ended.is_new(host),
            TunnelDenial::Port(_) => self.ports.is_new(host),
        };
        if is_new {
            tracing::warn!(host, %why, "tunnel ended because of its first bytes");
        }
    }
}

/// Reason for which the first bytes of a tunnel must not pass.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum TunnelDenial {
    /// `name`: host of the ClientHello; `why`: rule that it breaks, as the end of a sentence.
    #[error("the caller asked for {name:?} in TLS, which is not the host of its CONNECT, and {why}")]
    Name { name: String, why: &'static str },
    /// It begins like TLS, but is longer than any server accepts or violates the grammar.
    #[error("the caller sent a malformed TLS ClientHello")]
    Unreadable,
    /// The tunnel may carry plain HTTP only.
    #[error("the caller began TLS, and its port {0} is not in [access] connect_ports")]
    Port(u16),
    /// The start of its line has passed as that of another protocol.
    #[error("the caller took more than a second for the first line of a request")]
    LateRequest,
}

impl TunnelDenial {
    /// True if the caller speaks TLS, and so understands an alert.
    pub(super) fn is_of_tls(&self) -> bool {
        match self {
            TunnelDenial::Name { .. } | TunnelDenial::Unreadable | TunnelDenial::Port(_) => true,
            TunnelDenial::LateRequest => false,
        }
    }

    /// The reason in a word, for the metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            TunnelDenial::Name { .. } | TunnelDenial::Unreadable => "server_name",
            TunnelDenial::Port(_) => "connect_port",
            TunnelDenial::LateRequest => "late_request",
        }
    }
}

/// A bounded set of hosts.
#[derive(Default)]
struct HostSet(Mutex<HashSet<Box<str>>>);

impl HostSet {
    /// True if the host is not in the set yet and fits in; adds it.
    ///
    /// Compares exactly: hosts are canonical.
    fn is_new(&self, host: &str) -> bool {
        // A panic elsewhere cannot leave the set half changed.
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logged.len() < MAX_HOSTS && !logged.contains(host) && logged.insert(host.into())
    }
}

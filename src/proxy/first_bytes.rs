//! Server name (SNI) check of tunnels that are not intercepted: ends tunnels with TLS for another host than that of the
//! `CONNECT`.
//!
//! A tunnel is admitted and counted by the host of its `CONNECT`, but TLS in it can ask for another host at the same
//! address. That passes only if a tunnel to that host would have been admitted, and needs no slots beyond those that
//! this one took. A tunnel that fails the check is ended rather than counted late: its connection, which the origin
//! counts, has been made.
//!
//! Three results for the first bytes of a tunnel: no TLS (they pass), TLS for a host that the
//! tunnel may reach (they pass), or a [`TunnelDenial`]. The check happens once; later bytes are
//! relayed unread. TLS without a server name passes, as it names no other host.
//!
//! Example: `CONNECT a.example:443` with a ClientHello for `b.example` is ended if a limit names
//! `b.example` and did not count the tunnel, and passes if no limit, list or interception knows
//! that name.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::access::Admitted;
use super::claims::Claims;
use super::plan::Plan;
use super::snapshot::ConfigSnapshot;
use super::target::{Form, Origin, PlainVersion, Target};
use super::tunnel_warnings::TunnelDenial;
use crate::locker::Claim;
use crate::tls::client_hello::{HelloReader, HelloState};
use crate::wire::{Conn, RequestHead};

/// Guard of a tunnel: reads the caller's first bytes, and holds them back until they are checked.
pub(super) struct HelloGuard {
    /// Parser of the ClientHello.
    reader: HelloReader,
    /// Host and port of the CONNECT.
    origin: Origin,
    /// Caller of the tunnel.
    admitted: Admitted,
    /// Slots that the tunnel took.
    claims: Claims,
}

/// The caller and its request, as input of the rules.
#[derive(Clone, Copy)]
pub(super) struct GuardContext<'a> {
    /// Configuration in force when the tunnel was opened.
    pub(super) snapshot: &'a ConfigSnapshot,
    /// Head of the `CONNECT`.
    pub(super) head: &'a RequestHead,
    /// Address of the caller, for logs.
    pub(super) peer: IpAddr,
}

impl HelloGuard {
    /// Returns `None` if the configuration names no host, so that there is nothing to check.
    ///
    /// A gateway that names no host saves the copies that a guard holds, and the wait for the first
    /// bytes.
    pub(super) fn new(snapshot: &ConfigSnapshot, plan: &Plan) -> Option<Box<HelloGuard>> {
        let is_needed =
            !snapshot.intercept.is_empty() || snapshot.access.has_list() || snapshot.named_hosts.has_hosts();
        let (origin, admitted, claims) = (&plan.target.origin, &plan.admitted, &plan.claims);
        is_needed.then(|| {
            let reader = Default::default();
            Box::new(HelloGuard { reader, origin: origin.clone(), admitted: admitted.clone(), claims: claims.clone() })
        })
    }

    /// Host of the CONNECT.
    pub(super) fn host(&self) -> &str {
        &self.origin.host
    }

    /// Ready when the first bytes have been checked; until then they stay in `conn`. `Some`: they must not pass.
    ///
    /// # Errors
    /// Errors of the caller's connection.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        conn: &mut Conn,
        context: GuardContext<'_>,
    ) -> Poll<io::Result<Option<TunnelDenial>>> {
        loop {
            match self.reader.read(conn.input.bytes()) {
                HelloState::Incomplete => {}
                HelloState::NotTls => return Poll::Ready(Ok(None)),
                HelloState::Hello(names) => {
                    return Poll::Ready(Ok(names.into_iter().find_map(|name| self.check(name, context))));
                }
                HelloState::Unreadable => return Poll::Ready(Ok(Some(TunnelDenial::Unreadable))),
            }
            match ready!(conn.poll_fill(cx)) {
                // The connection has ended within the hello, so it never becomes complete.
                Ok(0) => return Poll::Ready(Ok(None)),
                Ok(_) => {}
                // The buffer is full, so the hello is longer than any server accepts.
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                    return Poll::Ready(Ok(Some(TunnelDenial::Unreadable)));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Checks a server name; `None` if the tunnel may ask for it.
    ///
    /// Interception, the list of hosts, opaque tunnels, and last the claims: the first rule that
    /// the name breaks is the reason.
    fn check(&self, name: String, context: GuardContext<'_>) -> Option<TunnelDenial> {
        if *name == *self.origin.host {
            return None;
        }
        let GuardContext { snapshot, head, peer } = context;
        let origin = Origin { host: name.as_str().into(), ..self.origin.clone() };
        let (plain, form) = (PlainVersion::Http1, Form::Authority);
        let target = Target { origin, plain, form, prefix: Arc::default(), rest: 0..0, locations: None };
        let named = snapshot.named_hosts.look_up(&target);
        let why = if snapshot.intercepts(&target.origin) {
            "[tls] intercept intercepts its tunnels"
        } else if !snapshot.access.lists(named) {
            "no limit names it, and [access] unlisted_hosts is \"deny\""
        } else if snapshot.access.admit_opaque(named).is_err() {
            "a limit names it, and [access] opaque_tunnels is \"deny\""
        } else {
            let found = snapshot.rules.find(&target, head, &self.admitted, peer);
            let is_held = |claim: &Claim| {
                self.claims.claims.iter().any(|held| held.limit == claim.limit && held.key == claim.key)
            };
            let is_its = |claim: &Claim| snapshot.rules.rule(claim.limit).names(&name, target.origin.port);
            let may = found.is_ok_and(|found| found.claims.iter().all(|claim| is_held(claim) || !is_its(claim)));
            if may {
                return None;
            }
            "a limit that names it did not count this tunnel"
        };
        Some(TunnelDenial::Name { name, why })
    }
}

//! Plan of a request that is forwarded: target, caller, claims and the connection that it needs.

use std::sync::Arc;

use super::access::Admitted;
use super::claims::Claims;
use super::header_rules::Outgoing;
use super::pinned::PinKey;
use super::pool::{ConnRequirement, DialParams};
use super::refusal::Refusal;
use super::request_log::RequestLog;
use super::session::Session;
use super::snapshot::ConfigSnapshot;
use super::target::{Form, Scheme, Target, hops};
use super::timeouts::RequestTimeouts;
use super::upstream::{Upstream, Way};
use crate::locker::{Claim, Key};
use crate::net::dial::DialStrategy;
use crate::time::Time;
use crate::tls::verify::Offer;
use crate::wire::RequestHead;

/// Properties of a forwarded request that are known before it is sent.
pub(super) struct Plan {
    pub(super) target: Target,
    /// Origin and reach: key of its connections.
    pub(super) upstream: Upstream,
    pub(super) admitted: Admitted,
    /// Claims that each of its permits must grant.
    pub(super) claims: Claims,
    /// Settings for its head.
    pub(super) outgoing: Outgoing,
    /// Requirement on the connection for the next sending.
    pub(super) want: ConnRequirement,
    /// Deadline of its connection: the slot of its last permit cannot be used later.
    pub(super) connected_by: Time,
    /// Number of gateways of our name that it has passed; 0 if it does not go through a parent proxy.
    pub(super) hops: u8,
    /// Timeouts under the configuration in force at its last permit.
    pub(super) timeouts: Arc<RequestTimeouts>,
}

impl Plan {
    /// Parameters of a dial for this request.
    pub(super) fn dialling(&self) -> DialParams {
        self.dialling_until(self.connected_by)
    }

    /// The same, for a connection that is dialled before there is a permit.
    pub(super) fn dialling_until(&self, until: Time) -> DialParams {
        // The origin counts the connection of a tunnel.
        let is_counted = self.is_tunnel() && !self.claims.claims.is_empty();
        let attempts = if is_counted { DialStrategy::Sequential } else { DialStrategy::HappyEyeballs };
        DialParams { caller: self.admitted.caller, attempts, until, hops: self.hops }
    }

    /// True for a CONNECT, which asks for a connection rather than for a response.
    pub(super) fn is_tunnel(&self) -> bool {
        self.target.form == Form::Authority
    }

    /// Key of its connection among those pinned to the session.
    pub(super) fn pin_key(&self, session: &Session) -> PinKey {
        let upstream = self.upstream.clone();
        PinKey { upstream, caller: self.admitted.caller, version: session.worker.version() }
    }

    /// Window that stands for the credential of this request beside the window of a claim.
    pub(super) fn credential(&self, session: &Session, claim: &Claim) -> Option<Key> {
        let rules = &session.worker.snapshot.rules;
        rules.credential(claim, &self.target, &session.head, &self.admitted, session.caller)
    }

    /// Finds the claims and the way to the origin again under the configuration in force, after a reload
    /// has replaced the one that they were found under.
    ///
    /// # Errors
    /// See [`Rules::find`](super::claims::Rules::find).
    pub(super) fn claim_again(&mut self, session: &mut Session, log: &mut RequestLog) -> Result<(), Refusal> {
        session.worker.refresh();
        let snapshot = &session.worker.snapshot;
        self.admitted = snapshot.access.readmit(session.caller, &self.admitted);
        self.claims = snapshot.rules.find(&self.target, &session.head, &self.admitted, session.caller)?;
        self.timeouts = self.target.timeouts(&session.head, &snapshot.timeouts);
        // The number of a section is that of one configuration.
        (self.upstream.way, self.hops) = way(snapshot, &session.head, &self.target, &self.outgoing, self.want.offer);
        log.claimed(session, &self.claims);
        Ok(())
    }
}

/// Way of a request to its origin, with [`Plan::hops`] for it.
///
/// In absolute form a parent proxy may speak another version of HTTP to the origin, and keeps Upgrade to itself:
/// requests that need either go through a tunnel (RFC 6455 §4.1).
pub(super) fn way(
    snapshot: &ConfigSnapshot,
    head: &RequestHead,
    target: &Target,
    outgoing: &Outgoing,
    offer: Offer,
) -> (Way, u8) {
    if snapshot.parents.is_empty() {
        return (Way::Direct, 0);
    }
    let Some(rule) = snapshot.parents.find(&target.origin, target.form) else { return (Way::Direct, 0) };
    let is_tunnelled = target.form == Form::Authority
        || target.origin.scheme == Scheme::Https
        || outgoing.upgrade
        || offer == Offer::Http2;
    let hops = u8::try_from(hops(head)).unwrap_or(u8::MAX);
    (if is_tunnelled { Way::Tunnel(rule) } else { Way::Forward(rule) }, hops)
}

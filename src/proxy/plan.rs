//! Plan of a request that is forwarded: target, caller, claims and the connection that it needs.

use super::access::Admitted;
use super::claims::Claims;
use super::header_rules::Outgoing;
use super::pinned::PinKey;
use super::pool::{ConnRequirement, DialParams};
use super::refusal::Refusal;
use super::request_log::RequestLog;
use super::session::Session;
use super::target::{Form, Target};
use super::upstream::Upstream;
use crate::net::dial::DialStrategy;
use crate::time::Time;

/// What is known of a request before it is sent.
pub(super) struct Plan {
    pub(super) target: Target,
    pub(super) upstream: Upstream,
    pub(super) admitted: Admitted,
    pub(super) claims: Claims,
    pub(super) outgoing: Outgoing,
    /// The connection that will do for the next sending.
    pub(super) want: ConnRequirement,
    /// Time by which it must have a connection: of its last permit, whose slot is not used later than that.
    pub(super) connected_by: Time,
}

impl Plan {
    /// The way a new connection to its origin is made.
    pub(super) fn dialling(&self) -> DialParams {
        self.dialling_until(self.connected_by)
    }

    /// The same for a connection that is made ready before there is a permit.
    pub(super) fn dialling_until(&self, until: Time) -> DialParams {
        // Of a tunnel the origin counts the connection.
        let is_counted = self.is_tunnel() && !self.claims.claims.is_empty();
        let attempts = if is_counted { DialStrategy::Sequential } else { DialStrategy::HappyEyeballs };
        DialParams { caller: self.admitted.caller, attempts, until }
    }

    /// True if it asks for a connection rather than for a response.
    pub(super) fn is_tunnel(&self) -> bool {
        self.target.form == Form::Authority
    }

    /// Key of its connection among those that are pinned to the session.
    pub(super) fn pin_key(&self, session: &Session) -> PinKey {
        let upstream = self.upstream.clone();
        PinKey { upstream, caller: self.admitted.caller, version: session.worker.version() }
    }

    /// Finds its claims again, by the configuration in force: that has changed since they were found.
    ///
    /// # Errors
    /// See [`Rules::find`](super::claims::Rules::find).
    pub(super) fn claim_again(&mut self, session: &mut Session, log: &mut RequestLog) -> Result<(), Refusal> {
        session.worker.refresh();
        let snapshot = &session.worker.snapshot;
        self.admitted = snapshot.access.anew(session.peer.ip(), &self.admitted);
        self.claims = snapshot.rules.find(&self.target, &session.head, &self.admitted, session.peer.ip())?;
        log.claimed(session, &self.claims);
        Ok(())
    }
}

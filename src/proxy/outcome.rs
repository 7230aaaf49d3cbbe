//! Outcome of one exchange: the future of the caller's connection, or the reason for a missing response.

use super::first_bytes::HelloGuard;
use super::refusal::Refusal;
use super::send::OriginConn;
use super::session::InterceptedTunnel;
use super::timeouts::Timeout;
use crate::gate::{Flight, Permit};
use crate::wire::Conn;

/// Future of the caller's connection after a response.
pub(super) enum Outcome {
    /// It can carry another request.
    Keep,
    /// It ends, once all is written.
    Close,
    /// It is reset, because the caller does not have the whole response.
    Abort,
    /// It becomes one end of a tunnel.
    Tunnel(Box<Tunnel>),
    /// It becomes a tunnel in which requests are read.
    Intercept(Box<InterceptedTunnel>),
}

/// Reason for which an exchange ended without a response of the origin.
pub(super) enum Failure {
    /// A refusal: the caller receives a response of ours.
    Refused(Refusal),
    /// The caller has hung up.
    CallerGone,
    /// The caller has hung up in the queue, before it had a permit.
    LeftQueue,
    /// The response broke off after part of it had been forwarded.
    Truncated,
    /// Nothing of the response, or of the rest of the request, has moved for too long.
    Stalled,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure::Refused(refusal)
    }
}

/// Connection to an origin that will be joined with a caller's connection.
pub(super) struct Tunnel {
    pub(super) origin: Conn,
    /// Checks the first bytes of the caller; `None` once they may pass.
    pub(super) guard: Option<Box<HelloGuard>>,
    /// Keeps the slots in flight until the tunnel ends.
    flight: Flight,
    /// True once its slots have settled.
    is_counted: bool,
    /// Longest time without a byte.
    pub(super) idle: Timeout,
}

impl Tunnel {
    /// A tunnel on a connection that was just dialled for it. Its slots are taken, but have not settled: plain HTTP
    /// inside is counted by request instead.
    pub(super) fn open(origin: Conn, permit: Permit, guard: Box<HelloGuard>, idle: Timeout) -> Tunnel {
        Tunnel { origin, guard: Some(guard), flight: permit.depart(), is_counted: false, idle }
    }

    /// A tunnel after a response 101. The permit was used up by the request that asked for the upgrade.
    pub(super) fn upgraded(origin: Conn, flight: Flight, idle: Timeout) -> Tunnel {
        let mut tunnel = Tunnel { origin, guard: None, flight, is_counted: false, idle };
        tunnel.count();
        tunnel
    }

    /// True once its slots have settled.
    pub(super) fn is_counted(&self) -> bool {
        self.is_counted
    }

    /// Settles its slots, as those of a connection, which the origin counts. No effect the second time.
    ///
    /// The receiver at the other end may pause from now on for as long as the tunnel may be idle.
    pub(super) fn count(&mut self) {
        if !self.is_counted {
            self.is_counted = true;
            self.flight.sent();
            self.flight.answered();
            self.origin.stream.set_user_timeout(None);
        }
    }

    /// Gives back its slots, unless they have settled, and returns its connection then, on which nothing was sent.
    pub(super) fn into_unused(mut self) -> Option<Box<OriginConn>> {
        if self.is_counted {
            return None;
        }
        drop(self.flight.nothing_left());
        Some(OriginConn::new(self.origin.take_stream()))
    }
}

//! Outcome of one exchange: the future of the caller's connection, or the reason for a missing response.

use super::first_bytes::HelloGuard;
use super::refusal::Refusal;
use super::send::OriginConn;
use super::session::InterceptedTunnel;
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
    /// It becomes an intercepted tunnel: its content is read as requests.
    Intercept(Box<InterceptedTunnel>),
}

/// Reason for which an exchange ended without a response of the origin.
pub(super) enum Failure {
    /// A refusal: the caller receives a response of ours.
    Refused(Refusal),
    /// The caller has hung up.
    CallerGone,
    /// The response broke off after part of it had been forwarded.
    Truncated,
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
    _flight: Flight,
}

impl Tunnel {
    /// A tunnel on a connection that was just dialled for it. The permit is used up: the origin counts the connection.
    pub(super) fn open(origin: OriginConn, permit: Permit, guard: Option<Box<HelloGuard>>) -> Tunnel {
        let mut flight = permit.depart();
        flight.sent();
        flight.answered();
        Tunnel { guard, ..Tunnel::upgraded(origin.conn, flight) }
    }

    /// A tunnel after a response 101. The permit was used up by the request that asked for the upgrade.
    pub(super) fn upgraded(mut origin: Conn, flight: Flight) -> Tunnel {
        // The receiver at the other end may pause for as long as the tunnel may be idle.
        origin.stream.set_user_timeout(None);
        Tunnel { origin, guard: None, _flight: flight }
    }
}

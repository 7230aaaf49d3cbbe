//! Outcome of one exchange: what becomes of the caller's connection, or why there is no response of the origin.

use super::refusal::Refusal;
use super::send::OriginConn;
use super::server_name::Guard;
use super::session::InterceptedTunnel;
use crate::gate::{Flight, Permit};
use crate::wire::Conn;

/// What becomes of the caller's connection after a response.
pub(super) enum Outcome {
    /// It can carry another request.
    Keep,
    /// It ends, once all is written.
    Close,
    /// It ends by a reset: the caller does not have the whole response.
    Abort,
    /// It becomes one end of a tunnel.
    Tunnel(Box<Tunnel>),
    /// It becomes a tunnel whose content is read as requests.
    Intercept(Box<InterceptedTunnel>),
}

/// Why an exchange ended without a response of the origin.
pub(super) enum Failure {
    /// The caller gets a response of ours.
    Refused(Refusal),
    /// The caller has hung up.
    CallerGone,
    /// The response broke off after its start had been forwarded.
    Truncated,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure::Refused(refusal)
    }
}

/// A connection to an origin that a caller's connection will be joined to.
pub(super) struct Tunnel {
    pub(super) origin: Conn,
    /// Checks the first bytes of the caller; `None` once they may pass.
    pub(super) guard: Option<Box<Guard>>,
    /// Its slots stay in flight until the tunnel ends.
    _flight: Flight,
}

impl Tunnel {
    /// A tunnel on a connection that has just been dialled for it. The permit is spent: the origin counts the connection.
    pub(super) fn open(origin: OriginConn, permit: Permit, guard: Option<Box<Guard>>) -> Tunnel {
        let mut flight = permit.depart();
        flight.sent();
        flight.answered();
        Tunnel { guard, ..Tunnel::upgraded(origin.conn, flight) }
    }

    /// A tunnel after a response 101: the permit was spent on the request that asked for the upgrade.
    pub(super) fn upgraded(mut origin: Conn, flight: Flight) -> Tunnel {
        // A reader at the other end may pause for as long as the tunnel may be idle.
        origin.stream.set_user_timeout(None);
        Tunnel { origin, guard: None, _flight: flight }
    }
}

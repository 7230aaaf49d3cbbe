//! Log of faulty peers: a warning for the first of each cause, and nothing but a debug line for further ones, so that
//! strangers cannot fill the log.

use std::cell::Cell;
use std::net::SocketAddr;

/// Cause for which a peer is turned away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FaultKind {
    /// Its address may not connect.
    NotAllowed,
    /// No ZMTP, or a version before 3.0.
    Version,
    /// Another mechanism than the listener requires.
    Mechanism,
    /// Its handshake is malformed or incomplete.
    Handshake,
    /// Its name or password is wrong.
    Login,
    /// Its frames break the protocol or its bounds.
    Frames,
}

/// Number of [`FaultKind`]s.
const KINDS: usize = 6;

/// Causes that the log has warned of.
#[derive(Default)]
pub(super) struct FaultLog {
    warned: [Cell<bool>; KINDS],
}

impl FaultLog {
    /// Logs that a peer is turned away.
    pub(super) fn log(&self, kind: FaultKind, peer: SocketAddr, why: &str) {
        if self.warned[kind as usize].replace(true) {
            tracing::debug!(%peer, why, "ZeroMQ peer turned away");
        } else {
            tracing::warn!(%peer, why, "ZeroMQ peer turned away; further ones for a cause of this kind are logged at level debug");
        }
    }
}

//! Connection admission: whether a connection is served, decided by the address that it comes from.
//!
//! The address is known when the connection is accepted, before a byte of it is read. From a
//! balancer in `[listen] proxy_protocol_from` it is known once the PROXY header has been read, which
//! such a connection must begin with: the balancer's own address is no caller's, and a connection
//! without the header is closed. A header of an address that is not listed is a malformed request.

use std::collections::HashSet;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use super::session::Session;
use super::snapshot::ConfigSnapshot;
use crate::net::connection_limit::{ConnToken, ConnectionLimit};
use crate::net::drain::ShutdownWatch;
use crate::net::listener_stats::{ConnRejectReason, ListenerStats};
use crate::wire::Conn;
use crate::wire::proxy_header::{ProxyHeaderState, read_proxy_header};

/// Most balancers that warnings name: a range may be wide.
const MAX_WARNED: usize = 1024;

/// Admission of callers' connections, one for the process.
pub struct ConnAdmission {
    /// Bounds open connections, of all callers and of one.
    limit: ConnectionLimit,
    /// True after the log has named an address that `[access] allow_from` does not contain.
    warned_not_allowed: AtomicBool,
    /// Balancers without a PROXY header that the log has named.
    warned_balancers: Mutex<HashSet<IpAddr>>,
}

/// Reason for which a connection has no PROXY header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NoHeader {
    /// It ended without a byte, as a health check by TCP alone does, or the gateway shuts down.
    Unused,
    /// The first bytes, or their absence.
    Invalid(&'static str),
}

impl ConnAdmission {
    /// Admission under this bound on connections.
    pub fn new(limit: ConnectionLimit) -> ConnAdmission {
        ConnAdmission { limit, warned_not_allowed: AtomicBool::default(), warned_balancers: Mutex::default() }
    }

    /// Decides on a connection that was just accepted; `None`: it must be closed.
    ///
    /// One that must begin with a PROXY header counts for no address yet: its token is not
    /// identified.
    pub fn accept(&self, snapshot: &ConfigSnapshot, peer: SocketAddr, stats: &ListenerStats) -> Option<ConnToken> {
        if snapshot.balancers.sends_proxy_header(peer.ip()) {
            return Some(self.limit.acquire_unidentified());
        }
        if !self.allows(snapshot, peer, stats) {
            return None;
        }
        let token = self.limit.try_acquire(peer.ip());
        if token.is_none() {
            stats.count_rejected(ConnRejectReason::TooMany);
        }
        token
    }

    /// Reads the PROXY header of a connection of which nothing was read before, and decides by the
    /// address in it, which becomes that of the session. False: the connection must be closed.
    ///
    /// Time: what is left of the session's deadline.
    pub(super) async fn receive_header(
        &self,
        session: &mut Session,
        shutdown: &mut ShutdownWatch,
        stats: &ListenerStats,
        token: &mut ConnToken,
    ) -> bool {
        match poll_fn(|cx| poll_header(session, shutdown, cx)).await {
            Ok(Some(client)) => session.set_peer(SocketAddr::new(client.ip().to_canonical(), client.port())),
            // A connection of the balancer's own, or one whose client it does not tell.
            Ok(None) => {}
            Err(NoHeader::Unused) => return false,
            Err(NoHeader::Invalid(why)) => {
                stats.count_rejected(ConnRejectReason::NoProxyHeader);
                self.warn_of_balancer(session.peer, stats, why);
                return false;
            }
        }
        if !self.allows(&session.worker.snapshot, session.peer, stats) {
            return false;
        }
        if !token.identify(session.peer.ip()) {
            stats.count_rejected(ConnRejectReason::TooMany);
        }
        token.is_identified()
    }

    /// True if `[access] allow_from` contains the address; counts and logs those that it does not.
    fn allows(&self, snapshot: &ConfigSnapshot, peer: SocketAddr, stats: &ListenerStats) -> bool {
        if snapshot.may_connect_from(peer.ip()) {
            return true;
        }
        stats.count_rejected(ConnRejectReason::NotAllowed);
        // The first may be a mistake in the file; warnings for all further ones would let strangers fill the log.
        if self.warned_not_allowed.swap(true, Ordering::Relaxed) {
            tracing::debug!(%peer, listener = %stats.address, "closed: its address is not in [access] allow_from");
        } else {
            tracing::warn!(%peer, listener = %stats.address, "closed: its address is not in [access] allow_from; further ones are counted");
        }
        false
    }

    /// Logs a connection without a header, as a warning once for each balancer.
    fn warn_of_balancer(&self, peer: SocketAddr, stats: &ListenerStats, why: &str) {
        // A panic elsewhere cannot leave the set half changed.
        let mut warned = self.warned_balancers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = warned.len() < MAX_WARNED && warned.insert(peer.ip());
        drop(warned);
        if is_new {
            tracing::warn!(%peer, listener = %stats.address, why, "closed: [listen] proxy_protocol_from lists its address, and it sent no valid PROXY header; further ones of it are counted");
        } else {
            tracing::debug!(%peer, listener = %stats.address, why, "closed: it sent no valid PROXY header");
        }
    }
}

/// Reads until the header is complete, which is then taken from the input; returns its client.
fn poll_header(
    session: &mut Session,
    shutdown: &mut ShutdownWatch,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<SocketAddr>, NoHeader>> {
    let Session { conn, deadline, .. } = session;
    loop {
        match read_proxy_header(conn.input.bytes()) {
            ProxyHeaderState::Complete(header) => {
                conn.input.consume(header.length);
                return Poll::Ready(Ok(header.client));
            }
            ProxyHeaderState::Malformed(why) => return Poll::Ready(Err(NoHeader::Invalid(why))),
            ProxyHeaderState::Incomplete => {}
        }
        match conn.poll_fill(cx) {
            Poll::Ready(Ok(count)) if count > 0 => {}
            Poll::Ready(Ok(_) | Err(_)) => return Poll::Ready(Err(ended(conn))),
            Poll::Pending if deadline.poll_expired(cx).is_ready() => {
                return Poll::Ready(Err(NoHeader::Invalid("it did not arrive within [timeouts] head")));
            }
            Poll::Pending if conn.input.is_empty() && shutdown.poll(cx).is_ready() => {
                return Poll::Ready(Err(NoHeader::Unused));
            }
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// Meaning of a connection's end before its header.
fn ended(conn: &Conn) -> NoHeader {
    if conn.input.is_empty() { NoHeader::Unused } else { NoHeader::Invalid("the connection ended within it") }
}

//! Counters of a listener: connections accepted, open and rejected.
//!
//! Counters are relaxed atomics: each is exact, and two of them read one after the other may differ
//! by a connection in between.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::listen::{ListenAddress, ListenerKind};

/// Counters of one listener. They live until it is closed and its last connection has ended, and go on if a listener of
/// the same address is opened before.
///
/// Shared by the listener, the guards of its connections, and the metrics.
#[derive(Debug)]
pub struct ListenerStats {
    /// Address of the listener, with its port.
    pub address: SocketAddr,
    /// Kind of the listener.
    pub kind: ListenerKind,
    counters: Arc<AddressCounters>,
}

/// Counters of all listeners of one address: a reload may open one before it closes another, or while connections of a
/// closed one are left.
#[derive(Default, Debug)]
struct AddressCounters {
    /// Listeners that accept.
    open: AtomicUsize,
    /// Open connections.
    active: AtomicUsize,
    /// Connections accepted and not rejected.
    accepted: AtomicU64,
    /// Connections rejected with [`ConnRejectReason::NotAllowed`].
    not_allowed: AtomicU64,
    /// Connections rejected with [`ConnRejectReason::TooMany`].
    too_many: AtomicU64,
    /// Connections rejected with [`ConnRejectReason::NoProxyHeader`].
    no_proxy_header: AtomicU64,
}

/// Reason for closing a connection before anything is read from it, but for its PROXY header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnRejectReason {
    /// The caller's address is not allowed (`[access] allow_from`).
    NotAllowed,
    /// The caller's address is at its connection limit (`max_connections_per_address`).
    TooMany,
    /// A peer in `proxy_protocol_from` has sent no PROXY header, or a malformed one.
    NoProxyHeader,
}

impl ListenerStats {
    /// Counters of a listener that is opened. `before`: those of a listener that has, or had, the same address.
    pub(super) fn new(listener: ListenAddress, before: Option<&ListenerStats>) -> ListenerStats {
        debug_assert!(
            before.is_none_or(|before| before.address == listener.address),
            "counters are those of one address"
        );
        let counters = before.map(|before| Arc::clone(&before.counters)).unwrap_or_default();
        counters.open.fetch_add(1, Ordering::Relaxed);
        ListenerStats { address: listener.address, kind: listener.kind, counters }
    }

    /// Number of open connections.
    pub fn active(&self) -> usize {
        self.counters.active.load(Ordering::Relaxed)
    }

    /// Number of connections accepted since the start, without rejected ones.
    pub fn accepted(&self) -> u64 {
        self.counters.accepted.load(Ordering::Relaxed)
    }

    /// Counts a rejected connection.
    ///
    /// Rejected connections are in no other counter, but for those rejected by or after their PROXY
    /// header: they were open until then.
    pub fn count_rejected(&self, reason: ConnRejectReason) {
        let count = match reason {
            ConnRejectReason::NotAllowed => &self.counters.not_allowed,
            ConnRejectReason::TooMany => &self.counters.too_many,
            ConnRejectReason::NoProxyHeader => &self.counters.no_proxy_header,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of rejected connections, by the metric's label of the reason.
    pub fn rejected(&self) -> [(&'static str, u64); 3] {
        let counters = [
            ("not_allowed", &self.counters.not_allowed),
            ("too_many", &self.counters.too_many),
            ("no_proxy_header", &self.counters.no_proxy_header),
        ];
        counters.map(|(reason, count)| (reason, count.load(Ordering::Relaxed)))
    }

    /// Marks the listener as closed: it adds no connections. Called once.
    pub fn mark_closed(&self) {
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// True if no listener of the address is open, and the last connection has ended.
    pub(super) fn is_finished(&self) -> bool {
        self.counters.open.load(Ordering::Relaxed) == 0 && self.active() == 0
    }

    /// Counts an accepted connection, as open and in the total.
    pub(super) fn connection_opened(&self) {
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        self.counters.active.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of a connection that was counted before.
    pub(super) fn connection_closed(&self) {
        self.counters.active.fetch_sub(1, Ordering::Relaxed);
    }
}

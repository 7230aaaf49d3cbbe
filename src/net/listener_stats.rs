//! Where connections come in: how many did, and how many are there.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// One listener, and those who accepted in by it.
#[derive(Debug)]
pub struct ListenerStats {
    /// Where it is.
    pub address: SocketAddr,
    closed: AtomicBool,
    active: AtomicUsize,
    accepted: AtomicU64,
    not_allowed: AtomicU64,
    too_many: AtomicU64,
}

/// Why a connection was closed before anything was read from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RejectReason {
    /// Nothing is served to its address.
    NotAllowed,
    /// Its address has as many connections as it may.
    TooMany,
}

impl ListenerStats {
    pub(super) fn new(address: SocketAddr) -> ListenerStats {
        ListenerStats {
            address,
            closed: AtomicBool::default(),
            active: AtomicUsize::default(),
            accepted: AtomicU64::default(),
            not_allowed: AtomicU64::default(),
            too_many: AtomicU64::default(),
        }
    }

    /// How many are there now.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// How many have come in.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// One more was closed at once.
    pub fn count_rejected(&self, why: RejectReason) {
        let count = match why {
            RejectReason::NotAllowed => &self.not_allowed,
            RejectReason::TooMany => &self.too_many,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were closed at once, by the reason in a word.
    pub fn rejected(&self) -> [(&'static str, u64); 2] {
        [("not_allowed", &self.not_allowed), ("too_many", &self.too_many)]
            .map(|(why, count)| (why, count.load(Ordering::Relaxed)))
    }

    /// Nobody comes in any more.
    pub fn mark_closed(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Whether there is nothing more to be told of it.
    pub(super) fn is_finished(&self) -> bool {
        self.closed.load(Ordering::Relaxed) && self.active() == 0
    }

    pub(super) fn connection_opened(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn connection_closed(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }
}

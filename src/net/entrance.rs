//! Where connections come in: how many did, and how many are there.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// One listener, and those who came in by it.
#[derive(Debug)]
pub struct Entrance {
    /// Where it is.
    pub address: SocketAddr,
    closed: AtomicBool,
    there: AtomicUsize,
    came: AtomicU64,
    not_allowed: AtomicU64,
    too_many: AtomicU64,
}

/// Why a connection was closed before anything was read from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Nothing is served to its address.
    NotAllowed,
    /// Its address has as many connections as it may.
    TooMany,
}

impl Entrance {
    pub(super) fn new(address: SocketAddr) -> Entrance {
        Entrance {
            address,
            closed: AtomicBool::default(),
            there: AtomicUsize::default(),
            came: AtomicU64::default(),
            not_allowed: AtomicU64::default(),
            too_many: AtomicU64::default(),
        }
    }

    /// How many are there now.
    pub fn there(&self) -> usize {
        self.there.load(Ordering::Relaxed)
    }

    /// How many have come in.
    pub fn came(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }

    /// One more was closed at once.
    pub fn refuse(&self, why: Refused) {
        let count = match why {
            Refused::NotAllowed => &self.not_allowed,
            Refused::TooMany => &self.too_many,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were closed at once, by the reason in a word.
    pub fn refused(&self) -> [(&'static str, u64); 2] {
        [("not_allowed", &self.not_allowed), ("too_many", &self.too_many)]
            .map(|(why, count)| (why, count.load(Ordering::Relaxed)))
    }

    /// Nobody comes in any more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Whether there is nothing more to be told of it.
    pub(super) fn is_over(&self) -> bool {
        self.closed.load(Ordering::Relaxed) && self.there() == 0
    }

    pub(super) fn come(&self) {
        self.came.fetch_add(1, Ordering::Relaxed);
        self.there.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn part(&self) {
        self.there.fetch_sub(1, Ordering::Relaxed);
    }
}

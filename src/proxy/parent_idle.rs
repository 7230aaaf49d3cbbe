//! Idle connections to parent proxies: each carries requests in absolute form, to any origin.
//!
//! A connection on which a caller has logged in at an origin is pinned to that caller, and never comes here.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::idle_conns::{IdleConn, IdleConns};
use super::parent::ParentRule;
use super::send::OriginConn;
use crate::time::Time;

/// Idle connections that each runtime keeps to one parent: it stands for many origins, each of which would have 64.
const IDLE_PER_PARENT: usize = 256;

/// Idle connections by the number of their parent.
#[derive(Default)]
pub(super) struct ParentIdleConns(Vec<Mutex<IdleConns>>);

impl ParentIdleConns {
    /// No connection, to this number of parents.
    pub(super) fn new(parents: usize) -> ParentIdleConns {
        ParentIdleConns((0..parents).map(|_| Mutex::default()).collect())
    }

    /// Takes a connection to the parent that requests of the section use now.
    ///
    /// Connections to later parents stay, even if there is none to that one: requests go back to it once it is up again.
    pub(super) fn take(&self, rule: &ParentRule, now: Time) -> Option<Box<OriginConn>> {
        let kept = self.0.get(rule.preferred()?.index)?;
        loop {
            let idle = lock(kept).pop()?;
            if let Some(ready) = idle.into_usable(now) {
                return Some(ready);
            }
        }
    }

    /// Keeps a connection for the next request. Drops it instead, which closes it, in the middle of a message or beyond
    /// [`IDLE_PER_PARENT`].
    pub(super) fn keep(&self, ready: Box<OriginConn>, now: Time) {
        let Some(kept) = ready.forward.as_ref().and_then(|proxy| self.0.get(proxy.index)) else { return };
        if let Some(idle) = IdleConn::new(ready, now) {
            lock(kept).push(idle, IDLE_PER_PARENT);
        }
    }

    /// Closes connections that were idle for `idle`, or were closed by their parent.
    pub(super) fn reap(&self, idle: Duration, now: Time) {
        for kept in &self.0 {
            lock(kept).reap(idle, now);
        }
    }

    /// Number of connections.
    pub(super) fn count(&self) -> usize {
        self.0.iter().map(|kept| lock(kept).len()).sum()
    }

    /// Closes all connections; returns true if there was one.
    pub(super) fn close(&self) -> bool {
        self.0.iter().filter(|kept| std::mem::take(&mut *lock(kept)).len() > 0).count() > 0
    }
}

fn lock(kept: &Mutex<IdleConns>) -> MutexGuard<'_, IdleConns> {
    // A panic elsewhere cannot leave the list half changed: each change is one call.
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

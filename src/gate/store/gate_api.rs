//! Gate API of the store client: its calls into the locker, each under the gate's lock.
//!
//! Order of calls in a session: `open_sharing` after the hello, then `take_sync` with
//! `sync_answered` or `sync_lost` for each call, and `close_sharing` after the session is lost.
//! `sign_off` replaces the last `take_sync` at a shutdown.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::{Status, Store};
use crate::gate::Gate;
use crate::locker::{LimitId, SharingMode, SlotGrant, SyncRequest, SyncTrigger};
use crate::time::Time;

impl Gate {
    /// Attaches the store client; `signal` wakes it when reports or slot requests are due. Called once.
    pub(super) fn attach_store(&self, store: &Arc<Store>, signal: Arc<Notify>) {
        // Neither cell was set before: a gate has one store client.
        self.signals.store.set(signal).ok();
        self.store.set(Arc::clone(store)).ok();
    }

    /// Returns true if a limit in force is shared.
    pub(super) fn shares(&self) -> bool {
        self.lock().locker.shares()
    }

    /// The limits in force that are shared.
    pub(super) fn shared_limits(&self) -> Vec<LimitId> {
        self.lock().locker.shared()
    }

    /// Lets the store decide about shared limits, after a session was opened.
    pub(super) fn open_sharing(&self) {
        let now = self.clock.now();
        self.step(now, |state| state.locker.open_sharing(now));
    }

    /// Blocks shared limits, after the session was lost.
    ///
    /// The fallback of each limit is set afterwards, once it is safe.
    pub(super) fn close_sharing(&self) {
        let now = self.clock.now();
        self.step(now, |state| {
            state.pending_signals.store = false;
            state.locker.close_sharing(now);
        });
    }

    /// Sets the fallback of a shared limit.
    ///
    /// Waiters may be granted in this step.
    pub(super) fn set_sharing_mode(&self, limit: LimitId, mode: SharingMode) {
        let now = self.clock.now();
        self.step(now, |state| state.locker.set_sharing_mode(Some(limit), mode, now));
    }

    /// Takes the reports and slot requests of the next call; a heartbeat also returns granted slots without use.
    ///
    /// Reports that come after it notify the store thread anew.
    pub(super) fn take_sync(&self, trigger: SyncTrigger) -> SyncRequest {
        let now = self.clock.now();
        self.step(now, |state| {
            state.pending_signals.store = false;
            state.locker.take_sync(trigger, now)
        })
    }

    /// Sets the longest span that any gateway has for each of these limits.
    pub(super) fn set_reported_spans(&self, spans: &[(LimitId, Duration)]) {
        self.lock().locker.set_reported_spans(spans);
    }

    /// Applies the grants of a call that was sent after `began` and answered before `ended`: one for each slot request.
    pub(super) fn sync_answered(&self, sync: &SyncRequest, grants: &[SlotGrant], began: Time, ended: Time) {
        let now = self.clock.now();
        self.step(now, |state| state.locker.sync_answered(sync, grants, began, ended, now));
    }

    /// Takes back the content of a call without a usable answer: the store may have applied it or not.
    /// [`close_sharing`](Gate::close_sharing) follows.
    pub(super) fn sync_lost(&self, sync: SyncRequest) {
        let now = self.clock.now();
        self.step(now, |state| state.locker.sync_lost(sync, now));
    }

    /// Takes the last reports, with which this gateway leaves the group.
    pub(super) fn sign_off(&self) -> SyncRequest {
        let now = self.clock.now();
        self.step(now, |state| state.locker.sign_off(now))
    }

    /// Status of the store client; `None` without `[store]`.
    pub fn store_status(&self) -> Option<Arc<Status>> {
        self.store.get().map(|store| Arc::clone(store.status()))
    }
}

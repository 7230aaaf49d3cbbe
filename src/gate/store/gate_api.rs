//! What the thread that speaks with the store says to the locker.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::{Status, Store};
use crate::gate::Gate;
use crate::locker::{LimitId, SharingMode, SlotGrant, SyncRequest};
use crate::time::Time;

impl Gate {
    pub(super) fn attach_store(&self, store: &Arc<Store>, signal: Arc<Notify>) {
        // Both are empty until here.
        self.signals.store.set(signal).ok();
        self.store.set(Arc::clone(store)).ok();
    }

    pub(super) fn shares(&self) -> bool {
        self.lock().locker.shares()
    }

    pub(super) fn shared_limits(&self) -> Vec<LimitId> {
        self.lock().locker.shared()
    }

    pub(super) fn open_sharing(&self) {
        let now = self.clock.now();
        self.step(now, |state| state.locker.open_sharing(now));
    }

    pub(super) fn close_sharing(&self) {
        let now = self.clock.now();
        self.step(now, |state| {
            state.pending_signals.store = false;
            state.locker.close_sharing(now);
        });
    }

    pub(super) fn set_sharing_mode(&self, limit: LimitId, fallback_mode: SharingMode) {
        let now = self.clock.now();
        self.step(now, |state| state.locker.set_sharing_mode(Some(limit), fallback_mode, now));
    }

    pub(super) fn take_sync(&self, is_heartbeat: bool) -> SyncRequest {
        let now = self.clock.now();
        self.step(now, |state| {
            state.pending_signals.store = false;
            state.locker.take_sync(is_heartbeat, now)
        })
    }

    pub(super) fn set_reported_spans(&self, spans: &[(LimitId, Duration)]) {
        self.lock().locker.set_reported_spans(spans);
    }

    pub(super) fn sync_answered(&self, sync: &SyncRequest, answers: &[SlotGrant], began: Time, ended: Time) {
        let now = self.clock.now();
        self.step(now, |state| state.locker.sync_answered(sync, answers, began, ended, now));
    }

    pub(super) fn sync_lost(&self, sync: SyncRequest) {
        let now = self.clock.now();
        self.step(now, |state| state.locker.sync_lost(sync, now));
    }

    pub(super) fn sign_off(&self) -> SyncRequest {
        let now = self.clock.now();
        self.step(now, |state| state.locker.sign_off(now))
    }

    /// How it stands with the store of shared limits; `None`: there is none.
    pub fn store_status(&self) -> Option<Arc<Status>> {
        self.store.get().map(|store| Arc::clone(store.status()))
    }
}

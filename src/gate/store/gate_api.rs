//! What the thread that speaks with the store says to the locker.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::{Status, Store};
use crate::gate::Gate;
use crate::locker::{LimitId, SharingMode, SlotGrant, SyncRequest};
use crate::time::Time;

impl Gate {
    pub(super) fn meet_store(&self, store: &Arc<Store>, signal: Arc<Notify>) {
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

    pub(super) fn set_authority(&self, limit: LimitId, authority: SharingMode) {
        let now = self.clock.now();
        self.step(now, |state| state.locker.set_sharing_mode(Some(limit), authority, now));
    }

    pub(super) fn take_exchange(&self, beat: bool) -> SyncRequest {
        let now = self.clock.now();
        self.step(now, |state| {
            state.pending_signals.store = false;
            state.locker.take_sync(beat, now)
        })
    }

    pub(super) fn spans_said(&self, spans: &[(LimitId, Duration)]) {
        self.lock().locker.set_reported_spans(spans);
    }

    pub(super) fn exchanged(&self, exchange: &SyncRequest, answers: &[SlotGrant], began: Time, ended: Time) {
        let now = self.clock.now();
        self.step(now, |state| state.locker.sync_answered(exchange, answers, began, ended, now));
    }

    pub(super) fn exchange_lost(&self, exchange: SyncRequest) {
        let now = self.clock.now();
        self.step(now, |state| state.locker.sync_lost(exchange, now));
    }

    pub(super) fn farewell(&self) -> SyncRequest {
        let now = self.clock.now();
        self.step(now, |state| state.locker.sign_off(now))
    }

    /// How it stands with the store of shared limits; `None`: there is none.
    pub fn store_status(&self) -> Option<Arc<Status>> {
        self.store.get().map(|store| Arc::clone(store.status()))
    }
}

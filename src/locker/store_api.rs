//! Store interface of the locker: the task that speaks with the store of shared limits says what it
//! knows, and asks what the store must be told.

use std::time::Duration;

use super::Locker;
use super::api::LimitId;
use super::sharing::{SharingMode, SlotGrant, SyncRequest, SyncTrigger};
use crate::time::Time;

impl Locker {
    /// Returns true if any limit in force is shared.
    pub fn shares(&self) -> bool {
        self.counters.limits.shares()
    }

    /// The limits that are shared.
    pub fn shared(&self) -> Vec<LimitId> {
        self.counters.limits.shared()
    }

    /// The store can be asked, and does not know this gateway: from here on what may go is its to
    /// say. Which windows it must hear of is found with the next exchanges, some at a time: until
    /// then it counts them by the name it knew before.
    pub fn open_sharing(&mut self, now: Time) {
        let now = self.advance(now);
        let counters = &mut self.counters;
        let review = counters.sharing.open(&mut counters.limits, &mut counters.table, now);
        self.review_limits(&review, now);
    }

    /// The store cannot be asked any more: no request passes a shared limit before `open_sharing`
    /// or `set_sharing_mode`.
    pub fn close_sharing(&mut self, now: Time) {
        let now = self.advance(now);
        let review = self.counters.sharing.close(&mut self.counters.limits);
        self.review_limits(&review, now);
    }

    /// Sets the mode of this shared limit, or of all with `None`. It holds at once, and the slots
    /// that the store has granted are void: both are in the rule, and no window is touched. Waiters
    /// are reviewed some at a time (`Queue::review_some`).
    pub fn set_sharing_mode(&mut self, limit: Option<LimitId>, mode: SharingMode, now: Time) {
        let now = self.advance(now);
        let ids = limit.map_or_else(|| self.shared(), |limit| vec![limit]);
        self.counters.sharing.set_mode(&mut self.counters.limits, &ids, mode);
        self.review_limits(&ids, now);
    }

    /// Time of the next exchange with the store; one that is due is due until it is taken.
    pub fn sync_due(&self) -> Option<Time> {
        let due = self.counters.sharing.due();
        (due < Time::NEVER).then_some(due)
    }

    /// Returns true if the store must be told or asked something now.
    pub fn has_sync(&self) -> bool {
        self.counters.sharing.due() <= self.last
    }

    /// Takes the exchange with the store that is about to happen: all that it must be told and
    /// asked now. At a heartbeat it also returns granted slots that no request uses.
    pub fn take_sync(&mut self, trigger: SyncTrigger, now: Time) -> SyncRequest {
        let now = self.advance(now);
        self.counters.take_sync(&mut self.queue, trigger, now)
    }

    /// Notes for how long settled slots count for other gateways, where they have another span than
    /// this one.
    pub fn set_reported_spans(&mut self, spans: &[(LimitId, Duration)]) {
        self.counters.set_reported_spans(spans);
    }

    /// The store has answered, take by take. `began`: a moment before it was asked; `ended`: one
    /// after it had answered.
    pub fn sync_answered(&mut self, sync: &SyncRequest, answers: &[SlotGrant], began: Time, ended: Time, now: Time) {
        let now = self.advance(now);
        self.counters.sync_answered(&mut self.queue, sync, answers, (began, ended));
        self.dispatch(now);
        self.counters.return_surplus(sync, now);
    }

    /// No answer came: whether the store was told anything is not known. `close_sharing` must
    /// follow.
    pub fn sync_lost(&mut self, sync: SyncRequest, now: Time) {
        self.advance(now);
        self.counters.sync_lost(sync);
    }

    /// The last exchange: nothing is asked for, and what was granted is given back. Empty if the
    /// store cannot be asked.
    pub fn sign_off(&mut self, now: Time) -> SyncRequest {
        let now = self.advance(now);
        if !self.counters.sharing.is_open() {
            return SyncRequest::default();
        }
        let sync = self.counters.sign_off(now);
        let review = self.counters.sharing.close(&mut self.counters.limits);
        self.review_limits(&review, now);
        sync
    }
}

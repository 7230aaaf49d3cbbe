//! Limiter of the gate: the locker, or after a hand-over the forwarder in its place, behind one surface.

use std::time::Duration;

use crate::locker::{
    Ask, CallerScan, Event, Forwarder, Grant, GrantedSlots, JournalRecord, JournalStart, Key, Limit, LimitDetail,
    LimitId, LimitSnapshot, LimitStats, Locker, ReloadSummary, SettlePoint, SharingMode, SlotGrant, Sorry, StatsScan,
    SyncRequest, SyncTrigger, Ticket, Verdict, WallReading, WallSample, WriteToken,
};
use crate::time::Time;

/// The side that decides on requests: this process, or another one that took over.
///
/// The methods are those of [`Locker`] and [`Forwarder`]. An input that only a locker uses (journal, store of shared
/// limits, wall clock, timer, reload) changes nothing in a forwarder; an output that only a locker has is empty there.
#[allow(
    clippy::large_enum_variant,
    reason = "a process has one limiter, and a box would cost every decision one more look into memory"
)]
pub(super) enum Limiter {
    /// This process decides.
    Local(Locker),
    /// Another process decides.
    Forwarding(Forwarder),
}

/// Requests, and the verdicts on them.
impl Limiter {
    pub(super) fn ask(&mut self, ask: &Ask<'_>, now: Time) -> Verdict {
        match self {
            Limiter::Local(locker) => locker.ask(ask, now),
            Limiter::Forwarding(forwarder) => forwarder.ask(ask, now),
        }
    }

    pub(super) fn leave(&mut self, ticket: Ticket, now: Time) {
        match self {
            Limiter::Local(locker) => locker.leave(ticket, now),
            Limiter::Forwarding(forwarder) => forwarder.leave(ticket),
        }
    }

    pub(super) fn pause(&mut self, limit: LimitId, key: Key, until: Time, now: Time) {
        match self {
            Limiter::Local(locker) => locker.pause(limit, key, until, now),
            Limiter::Forwarding(forwarder) => forwarder.pause(limit, key, until),
        }
    }

    pub(super) fn settle(&mut self, grant: &mut Grant, point: SettlePoint, now: Time) {
        match self {
            Limiter::Local(locker) => locker.settle(grant, point, now),
            Limiter::Forwarding(forwarder) => forwarder.settle(grant, point, now),
        }
    }

    pub(super) fn give_back(&mut self, grant: Grant, now: Time) {
        match self {
            Limiter::Local(locker) => locker.give_back(grant, now),
            Limiter::Forwarding(forwarder) => forwarder.give_back(grant),
        }
    }

    pub(super) fn finish(&mut self, grant: Grant, now: Time) {
        match self {
            Limiter::Local(locker) => locker.finish(grant, now),
            Limiter::Forwarding(forwarder) => forwarder.finish(grant, now),
        }
    }

    pub(super) fn poll_verdict(&mut self) -> Option<(Ticket, Verdict)> {
        match self {
            Limiter::Local(locker) => locker.poll_verdict(),
            Limiter::Forwarding(forwarder) => forwarder.poll_verdict(),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        match self {
            Limiter::Local(locker) => locker.poll_timeout(),
            Limiter::Forwarding(_) => None,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Time) {
        if let Limiter::Local(locker) = self {
            locker.handle_timeout(now);
        }
    }
}

/// Limits, and what is shown of them.
impl Limiter {
    pub(super) fn limits(&self) -> &[Limit] {
        match self {
            Limiter::Local(locker) => locker.limits(),
            Limiter::Forwarding(forwarder) => forwarder.limits(),
        }
    }

    pub(super) fn is_in_force(&self, limit: LimitId) -> bool {
        match self {
            Limiter::Local(locker) => locker.is_in_force(limit),
            Limiter::Forwarding(forwarder) => forwarder.is_in_force(limit),
        }
    }

    /// Puts these limits in the place of all others. A process that has handed over reads its file no more.
    pub(super) fn reload(&mut self, limits: Vec<Limit>, under_way: Duration, now: Time) -> ReloadSummary {
        match self {
            Limiter::Local(locker) => locker.reload(limits, under_way, now),
            Limiter::Forwarding(_) => ReloadSummary::default(),
        }
    }

    pub(super) fn hold(&mut self) {
        if let Limiter::Local(locker) = self {
            locker.hold();
        }
    }

    pub(super) fn release(&mut self, now: Time) {
        if let Limiter::Local(locker) = self {
            locker.release(now);
        }
    }

    pub(super) fn scan_stats(&mut self, scan: &mut StatsScan, now: Time) -> bool {
        match self {
            Limiter::Local(locker) => locker.scan_stats(scan, now),
            Limiter::Forwarding(forwarder) => forwarder.scan_stats(scan, now),
        }
    }

    pub(super) fn finish_stats(&mut self, scan: StatsScan, now: Time) -> Vec<LimitStats> {
        match self {
            Limiter::Local(locker) => locker.finish_stats(scan, now),
            Limiter::Forwarding(forwarder) => forwarder.finish_stats(scan, now),
        }
    }

    pub(super) fn limit_detail(&mut self, limit: LimitId, key: Option<Key>, now: Time) -> LimitDetail {
        match self {
            Limiter::Local(locker) => locker.limit_detail(limit, key, now),
            Limiter::Forwarding(forwarder) => forwarder.limit_detail(limit, key, now),
        }
    }

    pub(super) fn scan_callers(&self, scan: &mut CallerScan) -> bool {
        match self {
            Limiter::Local(locker) => locker.scan_callers(scan),
            Limiter::Forwarding(forwarder) => forwarder.scan_callers(scan),
        }
    }

    #[cfg(test)]
    pub(super) fn usage(&mut self, limit: LimitId, key: Key, now: Time) -> crate::locker::Usage {
        match self {
            Limiter::Local(locker) => locker.usage(limit, key, now),
            Limiter::Forwarding(forwarder) => forwarder.usage(limit, key, now),
        }
    }
}

/// The wall clock.
impl Limiter {
    pub(super) fn expects_wall(&self, unix_nanos: i128, now: Time) -> bool {
        match self {
            Limiter::Local(locker) => locker.expects_wall(unix_nanos, now),
            Limiter::Forwarding(forwarder) => forwarder.expects_wall(unix_nanos, now),
        }
    }

    pub(super) fn set_wall(&mut self, wall: WallSample, now: Time) {
        if let Limiter::Local(locker) = self {
            locker.set_wall(wall, now);
        }
    }

    pub(super) fn readings(&self) -> Vec<WallReading> {
        match self {
            Limiter::Local(locker) => locker.readings(),
            Limiter::Forwarding(forwarder) => forwarder.readings(),
        }
    }
}

/// The hand-over, and the processes before and after this one.
impl Limiter {
    /// Gives all windows and waiters away, once: from here on another process decides.
    pub(super) fn hand_over(&mut self, now: Time) {
        if let Limiter::Local(locker) = self {
            let locker = std::mem::replace(locker, Locker::new(Vec::new()));
            *self = Limiter::Forwarding(locker.hand_over(now));
        }
    }

    pub(super) fn is_handed_over(&self) -> bool {
        matches!(self, Limiter::Forwarding(_))
    }

    /// The locker, for the hand-over; `None` once another process decides.
    pub(super) fn local(&mut self) -> Option<&mut Locker> {
        match self {
            Limiter::Local(locker) => Some(locker),
            Limiter::Forwarding(_) => None,
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        match self {
            Limiter::Local(_) => None,
            Limiter::Forwarding(forwarder) => forwarder.poll_event(),
        }
    }

    pub(super) fn has_events(&self) -> bool {
        matches!(self, Limiter::Forwarding(forwarder) if forwarder.has_events())
    }

    pub(super) fn handle_verdict(&mut self, ticket: Ticket, verdict: Result<Vec<GrantedSlots>, Sorry>, now: Time) {
        if let Limiter::Forwarding(forwarder) = self {
            forwarder.handle_verdict(ticket, verdict, now);
        }
    }

    pub(super) fn orphaned_tickets(&self) -> Vec<Ticket> {
        match self {
            Limiter::Local(_) => Vec::new(),
            Limiter::Forwarding(forwarder) => forwarder.orphaned_tickets(),
        }
    }

    pub(super) fn knows_limits_of(&self, event: &Event) -> bool {
        match self {
            Limiter::Local(locker) => locker.knows_limits_of(event),
            Limiter::Forwarding(forwarder) => forwarder.knows_limits_of(event),
        }
    }

    pub(super) fn handle_remote(&mut self, event: &Event, now: Time) {
        match self {
            Limiter::Local(locker) => locker.handle_remote(event, now),
            Limiter::Forwarding(forwarder) => forwarder.handle_remote(event),
        }
    }

    pub(super) fn delegate(&mut self, grant: Grant) -> Vec<GrantedSlots> {
        match self {
            Limiter::Local(locker) => locker.delegate(grant),
            Limiter::Forwarding(forwarder) => forwarder.delegate(grant),
        }
    }

    pub(super) fn remote_lost(&mut self, now: Time) {
        match self {
            Limiter::Local(locker) => locker.remote_lost(now),
            Limiter::Forwarding(forwarder) => forwarder.remote_lost(now),
        }
    }
}

/// The journal.
impl Limiter {
    pub(super) fn crash_limit_snapshots(&self) -> Vec<LimitSnapshot> {
        match self {
            Limiter::Local(locker) => locker.crash_limit_snapshots(),
            Limiter::Forwarding(forwarder) => forwarder.crash_limit_snapshots(),
        }
    }

    pub(super) fn begin_persisting(&mut self, begin: JournalStart, now: Time) {
        if let Limiter::Local(locker) = self {
            locker.begin_persisting(begin, now);
        }
    }

    pub(super) fn end_persisting(&mut self, now: Time) {
        if let Limiter::Local(locker) = self {
            locker.end_persisting(now);
        }
    }

    pub(super) fn is_persisting(&self) -> bool {
        matches!(self, Limiter::Local(locker) if locker.is_persisting())
    }

    pub(super) fn is_catching_up(&self) -> bool {
        match self {
            Limiter::Local(locker) => locker.is_catching_up(),
            Limiter::Forwarding(forwarder) => forwarder.is_catching_up(),
        }
    }

    pub(super) fn has_unwritten_windows(&self) -> bool {
        matches!(self, Limiter::Local(locker) if locker.has_unwritten_windows())
    }

    pub(super) fn has_records(&self) -> bool {
        matches!(self, Limiter::Local(locker) if locker.has_records())
    }

    pub(super) fn poll_records(&mut self, most: usize, now: Time) -> Vec<JournalRecord> {
        match self {
            Limiter::Local(locker) => locker.poll_records(most, now),
            Limiter::Forwarding(_) => Vec::new(),
        }
    }

    pub(super) fn records_written(&mut self, written: impl IntoIterator<Item = WriteToken>, now: Time) {
        if let Limiter::Local(locker) = self {
            locker.records_written(written, now);
        }
    }

    pub(super) fn limits_written(&mut self) {
        if let Limiter::Local(locker) = self {
            locker.limits_written();
        }
    }
}

/// The store of shared limits.
impl Limiter {
    pub(super) fn shares(&self) -> bool {
        match self {
            Limiter::Local(locker) => locker.shares(),
            Limiter::Forwarding(forwarder) => forwarder.shares(),
        }
    }

    pub(super) fn shared(&self) -> Vec<LimitId> {
        match self {
            Limiter::Local(locker) => locker.shared(),
            Limiter::Forwarding(forwarder) => forwarder.shared(),
        }
    }

    pub(super) fn open_sharing(&mut self, now: Time) {
        if let Limiter::Local(locker) = self {
            locker.open_sharing(now);
        }
    }

    pub(super) fn close_sharing(&mut self, now: Time) {
        if let Limiter::Local(locker) = self {
            locker.close_sharing(now);
        }
    }

    pub(super) fn set_sharing_mode(&mut self, limit: Option<LimitId>, mode: SharingMode, now: Time) {
        if let Limiter::Local(locker) = self {
            locker.set_sharing_mode(limit, mode, now);
        }
    }

    pub(super) fn has_sync(&self) -> bool {
        matches!(self, Limiter::Local(locker) if locker.has_sync())
    }

    pub(super) fn take_sync(&mut self, trigger: SyncTrigger, now: Time) -> SyncRequest {
        match self {
            Limiter::Local(locker) => locker.take_sync(trigger, now),
            Limiter::Forwarding(_) => SyncRequest::default(),
        }
    }

    pub(super) fn set_reported_spans(&mut self, spans: &[(LimitId, Duration)]) {
        if let Limiter::Local(locker) = self {
            locker.set_reported_spans(spans);
        }
    }

    pub(super) fn sync_answered(
        &mut self,
        sync: &SyncRequest,
        answers: &[SlotGrant],
        began: Time,
        ended: Time,
        now: Time,
    ) {
        if let Limiter::Local(locker) = self {
            locker.sync_answered(sync, answers, began, ended, now);
        }
    }

    pub(super) fn sync_lost(&mut self, sync: SyncRequest, now: Time) {
        if let Limiter::Local(locker) = self {
            locker.sync_lost(sync, now);
        }
    }

    pub(super) fn sign_off(&mut self, now: Time) -> SyncRequest {
        match self {
            Limiter::Local(locker) => locker.sign_off(now),
            Limiter::Forwarding(_) => SyncRequest::default(),
        }
    }
}

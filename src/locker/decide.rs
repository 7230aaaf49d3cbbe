//! The decision itself: looks at every window of an ask, and takes all slots or none.

use std::time::Duration;

use smallvec::SmallVec;

use super::api::{Claim, Grant, HeldSlots, LimitId, RefusalReason, Sorry};
use super::counters::Counters;
use super::window::Window;
use crate::time::Time;

/// Result of a look at all windows of an ask.
pub(super) enum AskCheck {
    /// Every window has room, and no waiter is in the queue.
    Open,
    /// Some window has no room, or has waiters in its queue: the ask must queue behind them.
    Blocked,
}

/// A claim, and where its window is.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClaimCheck {
    /// Index of the window in the table; `None` as long as the key has none.
    pub(super) window: Option<u32>,
    /// Limit of the claim, for the rule of the window.
    pub(super) limit: LimitId,
    /// True if the window had room at the time of the check, all of it written down.
    pub(super) room: bool,
    /// True if it had room that must be written down first; never true together with `room`.
    pub(super) awaits_io: bool,
}

/// One check for each claim of an ask, in the same order. Most requests pass one or two limits, so
/// these need no allocation.
pub(super) type ClaimChecks = SmallVec<[ClaimCheck; 2]>;

impl Counters {
    /// Looks at every window of an ask, and takes no slot. Windows only drop what has expired; a
    /// key without a window is judged by a fresh one, which is not stored.
    ///
    /// Fills `checks` in the order of the claims. A dry-run limit never blocks.
    ///
    /// # Errors
    /// `TooManyKeys` if the limit has `max_keys` windows and the key is new (retry after one span),
    /// `CostTooHigh` if the claim is larger than the whole limit, `StoreLost` if it is larger only
    /// than this gateway's fraction, and `Full` if a limit that refuses at once has no room.
    pub(super) fn check_claims(
        &mut self,
        claims: &[Claim],
        checks: &mut ClaimChecks,
        now: Time,
    ) -> Result<AskCheck, Sorry> {
        checks.clear();
        let mut outcome = AskCheck::Open;
        for claim in claims {
            let rule = &self.limits.rules[claim.limit.at()];
            let found = self.table.find(claim.limit, claim.key);
            let mut check = ClaimCheck { window: found, limit: claim.limit, room: false, awaits_io: false };
            let sorry = |reason, after| Sorry { reason, limit: claim.limit, until: now + after, exact: false };
            let mut alone = true;
            if let Some(found) = found {
                let window = self.table.window_mut(found);
                window.expire(rule, now);
                check.room = window.fits(rule, claim.cost, now);
                check.awaits_io = !check.room && window.awaits_io(rule, claim.cost, now);
                alone = window.queue().is_none();
            } else {
                let fresh = |check: &ClaimCheck| check.limit == claim.limit && check.window.is_none();
                let keys = rule.live + checks.iter().filter(|check| fresh(check)).count();
                if keys < mutant!(rule.max_keys, "one key too many", rule.max_keys + 1) {
                    let window = Window::new(claim.limit, claim.key, rule, now);
                    check.room = window.fits(rule, claim.cost, now);
                    check.awaits_io = !check.room && window.awaits_io(rule, claim.cost, now);
                } else if !rule.dry_run {
                    return Err(sorry(RefusalReason::TooManyKeys, Duration::from_nanos(rule.span.max(1_000_000))));
                }
            }
            if !mutant!(rule.dry_run, "a dry run holds requests back", false) {
                if rule.slots(claim.cost) > rule.requests {
                    let reason = if rule.is_fraction { RefusalReason::StoreLost } else { RefusalReason::CostTooHigh };
                    return Err(sorry(reason, Duration::from_millis(1)));
                }
                if rule.refuses && !check.room && !check.awaits_io {
                    return Err(self.sorry_at(claim, found, RefusalReason::Full, now));
                }
                if !(check.room && alone) {
                    outcome = AskCheck::Blocked;
                }
            }
            checks.push(check);
        }
        Ok(outcome)
    }

    /// Takes the slots of a request that may go: `checks` come from `check_claims` at the same
    /// `now`.
    #[inline]
    pub(super) fn take(&mut self, claims: &[Claim], checks: &ClaimChecks, now: Time) -> Grant {
        let mut grant = Grant::default();
        for (claim, check) in claims.iter().zip(checks) {
            self.take_claim(&mut grant, claim, *check, now);
        }
        grant
    }

    /// Takes the slots of one claim and adds them to the grant; `until` of the grant becomes the
    /// earliest of all windows. Creates the window of a new key. Asks for another write if few
    /// prewritten slots are left, and for slots of the store if it manages them. Without room it
    /// notes the hit of a dry-run limit.
    #[inline]
    pub(super) fn take_claim(&mut self, grant: &mut Grant, claim: &Claim, check: ClaimCheck, now: Time) {
        if !check.room {
            self.note_dry_run(grant, claim, check, now);
            return;
        }
        let found = match check.window {
            Some(found) => found,
            None => self.create_window(claim.limit, claim.key, now),
        };
        let rule = &self.limits.rules[claim.limit.at()];
        let window = self.table.window_mut(found);
        let until = window.take(rule, claim.cost);
        let (low, store_managed) = (window.needs_more_prewritten(rule), rule.store_managed);
        let cost = rule.slots(claim.cost);
        grant.until = grant.until.min(until);
        grant.held.push(HeldSlots {
            window: found,
            generation: window.generation,
            limit: claim.limit,
            cost,
            answered: rule.answered,
            settled: mutant!(cost == 0, "a slot settles at its grant", {
                window.settle(rule, cost, now);
                true
            }),
            flying: rule.counts_flights(),
        });
        if low {
            self.request_write(found);
        }
        if store_managed {
            self.sharing.queue_refill(&self.limits, &mut self.table, found, now);
        }
    }

    /// Notes that a dry-run limit would have held the request back; takes nothing. Only the first
    /// such limit is noted, with the time of its opening, at least one millisecond ahead.
    fn note_dry_run(&self, grant: &mut Grant, claim: &Claim, check: ClaimCheck, now: Time) {
        let rule = &self.limits.rules[claim.limit.at()];
        debug_assert!(rule.dry_run, "only a dry-run limit is overruled");
        if grant.dry_run_hit.is_none() {
            let opening = check.window.and_then(|found| self.table.window(found).opening(rule, 0, 0, claim.cost, now));
            let until = opening.unwrap_or(now + Duration::from_nanos(rule.span)).max(now + Duration::from_millis(1));
            grant.dry_run_hit = Some(Box::new((claim.limit, until)));
        }
    }
}

//! Locker tests: seeded random worlds judged by a naive oracle, and single cases.

mod arrivals;
mod boundaries;
mod calendars;
mod claimants;
mod clock_worlds;
mod crash_worlds;
mod crashes;
mod dry_runs;
mod endings;
mod forecasts;
mod forwarding;
mod generators;
mod holds;
mod invariants;
mod journal_lists;
mod live_copies;
mod locker_world;
mod mutants;
mod oracle;
mod order;
mod overflows;
mod persisting;
mod priorities;
mod random_worlds;
mod refusals;
mod reloads;
mod retirement;
mod rule_history;
mod sharing;
mod sharing_changes;
mod sim_disk;
mod staggering;
mod statistics;
mod steps;
mod told_times;
mod upgrades;
mod waiting_properties;
mod world_rules;

use std::sync::atomic::{AtomicU64, Ordering};

pub(super) use self::generators::SeededRng;
use super::*;

/// The time `millis` milliseconds after the start.
pub(super) fn ms(millis: u64) -> Time {
    Time::from_nanos(millis * 1_000_000)
}

/// Wall clock that began with Unix time and was never set since.
pub(super) const WALL: WallSample = WallSample { at_start: 0, asleep: 0, is_set: true };

/// Number of limits created so far, for unique names.
static MADE: AtomicU64 = AtomicU64::new(0);

/// Replaces one limit's rule by a reload. Requests under way may go on for an unlimited time.
pub(super) fn change(locker: &mut Locker, id: LimitId, rule: Limit, now: Time) -> ReloadSummary {
    let mut limits = locker.limits().to_vec();
    let known = &mut limits[id.at()];
    *known = Limit { name: known.name.clone(), ..rule };
    locker.reload(limits, Duration::from_secs(1_000_000_000), now)
}

/// A limit of `requests` per `per` milliseconds with a maximum wait of one minute.
pub(super) fn limit(requests: u32, per: u64, kind: Kind) -> Limit {
    Limit {
        name: format!("test {}", MADE.fetch_add(1, Ordering::Relaxed)).into(),
        keyed_by: "".into(),
        rate: Some(Rate {
            requests,
            per: Duration::from_millis(per),
            guard: Duration::ZERO,
            kind,
            counts: Counts::Sent,
        }),
        in_flight: None,
        when_full: WhenFull::Wait,
        max_wait: Duration::from_secs(60),
        max_waiting: 1000,
        share_by: ShareBy::Caller,
        priority: Priority::WithinCaller,
        max_keys: 1_000_000,
        dry_run: false,
        shared: false,
    }
}

/// A claim of `cost` slots of limit number `limit` under `key`.
pub(super) fn claim(limit: u32, key: u128, cost: u32) -> Claim {
    Claim { limit: LimitId(limit), key: Key(key), cost }
}

/// A first ask of one caller, with the limits' own maximum wait.
pub(super) fn ask(claims: &[Claim], caller: u64) -> Ask<'_> {
    Ask { claims, caller: Caller(caller), urgency: 3, max_wait: None, arrived: None, kind: AskKind::New }
}

/// All verdicts that are ready.
pub(super) fn drain(locker: &mut Locker) -> Vec<(Ticket, Verdict)> {
    std::iter::from_fn(|| locker.poll_verdict()).collect()
}

/// Asks, and settles a grant at once. Returns the verdict if it is no grant.
pub(super) fn send(locker: &mut Locker, ask: &Ask<'_>, now: Time) -> Result<(), Verdict> {
    let verdict = locker.ask(ask, now);
    let Verdict::Go(mut grant) = verdict else { return Err(verdict) };
    locker.settle(&mut grant, SettlePoint::Answered, now);
    locker.finish(grant, now);
    Ok(())
}

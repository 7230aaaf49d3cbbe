//! What holds while the store cannot be asked: that changes with time.

use std::time::Duration;

use super::{DRIFT, PRESENCE, WhenLost};
use crate::locker::{Authority, Counts, HORIZON_MOST, Kind, LEASE, Limit, Unit};
use crate::time::Time;

/// Whose word it is whether a request may pass a shared limit, while the store cannot be asked that answered at `last`.
pub(super) fn authority(
    when_lost: &WhenLost,
    limit: &Limit,
    last: Option<Time>,
    under_way: Duration,
    now: Time,
) -> Authority {
    match (when_lost, last) {
        (WhenLost::Refuse, _) | (WhenLost::Share { .. }, None) => Authority::Nobody,
        (WhenLost::Allow, _) => Authority::Alone,
        (WhenLost::Share { gateways, share_for, .. }, Some(last)) => {
            // The store gives it to others later by its presence, a lease and more.
            let until = last + *share_for;
            let is_time = last + until_share(limit, under_way) <= now && now < until;
            if is_time { Authority::Part { parts: *gateways, until } } else { Authority::Nobody }
        }
    }
}

/// How long after the last answer others have given up what they must leave to this gateway: the store takes it for gone
/// after its presence; what it grants until then is used within a horizon and a lease, and counts for a span by its clock.
fn until_share(limit: &Limit, under_way: Duration) -> Duration {
    let rate = limit.rate.as_ref();
    let span = rate.map_or(Duration::ZERO, |rate| rate.per + rate.guard);
    let answered = rate.is_none_or(|rate| rate.counts == Counts::Answered);
    // A day may have an hour more.
    let is_day = rate.is_some_and(|rate| matches!(rate.kind, Kind::Calendar { unit: Unit::Day, .. }));
    let more = if is_day { Duration::from_secs(2 * 3600) } else { Duration::ZERO };
    PRESENCE + HORIZON_MOST + LEASE + span + span / DRIFT + more + if answered { under_way } else { limit.linger() }
}

/// What is logged of it.
pub(super) fn in_words(authority: Authority) -> String {
    match authority {
        Authority::Store => "it is the store's to say who passes".to_owned(),
        Authority::Nobody => "nobody passes until the store answers".to_owned(),
        Authority::Part { parts, .. } => format!("the store is lost: this gateway goes on with one of {parts} parts"),
        Authority::Alone => "the store is lost: this gateway goes on as if it were alone".to_owned(),
    }
}

//! What holds while the store cannot be asked: that changes with time.

use std::time::Duration;

use super::{DRIFT, PRESENCE, WhenLost};
use crate::locker::{Counts, Kind, LEASE, Limit, MAX_HORIZON, SharingMode, Unit};
use crate::time::Time;

/// Whose word it is whether a request may pass a shared limit, while the store cannot be asked that answered at `last`.
/// `under_way`: how long a request may take from its permit to its settle at most, with `counts = "answered"`; `None`: any time.
pub(super) fn fallback_mode(
    when_lost: &WhenLost,
    limit: &Limit,
    last: Option<Time>,
    under_way: Option<Duration>,
    now: Time,
) -> SharingMode {
    match (when_lost, last) {
        (WhenLost::Refuse, _) | (WhenLost::Share { .. }, None) => SharingMode::Blocked,
        (WhenLost::Allow, _) => SharingMode::Standalone,
        (WhenLost::Share { gateways, share_for, .. }, Some(last)) => {
            // The store gives it to others later by its presence, a lease and more.
            let until = last + *share_for;
            let is_safe = until_share(limit, under_way).is_some_and(|wait| last + wait <= now);
            if is_safe && now < until {
                SharingMode::Fraction { parts: *gateways, until }
            } else {
                SharingMode::Blocked
            }
        }
    }
}

/// How long after the last answer others have given up what they must leave to this gateway: the store takes it for gone
/// after its presence; what it grants until then is used within a horizon and a lease, and counts for a span by its clock.
/// `None`: nobody here can know, because requests of others may be under way for any time.
fn until_share(limit: &Limit, under_way: Option<Duration>) -> Option<Duration> {
    if limit.in_flight.is_some() {
        return None;
    }
    let rate = limit.rate.as_ref();
    let span = rate.map_or(Duration::ZERO, |rate| rate.per + rate.guard);
    let answered = rate.is_none_or(|rate| rate.counts == Counts::Answered);
    // A day may have an hour more.
    let is_day = rate.is_some_and(|rate| matches!(rate.kind, Kind::Calendar { unit: Unit::Day, .. }));
    let more = if is_day { Duration::from_secs(2 * 3600) } else { Duration::ZERO };
    let settles = if answered { under_way? } else { limit.linger() };
    Some(PRESENCE + MAX_HORIZON + LEASE + span + span / DRIFT + more + settles)
}

/// What is logged of it.
pub(super) fn describe(fallback_mode: SharingMode) -> String {
    match fallback_mode {
        SharingMode::Store => "it is the store's to say who passes".to_owned(),
        SharingMode::Blocked => "nobody passes until the store answers".to_owned(),
        SharingMode::Fraction { parts, .. } => {
            format!("the store is lost: this gateway goes on with one of {parts} parts")
        }
        SharingMode::Standalone => "the store is lost: this gateway goes on as if it were alone".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::locker::{Priority, Rate, ShareBy, WhenFull};

    const SECOND: Duration = Duration::from_secs(1);

    /// Whether a gateway of two has its part so long after its last contact.
    fn has_part(limit: &Limit, under_way: Option<Duration>, after: Duration) -> bool {
        let gateways = NonZeroU32::new(2).unwrap();
        let when_lost = WhenLost::Share { gateways, name: "a".to_owned(), share_for: 3600 * SECOND };
        let last = Time::START;
        matches!(fallback_mode(&when_lost, limit, Some(last), under_way, last + after), SharingMode::Fraction { .. })
    }

    fn limit(counts: Counts) -> Limit {
        let rate = Rate { requests: 10, per: SECOND, guard: Duration::ZERO, kind: Kind::Sliding, counts };
        Limit {
            name: "shared".into(),
            keyed_by: "".into(),
            rate: Some(rate),
            in_flight: None,
            when_full: WhenFull::Wait,
            max_wait: SECOND,
            max_waiting: 10,
            share_by: ShareBy::Nobody,
            priority: Priority::WithinCaller,
            max_keys: 10,
            dry_run: false,
            shared: true,
        }
    }

    #[test]
    fn what_counts_from_the_answer_has_a_part_only_if_a_request_is_bounded() {
        assert!(has_part(&limit(Counts::Sent), None, 4 * SECOND));
        let answered = limit(Counts::Answered);
        assert!(!has_part(&answered, None, 3599 * SECOND), "another's upload may have begun an hour ago");
        assert!(!has_part(&answered, Some(30 * SECOND), 31 * SECOND));
        assert!(has_part(&answered, Some(30 * SECOND), 33 * SECOND));
    }

    #[test]
    fn what_is_in_flight_has_no_part() {
        for counts in [Counts::Sent, Counts::Answered] {
            let limit = Limit { in_flight: Some(10), ..limit(counts) };
            assert!(!has_part(&limit, Some(SECOND), 3599 * SECOND), "a response may take any time");
        }
    }
}

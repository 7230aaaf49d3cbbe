//! Fallback for shared limits while the store is unreachable: a function of the settings and of
//! time.
//!
//! Nothing is stored here: the same settings, last contact and time always give the same fallback.
//! The client asks again every 100 ms during an outage, and passes each change to the locker.

use std::time::Duration;

use super::{DRIFT, PRESENCE, WhenLost};
use crate::locker::{Counts, Kind, LEASE, Limit, MAX_HORIZON, SharingMode, Unit};
use crate::time::Time;

/// Fallback of one shared limit at `now`, while the store is unreachable. `last`: time of the last
/// contact with it. `max_settle_time`: longest time from a permit to its settle, with `counts =
/// "answered"`; `None`: no bound.
///
/// | `if_store_is_lost` | result |
/// |---|---|
/// | refuse | blocked |
/// | share, without a contact so far | blocked |
/// | share, before it is safe or after `share_for` | blocked |
/// | share, in between | fraction |
/// | allow | standalone |
pub(super) fn fallback_mode(
    when_lost: &WhenLost,
    limit: &Limit,
    last: Option<Time>,
    max_settle_time: Option<Duration>,
    now: Time,
) -> SharingMode {
    match (when_lost, last) {
        (WhenLost::Refuse, _) | (WhenLost::Share { .. }, None) => SharingMode::Blocked,
        (WhenLost::Allow, _) => SharingMode::Standalone,
        (WhenLost::Share { gateways, share_for, .. }, Some(last)) => {
            // The store leaves the fraction to this gateway for longer: by its presence, a lease and the clock drift.
            let until = last + *share_for;
            let is_safe = safe_after(limit, max_settle_time).is_some_and(|delay| last + delay <= now);
            if is_safe && now < until {
                SharingMode::Fraction { parts: *gateways, until }
            } else {
                SharingMode::Blocked
            }
        }
    }
}

/// Time from the last contact until the use of the fraction is safe, because grants of this
/// fraction to others no longer count. The store takes this gateway for gone after its presence;
/// slots that it grants until then are used within a horizon and a lease, and count for a span by
/// the store's clock. `None`: never, as requests of other gateways may be under way for any time.
fn safe_after(limit: &Limit, max_settle_time: Option<Duration>) -> Option<Duration> {
    if limit.in_flight.is_some() {
        return None;
    }
    let rate = limit.rate.as_ref();
    let span = rate.map_or(Duration::ZERO, |rate| rate.per + rate.guard);
    let answered = rate.is_none_or(|rate| rate.counts == Counts::Answered);
    // A day is longer when daylight saving time ends: by an hour, counted twice to be safe.
    let is_day = rate.is_some_and(|rate| matches!(rate.kind, Kind::Calendar { unit: Unit::Day, .. }));
    let longer_day = if is_day { Duration::from_secs(2 * 3600) } else { Duration::ZERO };
    let settles = if answered { max_settle_time? } else { limit.linger() };
    Some(PRESENCE + MAX_HORIZON + LEASE + span + span / DRIFT + longer_day + settles)
}

/// Second half of the log message of an outage: its effect on shared limits.
///
/// Follows the error after a semicolon.
pub(super) fn announce(when_lost: &WhenLost) -> &'static str {
    match when_lost {
        WhenLost::Refuse => "no request passes a shared limit until the store is back",
        WhenLost::Share { .. } => "this gateway uses its fraction of each shared limit as soon as that is safe",
        WhenLost::Allow => "each gateway uses the whole of each shared limit, and together they exceed it",
    }
}

/// Log message of a change to this fallback.
///
/// Logged with the name of the limit.
pub(super) fn describe(mode: SharingMode) -> String {
    match mode {
        SharingMode::Store => "store up: it decides about this limit".to_owned(),
        SharingMode::Blocked => "store down: no request passes this limit until it answers".to_owned(),
        SharingMode::Fraction { parts, .. } => {
            format!("store down: this gateway uses its fraction of this limit, 1/{parts}")
        }
        SharingMode::Standalone => {
            "store down: this gateway uses the whole limit, as if it were the only one".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::locker::{Priority, Rate, ShareBy, WhenFull};

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns true if one of two gateways may use its fraction at `after` from its last contact.
    fn has_fraction(limit: &Limit, max_settle_time: Option<Duration>, after: Duration) -> bool {
        let gateways = NonZeroU32::new(2).unwrap();
        let when_lost = WhenLost::Share { gateways, name: "a".to_owned(), share_for: 3600 * SECOND };
        let last = Time::START;
        matches!(
            fallback_mode(&when_lost, limit, Some(last), max_settle_time, last + after),
            SharingMode::Fraction { .. }
        )
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
        assert!(has_fraction(&limit(Counts::Sent), None, 4 * SECOND));
        let answered = limit(Counts::Answered);
        assert!(!has_fraction(&answered, None, 3599 * SECOND), "another's upload may have begun an hour ago");
        assert!(!has_fraction(&answered, Some(30 * SECOND), 31 * SECOND));
        assert!(has_fraction(&answered, Some(30 * SECOND), 33 * SECOND));
    }

    #[test]
    fn what_is_in_flight_has_no_part() {
        for counts in [Counts::Sent, Counts::Answered] {
            let limit = Limit { in_flight: Some(10), ..limit(counts) };
            assert!(!has_fraction(&limit, Some(SECOND), 3599 * SECOND), "a response may take any time");
        }
    }

    /// The first time after the last contact at which a fraction of this limit may be used.
    fn safe_from(limit: &Limit, max_settle_time: Option<Duration>) -> Duration {
        let (mut early, mut late) = (Duration::ZERO, 3599 * SECOND);
        while late - early > Duration::from_nanos(1) {
            let middle = early + (late - early) / 2;
            *(if has_fraction(limit, max_settle_time, middle) { &mut late } else { &mut early }) = middle;
        }
        late
    }

    #[test]
    fn a_part_is_used_once_no_slot_counts_that_the_store_gave_others_in_the_meantime() {
        // A second of presence, 50 ms ahead, a lease of 250 ms.
        let granted = Duration::from_millis(1300);
        let with = |counts, per: Duration, guard, kind| {
            let rate = Rate { per, guard, kind, ..limit(counts).rate.unwrap() };
            Limit { rate: Some(rate), ..limit(counts) }
        };
        let sent = with(Counts::Sent, 10 * SECOND, 2 * SECOND, Kind::Sliding);
        let drift = Duration::from_millis(12);
        assert_eq!(safe_from(&sent, None), granted + 12 * SECOND + drift + sent.linger());
        let answered = with(Counts::Answered, 10 * SECOND, 2 * SECOND, Kind::Sliding);
        assert_eq!(safe_from(&answered, Some(30 * SECOND)), granted + 12 * SECOND + drift + 30 * SECOND);
        let zone = jiff::tz::TimeZone::UTC;
        let day = |unit| with(Counts::Sent, 1000 * SECOND, Duration::ZERO, Kind::Calendar { unit, zone: zone.clone() });
        let hour = safe_from(&day(Unit::Hour), None);
        // A share is left for an hour here: that of a day is safe after two more.
        assert_eq!(safe_after(&day(Unit::Day), None), Some(hour + 7200 * SECOND));
    }

    #[test]
    fn a_part_is_used_until_the_share_ends_and_no_longer() {
        let limit = limit(Counts::Sent);
        assert!(has_fraction(&limit, None, 3600 * SECOND - Duration::from_nanos(1)));
        assert!(!has_fraction(&limit, None, 3600 * SECOND));
    }

    #[test]
    fn each_fallback_says_what_it_means_for_requests() {
        let share = WhenLost::Share { gateways: NonZeroU32::new(3).unwrap(), name: "a".to_owned(), share_for: SECOND };
        let said = [WhenLost::Refuse, share, WhenLost::Allow].map(|when_lost| announce(&when_lost));
        assert!(
            said[0].contains("no request") && said[1].contains("its fraction") && said[2].contains("exceed"),
            "{said:?}"
        );
        let parts = NonZeroU32::new(3).unwrap();
        let modes = [
            SharingMode::Store,
            SharingMode::Blocked,
            SharingMode::Fraction { parts, until: Time::NEVER },
            SharingMode::Standalone,
        ];
        let said = modes.map(describe);
        assert!(said[0].contains("store up") && said[1..].iter().all(|text| text.contains("store down")), "{said:?}");
        assert!(said[1].contains("no request") && said[2].contains("1/3") && said[3].contains("whole"), "{said:?}");
    }
}

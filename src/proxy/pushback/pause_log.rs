//! Pause log: pushbacks of origins that are in force, by window and credential.
//!
//! A refusal is meant for the credential that the request carried: an account without quota must not
//! stop the others. So a pause belongs to a window and a credential. It is kept by the locker, as
//! the pause of a window of its own that requests with this credential take a slot in, too, as long
//! as the pause lasts; it counts a part of what the limit's own window counts, so it holds nothing
//! back but during the pause. A second credential that is refused meanwhile shows that the refusal
//! is meant for all: then the limit's own window pauses.
//!
//! The log is bounded. Without room for another pause the window pauses, as it does if the limit has
//! no `pushback_key`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::signal::Signal;
use crate::locker::{Key, LimitId};
use crate::time::Time;

/// Most windows with pauses in the log: callers choose their number, for a limit with a key.
const MAX_WINDOWS: usize = 4096;
/// Longest pause that a response may name: an absurd Retry-After must not close a window for a year.
const MAX_PAUSE: Duration = Duration::from_secs(60 * 60);

/// Pauses in force.
#[derive(Debug, Default)]
pub(in crate::proxy) struct PauseLog {
    windows: Mutex<HashMap<(LimitId, Key), WindowPauses>>,
    /// Number of changes.
    changes: AtomicU64,
    /// End of the last pause, in nanoseconds of [`Time`]: requests look at it first.
    last_end: AtomicU64,
}

/// Pushbacks of one window.
#[derive(Debug)]
struct WindowPauses {
    /// Credential that was refused, and the window that its pause is kept in; `None`: the limit's own
    /// window pauses.
    credential: Option<Key>,
    /// End of the pause.
    until: Time,
    /// Last pause that the origin did not name, for the next one.
    backoff: Duration,
}

/// Pause that a response asks for, for one window.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct PauseRequest {
    /// Pushback that the response contains.
    pub(in crate::proxy) signal: Signal,
    /// First pause if it names no time.
    pub(in crate::proxy) first: Duration,
    /// Longest pause if it names no time.
    pub(in crate::proxy) max_backoff: Duration,
    /// Window that stands for the request's credential; `None` if the limit tells none apart.
    pub(in crate::proxy) credential: Option<Key>,
}

/// Pause to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::proxy) struct Pause {
    /// Key of the window that pauses.
    pub(in crate::proxy) key: Key,
    /// Length from now.
    pub(in crate::proxy) length: Duration,
}

impl PauseLog {
    /// Number of changes so far.
    pub(in crate::proxy) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// True if any window pauses. Reads the time only if one has.
    pub(in crate::proxy) fn is_active(&self, now: impl FnOnce() -> Time) -> bool {
        let last_end = self.last_end.load(Ordering::Acquire);
        last_end > 0 && now().as_nanos() < last_end
    }

    /// Records a pushback for a window, and returns the pause that follows from it.
    ///
    /// A pause that the origin does not name is `first`, and twice the one before if the origin refuses
    /// again after it, and before as much time again has passed. Refusals of requests that were under
    /// way when it began do not double it.
    pub(in crate::proxy) fn record(&self, limit: LimitId, key: Key, asked: PauseRequest, now: Time) -> Pause {
        let mut windows = self.lock();
        if windows.len() >= MAX_WINDOWS {
            windows.retain(|_, pauses| pauses.until + pauses.backoff > now);
        }
        let has_room = windows.len() < MAX_WINDOWS;
        let before = windows.get(&(limit, key));
        let backoff = match before {
            Some(before) if now < before.until => before.backoff,
            Some(before) if now < before.until + before.backoff => before.backoff.saturating_mul(2),
            Some(_) | None => asked.first,
        };
        let backoff = backoff.max(asked.first).min(asked.max_backoff);
        let length = match asked.signal {
            Signal::For(named) => named.min(MAX_PAUSE),
            Signal::Unnamed => backoff,
        };
        let is_same = |before: &WindowPauses| now >= before.until || before.credential == asked.credential;
        let credential = asked.credential.filter(|_| has_room && before.is_none_or(is_same));
        let until = before.filter(|before| before.credential == credential).map_or(Time::START, |before| before.until);
        let backoff = if asked.signal == Signal::Unnamed { backoff } else { Duration::ZERO };
        let pauses = WindowPauses { credential, until: until.max(now + length), backoff };
        if has_room || before.is_some() {
            windows.insert((limit, key), pauses);
        }
        self.last_end.fetch_max((now + length).as_nanos(), Ordering::Release);
        // Under the lock, so that a request that sees the number finds the pause.
        self.changes.fetch_add(1, Ordering::Release);
        Pause { key: credential.unwrap_or(key), length }
    }

    /// Window of a credential that is paused for now, in which its requests must take a slot, too, and
    /// the end of its pause. `credential`: computes that of the request.
    pub(in crate::proxy) fn paused_credential(
        &self,
        limit: LimitId,
        key: Key,
        now: Time,
        credential: impl FnOnce() -> Option<Key>,
    ) -> Option<(Key, Time)> {
        let (paused, until) = match self.lock().get(&(limit, key)) {
            Some(pauses) if pauses.until > now => (pauses.credential?, pauses.until),
            Some(_) | None => return None,
        };
        credential().filter(|credential| *credential == paused).map(|credential| (credential, until))
    }

    /// A poisoned lock is used on: no entry is half changed, since each is replaced as a whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<(LimitId, Key), WindowPauses>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: (LimitId, Key) = (LimitId(1), Key(7));
    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Time {
        Time::START + SECOND * u32::try_from(seconds).expect("few")
    }

    fn asked(signal: Signal, credential: Option<u128>) -> PauseRequest {
        PauseRequest { signal, first: SECOND, max_backoff: 10 * SECOND, credential: credential.map(Key) }
    }

    fn record(log: &PauseLog, signal: Signal, credential: Option<u128>, now: Time) -> (u128, u64) {
        let pause = log.record(WINDOW.0, WINDOW.1, asked(signal, credential), now);
        (pause.key.0, pause.length.as_secs())
    }

    fn paused(log: &PauseLog, credential: u128, now: Time) -> bool {
        log.paused_credential(WINDOW.0, WINDOW.1, now, || Some(Key(credential))).is_some()
    }

    #[test]
    fn a_pause_belongs_to_the_credential_that_was_refused() {
        let log = PauseLog::default();
        assert!(!log.is_active(|| at(0)) && log.changes() == 0);
        assert_eq!(record(&log, Signal::For(60 * SECOND), Some(1), at(0)), (1, 60));
        assert!(log.is_active(|| at(59)) && log.changes() == 1);
        assert!(paused(&log, 1, at(59)) && !paused(&log, 2, at(59)));
        let found = log.paused_credential(WINDOW.0, WINDOW.1, at(59), || Some(Key(1)));
        assert_eq!(found, Some((Key(1), at(60))));
        assert!(!paused(&log, 1, at(60)) && !log.is_active(|| at(60)));
    }

    #[test]
    fn a_second_credential_that_is_refused_meanwhile_pauses_the_window() {
        let log = PauseLog::default();
        record(&log, Signal::For(60 * SECOND), Some(1), at(0));
        assert_eq!(record(&log, Signal::For(5 * SECOND), Some(2), at(1)), (7, 5));
        assert!(!paused(&log, 1, at(2)), "its requests wait for the window");
        assert_eq!(record(&log, Signal::For(5 * SECOND), Some(1), at(100)), (1, 5), "another time");
    }

    #[test]
    fn without_a_credential_the_window_pauses() {
        let log = PauseLog::default();
        assert_eq!(record(&log, Signal::For(3 * SECOND), None, at(0)), (7, 3));
        assert!(!paused(&log, 1, at(1)));
    }

    #[test]
    fn pauses_without_a_time_double_until_the_longest() {
        let log = PauseLog::default();
        let (mut now, mut lengths) = (at(0), Vec::new());
        for _ in 0..6 {
            let (_, length) = record(&log, Signal::Unnamed, Some(1), now);
            lengths.push(length);
            now = now + Duration::from_secs(length);
        }
        assert_eq!(lengths, [1, 2, 4, 8, 10, 10]);
        assert_eq!(record(&log, Signal::Unnamed, Some(1), now + 11 * SECOND).1, 1, "it went well for as long again");
    }

    #[test]
    fn refusals_of_requests_that_were_under_way_are_one() {
        let log = PauseLog::default();
        let lengths = [0, 0, 0].map(|now| record(&log, Signal::Unnamed, Some(1), at(now)).1);
        assert_eq!(lengths, [1, 1, 1]);
    }

    #[test]
    fn no_pause_is_longer_than_an_hour() {
        let log = PauseLog::default();
        assert_eq!(record(&log, Signal::For(Duration::MAX), Some(1), at(0)).1, 3600);
    }

    #[test]
    fn the_log_is_bounded_and_forgets_what_has_ended() {
        let log = PauseLog::default();
        let ask = |key: u32, now| {
            log.record(LimitId(0), Key(key.into()), asked(Signal::For(SECOND), Some(u128::from(key) + 1_000_000)), now)
                .key
        };
        let most = u32::try_from(MAX_WINDOWS).expect("fits");
        assert!((0..most).all(|key| ask(key, at(0)) == Key(u128::from(key) + 1_000_000)));
        assert_eq!(ask(most, at(0)), Key(most.into()), "the window pauses, as there is no room");
        assert_eq!(ask(most, at(1)), Key(u128::from(most) + 1_000_000), "those before have ended");
        assert_eq!(log.lock().len(), 1);
    }
}

//! Pause notice: tells when the log may say that an origin pauses a limit, once a minute at most.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::time::Time;

/// Least time between two log lines of one limit.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Time of the last log line of one limit.
#[derive(Default, Debug)]
pub(in crate::proxy) struct PauseNotice(Mutex<Option<Time>>);

impl PauseNotice {
    /// Notes a pause. Returns true if a log line about it is due.
    pub(in crate::proxy) fn pause(&self, now: Time) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = logged.is_none_or(|logged| now.since(logged) >= LOG_INTERVAL);
        if is_due {
            *logged = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_logged_at_once_and_then_once_a_minute() {
        let notice = PauseNotice::default();
        let is_due = |second: &u64| notice.pause(Time::START + Duration::from_secs(*second));
        let lines: Vec<u64> = (0..150).filter(is_due).collect();
        assert_eq!(lines, [0, 60, 120]);
    }
}

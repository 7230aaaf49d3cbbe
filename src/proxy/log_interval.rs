//! Log interval: lets a log line about one matter of a limit through once a minute at most.

use std::time::Duration;

use crate::time::Time;

/// Least time between two log lines.
pub(super) const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Time of the last log line about one matter.
#[derive(Default, Debug)]
pub(super) struct LogInterval(Option<Time>);

impl LogInterval {
    /// True if a line is due.
    pub(super) fn is_over(&self, now: Time) -> bool {
        self.0.is_none_or(|logged| now.since(logged) >= LOG_INTERVAL)
    }

    /// Notes a line.
    pub(super) fn begin(&mut self, now: Time) {
        self.0 = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_at_once_and_then_once_a_minute() {
        let mut interval = LogInterval::default();
        let mut lines = Vec::new();
        for second in 0..150 {
            let now = Time::START + Duration::from_secs(second);
            if interval.is_over(now) {
                interval.begin(now);
                lines.push(second);
            }
        }
        assert_eq!(lines, [0, 60, 120]);
    }
}

//! Fixed-window counter: a window starts with the first settle at or after the last one's end; N slots within it.
//!
//! The log's only entry is the open window: its start and the number of slots that settled in it. Unsettled slots count
//! against it too, whichever window they will settle in.
//!
//! Example with N = 2, T = 1 s: requests settle at 5.0 s and 5.3 s; the window ends at 6.0 s. The
//! next one starts with the first settle from then on, perhaps at 7.2 s.

use super::Window;
use super::window_rule::{WindowRule, later};
use crate::time::Time;

/// Drops the open window if it is over.
#[inline]
pub(super) fn expire(window: &mut Window, rule: &WindowRule, now: Time) {
    if window.in_log > 0 && later(window.first_at(), rule.span) <= now {
        window.log_clear();
    }
}

/// Counts `count` slots that settle at `at`; starts a window if none is open.
#[inline]
pub(super) fn settle(window: &mut Window, rule: &WindowRule, count: u32, at: Time) {
    let end = mutant!(window.next_window(rule), "a fixed window ends with its first request", window.first_at());
    if window.in_log == 0 {
        window.log_push(at, count);
    } else if at < end {
        window.log_push(window.first_at(), count);
    } else if count > 0 {
        // A slot that settles after the open window's end starts the next one. The log holds only one, so all count in it.
        let all = mutant!(window.in_log + count, "the next fixed window forgets the last", count);
        window.log_clear();
        window.log_push(at, all);
    }
}

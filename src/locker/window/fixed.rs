//! A window opens with the first settle at or after the last one's end; N slots within it.
//!
//! The log's only entry is the open window: when it began and how many slots settled in it. Slots
//! not yet settled count against it too, whichever window they will settle in.

use super::Window;
use super::rule::{Rule, later};
use crate::time::Time;

#[inline]
pub(super) fn expire(window: &mut Window, rule: &Rule, now: Time) {
    if window.in_log > 0 && later(window.first_at(), rule.span) <= now {
        window.log_clear();
    }
}

#[inline]
pub(super) fn settle(window: &mut Window, count: u32, now: Time) {
    let began = if window.in_log > 0 { window.first_at() } else { now };
    window.log_push(began, count);
}

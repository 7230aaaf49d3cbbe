//! Pushback: what an origin says about the pace of requests in spite of the limit, and the pauses that follow.
//!
//! [`signal`] reads responses, [`reset_time`] the times in their fields, and [`pause_log`] decides what
//! pauses, and for how long.

pub(super) mod pause_log;
pub(super) mod reset_time;
pub(super) mod signal;

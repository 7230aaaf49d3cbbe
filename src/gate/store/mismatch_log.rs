//! Config mismatch log: settings of a shared limit that differ between gateways, logged once per
//! cause and counted.
//!
//! A mismatch may come with every reply, several times a second. The log names the limit and the
//! settings to compare; the metric counts all replies.

use std::collections::HashMap;
use std::time::Duration;

use super::Status;
use super::script_call::ScriptReply;
use crate::locker::{Limit, LimitId, SyncRequest};
use crate::time::Time;

/// Configuration keys by the bits of [`Mismatch::causes`](super::script_call::Mismatch), lowest bit
/// first, in the order of `script/window.lua`.
const MISMATCH_CAUSES: [&str; 10] = [
    "requests",
    "per or guard",
    "in_flight",
    "window",
    "burst",
    "counts",
    "zone or per",
    "the wall clock",
    "the version",
    "key",
];
/// Bit of a mismatch because of which the store grants this gateway nothing.
const BLOCKED: u32 = 1 << MISMATCH_CAUSES.len();
/// Time without a mismatch after which the next one is logged again. A choice: a rolling restart
/// takes less.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// The mismatches that were logged.
#[derive(Default)]
pub(super) struct MismatchLog {
    /// By limit: the logged causes, as bits, and the time of the last mismatch.
    limits: HashMap<LimitId, (u32, Time)>,
    /// Time of the last mismatch of `[store]`.
    settings: Option<Time>,
}

impl MismatchLog {
    /// Logs and counts the mismatches that a reply reports; `sync` is the request that it answers.
    ///
    /// A place or an id that this gateway does not know is skipped. `limits` is the list by id,
    /// `now` the time of the reply.
    pub(super) fn record(
        &mut self,
        reply: &ScriptReply,
        sync: &SyncRequest,
        limits: &[Limit],
        status: &Status,
        now: Time,
    ) {
        for mismatch in &reply.mismatches {
            let Some(report) = sync.windows.get(mismatch.place) else { continue };
            let Some(limit) = limits.get(report.limit.0 as usize) else { continue };
            status.count_mismatch(&limit.name);
            if self.is_new(report.limit, mismatch.causes, now) {
                log(limit, mismatch.causes);
            }
        }
        if reply.settings_mismatch {
            status.count_settings_mismatch();
            if self.settings.replace(now).is_none_or(|seen| now.since(seen) >= FORGET_AFTER) {
                tracing::warn!(
                    "gateways have different [store] settings (if_store_is_lost, gateways or share_for): the store reserves \
                     for each unreachable gateway the fraction and the time of its own file"
                );
            }
        }
    }

    /// Returns true if a cause was not logged yet, and takes all of them for logged.
    ///
    /// `causes`: bits by [`MISMATCH_CAUSES`], and [`BLOCKED`].
    fn is_new(&mut self, limit: LimitId, causes: u32, now: Time) -> bool {
        let (known, seen) = self.limits.entry(limit).or_insert((0, now));
        if now.since(*seen) >= FORGET_AFTER {
            *known = 0;
        }
        let before = std::mem::replace(known, *known | causes);
        *seen = now;
        before | causes != before
    }
}

/// Logs a mismatch: as an error if this gateway is granted nothing because of it, else as a
/// warning.
fn log(limit: &Limit, causes: u32) {
    let names = MISMATCH_CAUSES.iter().enumerate().filter(|(bit, _)| causes & (1 << bit) != 0);
    let of = names.map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
    if causes & BLOCKED == 0 {
        tracing::warn!(
            limit = &*limit.name,
            of,
            "gateways have different configurations of a shared limit: the strictest values apply; counts is each gateway's own"
        );
    } else {
        tracing::error!(
            limit = &*limit.name,
            of,
            "another gateway has an incompatible configuration of a shared limit: this gateway is granted nothing while the \
             other one is present"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_logged_once_and_again_when_it_was_gone() {
        let (mut mismatch_log, at) = (MismatchLog::default(), |seconds| Time::START + Duration::from_secs(seconds));
        let mut is_new = |limit, causes, seconds| mismatch_log.is_new(LimitId(limit), causes, at(seconds));
        assert!(is_new(0, 1, 0) && !is_new(0, 1, 1));
        assert!(is_new(0, 1 | BLOCKED, 2) && !is_new(0, 1, 3));
        assert!(is_new(1, 1, 3), "another limit");
        for seconds in (10..200).step_by(50) {
            assert!(!is_new(0, 1, seconds), "it never was gone");
        }
        assert!(is_new(0, 1, 220));
    }
}

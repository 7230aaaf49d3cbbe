//! Config mismatch between gateways: the terms that they say differently of a shared limit, logged once per cause and counted.

use std::collections::HashMap;
use std::time::Duration;

use super::Status;
use super::script_call::ScriptReply;
use crate::locker::{Limit, LimitId, SyncRequest};
use crate::time::Time;

/// The keys of the file behind the bits of an answer, in the script's order.
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
/// The bit that says that this gateway is granted nothing for it.
const SHUT: u32 = 1 << MISMATCH_CAUSES.len();
/// How long a difference must have been gone to be logged again.
const GONE: Duration = Duration::from_secs(60);

/// The differences that were logged.
#[derive(Default)]
pub(super) struct MismatchLog {
    /// Of each limit the causes, and when they were seen last.
    limits: HashMap<LimitId, (u32, Time)>,
    /// When `[store]` was seen to differ last.
    settings: Option<Time>,
}

impl MismatchLog {
    /// Logs and counts in what an answer says that gateways differ.
    pub(super) fn report(
        &mut self,
        answer: &ScriptReply,
        sync: &SyncRequest,
        limits: &[Limit],
        status: &Status,
        now: Time,
    ) {
        for mismatches in &answer.mismatches {
            let Some(report) = sync.windows.get(mismatches.place) else { continue };
            let Some(limit) = limits.get(report.limit.0 as usize) else { continue };
            status.count_mismatch(&limit.name);
            if self.is_news(report.limit, mismatches.causes, now) {
                log(limit, mismatches.causes);
            }
        }
        if answer.settings_mismatch {
            status.count_settings_mismatch();
            if self.settings.replace(now).is_none_or(|seen| now.since(seen) >= GONE) {
                tracing::warn!(
                    "gateways' [store] differ in if_store_is_lost, gateways or share_for: each that is cut off is left the \
                     part that its own file says, for as long as that says"
                );
            }
        }
    }

    fn is_news(&mut self, limit: LimitId, causes: u32, now: Time) -> bool {
        let (known, seen) = self.limits.entry(limit).or_insert((0, now));
        if now.since(*seen) >= GONE {
            *known = 0;
        }
        let before = std::mem::replace(known, *known | causes);
        *seen = now;
        before | causes != before
    }
}

fn log(limit: &Limit, causes: u32) {
    let names = MISMATCH_CAUSES.iter().enumerate().filter(|(bit, _)| causes & (1 << bit) != 0);
    let of = names.map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
    if causes & SHUT == 0 {
        tracing::warn!(
            limit = &*limit.name,
            of,
            "gateways say different things of a shared limit: the strictest holds, of counts for each gateway its own"
        );
    } else {
        tracing::error!(
            limit = &*limit.name,
            of,
            "another gateway counts a shared limit in a way that does not go with this gateway's: this one is granted nothing \
             as long as the other is there"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_logged_once_and_again_when_it_was_gone() {
        let (mut mismatch_log, at) = (MismatchLog::default(), |seconds| Time::START + Duration::from_secs(seconds));
        let mut is_news = |limit, causes, seconds| mismatch_log.is_news(LimitId(limit), causes, at(seconds));
        assert!(is_news(0, 1, 0) && !is_news(0, 1, 1));
        assert!(is_news(0, 1 | SHUT, 2) && !is_news(0, 1, 3));
        assert!(is_news(1, 1, 3), "another limit");
        for seconds in (10..200).step_by(50) {
            assert!(!is_news(0, 1, seconds), "it never was gone");
        }
        assert!(is_news(0, 1, 220));
    }
}

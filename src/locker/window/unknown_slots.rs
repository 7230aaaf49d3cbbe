//! Unknown slots: slots that may have been taken but that no window shows, after a crash or under a
//! rule with a longer span.

use super::window_rule::{Algorithm, UnknownSlots, WindowRule};
use super::{Window, later};
use crate::time::Time;

/// Maximum number of entries per limit. Beyond it, the two oldest are merged into one with the
/// later one's time. A crash or reload within the span adds one entry at most, so that 64 are
/// rarely reached.
const MAX_UNKNOWN: usize = 64;

/// Inserts in order of time; merges the two oldest entries if there are too many.
///
/// Merging keeps the sum of the slots and the later time, so that no slot opens too early.
fn add(all: &mut Vec<UnknownSlots>, unknown: UnknownSlots) {
    let place = all.partition_point(|other| other.at <= unknown.at);
    all.insert(place, unknown);
    if all.len() > MAX_UNKNOWN {
        let oldest = all.remove(0);
        all[0].slots = all[0].slots.saturating_add(oldest.slots);
    }
}

impl WindowRule {
    /// Adds slots that each window may have taken and none shows.
    pub(crate) fn add_unknown(&mut self, unknown: UnknownSlots, now: Time) {
        self.forget_unknown(now);
        add(&mut self.unknown, unknown);
    }

    /// Adds unknown slots of a shared or dry-run limit, which do not count here as long as it is
    /// one.
    pub(crate) fn suspend_unknown(&mut self, unknown: UnknownSlots, now: Time) {
        self.forget_unknown(now);
        add(&mut self.suspended, unknown);
    }

    /// Moves the suspended slots to the counted ones and returns them.
    ///
    /// Called when a reload leaves a limit that counts here.
    pub(super) fn resume_suspended(&mut self) -> Vec<UnknownSlots> {
        let suspended = std::mem::take(&mut self.suspended);
        suspended.iter().for_each(|unknown| add(&mut self.unknown, *unknown));
        suspended
    }

    /// Drops entries that no longer count.
    pub(crate) fn forget_unknown(&mut self, now: Time) {
        let (mut unknown, mut suspended) = (std::mem::take(&mut self.unknown), std::mem::take(&mut self.suspended));
        let counts = |unknown: &UnknownSlots| self.counts_unknown(*unknown, now);
        unknown.retain(counts);
        suspended.retain(counts);
        (self.unknown, self.suspended) = (unknown, suspended);
    }

    /// Time until which unknown slots count; `None` if there are none.
    pub(crate) fn unknown_until(&self) -> Option<Time> {
        let unknown = self.unknown.last()?;
        match self.algorithm {
            Algorithm::Uncounted => None,
            Algorithm::Sliding | Algorithm::Smooth | Algorithm::Fixed => Some(later(unknown.at, self.span)),
            Algorithm::Calendar { .. } => Some(self.period_opens(unknown.at)),
        }
    }

    /// True if slots that settled at `unknown.at` still count.
    fn counts_unknown(&self, unknown: UnknownSlots, now: Time) -> bool {
        match self.algorithm {
            Algorithm::Uncounted => false,
            Algorithm::Sliding | Algorithm::Smooth | Algorithm::Fixed => later(unknown.at, self.span) > now,
            Algorithm::Calendar { .. } => self.period_counts(unknown.at, now),
        }
    }
}

impl Window {
    /// Fills the window with unknown slots, the latest first: at most N can have been taken, and
    /// possibly as late as that.
    pub(super) fn count_unknown<'u>(
        &mut self,
        unknown: impl DoubleEndedIterator<Item = &'u UnknownSlots>,
        rule: &WindowRule,
        now: Time,
    ) {
        for unknown in unknown.rev() {
            if rule.counts_unknown(*unknown, now) {
                // Ignores unsettled slots: these may still be returned, unknown ones may not.
                let room = rule.requests.saturating_sub(self.in_log).min(unknown.slots);
                self.count_one_unknown(rule, unknown.at, room);
            }
        }
    }

    /// Counts `slots` unknown slots as settled at `at`.
    fn count_one_unknown(&mut self, rule: &WindowRule, at: Time, slots: u32) {
        match rule.algorithm {
            Algorithm::Sliding => {
                self.log_insert(mutant!(at, "unknown slots are as old as the oldest", self.first_at().min(at)), slots)
            }
            Algorithm::Smooth => {
                // Slots older than the known ones are part of the TAT already.
                if slots > 0 && self.log_entries().last().is_none_or(|last| last.at <= at) {
                    let tat = later(self.tat().max(at), u64::from(slots).saturating_mul(rule.interval));
                    self.extra_mut().tat = tat;
                }
                self.log_insert(at, slots);
            }
            Algorithm::Fixed | Algorithm::Calendar { .. } => self.settled(rule, slots, at),
            Algorithm::Uncounted => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locker::api::{Key, LimitId};
    use crate::locker::limit::Kind;
    use crate::locker::tests::{limit, ms};

    #[test]
    fn unknown_slots_are_spaced_unless_slots_that_settled_later_are_known() {
        let rule = WindowRule::new(&limit(4, 60_000, Kind::Smooth { burst: 1 }));
        let tat = |at, slots| {
            let mut window = Window::new(LimitId(0), Key::WHOLE, &rule, ms(0));
            window.take(&rule, 1);
            window.settle(&rule, 1, ms(10_000));
            window.count_unknown([UnknownSlots { at: ms(at), slots }].iter(), &rule, ms(10_000));
            window.tat()
        };
        assert_eq!(tat(5_000, 2), ms(25_000), "older ones are part of what is known");
        assert_eq!(tat(12_000, 2), ms(55_000));
        assert_eq!(tat(90_000, 0), ms(25_000), "there are none");
    }

    #[test]
    fn however_many_entries_there_are_few_are_kept_with_all_slots_and_no_earlier_times() {
        let mut all = Vec::new();
        let most = 3 * MAX_UNKNOWN as u64;
        // The odd ones first: most of the others are inserted between them.
        for at in (1..most).step_by(2).chain((0..most).step_by(2)) {
            add(&mut all, UnknownSlots { at: Time::from_nanos(at), slots: 1 });
        }
        assert_eq!(all.len(), MAX_UNKNOWN);
        assert!(all.is_sorted_by_key(|unknown| unknown.at));
        assert_eq!(all.iter().map(|unknown| u64::from(unknown.slots)).sum::<u64>(), most);
        for (place, at) in all.iter().rev().zip((0..most).rev()).skip(MAX_UNKNOWN / 2) {
            assert!(place.at <= Time::from_nanos(at), "the newest keep their times");
        }
        let older: u64 = all[..1].iter().map(|unknown| u64::from(unknown.slots)).sum();
        assert_eq!(all[0].at, Time::from_nanos(older - 1), "the oldest have the time of the last of them");
    }
}

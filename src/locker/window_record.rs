//! Window record: the state of one window as the journal, an upgrade and a restart encode it.

use super::api::{Key, LimitId};
use super::limit::MAX_SLOTS;
use crate::time::Time;

/// Everything that a window has counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WindowRecord {
    /// Limit of the window.
    pub limit: LimitId,
    /// Key of the window.
    pub key: Key,
    /// Settle times and the number of slots that settled at each; oldest first.
    pub log: Vec<(Time, u32)>,
    /// Slots of failed attempts: the time at which they settle, because the origin may still count them until then, and
    /// their number.
    pub late: Vec<(Time, u32)>,
    /// Number of slots that may be taken beyond those in `log` and `late`.
    pub open: u32,
    /// Number of flights.
    pub flying: u32,
    /// `smooth`: theoretical arrival time, up to which the spacing is used up.
    pub tat: Time,
    /// End of a pause: nothing opens before it.
    pub paused: Time,
}

impl WindowRecord {
    /// Record of a window that has counted nothing.
    pub(super) fn blank(limit: LimitId, key: Key) -> WindowRecord {
        let (log, late) = (Vec::new(), Vec::new());
        WindowRecord { limit, key, log, late, open: 0, flying: 0, tat: Time::START, paused: Time::START }
    }

    /// Drops the oldest slots that make more than [`MAX_SLOTS`] in all. No window has room for as many: only a damaged
    /// record names them.
    pub(super) fn cap_slots(&mut self) {
        self.open = self.open.min(MAX_SLOTS);
        let mut room = MAX_SLOTS - self.open;
        for (_, count) in self.late.iter_mut().rev().chain(self.log.iter_mut().rev()) {
            *count = (*count).min(room);
            room -= *count;
        }
    }
}

/// Slots that settle by themselves, of a window that is copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LateSlots {
    /// Limit of the window.
    pub limit: LimitId,
    /// Key of the window.
    pub key: Key,
    /// Time at which they settle.
    pub at: Time,
    /// Number of slots.
    pub cost: u32,
}

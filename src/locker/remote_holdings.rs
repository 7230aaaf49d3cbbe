//! Holdings of the process before this one: the slots and flights that its requests have in our windows.

use std::collections::HashMap;

use super::api::{Grant, Key, LimitId};
use super::forwarded_event::GrantedSlots;
use super::window_table::WindowTable;

/// Slots not settled and requests under way that another process holds, by window.
///
/// An event of that process counts only as far as it holds what the event speaks of.
#[derive(Debug, Default)]
pub(super) struct RemoteHoldings(HashMap<(LimitId, Key), Holding>);

/// Share of another process in one window.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Holding {
    /// Slots that have not settled.
    pub(super) open: u32,
    /// Requests under way.
    pub(super) flying: u32,
}

impl RemoteHoldings {
    /// Notes the slots that the other process holds in a window that was taken over, in the place
    /// of what was noted before. An empty holding is not stored.
    pub(super) fn restore(&mut self, limit: LimitId, key: Key, holding: Holding) {
        if holding != Holding::default() {
            self.0.insert((limit, key), holding);
        } else if !self.0.is_empty() {
            self.0.remove(&(limit, key));
        }
    }

    /// Passes a grant to the other process, which reports its end from here on. Slots in dropped
    /// windows are left out.
    pub(super) fn delegate(&mut self, grant: &Grant, table: &mut WindowTable) -> Vec<GrantedSlots> {
        let mut slots = Vec::new();
        for held in &grant.held {
            let Some(window) = table.current(held.window, held.generation) else { continue };
            let (limit, key) = (held.limit, window.key);
            let holding = self.0.entry((limit, key)).or_default();
            holding.open += mutant!(if held.settled { 0 } else { held.cost }, "a delegated grant is not held", 0);
            holding.flying += u32::from(held.flying);
            slots.push(GrantedSlots {
                limit,
                key,
                cost: held.cost,
                answered: held.answered,
                flying: held.flying,
                until: grant.until,
            });
        }
        slots
    }

    /// Takes `part` from the holding of the other process in a window. False, without a change, if
    /// it holds less.
    pub(super) fn take(&mut self, limit: LimitId, key: Key, part: Holding) -> bool {
        let Some(holding) = self.0.get_mut(&(limit, key)) else { return false };
        let (Some(open), Some(flying)) = (holding.open.checked_sub(part.open), holding.flying.checked_sub(part.flying))
        else {
            return false;
        };
        *holding = Holding { open, flying };
        if *holding == Holding::default() {
            self.0.remove(&(limit, key));
        }
        true
    }

    /// Takes all that the other process holds: it is gone.
    pub(super) fn take_all(&mut self) -> HashMap<(LimitId, Key), Holding> {
        std::mem::take(&mut self.0)
    }
}

//! Last contact with the store: from it the time runs in which a gateway that is cut off may use its part of a limit.

use super::script_call::Command;
use crate::time::Time;

/// When the store last took this gateway for present.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct LastContact {
    last: Option<Time>,
}

impl LastContact {
    /// The store has answered. An answered hello is no contact: the store cannot know whether its answer came through, so it
    /// counts this gateway as absent until it tells something.
    pub(super) fn answered(&mut self, command: Command, at: Time) {
        match command {
            Command::Hello => {}
            Command::Tell | Command::Bye => self.last = Some(at),
        }
    }

    /// The machine was suspended: its clock stood still then, so it is not known how long ago the last contact was.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// The time of the last contact; `None`: there was none, and so there is no part to go on with.
    pub(super) fn last(self) -> Option<Time> {
        self.last
    }
}

//! Last contact with the store: start of the time in which a gateway without the store may use its fraction of a limit.

use super::script_call::Command;
use crate::time::Time;

/// Time at which the store last counted this gateway as present.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct LastContact {
    /// Arrival of the last reply to a sync or bye; `None`: none so far, or unknown after a suspend.
    last: Option<Time>,
}

impl LastContact {
    /// Records a response that arrived at `at`. A response to a hello is no contact: the store cannot know whether it
    /// arrived, and counts this gateway as absent until its next call.
    pub(super) fn answered(&mut self, command: Command, at: Time) {
        match command {
            Command::Hello => {}
            Command::Sync | Command::Bye => self.last = Some(at),
        }
    }

    /// Drops the last contact after a suspend of the machine: the gateway's clock stood still, so its age is unknown.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// Time of the last contact; `None` if there was none, which leaves no fraction to use.
    pub(super) fn last(self) -> Option<Time> {
        self.last
    }
}

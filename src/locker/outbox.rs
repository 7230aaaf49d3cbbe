//! Outbox: verdicts that have been reached and not been fetched yet.

use std::collections::VecDeque;

use super::api::{Ticket, Verdict};

/// Verdicts in the order in which they were reached (Go or Sorry, never Wait).
#[derive(Debug, Default)]
pub(super) struct Outbox(VecDeque<(Ticket, Verdict)>);

impl Outbox {
    /// Adds a verdict behind the others.
    pub(super) fn push(&mut self, ticket: Ticket, verdict: Verdict) {
        self.0.push_back((ticket, verdict));
    }

    /// Takes the oldest verdict; `None` if all were fetched.
    pub(super) fn pop(&mut self) -> Option<(Ticket, Verdict)> {
        self.0.pop_front()
    }

    /// Takes the verdict on one ticket, which is mostly the last: the search starts at the end.
    /// `None` if the ticket has no verdict yet.
    pub(super) fn take(&mut self, ticket: Ticket) -> Option<Verdict> {
        let at = self.0.iter().rposition(|(named, _)| *named == ticket)?;
        self.0.remove(at).map(|(_, verdict)| verdict)
    }
}

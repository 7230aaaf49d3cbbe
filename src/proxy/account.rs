//! Account of a user of `[access] users`: its name, and the counters of its requests for `/metrics`.
//!
//! A login returns the account, so that counting needs neither a look-up nor a lock. Names come from
//! the users file alone, and so the number of series is bounded whatever callers send.

use std::sync::Arc;
use std::time::Duration;

use super::histogram::Count;

/// Parties that refuse requests, see [`Refusal::refused_by`](super::refusal::Refusal::refused_by).
const PARTIES: [&str; 6] = ["limit", "access", "caller", "origin", "gateway", "parent"];

/// Account of a user; the same object as long as the users file has the name.
#[derive(Debug)]
pub struct Account {
    name: Arc<str>,
    /// Finished requests, by the first digit of the status.
    requests: [Count; 6],
    /// Refused requests, in the order of [`PARTIES`].
    refused: [Count; PARTIES.len()],
    /// Sum of all waits for permits, in microseconds.
    waited_micros: Count,
    /// Bytes of finished requests, see [`AccessLogEntry`](super::access_log::AccessLogEntry).
    received: Count,
    /// Bytes of their responses.
    sent: Count,
}

/// Figures of a request that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestFigures {
    pub(super) status: u16,
    /// Party that refused it, if it was refused.
    pub(super) refused_by: Option<&'static str>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

impl Account {
    /// An account without requests.
    pub(super) fn new(name: &Arc<str>) -> Arc<Account> {
        Arc::new(Account {
            name: Arc::clone(name),
            requests: Default::default(),
            refused: Default::default(),
            waited_micros: Count::default(),
            received: Count::default(),
            sent: Count::default(),
        })
    }

    /// Name of the user.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Counts a request that has ended.
    pub(super) fn ended(&self, figures: RequestFigures) {
        if let Some(count) = self.requests.get(usize::from(figures.status / 100)) {
            count.add_one();
        }
        if let Some(party) = figures.refused_by {
            debug_assert!(PARTIES.contains(&party), "{party} is not counted");
            let counts = self.refused.iter().zip(PARTIES);
            counts.filter(|(_, name)| *name == party).for_each(|(count, _)| count.add_one());
        }
        self.received.add(figures.bytes_in);
        self.sent.add(figures.bytes_out);
    }

    /// Adds a wait for a permit.
    pub(super) fn waited(&self, wait: Duration) {
        self.waited_micros.add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX));
    }

    /// Number of requests that have ended, by the first digit of their status.
    pub fn requests(&self) -> impl Iterator<Item = (usize, u64)> {
        self.requests.iter().enumerate().map(|(digit, count)| (digit, count.get())).skip(1)
    }

    /// Number of refused requests, by the party that refused.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        PARTIES.into_iter().zip(&self.refused).map(|(party, count)| (party, count.get()))
    }

    /// Sum of all waits for permits.
    pub fn wait_sum(&self) -> Duration {
        Duration::from_micros(self.waited_micros.get())
    }

    /// Bytes received and sent by requests that have ended.
    pub fn bytes(&self) -> (u64, u64) {
        (self.received.get(), self.sent.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_counted_by_status_and_party_with_its_bytes() {
        let account = Account::new(&"ana".into());
        let end = |status, refused_by| account.ended(RequestFigures { status, refused_by, bytes_in: 1, bytes_out: 10 });
        for (status, party) in [(200, None), (204, None), (429, Some("limit")), (502, Some("origin")), (999, None)] {
            end(status, party);
        }
        account.waited(Duration::from_millis(1500));
        account.waited(Duration::from_micros(3));
        assert_eq!(account.requests().collect::<Vec<_>>(), [(1, 0), (2, 2), (3, 0), (4, 1), (5, 1)]);
        let refused: Vec<_> = account.refused().filter(|(_, count)| *count > 0).collect();
        assert_eq!(refused, [("limit", 1), ("origin", 1)]);
        assert_eq!((account.wait_sum(), account.bytes()), (Duration::from_micros(1_500_003), (5, 50)));
    }
}

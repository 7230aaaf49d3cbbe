//! Audit lines: one line of the log for each change that an operator or a program makes while the gateway runs, and
//! for each attempt that is refused.
//!
//! Lines have the target `audit`, the level info and the message `audit`, so that a filter finds them. Fields: `by`,
//! the author; `what`, the change in a word; `changes`, if it has any; `refused`, the reason of a refusal. Callers pass
//! no credentials and no values but those of limits. Quotes and control characters are escaped.
//!
//! Refusals of clients are bounded in number, because any stranger can cause them: see [`AttemptLog`].

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::time::Time;

/// Target of the lines.
const TARGET: &str = "audit";
/// Most lines about refused attempts within [`SPAN`], for clients with a password and for others each. A choice: more
/// than a person makes, and in a year no more than a few GB.
const MAX_ATTEMPTS: u32 = 10;
/// Time within which they count.
const SPAN: Duration = Duration::from_secs(60);
/// Most characters of a reason: it may contain text of a request.
const MAX_REASON: usize = 200;

/// Author of a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Author {
    /// A client of the admin API or of the lock service, by its address and, if it has logged in, its name.
    Client {
        /// Name that a password has proved; `None`: no password is needed, or none was right.
        user: Option<Arc<str>>,
        /// Address that it came from.
        address: IpAddr,
    },
    /// A Unix signal, such as `SIGHUP`. Its sender is not known.
    Signal(&'static str),
    /// A file that has changed, by its path.
    File(String),
}

impl fmt::Display for Author {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Author::Client { user: Some(user), address } => write!(out, "{user} at {address}"),
            Author::Client { user: None, address } => write!(out, "{address}"),
            Author::Signal(name) => write!(out, "signal {name}"),
            Author::File(path) => write!(out, "file {path}"),
        }
    }
}

impl Author {
    /// A client, by its address, which may be an IPv4 address in an IPv6 one.
    pub fn client(user: Option<Arc<str>>, address: IpAddr) -> Author {
        Author::Client { user, address: address.to_canonical() }
    }

    /// True for a client: [`AttemptLog`] counts its refused attempts.
    pub fn is_client(&self) -> bool {
        matches!(self, Author::Client { .. })
    }
}

/// Logs a change that has happened. `what`: the change in a word; `changes`: its effect, such as
/// `limit partner-api: requests 5 -> 50`.
pub fn changed(by: &Author, what: &str, changes: Option<&str>) {
    let by = by.to_string();
    tracing::info!(target: TARGET, by = by.as_str(), what, changes, "audit");
}

/// Logs a change that was refused to a signal or a file. `why`: the reason, of which the first line is logged.
pub fn refused(by: &Author, what: &str, why: &str) {
    log_refusal(by, what, why, None);
}

/// Refused attempts of clients: logs at most [`MAX_ATTEMPTS`] in [`SPAN`], and counts the others. Clients with a
/// password have an allowance of their own, which strangers cannot use up.
#[derive(Default, Debug)]
pub struct AttemptLog {
    proved: Mutex<Allowance>,
    others: Mutex<Allowance>,
}

/// Lines that may be logged.
#[derive(Default, Debug)]
struct Allowance {
    /// Lines since `since`.
    lines: u32,
    since: Time,
    /// Attempts since the last line that have none.
    unlogged: u64,
}

impl AttemptLog {
    /// Logs an attempt, or counts it for the next line (`unlogged`).
    pub fn refused(&self, by: &Author, what: &str, why: &str, now: Time) {
        let is_proved = matches!(by, Author::Client { user: Some(_), .. });
        let allowance = if is_proved { &self.proved } else { &self.others };
        // A panic cannot leave it half changed.
        let unlogged = allowance.lock().unwrap_or_else(PoisonError::into_inner).take(now);
        if let Some(unlogged) = unlogged {
            log_refusal(by, what, why, (unlogged > 0).then_some(unlogged));
        }
    }
}

impl Allowance {
    /// Takes a line: returns the number of attempts without one before it. `None`: there is none left, and the attempt
    /// is counted.
    fn take(&mut self, now: Time) -> Option<u64> {
        if now.since(self.since) >= SPAN {
            (self.lines, self.since) = (0, now);
        }
        if self.lines >= MAX_ATTEMPTS {
            self.unlogged += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.unlogged))
    }
}

fn log_refusal(by: &Author, what: &str, why: &str, unlogged: Option<u64>) {
    let by = by.to_string();
    let why: String = why.lines().next().unwrap_or_default().chars().take(MAX_REASON).collect();
    tracing::info!(target: TARGET, by = by.as_str(), what, refused = why.as_str(), unlogged, "audit");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Time {
        Time::START + Duration::from_secs(seconds)
    }

    #[test]
    fn ten_attempts_a_minute_have_a_line_and_the_next_line_counts_the_others() {
        let mut allowance = Allowance::default();
        let taken: Vec<_> = (0..25).map(|_| allowance.take(secs(1))).collect();
        assert_eq!(taken.iter().flatten().count(), 10);
        assert_eq!(allowance.take(secs(59)), None);
        assert_eq!([allowance.take(secs(60)), allowance.take(secs(60))], [Some(16), Some(0)]);
    }

    #[test]
    fn strangers_do_not_use_up_the_lines_of_those_with_a_password() {
        let log = AttemptLog::default();
        let stranger = Author::client(None, [127, 0, 0, 1].into());
        for _ in 0..100 {
            log.refused(&stranger, "tune", "wrong", secs(1));
        }
        assert_eq!(log.others.lock().unwrap().unlogged, 90);
        assert_eq!(log.proved.lock().unwrap().take(secs(1)), Some(0));
    }

    #[test]
    fn authors_are_named_with_their_address_and_in_one_form() {
        let address = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(Author::client(Some("anna".into()), address).to_string(), "anna at 192.0.2.1");
        assert_eq!(Author::client(None, address).to_string(), "192.0.2.1");
        assert_eq!(Author::Signal("SIGHUP").to_string(), "signal SIGHUP");
        assert_eq!(Author::File("proxy.toml".to_owned()).to_string(), "file proxy.toml");
    }
}

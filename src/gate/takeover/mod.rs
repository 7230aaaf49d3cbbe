//! Upgrade protocol: the new process takes over all counts, waiters and flights between one grant and the next.
//!
//! The old process starts the new one with one end of a pair of sockets ([`FdSocket`]) as its standard input:
//!
//! | old | new |
//! |---|---|
//! | `Hello`: seed, state folder and its lock, listening sockets | reads its configuration |
//! | | `Ready` |
//! | `Begin`: the limits. `Slice`s: all windows, then those that have changed since | restores them |
//! | `Prepare`, when few are left | builds everything that can fail |
//! | | `Prepared` |
//! | `Slice`s. *locked*: `Rest` of the counts, and the waiters | restores them, grants nothing yet |
//! | | `Inherited` |
//! | `Go`: grants nothing from now on. *unlocked* | |
//! | closes the journal: `Released` | opens the journal; starts to grant |
//! | asks and settles of its requests, until the last has ended | verdicts for them |
//!
//! The old process grants while it copies: requests are held for the `Rest`, which does not grow with
//! the number of windows, and for the journal. A change of the limits or of the wall clock meanwhile
//! makes the copy begin anew; after `Prepare` it ends the upgrade.
//!
//! Before `Go` either process may fail, and the old one continues as if nothing had happened. After it the new one
//! alone grants. If the old one then dies, its flights settle as failed; if the new one dies, the old one refuses its
//! requests. A process may hand over before its predecessor has ended: it forwards the asks and settles of that one.
//!
//! Messages are values encoded with postcard, one in each message of the socket; the first one
//! begins with the version of the format. Times are nanoseconds since the machine's boot. File
//! descriptors come with the first message only.

mod copy_format;
mod new_process;
mod old_process;
mod remote_requests;
#[cfg(test)]
mod tests;
mod wire_format;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::new_process::NewProcess;
use super::journal;
use super::limiter::Limiter;
use crate::locker::{GrantedSlots, Sorry, Ticket, Verdict};
use crate::net::fd_socket::FdSocket;

/// Longest time for the new process to read its configuration and certificates.
///
/// Requests are served meanwhile. A choice: far above a usual start.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time for each step during which nothing is granted.
///
/// A choice: far above a step on a busy machine, and below the patience of most clients. Tests, of
/// which many run at once, get as long as a start.
const STEP_TIMEOUT: Duration = if cfg!(test) { START_TIMEOUT } else { Duration::from_secs(5) };
/// Most events or verdicts in one message.
///
/// Bounds the time that the gate is locked for one message.
const MAX_BATCH: usize = 512;

/// Reason why an upgrade failed. The old process continues.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has taken over already.
    #[error("another process has taken over already")]
    AlreadyHandedOver,
    /// The other process has exited, or does not answer.
    /// Also after a timeout of a step.
    #[error("the other process ended or did not answer; its log may say why")]
    NoAnswer(#[source] io::Error),
    /// The other process sent an unexpected message: it is of another version.
    #[error("the other process speaks another version of the protocol: {0}; stop it and start the new one instead")]
    Protocol(String),
    /// Limits or the wall clock have changed, more than once or at the last moment.
    #[error("the limits or the wall clock changed meanwhile; try again")]
    Changed,
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] journal::Error),
    /// The system provides no threads or file descriptors.
    #[error("the system lacks threads or descriptors for the upgrade")]
    System(#[source] io::Error),
}

/// The other process broke the protocol.
///
/// Also used for a value that postcard cannot encode or decode.
fn protocol_error(why: impl std::fmt::Display) -> Error {
    Error::Protocol(why.to_string())
}

/// Verdict on a forwarded ask, sent to the old process: its ticket, and the granted slots or the refusal.
///
/// Sent for asks of the old process and of those that it forwards for.
type VerdictMsg = (Ticket, Result<Vec<GrantedSlots>, Sorry>);

/// Waiters of the old process, which forwards its asks to this one.
///
/// Invariant: `theirs` and `ours` are inverse to each other. A queued waiter is in both; a decided
/// one is in `verdicts` until its verdict is sent.
#[derive(Default)]
pub(super) struct RemoteWaiters {
    /// Ticket of the old process for each of ours.
    theirs: HashMap<Ticket, Ticket>,
    /// Our ticket for each of the old process.
    ours: HashMap<Ticket, Ticket>,
    /// Verdicts to send to the old process.
    /// First in, first out.
    verdicts: VecDeque<VerdictMsg>,
    /// True after this process has stopped: new asks of the old process are ignored.
    pub(super) is_stopped: bool,
}

impl RemoteWaiters {
    /// Stores a verdict if it is for the old process; returns it if it is not.
    ///
    /// Called for each verdict that a step of the locker has made. The two tickets are forgotten
    /// then.
    pub(super) fn keep(&mut self, ticket: Ticket, verdict: Verdict, locker: &mut Limiter) -> Option<Verdict> {
        let Some(theirs) = self.theirs.remove(&ticket) else { return Some(verdict) };
        self.ours.remove(&theirs);
        self.store_verdict(theirs, verdict, locker);
        None
    }

    /// Stores a verdict for a ticket of the old process; remembers the two tickets if it is queued.
    ///
    /// The slots of a grant are delegated: the old process reports their settles by limit and key.
    fn store_verdict(&mut self, theirs: Ticket, verdict: Verdict, locker: &mut Limiter) {
        match verdict {
            Verdict::Go(grant) => self.verdicts.push_back((theirs, Ok(locker.delegate(grant)))),
            Verdict::Sorry(sorry) => self.verdicts.push_back((theirs, Err(sorry))),
            Verdict::Wait(ours, _) => {
                self.theirs.insert(ours, theirs);
                self.ours.insert(theirs, ours);
            }
        }
    }

    /// True if there are verdicts to send.
    ///
    /// Then the sender thread is notified, once until it has read them.
    pub(super) fn has_verdicts(&self) -> bool {
        !self.verdicts.is_empty()
    }
}

/// Sends one message to the other process.
///
/// # Errors
/// [`Error::NoAnswer`] if the other process does not read it.
fn send(socket: &FdSocket, value: &impl Serialize) -> Result<(), Error> {
    let message = postcard::to_stdvec(value).map_err(protocol_error)?;
    socket.send(&message, &[]).map_err(Error::NoAnswer)
}

/// Receives the next message; `None` after the other process has closed the connection.
///
/// # Errors
/// [`Error::NoAnswer`] after a timeout, [`Error::Protocol`] if the message cannot be decoded.
fn try_recv<T: DeserializeOwned>(socket: &FdSocket) -> Result<Option<T>, Error> {
    let Some((message, _)) = socket.receive().map_err(Error::NoAnswer)? else { return Ok(None) };
    postcard::from_bytes(&message).map(Some).map_err(protocol_error)
}

/// Receives the next message.
///
/// # Errors
/// As [`try_recv`], and [`Error::NoAnswer`] if the other process has closed the connection.
fn recv<T: DeserializeOwned>(socket: &FdSocket) -> Result<T, Error> {
    try_recv(socket)?.ok_or_else(|| Error::NoAnswer(io::ErrorKind::UnexpectedEof.into()))
}

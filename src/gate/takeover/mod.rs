//! One process of the gateway takes the place of another, between one grant and the next.
//!
//! The old one starts the new one, with one end of a pair of sockets ([`FdSocket`]) as its standard input:
//!
//! | old | new |
//! |---|---|
//! | `Hello`: seed, state folder and its lock, listening sockets | builds all that can fail |
//! | | `Ready` |
//! | *locked*: all that is counted, and who waits | takes it over, and lets nobody go yet |
//! | | `Inherited` |
//! | `Go`: from here on it grants nothing. *unlocked* | |
//! | closes the journal: `Released` | opens the journal; lets go who can |
//! | what its requests ask and settle, until the last has ended | what they are granted |
//!
//! Before `Go` either may fail, and the old one goes on as if nothing had been. After it the new one alone grants; if the
//! old one dies, what it had under way settles as failed; if the new one dies, the old one refuses. A process may hand
//! over before the one before it has ended: what that one asks and settles is passed on.

mod new_process;
mod old_process;
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
use crate::locker::{GrantedSlots, Locker, Sorry, Ticket, Verdict};
use crate::net::fd_socket::FdSocket;

/// How long the new process may take to read its configuration and certificates.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long each may take for a step while nobody is granted anything.
const STEP_TIMEOUT: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(5) };
/// How many things are told at once at most.
const MAX_BATCH: usize = 512;

/// Why a hand-over did not happen. The old process goes on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was handed over before.
    #[error("another process has taken over already")]
    AlreadyHandedOver,
    /// The other process is gone, or does not answer.
    #[error("the other process ended or did not answer; it may have said why before")]
    NoAnswer(#[source] io::Error),
    /// It said something else than was to be said.
    #[error("the other process speaks another version of the protocol: {0}; stop it and start the new one instead")]
    Protocol(String),
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] journal::Error),
    /// There are no threads or descriptors to be had.
    #[error("the hand-over lacks something of the system's")]
    System(#[source] io::Error),
}

fn protocol_error(why: impl std::fmt::Display) -> Error {
    Error::Protocol(why.to_string())
}

/// What a process is told of its asks.
type VerdictMsg = (Ticket, Result<Vec<GrantedSlots>, Sorry>);

/// Requests of the process before this one, which has given us its windows.
#[derive(Default)]
pub(super) struct RemoteWaiters {
    /// Whom of theirs our tickets are for, and the other way round.
    theirs: HashMap<Ticket, Ticket>,
    ours: HashMap<Ticket, Ticket>,
    /// What they are to be told.
    verdicts: VecDeque<VerdictMsg>,
    /// This process has stopped: they are told nothing any more.
    pub(super) are_dropped: bool,
}

impl RemoteWaiters {
    /// Keeps a verdict that is theirs, and returns one that is not.
    pub(super) fn keep(&mut self, ticket: Ticket, verdict: Verdict, locker: &mut Locker) -> Option<Verdict> {
        let Some(theirs) = self.theirs.remove(&ticket) else { return Some(verdict) };
        self.ours.remove(&theirs);
        self.tell(theirs, verdict, locker);
        None
    }

    /// A verdict on somebody of theirs.
    fn tell(&mut self, theirs: Ticket, verdict: Verdict, locker: &mut Locker) {
        match verdict {
            Verdict::Go(grant) => self.verdicts.push_back((theirs, Ok(locker.delegate(grant)))),
            Verdict::Sorry(sorry) => self.verdicts.push_back((theirs, Err(sorry))),
            Verdict::Wait(ours, _) => {
                self.theirs.insert(ours, theirs);
                self.ours.insert(theirs, ours);
            }
        }
    }

    pub(super) fn has_verdicts(&self) -> bool {
        !self.verdicts.is_empty()
    }
}

/// Says one thing to the other process.
fn send(socket: &FdSocket, what: &impl Serialize) -> Result<(), Error> {
    let message = postcard::to_stdvec(what).map_err(protocol_error)?;
    socket.send(&message, &[]).map_err(Error::NoAnswer)
}

/// The next thing that the other process says; `None` at the end.
fn try_recv<T: DeserializeOwned>(socket: &FdSocket) -> Result<Option<T>, Error> {
    let Some((message, _)) = socket.receive().map_err(Error::NoAnswer)? else { return Ok(None) };
    postcard::from_bytes(&message).map(Some).map_err(protocol_error)
}

/// What the other process says next.
fn recv<T: DeserializeOwned>(socket: &FdSocket) -> Result<T, Error> {
    try_recv(socket)?.ok_or_else(|| Error::NoAnswer(io::ErrorKind::UnexpectedEof.into()))
}

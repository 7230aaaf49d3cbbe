//! New process of an upgrade: takes over the counts, and from then on decides for both.
//!
//! Order of calls, each of which may fail without harm before the last one has sent `Inherited` and
//! received `Go`:
//!
//! 1. `NewProcess::connect` reads the first message.
//! 2. `NewProcess::gate` makes the gate, and takes over the lock of the state folder.
//! 3. `NewProcess::take_sockets` hands the listening sockets to the listeners.
//! 4. `NewProcess::inherit` restores the windows, while the old process grants and changes them.
//! 5. `NewProcess::take` restores what has changed since, and the waiters: from here on neither
//!    process grants. It confirms, opens the journal and grants.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};

use super::copy_format::WireCopy;
use super::wire_format::{HandoverStep, Hello, TimeMappings, WireEvent, WireVerdict};
use super::{Error, MAX_BATCH, STEP_TIMEOUT, VerdictMsg, protocol_error, recv, send, try_recv};
use crate::gate::clock::Clock;
use crate::gate::journal::{self, AfterCrash, Journal, OldLimits};
use crate::gate::thread_signal::{DeferredThread, ExitGuard, ThreadSignal};
use crate::gate::{Gate, Settings};
use crate::locker::{CopyRest, JournalStart, Limit, LimitId, Locker, Replica, Shutdown};
use crate::net::drain::ConnGuard;
use crate::net::fd_socket::FdSocket;

/// New process before the point of no return.
pub struct NewProcess {
    /// Connection to the old process.
    socket: FdSocket,
    /// Seed of the hash of keys and callers.
    seed: [u8; 16],
    /// State folder of the old process.
    /// `None` if that process persists nothing.
    dir: Option<PathBuf>,
    /// Lock of that folder.
    /// Taken by `gate`, which closes it if another folder is configured.
    lock: Option<File>,
    /// Listening sockets of the old process, each with its configured address.
    sockets: Vec<(SocketAddr, TcpListener)>,
    /// Windows of the old process, from `inherit` to `take`.
    copy: Option<Copied>,
}

/// Copy of the old process's windows that is not complete yet.
struct Copied {
    /// The windows, with the old process's limits.
    replica: Replica,
    /// Configured limits of this process.
    limits: Vec<Limit>,
    /// Longest time from a request's permit to its settle.
    under_way: Duration,
    /// Ids of the limits, which the other parts of this process use.
    ids: Vec<LimitId>,
}

impl NewProcess {
    /// Receives the first message of the old process.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] if none arrives, [`Error::Protocol`] if it is of an incompatible version.
    pub fn connect(socket: FdSocket) -> Result<NewProcess, Error> {
        socket.set_timeouts(Some(STEP_TIMEOUT), Some(STEP_TIMEOUT)).map_err(Error::System)?;
        let received = socket.receive().map_err(Error::NoAnswer)?;
        let (hello, descriptors) =
            received.ok_or_else(|| protocol_error("the connection closed before the first message"))?;
        let Hello { seed, state, listens } = Hello::read(&hello)?;
        let mut descriptors = descriptors.into_iter();
        let lock = state.as_ref().filter(|(_, has_lock)| *has_lock).and_then(|_| descriptors.next()).map(File::from);
        let sockets: Vec<_> = listens.into_iter().zip(descriptors.map(TcpListener::from)).collect();
        let dir = state.map(|(dir, _)| Path::new(OsStr::from_bytes(&dir)).to_owned());
        Ok(NewProcess { socket, seed, dir, lock, sockets, copy: None })
    }

    /// Takes the old process's listening sockets, each with its configured address.
    ///
    /// Empty after the first call. Sockets that the configuration does not name any more are for
    /// the caller to close.
    pub fn take_sockets(&mut self) -> Vec<(SocketAddr, TcpListener)> {
        std::mem::take(&mut self.sockets)
    }

    /// Creates the gate that replaces the old process's; it has no limits yet.
    ///
    /// # Errors
    /// [`Error::State`] if another state folder is configured and cannot be used.
    /// [`Error::System`] without a file descriptor for the timer.
    ///
    /// Call it once: it takes the lock of the state folder. With `after_crash = "forget"` an
    /// unusable folder is logged, and the gate persists nothing.
    pub fn gate(&mut self, settings: &Settings, clock: Clock) -> Result<Arc<Gate>, Error> {
        let gate = Gate::empty(self.seed, clock);
        gate.timer.prepare().map_err(Error::System)?;
        if let Some(state) = &settings.state {
            let is_same = self.dir.as_deref().is_some_and(|dir| is_same(dir, &state.dir));
            let lock = self.lock.take().filter(|_| is_same);
            match Journal::adopt(state, lock, self.seed, clock) {
                Ok(journal) => gate.attach_journal(&Arc::new(journal)),
                Err(error @ journal::Error::Unusable { .. }) if state.after_crash == AfterCrash::Forget => {
                    tracing::warn!("{error}");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(gate)
    }

    /// Reports `Ready`, and restores the windows of the old process, which goes on; nothing may be asked of the gate
    /// before [`NewProcess::take`]. Returns the ids of these limits, in their order. `under_way`: longest time from a
    /// request's permit to its settle.
    ///
    /// # Errors
    /// If the old process has exited, or sends invalid data.
    pub fn inherit(&mut self, gate: &Gate, limits: Vec<Limit>, under_way: Duration) -> Result<Vec<LimitId>, Error> {
        send(&self.socket, &HandoverStep::Ready)?;
        let mut copy = None;
        loop {
            let message: WireCopy = recv(&self.socket)?;
            let (mappings, now) = (TimeMappings::new(&gate.clock), gate.clock.now());
            match (message, &mut copy) {
                (WireCopy::Begin(head), copy) => {
                    let head = head.head(mappings);
                    *copy = Some((head.clone(), Replica::begin(head, gate.clock.wall(), now)));
                }
                (WireCopy::Slice(slice), Some((_, replica))) => replica.apply(slice.slice(mappings), now),
                (WireCopy::Prepare, Some(_)) => break,
                (WireCopy::Slice(_) | WireCopy::Prepare | WireCopy::Rest(_), _) => {
                    return Err(protocol_error("a part of the copy came out of turn"));
                }
            }
        }
        let Some((head, replica)) = copy else { return Err(protocol_error("there was no copy")) };
        // The limits alone, for whatever shows them; the windows follow with the last part.
        let locker = Locker::restore(head, Shutdown::HandOver, gate.clock.wall(), gate.clock.now());
        let ids = gate.inherit(locker, limits.clone(), under_way).ids;
        self.copy = Some(Copied { replica, limits, under_way, ids: ids.clone() });
        Ok(ids)
    }

    /// Reports `Prepared`, and restores what has changed since the copy, and the waiters. The old process grants nothing
    /// from now on; it continues if this fails. Returns how its limits relate to those of this process.
    ///
    /// # Errors
    /// If the old process has exited, or sends invalid data.
    pub(super) fn complete(&mut self, gate: &Gate) -> Result<OldLimits, Error> {
        let Some(Copied { mut replica, limits, under_way, ids }) = self.copy.take() else {
            return Err(protocol_error("there was no copy"));
        };
        send(&self.socket, &HandoverStep::Prepared)?;
        let (rest, waiters, mappings) = self.last_part(gate, &mut replica)?;
        let locker = replica.finish(rest, gate.clock.wall(), gate.clock.now());
        let locker = locker.ok_or_else(|| protocol_error("its limits changed"))?;
        let before = locker.limits().to_vec();
        if gate.inherit(locker, limits, under_way).ids != ids {
            return Err(protocol_error("its limits changed"));
        }
        let old_limits = if gate.limits()[..] == before[..] { OldLimits::Same } else { OldLimits::Other };
        let now = gate.clock.now();
        let understood = gate.step(now, |state| {
            // Grants wait until the old process has let go, and then keep the order of arrival.
            state.locker.hold();
            state.handle_events(waiters, mappings, now)
        });
        if understood { Ok(old_limits) } else { Err(protocol_error("an event names an unknown limit")) }
    }

    /// Applies slices up to the last part of the copy, and returns that.
    ///
    /// # Errors
    /// If the old process has exited, or sends invalid data.
    fn last_part(&self, gate: &Gate, replica: &mut Replica) -> Result<(CopyRest, Vec<WireEvent>, TimeMappings), Error> {
        loop {
            let message: WireCopy = recv(&self.socket)?;
            let mappings = TimeMappings::new(&gate.clock);
            match message {
                WireCopy::Slice(slice) => replica.apply(slice.slice(mappings), gate.clock.now()),
                WireCopy::Rest(rest) => {
                    let (rest, waiters) = rest.rest(mappings);
                    return Ok((rest, waiters, mappings));
                }
                WireCopy::Begin(_) | WireCopy::Prepare => {
                    return Err(protocol_error("a part of the copy came out of turn"));
                }
            }
        }
    }

    /// Replaces the old process: from now on this gate grants. `process_guard` is held until the old
    /// process has exited.
    ///
    /// Steps:
    ///
    /// 1. Makes the threads `send-old` and `recv-old` and the journal's writer, which do not run
    ///    yet.
    /// 2. Sends `Prepared`, and restores what has changed since the copy, and the waiters.
    /// 3. Sends `Inherited`, and waits for `Go`. There is no way back from here on.
    /// 4. Starts the two threads, and lets the locker grant what need not be written down.
    /// 5. Waits up to 5 s until the old process has closed the journal.
    /// 6. Opens the journal, and lets the locker grant everything.
    ///
    /// # Errors
    /// If the old process has not sent `Go`, in which case it continues; or if the system provides no threads.
    pub fn take(mut self, gate: &Arc<Gate>, process_guard: ConnGuard) -> Result<(), Error> {
        // Everything that can fail comes before the point of no return.
        let signal = Arc::new(ThreadSignal::default());
        let (release, released) = mpsc::channel();
        let journal = gate.journal.get();
        let writer = journal.map(|journal| journal.writer(gate)).transpose()?;
        let (weak_gate, socket, thread_signal) =
            (Arc::downgrade(gate), self.socket.try_clone().map_err(Error::System)?, Arc::clone(&signal));
        let sender = DeferredThread::new("send-old", move || send_to_old(&weak_gate, &socket, &thread_signal))
            .map_err(Error::System)?;
        let (weak_gate, socket, thread_signal) =
            (Arc::downgrade(gate), self.socket.try_clone().map_err(Error::System)?, Arc::clone(&signal));
        let receive = move || recv_from_old(&weak_gate, &socket, &thread_signal, &release, process_guard);
        let receiver = DeferredThread::new("recv-old", receive).map_err(Error::System)?;
        // Both cells are empty: a process has one predecessor.
        gate.signals.old_process.set(Arc::clone(&signal)).ok();
        gate.old_process.set(self.socket.try_clone().map_err(Error::System)?).ok();
        match self.socket.peer_pidfd() {
            Ok(pidfd) => drop(gate.old_pidfd.set(pidfd)),
            Err(error) => tracing::debug!(%error, "a stop of this process does not reach the one before"),
        }
        let old_limits = self.complete(gate)?;
        send(&self.socket, &HandoverStep::Inherited)?;
        if recv::<HandoverStep>(&self.socket)? != HandoverStep::Go {
            return Err(protocol_error("it did not send Go"));
        }
        // From now on only this process grants, and continues whatever happens to the old one.
        receiver.start();
        sender.start();
        // Some verdicts may have been stored before there was a signal.
        signal.notify();
        if old_limits == OldLimits::Same && journal.is_none_or(|journal| journal.may_resume()) {
            // Slots that need not be written down are granted at once, and the others wait for the journal.
            let now = gate.clock.now();
            gate.step(now, |state| {
                if journal.is_some() {
                    state.locker.begin_persisting(JournalStart::Resume, now);
                }
                state.locker.release(now);
            });
        }
        if released.recv_timeout(STEP_TIMEOUT).is_err() {
            tracing::error!("the old process did not close its journal in time");
        }
        tracing::debug!("the old process has let go");
        if let (Some(journal), Some(writer)) = (journal, writer) {
            journal.continue_from(gate, writer, old_limits);
        }
        let now = gate.clock.now();
        gate.step(now, |state| state.locker.release(now));
        tracing::debug!("granting");
        Ok(())
    }
}

/// True if both paths are one folder.
///
/// Compares resolved paths. A path that cannot be resolved is compared as it is.
fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    real(one) == real(other)
}

impl Gate {
    /// Has the old process drain, if it has not ended: its waiters depend on the grants of this one, and whoever stops
    /// the gateway waits for this process alone.
    pub fn stop_old_process(&self) {
        if let Some(pidfd) = self.old_pidfd.get() {
            // It may have ended.
            pidfd_send_signal(pidfd, Signal::TERM).ok();
        }
    }

    /// Takes the next verdicts for the old process. If there are none, the thread is notified of the next.
    ///
    /// At most [`MAX_BATCH`], oldest first.
    fn take_verdicts(&self) -> Vec<VerdictMsg> {
        let now = self.clock.now();
        self.step(now, |state| {
            let verdicts: Vec<VerdictMsg> =
                std::iter::from_fn(|| state.remote_waiters.verdicts.pop_front()).take(MAX_BATCH).collect();
            state.pending_signals.old_process = !verdicts.is_empty();
            verdicts
        })
    }
}

/// Sender thread: sends verdicts to the old process.
///
/// Ends when the receiver thread stops it, when the message cannot be sent, or with the gate.
fn send_to_old(gate: &Weak<Gate>, socket: &FdSocket, signal: &Arc<ThreadSignal>) {
    let _exit_guard = ExitGuard::new(signal);
    while signal.wait(None) {
        let Some(gate) = gate.upgrade() else { return };
        loop {
            let verdicts = gate.take_verdicts();
            if verdicts.is_empty() {
                break;
            }
            let mappings = TimeMappings::new(&gate.clock);
            let verdicts: Vec<WireVerdict> =
                verdicts.iter().map(|verdict| WireVerdict::of(verdict, mappings)).collect();
            if let Err(error) = send(socket, &verdicts) {
                tracing::debug!(%error, "cannot send verdicts to the old process");
                return socket.shutdown();
            }
        }
    }
}

/// Receiver thread: handles the events of the old process, until it has exited.
///
/// Ends with the connection, with an invalid message, or with the gate. Its last step drops
/// `process_guard`, so that a drain of this process waits for the requests of the old one.
pub(super) fn recv_from_old(
    gate: &Weak<Gate>,
    socket: &FdSocket,
    signal: &ThreadSignal,
    release: &mpsc::Sender<()>,
    process_guard: ConnGuard,
) {
    let timeout_removed = socket.set_timeouts(None, Some(STEP_TIMEOUT));
    // First message. Whether it came in time or not, nothing waits for it after this.
    if matches!(try_recv(socket), Ok(Some(HandoverStep::Released))) {
        release.send(()).ok();
    }
    loop {
        let events: Result<Option<Vec<WireEvent>>, Error> = try_recv(socket);
        let Some(gate) = gate.upgrade() else { return };
        let now = gate.clock.now();
        let understood = match events {
            Ok(Some(events)) if timeout_removed.is_ok() => {
                let mappings = TimeMappings::new(&gate.clock);
                gate.step(now, |state| state.handle_events(events, mappings, now))
            }
            Ok(_) | Err(_) => false,
        };
        if !understood {
            gate.step(now, |state| state.drop_remote_waiters(now));
            socket.shutdown();
            signal.stop();
            tracing::info!("the old process has exited");
            drop(process_guard);
            return;
        }
    }
}

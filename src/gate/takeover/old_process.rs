//! Old process of an upgrade: hands all counts over, and forwards to the new one from then on.
//!
//! After the hand-over this process only forwards: its gate keeps the waiters' slots, the new
//! process decides. Two threads talk to it:
//!
//! - `send-new` sends asks, settles and the ends of requests.
//! - `recv-new` applies the verdicts, and notices the death of the new process.
//!
//! Both hold the gate weakly, so they end with it.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::copy_format::{WireCopy, WireHead, WireRest, WireSlice};
use super::wire_format::{HandoverStep, Hello, TimeMappings, WireEvent, WireVerdict};
use super::{Error, MAX_BATCH, START_TIMEOUT, STEP_TIMEOUT, VerdictMsg, protocol_error, recv, send, try_recv};
use crate::gate::journal::Coverage;
use crate::gate::thread_signal::{DeferredThread, ExitGuard, ThreadSignal};
use crate::gate::{Gate, Refused, State};
use crate::locker::{Event, Locker};
use crate::net::fd_socket::FdSocket;
use crate::time::Time;

/// Number of changed windows with which the copy is close enough: copying them takes some
/// milliseconds, during which nothing is granted.
const FEW: usize = if cfg!(test) { 2 } else { 1000 };
/// Most windows that are copied again, as a multiple of those that had changed during the walk. A
/// bound for windows that change faster than they are copied: the rest is then copied without
/// grants.
const ROUNDS: usize = 8;
/// Most beginnings of the copy.
///
/// A choice: the limits and the wall clock change rarely.
const ATTEMPTS: usize = 3;

impl Gate {
    /// Hands over all counts, waiters and flights to the new process at the other end of `socket`, with these listening
    /// sockets (each with its configured address). Blocks the thread until the new process has them; requests are
    /// granted meanwhile, but for the last moment.
    ///
    /// Steps:
    ///
    /// 1. Sends the first message with the descriptors, and waits up to 60 s for `Ready`.
    /// 2. Makes the two threads, which do not run yet.
    /// 3. Copies all windows, a slice at a time, and those that have changed since, until few are
    ///    left; waits up to 60 s for `Prepared`, and copies again what has changed.
    /// 4. Sends the rest of the counts and the waiters with the lock held, and waits for
    ///    `Inherited`: up to 5 s for each step.
    /// 5. Sends `Go`. There is no way back from here on.
    /// 6. Closes the journal and starts the threads; the sender begins with `Released`.
    ///
    /// If the new process dies later, the remaining waiters are refused with [`Refused::Closing`].
    ///
    /// # Errors
    /// See [`Error`]; nothing has changed then.
    /// [`Error::AlreadyHandedOver`] for a second call.
    pub fn hand_over(self: &Arc<Self>, socket: FdSocket, sockets: &[(SocketAddr, TcpListener)]) -> Result<(), Error> {
        if self.is_handed_over() {
            return Err(Error::AlreadyHandedOver);
        }
        socket.set_timeouts(Some(START_TIMEOUT), Some(STEP_TIMEOUT)).map_err(Error::System)?;
        self.introduce(&socket, sockets)?;
        expect(&socket, HandoverStep::Ready)?;
        // Everything that can fail comes before the point of no return.
        let signal = Arc::new(ThreadSignal::default());
        let spawn = |name, talk: fn(&Weak<Gate>, &FdSocket, &Arc<ThreadSignal>)| {
            let (gate, socket, signal) = (Arc::downgrade(self), socket.try_clone()?, Arc::clone(&signal));
            DeferredThread::new(name, move || talk(&gate, &socket, &signal))
        };
        let receiver = spawn("recv-new", recv_from_new).map_err(Error::System)?;
        let sender = spawn("send-new", send_to_new).map_err(Error::System)?;
        let transferred = self.copy(&socket).and_then(|()| {
            tracing::debug!("the new process has a copy of the windows");
            self.transfer(&socket, &signal)
        });
        let coverage = transferred.inspect_err(|_| self.end_copy())?;
        tracing::debug!("the new process grants from here on");
        receiver.start();
        if let Some(journal) = self.journal.get() {
            journal.leave(coverage);
        }
        sender.start();
        Ok(())
    }

    /// Sends the first message, with the descriptors.
    ///
    /// The lock of the state folder comes before the listening sockets. The descriptors are copies:
    /// this process keeps its own.
    ///
    /// # Errors
    /// [`Error::System`] without a descriptor for the copy of the lock, [`Error::NoAnswer`] if the
    /// message cannot be sent.
    fn introduce(&self, socket: &FdSocket, sockets: &[(SocketAddr, TcpListener)]) -> Result<(), Error> {
        let state = self.journal.get().map(|journal| journal.for_handover()).transpose().map_err(Error::System)?;
        let lock = state.as_ref().and_then(|(_, lock)| lock.as_ref());
        let hello = Hello {
            seed: self.seed,
            state: state.as_ref().map(|(dir, lock)| (dir.as_os_str().as_bytes().to_vec(), lock.is_some())),
            listens: sockets.iter().map(|(asked, _)| *asked).collect(),
        };
        let sockets = sockets.iter().map(|(_, socket)| socket.as_fd());
        let descriptors: Vec<BorrowedFd<'_>> = lock.map(AsFd::as_fd).into_iter().chain(sockets).collect();
        socket.send(&hello.write()?, &descriptors).map_err(Error::NoAnswer)
    }

    /// Copies all windows while they change, until few of them differ from their copies and the new process has built
    /// everything that can fail.
    ///
    /// # Errors
    /// As [`send`] and [`recv`]; [`Error::Changed`] if the limits change.
    fn copy(&self, socket: &FdSocket) -> Result<(), Error> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let now = self.clock.now();
            let head = self.step(now, |state| state.locker.local().map(|locker| locker.begin_copy(now)));
            let head = head.ok_or(Error::AlreadyHandedOver)?;
            send(socket, &WireCopy::Begin(WireHead::of(&head, TimeMappings::new(&self.clock))))?;
            match self.copy_most(socket) {
                Err(Error::Changed) if attempts < ATTEMPTS => {}
                copied => break copied?,
            }
        }
        send(socket, &WireCopy::Prepare)?;
        expect(socket, HandoverStep::Prepared)?;
        socket.set_timeouts(Some(STEP_TIMEOUT), Some(STEP_TIMEOUT)).map_err(Error::System)?;
        self.copy_most(socket)
    }

    /// Sends slices of the copy until at most [`FEW`] windows differ from it, or too many slices were not enough.
    ///
    /// # Errors
    /// As [`send`]; [`Error::Changed`] if the copy is void.
    fn copy_most(&self, socket: &FdSocket) -> Result<(), Error> {
        let mut budget = None;
        loop {
            let now = self.clock.now();
            let (slice, left) = self
                .step(now, |state| {
                    state.locker.local().and_then(|locker| {
                        let slice = locker.copy_slice(now)?;
                        Some((slice, locker.copy_left()))
                    })
                })
                .ok_or(Error::Changed)?;
            let copied = slice.windows.len() + slice.dropped.len();
            if copied > 0 {
                send(socket, &WireCopy::Slice(WireSlice::of(&slice, TimeMappings::new(&self.clock))))?;
            }
            let Some(left) = left else { continue };
            let budget = budget.get_or_insert(left.saturating_mul(ROUNDS));
            *budget = budget.saturating_sub(copied);
            if left <= FEW || *budget == 0 {
                return Ok(());
            }
        }
    }

    /// Ends the copy after a failure.
    fn end_copy(&self) {
        let now = self.clock.now();
        self.step(now, |state| state.locker.local().map(Locker::end_copy));
    }

    /// Point of no return. Only here does the gate wait with its lock held: what is sent must stay true until the new
    /// process has it.
    ///
    /// Returns whether the state folder holds all that a crash needs.
    ///
    /// # Errors
    /// As [`send`] and [`recv`], and [`Error::Changed`]; the locker is unchanged then, and grants again.
    fn transfer(&self, socket: &FdSocket, signal: &Arc<ThreadSignal>) -> Result<Coverage, Error> {
        let now = self.clock.now();
        self.step(now, |state| {
            let mappings = TimeMappings::new(&self.clock);
            state.reask_rest(now);
            let locker = state.locker.local().ok_or(Error::AlreadyHandedOver)?;
            let rest = locker.finish_copy(now).ok_or(Error::Changed)?;
            let waiters = locker.queued_asks().iter().map(|event| WireEvent::of(event, mappings)).collect();
            send(socket, &WireCopy::Rest(Box::new(WireRest::of(&rest, waiters, mappings))))?;
            expect(socket, HandoverStep::Inherited)?;
            send(socket, &HandoverStep::Go)?;
            // The cell is empty: a gate hands over once.
            self.signals.new_process.set(Arc::clone(signal)).ok();
            let coverage = match state.locker.has_unwritten_windows() {
                true => Coverage::Incomplete,
                false => Coverage::Complete,
            };
            state.locker.hand_over(now);
            state.reask_barrier = None;
            Ok(coverage)
        })
    }

    /// Takes the next events for the new process. If there are none, the thread is notified of the next.
    ///
    /// At most [`MAX_BATCH`], oldest first.
    fn take_events(&self) -> Vec<Event> {
        let now = self.clock.now();
        self.step(now, |state| {
            let events: Vec<Event> = std::iter::from_fn(|| state.locker.poll_event()).take(MAX_BATCH).collect();
            state.pending_signals.new_process = !events.is_empty();
            events
        })
    }

    /// Applies verdicts of the new process.
    ///
    /// One step of the locker for the whole message; the waiters are woken after it.
    fn on_verdicts(&self, verdicts: impl Iterator<Item = VerdictMsg>) {
        let now = self.clock.now();
        self.step(now, |state| {
            verdicts.for_each(|(ticket, verdict)| state.locker.handle_verdict(ticket, verdict, now))
        });
    }

    /// The new process died: nothing can be granted here any more.
    ///
    /// Permits that the new process granted and that have not departed are void, since a third
    /// process may grant their slots again. The old process of an earlier upgrade loses its
    /// connection, and refuses its requests too.
    fn on_peer_lost(&self) {
        let now = self.clock.now();
        self.peer_lost.store(mutant!(true, "a permit of a process that is gone holds", false), Ordering::SeqCst);
        self.step(now, |state| state.on_peer_lost(now));
        if let Some(old_process) = self.old_process.get() {
            old_process.shutdown();
        }
    }
}

impl State {
    /// Refuses the waiters that the new process had to decide.
    ///
    /// All are decided before the first one leaves, as in `State::decide_all`.
    fn on_peer_lost(&mut self, now: Time) {
        self.closing = Some(now);
        let orphans = mutant!(self.locker.orphaned_tickets(), "waiters of a process that is gone wait on", Vec::new());
        for ticket in &orphans {
            let decided = self.wait_slots.decide(*ticket, Err(Refused::Closing { until: now }), now);
            self.wakers.extend(decided.ok().flatten());
        }
        for ticket in orphans {
            self.locker.leave(ticket, now);
        }
    }
}

/// Waits until the other process has taken this step.
///
/// # Errors
/// As [`recv`], and [`Error::Protocol`] for another step.
fn expect(socket: &FdSocket, step: HandoverStep) -> Result<(), Error> {
    let received: HandoverStep = recv(socket)?;
    if received == step {
        Ok(())
    } else {
        Err(protocol_error(format_args!("received {received:?}, expected {step:?}")))
    }
}

/// Sender thread: sends the asks and settles of this process to the new one.
///
/// Ends after a stop, once all events are sent, and then closes its side of the connection: the new
/// process takes that for the end of this one. Also ends after an error, or with the gate.
fn send_to_new(gate: &Weak<Gate>, socket: &FdSocket, signal: &Arc<ThreadSignal>) {
    let _exit_guard = ExitGuard::new(signal);
    // The new process waits for this before it opens the journal.
    if send(socket, &HandoverStep::Released).is_err() {
        return socket.shutdown();
    }
    loop {
        let is_running = signal.wait(None);
        let Some(gate) = gate.upgrade() else { return };
        loop {
            let events = gate.take_events();
            if events.is_empty() {
                break;
            }
            let mappings = TimeMappings::new(&gate.clock);
            let events: Vec<WireEvent> = events.iter().map(|event| WireEvent::of(event, mappings)).collect();
            if let Err(error) = send(socket, &events) {
                tracing::debug!(%error, "cannot send events to the new process");
                return socket.shutdown();
            }
        }
        if !is_running {
            return socket.shutdown_write();
        }
    }
}

/// Receiver thread: applies the verdicts of the new process.
///
/// Waits without a timeout, since an idle process sends nothing. An end of the connection is the
/// death of the new process, unless this one has stopped.
pub(super) fn recv_from_new(gate: &Weak<Gate>, socket: &FdSocket, signal: &Arc<ThreadSignal>) {
    // Before the first read, since a read keeps the timeout that it began with.
    if let Err(error) = socket.set_timeouts(None, Some(STEP_TIMEOUT)) {
        tracing::error!(%error, "cannot remove the read timeout: the new process may be considered dead while it is idle");
    }
    loop {
        let verdicts: Result<Option<Vec<WireVerdict>>, Error> = try_recv(socket);
        let Some(gate) = gate.upgrade() else { return };
        match verdicts {
            Ok(Some(verdicts)) => {
                let mappings = TimeMappings::new(&gate.clock);
                gate.on_verdicts(verdicts.into_iter().map(|verdict| verdict.verdict(mappings)));
            }
            Ok(None) | Err(_) if signal.is_stopping() => return,
            Ok(None) | Err(_) => {
                tracing::error!("the new process died: the remaining requests here are refused");
                socket.shutdown();
                return gate.on_peer_lost();
            }
        }
    }
}

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

use super::wire_format::{HandoverStep, Hello, TimeMappings, WireEvent, WireSnapshot, WireVerdict};
use super::{Error, MAX_BATCH, START_TIMEOUT, STEP_TIMEOUT, VerdictMsg, protocol_error, recv, send, try_recv};
use crate::gate::journal::Coverage;
use crate::gate::thread_signal::{DeferredThread, ExitGuard, ThreadSignal};
use crate::gate::{Gate, Refused, State};
use crate::locker::Event;
use crate::net::fd_socket::FdSocket;
use crate::time::Time;

impl Gate {
    /// Hands over all counts, waiters and flights to the new process at the other end of `socket`, with these listening
    /// sockets (each with its configured address). Blocks the thread until the new process has them; nothing is granted
    /// for a part of that time.
    ///
    /// Steps:
    ///
    /// 1. Sends the first message with the descriptors, and waits up to 60 s for `Ready`.
    /// 2. Makes the two threads, which do not run yet.
    /// 3. Sends counts and waiters with the lock held, and waits for `Inherited`: up to 5 s for
    ///    each step.
    /// 4. Sends `Go`. There is no way back from here on.
    /// 5. Closes the journal and starts the threads; the sender begins with `Released`.
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
        socket.set_timeouts(Some(STEP_TIMEOUT), Some(STEP_TIMEOUT)).map_err(Error::System)?;
        // Everything that can fail comes before the point of no return.
        let signal = Arc::new(ThreadSignal::default());
        let spawn = |name, talk: fn(&Weak<Gate>, &FdSocket, &Arc<ThreadSignal>)| {
            let (gate, socket, signal) = (Arc::downgrade(self), socket.try_clone()?, Arc::clone(&signal));
            DeferredThread::new(name, move || talk(&gate, &socket, &signal))
        };
        let receiver = spawn("recv-new", recv_from_new).map_err(Error::System)?;
        let sender = spawn("send-new", send_to_new).map_err(Error::System)?;
        let coverage = self.transfer(&socket, &signal)?;
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

    /// Point of no return. Only here does the gate wait with its lock held: the snapshot sent must stay true until the
    /// new process has it.
    ///
    /// Returns whether the state folder holds all that a crash needs.
    ///
    /// # Errors
    /// As [`send`] and [`recv`]; the locker is unchanged then, and grants again.
    fn transfer(&self, socket: &FdSocket, signal: &Arc<ThreadSignal>) -> Result<Coverage, Error> {
        let now = self.clock.now();
        self.step(now, |state| {
            let mappings = TimeMappings::new(&self.clock);
            send(socket, &WireSnapshot::of(&state.locker.snapshot(now), mappings))?;
            let waiters: Vec<WireEvent> =
                state.locker.queued_asks().iter().map(|event| WireEvent::of(event, mappings)).collect();
            send(socket, &waiters)?;
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
        self.peer_lost.store(true, Ordering::SeqCst);
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
        let orphans = self.locker.orphaned_tickets();
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
fn recv_from_new(gate: &Weak<Gate>, socket: &FdSocket, signal: &Arc<ThreadSignal>) {
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

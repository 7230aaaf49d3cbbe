//! The old process: gives its windows away, and from then on asks the new one.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::wire_format::{HandoverStep, Hello, TimeMappings, WireEvent, WireSnapshot, WireVerdict};
use super::{Error, MAX_BATCH, START_TIMEOUT, STEP_TIMEOUT, VerdictMsg, protocol_error, recv, send, try_recv};
use crate::gate::thread_signal::{DeferredThread, ExitGuard, ThreadSignal};
use crate::gate::{Gate, Refused, State};
use crate::locker::Event;
use crate::net::fd_socket::FdSocket;
use crate::time::Time;

impl Gate {
    /// Gives all windows, those in line and those under way to the process at the other end, which is being started, and
    /// these sockets with them (and what address was asked for each). Blocks the thread until that one has them; nobody is
    /// granted anything for some of that time.
    ///
    /// # Errors
    /// See [`Error`]; nothing has changed then. [`Refused::Closing`] is what all are told if the other process dies later.
    pub fn hand_over(self: &Arc<Self>, socket: FdSocket, sockets: &[(SocketAddr, TcpListener)]) -> Result<(), Error> {
        if self.is_handed_over() {
            return Err(Error::AlreadyHandedOver);
        }
        socket.set_timeouts(Some(START_TIMEOUT), Some(STEP_TIMEOUT)).map_err(Error::System)?;
        self.introduce(&socket, sockets)?;
        expect(&socket, HandoverStep::Ready)?;
        socket.set_timeouts(Some(STEP_TIMEOUT), Some(STEP_TIMEOUT)).map_err(Error::System)?;
        // All that can fail is made before.
        let signal = Arc::new(ThreadSignal::default());
        let spawn = |name, talk: fn(&Weak<Gate>, &FdSocket, &Arc<ThreadSignal>)| {
            let (gate, socket, signal) = (Arc::downgrade(self), socket.try_clone()?, Arc::clone(&signal));
            DeferredThread::new(name, move || talk(&gate, &socket, &signal))
        };
        let receiver = spawn("recv-new", recv_from_new).map_err(Error::System)?;
        let sender = spawn("send-new", send_to_new).map_err(Error::System)?;
        let is_incomplete = self.transfer(&socket, &signal)?;
        receiver.start();
        if let Some(journal) = self.journal.get() {
            journal.leave(is_incomplete);
        }
        sender.start();
        Ok(())
    }

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

    /// The moment itself. Here alone the gate waits with its lock held: what was told must stay as it was until the other
    /// has it.
    ///
    /// Returns whether what is written in the state folder is less than a crash must find.
    fn transfer(&self, socket: &FdSocket, signal: &Arc<ThreadSignal>) -> Result<bool, Error> {
        let now = self.clock.now();
        self.step(now, |state| {
            let mappings = TimeMappings::new(&self.clock);
            send(socket, &WireSnapshot::of(&state.locker.snapshot(now), mappings))?;
            let waiters: Vec<WireEvent> =
                state.locker.queued_asks().iter().map(|event| WireEvent::of(event, mappings)).collect();
            send(socket, &waiters)?;
            expect(socket, HandoverStep::Inherited)?;
            send(socket, &HandoverStep::Go)?;
            // It is empty until here: nobody hands over twice.
            self.signals.new_process.set(Arc::clone(signal)).ok();
            let is_incomplete = state.locker.has_unwritten_windows();
            state.locker.hand_over(now);
            state.reask_barrier = None;
            Ok(is_incomplete)
        })
    }

    /// What the other process is to be told next. When there is nothing, the bell is rung for the next.
    fn take_events(&self) -> Vec<Event> {
        let now = self.clock.now();
        self.step(now, |state| {
            let events: Vec<Event> = std::iter::from_fn(|| state.locker.poll_event()).take(MAX_BATCH).collect();
            state.pending_signals.new_process = !events.is_empty();
            events
        })
    }

    /// What the other process has said.
    fn on_verdicts(&self, verdicts: impl Iterator<Item = VerdictMsg>) {
        let now = self.clock.now();
        self.step(now, |state| {
            verdicts.for_each(|(ticket, verdict)| state.locker.handle_verdict(ticket, verdict, now))
        });
    }

    /// The other process is gone: nobody here can go any more.
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
    fn on_peer_lost(&mut self, now: Time) {
        self.closing = Some(now);
        let peer_lost = self.locker.orphaned_tickets();
        for ticket in &peer_lost {
            let decided = self.wait_slots.decide(*ticket, Err(Refused::Closing { until: now }), now);
            self.wakers.extend(decided.ok().flatten());
        }
        for ticket in peer_lost {
            self.locker.leave(ticket, now);
        }
    }
}

/// The other process has taken this step.
fn expect(socket: &FdSocket, step: HandoverStep) -> Result<(), Error> {
    let taken: HandoverStep = recv(socket)?;
    if taken == step { Ok(()) } else { Err(protocol_error(format_args!("it says {taken:?} where {step:?} was due"))) }
}

/// Tells the new process what is asked and settled here.
fn send_to_new(gate: &Weak<Gate>, socket: &FdSocket, signal: &Arc<ThreadSignal>) {
    let _exit_guard = ExitGuard::new(signal);
    // It opens the journal only now that it is closed here.
    if send(socket, &HandoverStep::Released).is_err() {
        return socket.shutdown();
    }
    loop {
        let goes_on = signal.wait(None);
        let Some(gate) = gate.upgrade() else { return };
        loop {
            let events = gate.take_events();
            if events.is_empty() {
                break;
            }
            let mappings = TimeMappings::new(&gate.clock);
            let events: Vec<WireEvent> = events.iter().map(|event| WireEvent::of(event, mappings)).collect();
            if let Err(error) = send(socket, &events) {
                tracing::debug!(%error, "the process that took over cannot be told");
                return socket.shutdown();
            }
        }
        if !goes_on {
            return socket.shutdown_write();
        }
    }
}

/// Hears what the new process grants.
fn recv_from_new(gate: &Weak<Gate>, socket: &FdSocket, signal: &Arc<ThreadSignal>) {
    // Before the first look: what is waited for is as long as was said before it.
    if let Err(error) = socket.set_timeouts(None, Some(STEP_TIMEOUT)) {
        tracing::error!(%error, "the process that took over may be taken for gone");
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
                tracing::error!("the process that took over is gone: what is left here is refused");
                socket.shutdown();
                return gate.on_peer_lost();
            }
        }
    }
}

//! The new process: takes over what the old one has, and from then on decides for both.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use super::wire_format::{HandoverStep, Hello, TimeMappings, WireEvent, WireSnapshot, WireVerdict};
use super::{Error, MAX_BATCH, STEP_TIMEOUT, VerdictMsg, protocol_error, recv, send, try_recv};
use crate::gate::clock::Clock;
use crate::gate::journal::{self, AfterCrash, Journal};
use crate::gate::thread_signal::{DeferredThread, ExitGuard, ThreadSignal};
use crate::gate::{Gate, Settings, State};
use crate::locker::{Ask, Event, Limit, LimitId, Shutdown};
use crate::net::drain::ConnGuard;
use crate::net::fd_socket::FdSocket;
use crate::time::Time;

/// A process that is about to take the place of another.
pub struct NewProcess {
    socket: FdSocket,
    seed: [u8; 16],
    /// The old one's state folder.
    dir: Option<PathBuf>,
    lock: Option<File>,
    sockets: Vec<(SocketAddr, TcpListener)>,
}

impl NewProcess {
    /// Meets the old process at the other end.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] if it says nothing, [`Error::Protocol`] if it is of a version that cannot be understood.
    pub fn connect(socket: FdSocket) -> Result<NewProcess, Error> {
        socket.set_timeouts(Some(STEP_TIMEOUT), Some(STEP_TIMEOUT)).map_err(Error::System)?;
        let received = socket.receive().map_err(Error::NoAnswer)?;
        let (hello, descriptors) = received.ok_or_else(|| protocol_error("it says nothing"))?;
        let Hello { seed, state, listens } = Hello::read(&hello)?;
        let mut descriptors = descriptors.into_iter();
        let lock = state.as_ref().filter(|(_, has_lock)| *has_lock).and_then(|_| descriptors.next()).map(File::from);
        let sockets: Vec<_> = listens.into_iter().zip(descriptors.map(TcpListener::from)).collect();
        let dir = state.map(|(dir, _)| Path::new(OsStr::from_bytes(&dir)).to_owned());
        Ok(NewProcess { socket, seed, dir, lock, sockets })
    }

    /// The old process's listening sockets, and what address was asked for each.
    pub fn take_sockets(&mut self) -> Vec<(SocketAddr, TcpListener)> {
        std::mem::take(&mut self.sockets)
    }

    /// A gate that will take the place of the old one's; it has no limits yet.
    ///
    /// # Errors
    /// [`Error::State`] if another state folder is asked for, and cannot be had.
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

    /// Says that all is ready, and takes over what was counted and who waits, with these limits. The old process stands
    /// still from here on, and goes on by itself if this is dropped.
    ///
    /// # Errors
    /// If the old one is gone, or says what cannot be.
    pub fn inherit(&self, gate: &Gate, limits: Vec<Limit>, under_way: Duration) -> Result<Vec<LimitId>, Error> {
        send(&self.socket, &HandoverStep::Ready)?;
        let snapshot: WireSnapshot = recv(&self.socket)?;
        let waiters: Vec<WireEvent> = recv(&self.socket)?;
        let mappings = TimeMappings::new(&gate.clock);
        let ids = gate.inherit(snapshot.snapshot(mappings), Shutdown::HandOver, limits, under_way);
        let now = gate.clock.now();
        let understood = gate.step(now, |state| {
            // They are to go in the order of their arrival, and not before the old one knows.
            state.locker.hold();
            state.handle_events(waiters, mappings, now)
        });
        if understood { Ok(ids) } else { Err(protocol_error("it speaks of limits that it has not told of")) }
    }

    /// Takes the old one's place: from here on this gate grants. `conn_guard` is held until the old one has ended.
    ///
    /// # Errors
    /// If the old one has not let go, in which case it goes on; or if there are no threads to be had.
    pub fn take(self, gate: &Arc<Gate>, conn_guard: ConnGuard) -> Result<(), Error> {
        // All that can fail is made before.
        let signal = Arc::new(ThreadSignal::default());
        let (release, released) = mpsc::channel();
        let journal = gate.journal.get();
        let writes = journal.map(|journal| journal.writer(gate)).transpose()?;
        let (of, socket, pending_signals) =
            (Arc::downgrade(gate), self.socket.try_clone().map_err(Error::System)?, Arc::clone(&signal));
        let sender = DeferredThread::new("send-old", move || send_to_old(&of, &socket, &pending_signals))
            .map_err(Error::System)?;
        let (of, socket, pending_signals) =
            (Arc::downgrade(gate), self.socket.try_clone().map_err(Error::System)?, Arc::clone(&signal));
        let listen = move || recv_from_old(&of, &socket, &pending_signals, &release, conn_guard);
        let receiver = DeferredThread::new("recv-old", listen).map_err(Error::System)?;
        // Both are empty until here.
        gate.signals.old_process.set(Arc::clone(&signal)).ok();
        gate.old_process.set(self.socket.try_clone().map_err(Error::System)?).ok();
        send(&self.socket, &HandoverStep::Inherited)?;
        if recv::<HandoverStep>(&self.socket)? != HandoverStep::Go {
            return Err(protocol_error("it did not send Go"));
        }
        // From here on nobody else grants anything: whatever happens to the old one, this one goes on.
        receiver.start();
        sender.start();
        // Some may have been answered before there was a bell.
        signal.notify();
        if released.recv_timeout(STEP_TIMEOUT).is_err() {
            tracing::error!("the process before has not closed its journal in time");
        }
        if let (Some(journal), Some(writes)) = (journal, writes) {
            journal.continue_from(gate, writes);
        }
        let now = gate.clock.now();
        gate.step(now, |state| state.locker.release(now));
        Ok(())
    }
}

/// Whether these are one folder.
fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    real(one) == real(other)
}

impl State {
    /// What the old process asks and settles, until something of it cannot be: then `false`.
    fn handle_events(&mut self, events: Vec<WireEvent>, mappings: TimeMappings, now: Time) -> bool {
        events.into_iter().map(|event| event.event(mappings)).all(|event| {
            let understood = self.locker.knows_limits_of(&event);
            if understood {
                self.recv(event, now);
            }
            understood
        })
    }

    /// What the old process asks or settles.
    fn recv(&mut self, event: Event, now: Time) {
        match event {
            // Of one that has stopped nobody is told anything any more.
            Event::Ask { .. } if self.remote_waiters.are_dropped => {}
            Event::Ask { ticket, claims, caller, urgency, arrived, bound, kind } => {
                let max_wait = (bound < Time::NEVER).then(|| bound.since(arrived));
                let ask = Ask { claims: &claims, caller, urgency, max_wait, arrived: Some(arrived), kind };
                let verdict = self.locker.ask(&ask, now);
                self.remote_waiters.tell(ticket, verdict, &mut self.locker);
            }
            Event::Leave(theirs) => {
                if let Some(ours) = self.remote_waiters.ours.remove(&theirs) {
                    self.remote_waiters.theirs.remove(&ours);
                    self.locker.leave(ours, now);
                }
            }
            Event::Settle { .. } | Event::GiveBack { .. } | Event::Land { .. } | Event::Pause { .. } => {
                self.locker.handle_remote(&event, now);
            }
        }
    }

    /// The old process is gone.
    fn drop_remote_waiters(&mut self, now: Time) {
        let waiting: Vec<_> = self.remote_waiters.theirs.drain().map(|(ours, _)| ours).collect();
        self.remote_waiters.ours.clear();
        self.remote_waiters.verdicts.clear();
        waiting.into_iter().for_each(|ticket| self.locker.leave(ticket, now));
        self.locker.remote_lost(now);
    }
}

impl Gate {
    /// What the old process is to be told next. When there is nothing, the bell is rung for the next.
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

/// Tells the old process what it is granted.
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
                tracing::debug!(%error, "the process before cannot be told");
                return socket.shutdown();
            }
        }
    }
}

/// Hears what the old process asks and settles, until it has ended.
fn recv_from_old(
    gate: &Weak<Gate>,
    socket: &FdSocket,
    signal: &ThreadSignal,
    release: &mpsc::Sender<()>,
    conn_guard: ConnGuard,
) {
    let patient = socket.set_timeouts(None, Some(STEP_TIMEOUT));
    // The first that it says; whether it comes in time or not, nobody may wait for it any more.
    if matches!(try_recv(socket), Ok(Some(HandoverStep::Released))) {
        release.send(()).ok();
    }
    loop {
        let events: Result<Option<Vec<WireEvent>>, Error> = try_recv(socket);
        let Some(gate) = gate.upgrade() else { return };
        let now = gate.clock.now();
        let understood = match events {
            Ok(Some(events)) if patient.is_ok() => {
                let mappings = TimeMappings::new(&gate.clock);
                gate.step(now, |state| state.handle_events(events, mappings, now))
            }
            Ok(_) | Err(_) => false,
        };
        if !understood {
            gate.step(now, |state| state.drop_remote_waiters(now));
            socket.shutdown();
            signal.stop();
            tracing::info!("the process before has ended");
            drop(conn_guard);
            return;
        }
    }
}

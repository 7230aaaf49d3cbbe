//! The old process: gives its windows away, and from then on asks the new one.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::wire_format::{EstateForm, EventForm, Hello, Lines, Step, WordForm};
use super::{Error, MOST, START, STEP, Word, foreign, hear, heard, say};
use crate::gate::thread_signal::{Bell, Leaving, Parked};
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
    pub fn hand_over(self: &Arc<Self>, pass: FdSocket, sockets: &[(SocketAddr, TcpListener)]) -> Result<(), Error> {
        if self.is_given() {
            return Err(Error::AlreadyGiven);
        }
        pass.set_timeouts(Some(START), Some(STEP)).map_err(Error::System)?;
        self.introduce(&pass, sockets)?;
        expect(&pass, Step::Ready)?;
        pass.set_timeouts(Some(STEP), Some(STEP)).map_err(Error::System)?;
        // All that can fail is made before.
        let bell = Arc::new(Bell::default());
        let spawn = |name, talk: fn(&Weak<Gate>, &FdSocket, &Arc<Bell>)| {
            let (gate, pass, bell) = (Arc::downgrade(self), pass.try_clone()?, Arc::clone(&bell));
            Parked::new(name, move || talk(&gate, &pass, &bell))
        };
        let hears = spawn("next-hear", hear_next).map_err(Error::System)?;
        let tells = spawn("next-tell", tell_next).map_err(Error::System)?;
        let doubtful = self.give(&pass, &bell)?;
        hears.begin();
        if let Some(journal) = self.journal.get() {
            journal.leave(doubtful);
        }
        tells.begin();
        Ok(())
    }

    fn introduce(&self, pass: &FdSocket, sockets: &[(SocketAddr, TcpListener)]) -> Result<(), Error> {
        let state = self.journal.get().map(|journal| journal.to_pass()).transpose().map_err(Error::System)?;
        let lock = state.as_ref().and_then(|(_, lock)| lock.as_ref());
        let hello = Hello {
            seed: self.seed,
            state: state.as_ref().map(|(dir, lock)| (dir.as_os_str().as_bytes().to_vec(), lock.is_some())),
            listens: sockets.iter().map(|(asked, _)| *asked).collect(),
        };
        let sockets = sockets.iter().map(|(_, socket)| socket.as_fd());
        let descriptors: Vec<BorrowedFd<'_>> = lock.map(AsFd::as_fd).into_iter().chain(sockets).collect();
        pass.send(&hello.write()?, &descriptors).map_err(Error::Silent)
    }

    /// The moment itself. Here alone the gate waits with its lock held: what was told must stay as it was until the other
    /// has it.
    ///
    /// Returns whether what is written in the state folder is less than a crash must find.
    fn give(&self, pass: &FdSocket, bell: &Arc<Bell>) -> Result<bool, Error> {
        let now = self.clock.now();
        self.step(now, |state| {
            let lines = Lines::new(&self.clock);
            say(pass, &EstateForm::of(&state.locker.snapshot(now), lines))?;
            let waiters: Vec<EventForm> =
                state.locker.queued_asks().iter().map(|event| EventForm::of(event, lines)).collect();
            say(pass, &waiters)?;
            expect(pass, Step::Inherited)?;
            say(pass, &Step::Go)?;
            // It is empty until here: nobody hands over twice.
            self.bells.next.set(Arc::clone(bell)).ok();
            let doubtful = state.locker.has_unwritten_windows();
            state.locker.hand_over(now);
            state.muster = None;
            Ok(doubtful)
        })
    }

    /// What the other process is to be told next. When there is nothing, the bell is rung for the next.
    fn take_events(&self) -> Vec<Event> {
        let now = self.clock.now();
        self.step(now, |state| {
            let events: Vec<Event> = std::iter::from_fn(|| state.locker.poll_event()).take(MOST).collect();
            state.rung.next = !events.is_empty();
            events
        })
    }

    /// What the other process has said.
    fn be_told(&self, words: impl Iterator<Item = Word>) {
        let now = self.clock.now();
        self.step(now, |state| words.for_each(|(ticket, word)| state.locker.handle_verdict(ticket, word, now)));
    }

    /// The other process is gone: nobody here can go any more.
    fn be_forsaken(&self) {
        let now = self.clock.now();
        self.forsaken.store(true, Ordering::SeqCst);
        self.step(now, |state| state.be_forsaken(now));
        if let Some(before) = self.before.get() {
            before.shutdown();
        }
    }
}

impl State {
    fn be_forsaken(&mut self, now: Time) {
        self.closing = Some(now);
        let forsaken = self.locker.orphaned_tickets();
        for ticket in &forsaken {
            let decided = self.line.decide(*ticket, Err(Refused::Closing { until: now }), now);
            self.woken.extend(decided.ok().flatten());
        }
        for ticket in forsaken {
            self.locker.leave(ticket, now);
        }
    }
}

/// The other process has taken this step.
fn expect(pass: &FdSocket, step: Step) -> Result<(), Error> {
    let taken: Step = hear(pass)?;
    if taken == step { Ok(()) } else { Err(foreign(format_args!("it says {taken:?} where {step:?} was due"))) }
}

/// Tells the new process what is asked and settled here.
fn tell_next(gate: &Weak<Gate>, pass: &FdSocket, bell: &Arc<Bell>) {
    let _leaving = Leaving::at_the_end_of(bell);
    // It opens the journal only now that it is closed here.
    if say(pass, &Step::Released).is_err() {
        return pass.shutdown();
    }
    loop {
        let goes_on = bell.hear(None);
        let Some(gate) = gate.upgrade() else { return };
        loop {
            let events = gate.take_events();
            if events.is_empty() {
                break;
            }
            let lines = Lines::new(&gate.clock);
            let events: Vec<EventForm> = events.iter().map(|event| EventForm::of(event, lines)).collect();
            if let Err(error) = say(pass, &events) {
                tracing::debug!(%error, "the process that took over cannot be told");
                return pass.shutdown();
            }
        }
        if !goes_on {
            return pass.shutdown_write();
        }
    }
}

/// Hears what the new process grants.
fn hear_next(gate: &Weak<Gate>, pass: &FdSocket, bell: &Arc<Bell>) {
    // Before the first look: what is waited for is as long as was said before it.
    if let Err(error) = pass.set_timeouts(None, Some(STEP)) {
        tracing::error!(%error, "the process that took over may be taken for gone");
    }
    loop {
        let words: Result<Option<Vec<WordForm>>, Error> = heard(pass);
        let Some(gate) = gate.upgrade() else { return };
        match words {
            Ok(Some(words)) => {
                let lines = Lines::new(&gate.clock);
                gate.be_told(words.into_iter().map(|word| word.word(lines)));
            }
            Ok(None) | Err(_) if bell.is_over() => return,
            Ok(None) | Err(_) => {
                tracing::error!("the process that took over is gone: what is left here is refused");
                pass.shutdown();
                return gate.be_forsaken();
            }
        }
    }
}

//! The new process: takes over what the old one has, and from then on decides for both.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use super::wire_format::{EstateForm, EventForm, Hello, Lines, Step, WordForm};
use super::{Error, MOST, STEP, Word, foreign, hear, heard, say};
use crate::gate::clock::Clock;
use crate::gate::journal::{self, AfterCrash, Journal};
use crate::gate::thread_signal::{Bell, Leaving, Parked};
use crate::gate::{Gate, Settings, State};
use crate::locker::{Ask, Event, Limit, LimitId, Shutdown};
use crate::net::drain::ConnGuard;
use crate::net::fd_socket::FdSocket;
use crate::time::Time;

/// A process that is about to take the place of another.
pub struct Heir {
    pass: FdSocket,
    seed: [u8; 16],
    /// The old one's state folder.
    dir: Option<PathBuf>,
    lock: Option<File>,
    sockets: Vec<(SocketAddr, TcpListener)>,
}

impl Heir {
    /// Meets the old process at the other end.
    ///
    /// # Errors
    /// [`Error::Silent`] if it says nothing, [`Error::Foreign`] if it is of a version that cannot be understood.
    pub fn meet(pass: FdSocket) -> Result<Heir, Error> {
        pass.set_timeouts(Some(STEP), Some(STEP)).map_err(Error::System)?;
        let received = pass.receive().map_err(Error::Silent)?;
        let (hello, descriptors) = received.ok_or_else(|| foreign("it says nothing"))?;
        let Hello { seed, state, listens } = Hello::read(&hello)?;
        let mut descriptors = descriptors.into_iter();
        let lock = state.as_ref().filter(|(_, has_lock)| *has_lock).and_then(|_| descriptors.next()).map(File::from);
        let sockets: Vec<_> = listens.into_iter().zip(descriptors.map(TcpListener::from)).collect();
        let dir = state.map(|(dir, _)| Path::new(OsStr::from_bytes(&dir)).to_owned());
        Ok(Heir { pass, seed, dir, lock, sockets })
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
                Ok(journal) => gate.meet(&Arc::new(journal)),
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
        say(&self.pass, &Step::Ready)?;
        let estate: EstateForm = hear(&self.pass)?;
        let waiters: Vec<EventForm> = hear(&self.pass)?;
        let lines = Lines::new(&gate.clock);
        let ids = gate.inherit(estate.estate(lines), Shutdown::HandOver, limits, under_way);
        let now = gate.clock.now();
        let understood = gate.step(now, |state| {
            // They are to go in the order of their arrival, and not before the old one knows.
            state.locker.hold();
            state.hear_all(waiters, lines, now)
        });
        if understood { Ok(ids) } else { Err(foreign("it speaks of limits that it has not told of")) }
    }

    /// Takes the old one's place: from here on this gate grants. `present` is held until the old one has ended.
    ///
    /// # Errors
    /// If the old one has not let go, in which case it goes on; or if there are no threads to be had.
    pub fn take(self, gate: &Arc<Gate>, present: ConnGuard) -> Result<(), Error> {
        // All that can fail is made before.
        let bell = Arc::new(Bell::default());
        let (release, released) = mpsc::channel();
        let journal = gate.journal.get();
        let writes = journal.map(|journal| journal.writer(gate)).transpose()?;
        let (of, pass, rung) = (Arc::downgrade(gate), self.pass.try_clone().map_err(Error::System)?, Arc::clone(&bell));
        let tells = Parked::new("before-tell", move || tell_before(&of, &pass, &rung)).map_err(Error::System)?;
        let (of, pass, rung) = (Arc::downgrade(gate), self.pass.try_clone().map_err(Error::System)?, Arc::clone(&bell));
        let listen = move || hear_before(&of, &pass, &rung, &release, present);
        let hears = Parked::new("before-hear", listen).map_err(Error::System)?;
        // Both are empty until here.
        gate.bells.before.set(Arc::clone(&bell)).ok();
        gate.before.set(self.pass.try_clone().map_err(Error::System)?).ok();
        say(&self.pass, &Step::Inherited)?;
        if hear::<Step>(&self.pass)? != Step::Go {
            return Err(foreign("it did not say Go"));
        }
        // From here on nobody else grants anything: whatever happens to the old one, this one goes on.
        hears.begin();
        tells.begin();
        // Some may have been answered before there was a bell.
        bell.ring();
        if released.recv_timeout(STEP).is_err() {
            tracing::error!("the process before has not closed its journal in time");
        }
        if let (Some(journal), Some(writes)) = (journal, writes) {
            journal.take_up(gate, writes);
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
    fn hear_all(&mut self, events: Vec<EventForm>, lines: Lines, now: Time) -> bool {
        events.into_iter().map(|event| event.event(lines)).all(|event| {
            let understood = self.locker.knows_limits_of(&event);
            if understood {
                self.hear(event, now);
            }
            understood
        })
    }

    /// What the old process asks or settles.
    fn hear(&mut self, event: Event, now: Time) {
        match event {
            // Of one that has stopped nobody is told anything any more.
            Event::Ask { .. } if self.guests.are_sent_away => {}
            Event::Ask { ticket, claims, caller, urgency, arrived, bound, kind } => {
                let max_wait = (bound < Time::NEVER).then(|| bound.since(arrived));
                let ask = Ask { claims: &claims, caller, urgency, max_wait, arrived: Some(arrived), kind };
                let verdict = self.locker.ask(&ask, now);
                self.guests.tell(ticket, verdict, &mut self.locker);
            }
            Event::Leave(theirs) => {
                if let Some(ours) = self.guests.ours.remove(&theirs) {
                    self.guests.theirs.remove(&ours);
                    self.locker.leave(ours, now);
                }
            }
            Event::Settle { .. } | Event::GiveBack { .. } | Event::Land { .. } | Event::Pause { .. } => {
                self.locker.handle_remote(&event, now);
            }
        }
    }

    /// The old process is gone.
    fn lose_guests(&mut self, now: Time) {
        let waiting: Vec<_> = self.guests.theirs.drain().map(|(ours, _)| ours).collect();
        self.guests.ours.clear();
        self.guests.words.clear();
        waiting.into_iter().for_each(|ticket| self.locker.leave(ticket, now));
        self.locker.remote_lost(now);
    }
}

impl Gate {
    /// What the old process is to be told next. When there is nothing, the bell is rung for the next.
    fn take_words(&self) -> Vec<Word> {
        let now = self.clock.now();
        self.step(now, |state| {
            let words: Vec<Word> = std::iter::from_fn(|| state.guests.words.pop_front()).take(MOST).collect();
            state.rung.before = !words.is_empty();
            words
        })
    }
}

/// Tells the old process what it is granted.
fn tell_before(gate: &Weak<Gate>, pass: &FdSocket, bell: &Arc<Bell>) {
    let _leaving = Leaving::at_the_end_of(bell);
    while bell.hear(None) {
        let Some(gate) = gate.upgrade() else { return };
        loop {
            let words = gate.take_words();
            if words.is_empty() {
                break;
            }
            let lines = Lines::new(&gate.clock);
            let words: Vec<WordForm> = words.iter().map(|word| WordForm::of(word, lines)).collect();
            if let Err(error) = say(pass, &words) {
                tracing::debug!(%error, "the process before cannot be told");
                return pass.shutdown();
            }
        }
    }
}

/// Hears what the old process asks and settles, until it has ended.
fn hear_before(gate: &Weak<Gate>, pass: &FdSocket, bell: &Bell, release: &mpsc::Sender<()>, present: ConnGuard) {
    let patient = pass.set_timeouts(None, Some(STEP));
    // The first that it says; whether it comes in time or not, nobody may wait for it any more.
    if matches!(heard(pass), Ok(Some(Step::Released))) {
        release.send(()).ok();
    }
    loop {
        let events: Result<Option<Vec<EventForm>>, Error> = heard(pass);
        let Some(gate) = gate.upgrade() else { return };
        let now = gate.clock.now();
        let understood = match events {
            Ok(Some(events)) if patient.is_ok() => {
                let lines = Lines::new(&gate.clock);
                gate.step(now, |state| state.hear_all(events, lines, now))
            }
            Ok(_) | Err(_) => false,
        };
        if !understood {
            gate.step(now, |state| state.lose_guests(now));
            pass.shutdown();
            bell.end();
            tracing::info!("the process before has ended");
            drop(present);
            return;
        }
    }
}

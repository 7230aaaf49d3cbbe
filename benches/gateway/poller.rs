//! One epoll: which of the sockets has something to do, and how long there was nothing.

use std::io;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData};
use rustix::fd::{AsFd, OwnedFd};
use rustix::time::{ClockId, Timespec, clock_gettime};

pub(crate) use rustix::event::epoll::EventFlags;

/// CLOCK_MONOTONIC in nanoseconds, the same line for every process on the machine.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// How to pass the time until the next event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Sleep: the core's idle time is known.
    Sleep,
    /// Ask again and again: no wake-up delay of ours is in the figures.
    Spin,
}

/// Sockets, each known by a number.
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
    next: usize,
    /// Nanoseconds spent waiting for something to do.
    pub(crate) idle: u64,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Poller> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Poller { epoll, events: Vec::with_capacity(256), next: 0, idle: 0 })
    }

    /// Watches a socket until it is closed.
    pub(crate) fn add(&self, socket: impl AsFd, place: u64, what: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(place), what)?)
    }

    /// The next socket that has something to do; none at `until`.
    pub(crate) fn ready(&mut self, until: u64, waiting: Waiting) -> io::Result<Option<u64>> {
        loop {
            if let Some(event) = self.events.get(self.next) {
                self.next += 1;
                return Ok(Some(event.data.u64()));
            }
            let before = now();
            if before >= until {
                return Ok(None);
            }
            self.wait(until - before, waiting)?;
            if waiting == Waiting::Sleep {
                self.idle += now() - before;
            }
        }
    }

    fn wait(&mut self, nanos: u64, waiting: Waiting) -> io::Result<()> {
        let nanos = if waiting == Waiting::Spin { 0 } else { nanos.min(1_000_000_000) };
        let timeout = Timespec { tv_sec: (nanos / 1_000_000_000) as i64, tv_nsec: (nanos % 1_000_000_000) as i64 };
        self.events.clear();
        self.next = 0;
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

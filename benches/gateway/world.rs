//! The event loop: an origin's door, its connections, and the callers' connections, on one epoll.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// A body that no other bytes of a response end with, so that a whole answer is recognised by its tail.
const TAIL: &[u8] = b"the origin's last words\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 64\r\n\r\n\
    0123456789012345678901234567890123456789the origin's last words\n";

const DOOR: u64 = u64::MAX;
const CALLER: u64 = 1 << 32;

/// CLOCK_MONOTONIC in nanoseconds, the same line for every process on the machine.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// One caller's connection.
struct Caller {
    to: SocketAddr,
    stream: TcpStream,
    /// When the request that is under way was meant to leave, and when it left.
    asked: Option<(u64, u64)>,
    /// What has come of an answer that came in pieces or is not the origin's.
    partial: Vec<u8>,
}

/// An exchange that has ended.
pub(crate) struct Finished {
    pub(crate) caller: usize,
    /// 0 if the connection ended instead (there is a new one then).
    pub(crate) status: u16,
    /// When it was meant to leave.
    pub(crate) meant: u64,
    /// When it left.
    pub(crate) left: u64,
    /// When the answer was read.
    pub(crate) ended: u64,
}

/// The origin and all callers.
pub(crate) struct World {
    epoll: OwnedFd,
    events: Vec<Event>,
    next: usize,
    door: TcpListener,
    served: Vec<Option<TcpStream>>,
    callers: Vec<Caller>,
    buffer: Vec<u8>,
    /// When each request was read by the origin, if wanted.
    pub(crate) arrivals: Option<Vec<u64>>,
    /// Nanoseconds spent waiting for something to do.
    pub(crate) idle: u64,
}

impl World {
    /// An origin that listens on `origin`, and no callers yet.
    pub(crate) fn new(origin: SocketAddr) -> io::Result<World> {
        let door = TcpListener::bind(origin)?;
        door.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &door, EventData::new_u64(DOOR), EventFlags::IN)?;
        Ok(World {
            epoll,
            events: Vec::with_capacity(256),
            next: 0,
            door,
            served: Vec::new(),
            callers: Vec::new(),
            buffer: vec![0; 16 * 1024],
            arrivals: None,
            idle: 0,
        })
    }

    /// Serves as an origin for good.
    pub(crate) fn serve(&mut self) -> io::Result<()> {
        loop {
            self.step(u64::MAX, Waiting::Sleep)?;
        }
    }

    /// Connects one more caller; its number is the count of those before it.
    pub(crate) fn connect(&mut self, to: SocketAddr) -> io::Result<usize> {
        let place = self.callers.len();
        let caller = self.connected(place, to)?;
        self.callers.push(caller);
        Ok(place)
    }

    fn connected(&self, place: usize, to: SocketAddr) -> io::Result<Caller> {
        let stream = TcpStream::connect(to)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        epoll::add(&self.epoll, &stream, EventData::new_u64(CALLER + place as u64), EventFlags::IN)?;
        Ok(Caller { to, stream, asked: None, partial: Vec::new() })
    }

    /// Sends a request that was meant to leave at `meant`; returns when it left.
    pub(crate) fn ask(&mut self, place: usize, request: &[u8], meant: u64) -> io::Result<u64> {
        let caller = &mut self.callers[place];
        let left = now();
        caller.asked = Some((meant, left));
        match caller.stream.write(request) {
            Ok(written) if written == request.len() => Ok(left),
            Ok(_) => Err(io::Error::other("a request did not fit into the socket's buffer")),
            // The other side has closed: its end is read by the next step.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(left),
            Err(error) => Err(error),
        }
    }

    /// Works until an exchange has ended, or until `until`.
    pub(crate) fn step(&mut self, until: u64, waiting: Waiting) -> io::Result<Option<Finished>> {
        loop {
            while let Some(event) = self.events.get(self.next) {
                let place = event.data.u64();
                self.next += 1;
                if place == DOOR {
                    self.accept()?;
                } else if place >= CALLER {
                    if let Some(finished) = self.hear((place - CALLER) as usize)? {
                        return Ok(Some(finished));
                    }
                } else {
                    self.answer(place as usize)?;
                }
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

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.door.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let place = self.served.iter().position(Option::is_none).unwrap_or(self.served.len());
            epoll::add(&self.epoll, &stream, EventData::new_u64(place as u64), EventFlags::IN)?;
            if place == self.served.len() {
                self.served.push(None);
            }
            self.served[place] = Some(stream);
        }
    }

    /// The origin's part. Its requests are small and come in one piece; what comes in several is answered at its end.
    fn answer(&mut self, place: usize) -> io::Result<()> {
        let Some(stream) = &mut self.served[place] else { return Ok(()) };
        match stream.read(&mut self.buffer) {
            Ok(0) => self.served[place] = None,
            Ok(length) if self.buffer[..length].ends_with(b"\r\n\r\n") => {
                if let Some(arrivals) = &mut self.arrivals {
                    arrivals.push(now());
                }
                if stream.write(ANSWER).is_ok_and(|written| written < ANSWER.len()) {
                    return Err(io::Error::other("an answer did not fit into the socket's buffer"));
                }
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.served[place] = None,
        }
        Ok(())
    }

    fn hear(&mut self, place: usize) -> io::Result<Option<Finished>> {
        let caller = &mut self.callers[place];
        let length = match caller.stream.read(&mut self.buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(_) => 0,
        };
        let ended = now();
        let status = match caller.status(&self.buffer[..length])? {
            Some(status) => status,
            None if length == 0 => 0,
            None => return Ok(None),
        };
        let asked = caller.asked.take();
        if status == 0 {
            let to = caller.to;
            self.callers[place] = self.connected(place, to)?;
        }
        // An idle connection that ended was no exchange.
        Ok(asked.map(|(meant, left)| Finished { caller: place, status, meant, left, ended }))
    }
}

/// How to pass the time until the next event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Sleep: the core's idle time is known.
    Sleep,
    /// Ask again and again: no wake-up delay of ours is in the figures.
    Spin,
}

impl Caller {
    /// The status, once the whole answer is here.
    fn status(&mut self, bytes: &[u8]) -> io::Result<Option<u16>> {
        if self.partial.is_empty() && bytes.starts_with(b"HTTP/1.1 200") && bytes.ends_with(TAIL) {
            return Ok(Some(200));
        }
        self.partial.extend_from_slice(bytes);
        let Some(head) = self.partial.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        let text = String::from_utf8_lossy(&self.partial[..head]).to_lowercase();
        let status = text.get(9..12).and_then(|code| code.parse().ok());
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        let (Some(status), Some(length)) = (status, length) else {
            return Err(io::Error::other(format!("an answer that the bench does not understand: {text}")));
        };
        if self.partial.len() < head + 4 + length {
            return Ok(None);
        }
        self.partial.clear();
        Ok(Some(status))
    }
}

//! The event loop: an origin's door, its connections, and the callers' connections, on one epoll.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::line::{Line, Path};
use super::poller::{EventFlags, Poller, Waiting, now};

/// A body that no other bytes of a response end with, so that a whole answer is recognised by its tail.
const TAIL: &[u8] = b"the origin's last words\n";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nDate: Sat, 28 Nov 2026 12:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 64\r\n\r\n\
    0123456789012345678901234567890123456789the origin's last words\n";

const DOOR: u64 = u64::MAX;
const CALLER: u64 = 1 << 32;

/// One caller's connection.
struct Caller {
    path: Path,
    line: Line,
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
    poller: Poller,
    door: Option<TcpListener>,
    served: Vec<Option<TcpStream>>,
    callers: Vec<Caller>,
    buffer: Vec<u8>,
    /// When each request was read by the origin, and the number that its path is, if wanted.
    pub(crate) arrivals: Option<Vec<(u64, u8)>>,
}

impl World {
    /// An origin that listens on `origin`, unless it is another process, and no callers yet.
    pub(crate) fn new(origin: Option<SocketAddr>) -> io::Result<World> {
        let poller = Poller::new()?;
        let door = origin.map(TcpListener::bind).transpose()?;
        if let Some(door) = &door {
            door.set_nonblocking(true)?;
            poller.add(door, DOOR, EventFlags::IN)?;
        }
        Ok(World { poller, door, served: Vec::new(), callers: Vec::new(), buffer: vec![0; 16 * 1024], arrivals: None })
    }

    /// Serves as an origin for good.
    pub(crate) fn serve(&mut self) -> io::Result<()> {
        loop {
            self.step(u64::MAX, Waiting::Sleep)?;
        }
    }

    /// Connects one more caller; its number is the count of those before it.
    pub(crate) fn connect(&mut self, path: &Path) -> io::Result<usize> {
        let place = self.callers.len();
        let caller = self.connected(place, path.clone())?;
        self.callers.push(caller);
        Ok(place)
    }

    fn connected(&self, place: usize, path: Path) -> io::Result<Caller> {
        let line = path.open()?;
        self.poller.add(&line, CALLER + place as u64, EventFlags::IN)?;
        Ok(Caller { path, line, asked: None, partial: Vec::new() })
    }

    /// Sends a request that was meant to leave at `meant`; returns when it left.
    pub(crate) fn ask(&mut self, place: usize, request: &[u8], meant: u64) -> io::Result<u64> {
        let caller = &mut self.callers[place];
        let left = now();
        caller.asked = Some((meant, left));
        match caller.line.send(request) {
            Ok(written) if written == request.len() => Ok(left),
            Ok(_) => Err(io::Error::other("a request did not fit into the socket's buffer")),
            // The other side has closed: its end is read by the next step.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(left),
            Err(error) => Err(error),
        }
    }

    /// Works until an exchange has ended, or until `until`.
    pub(crate) fn step(&mut self, until: u64, waiting: Waiting) -> io::Result<Option<Finished>> {
        while let Some(place) = self.poller.ready(until, waiting)? {
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
        Ok(None)
    }

    /// Nanoseconds spent waiting for something to do.
    pub(crate) fn idle(&self) -> u64 {
        self.poller.idle
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Some(door) = &self.door {
            let stream = match door.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let place = self.served.iter().position(Option::is_none).unwrap_or(self.served.len());
            self.poller.add(&stream, place as u64, EventFlags::IN)?;
            if place == self.served.len() {
                self.served.push(None);
            }
            self.served[place] = Some(stream);
        }
        Ok(())
    }

    /// The origin's part. Its requests are small and come in one piece; what comes in several is answered at its end.
    fn answer(&mut self, place: usize) -> io::Result<()> {
        let Some(stream) = &mut self.served[place] else { return Ok(()) };
        match stream.read(&mut self.buffer) {
            Ok(0) => self.served[place] = None,
            Ok(length) if self.buffer[..length].ends_with(b"\r\n\r\n") => {
                if let Some(arrivals) = &mut self.arrivals {
                    let number = self.buffer.get(5).map_or(0, |digit| digit.wrapping_sub(b'0'));
                    arrivals.push((now(), number));
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
        let length = match caller.line.receive(&mut self.buffer) {
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
            let path = caller.path.clone();
            self.callers[place] = self.connected(place, path)?;
        }
        // An idle connection that ended was no exchange.
        Ok(asked.map(|(meant, left)| Finished { caller: place, status, meant, left, ended }))
    }
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

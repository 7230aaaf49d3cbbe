//! Tunnels as the thing measured: how many are opened in a second, and how many large bodies come through them.
//!
//! What the load itself costs is kept low, so that the gateway's core stays the narrow place: bodies are sent from pages
//! that are never copied, and thrown away by the kernel.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use rustix::net::{RecvFlags, recv};

use super::line::{Path, ask_for_tunnel, connect_head};
use super::poller::{EventFlags, Poller, Waiting, now};

const SECOND: u64 = 1_000_000_000;
const DOOR: u64 = u64::MAX;
const CALLER: u64 = 1 << 32;
const BODY: usize = 1 << 20;
const REQUEST: &[u8] = b"one body\n";

/// What both kinds need to know.
pub(crate) struct Tunnels {
    pub(crate) origin: SocketAddr,
    pub(crate) path: Path,
    pub(crate) connections: usize,
    pub(crate) seconds: f64,
    pub(crate) warm: f64,
}

impl Tunnels {
    fn target(&self) -> String {
        self.path.tunnel.as_deref().map_or_else(|| self.origin.to_string(), str::to_owned)
    }
}

/// Counts what happens between the end of the warm-up and the end.
struct Tally {
    begin: u64,
    end: u64,
    count: u64,
    idle_before: Option<u64>,
}

impl Tally {
    fn new(load: &Tunnels) -> Tally {
        let begin = now() + (load.warm * SECOND as f64) as u64;
        Tally { begin, end: begin + (load.seconds * SECOND as f64) as u64, count: 0, idle_before: None }
    }

    fn add(&mut self, idle: u64) {
        if now() >= self.begin {
            self.idle_before.get_or_insert(idle);
            self.count += 1;
        }
    }

    fn line(&self, idle: u64, failed: u64) -> String {
        let seconds = (self.end - self.begin) as f64 / SECOND as f64;
        let idle = idle - self.idle_before.unwrap_or(0);
        let busy = 1.0 - idle as f64 / (self.end - self.begin) as f64;
        format!(r#"{{"rate":{:.1},"failed":{failed},"load_busy":{busy:.3}}}"#, self.count as f64 / seconds)
    }
}

fn door(origin: SocketAddr, poller: &Poller) -> io::Result<TcpListener> {
    let door = TcpListener::bind(origin)?;
    door.set_nonblocking(true)?;
    poller.add(&door, DOOR, EventFlags::IN)?;
    Ok(door)
}

/// What can be read now, or nothing.
fn accept(door: &TcpListener) -> io::Result<Option<TcpStream>> {
    match door.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens tunnels one after the other on each of the connections. The origin ends each at once, so that the end runs
/// through the gateway as well, and no port is left waiting at the side that dials.
pub(crate) fn set_ups(load: &Tunnels) -> io::Result<String> {
    let mut poller = Poller::new()?;
    let door = door(load.origin, &poller)?;
    let head = connect_head(&load.target());
    let dial = |poller: &Poller, place: usize| -> io::Result<TcpStream> {
        let mut tcp = TcpStream::connect(load.path.to)?;
        tcp.set_nonblocking(true)?;
        tcp.write_all(head.as_bytes())?;
        poller.add(&tcp, CALLER + place as u64, EventFlags::IN)?;
        Ok(tcp)
    };
    let mut callers = Vec::new();
    for place in 0..load.connections {
        callers.push((dial(&poller, place)?, false));
    }
    let mut tally = Tally::new(load);
    let mut failed = 0;
    let mut buffer = [0; 4096];
    while let Some(place) = poller.ready(tally.end, Waiting::Sleep)? {
        if place == DOOR {
            while accept(&door)?.is_some() {}
            continue;
        }
        let place = (place - CALLER) as usize;
        let (tcp, open) = &mut callers[place];
        match tcp.read(&mut buffer) {
            Ok(0) | Err(_) if !*open => failed += 1,
            Ok(0) => tally.add(poller.idle),
            Ok(length) => {
                *open |= buffer[..length].starts_with(b"HTTP/1.1 200");
                continue;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(_) => failed += 1,
        }
        callers[place] = (dial(&poller, place)?, false);
    }
    Ok(tally.line(poller.idle, failed))
}

/// The origin's end of a tunnel.
struct Giver {
    tcp: TcpStream,
    /// Bytes of bodies that have been asked for and are not sent.
    owed: usize,
}

impl Giver {
    fn work(&mut self, pages: &OwnedFd) -> io::Result<()> {
        let mut asked = [0; 256];
        match self.tcp.read(&mut asked) {
            Ok(length) => self.owed += length / REQUEST.len() * BODY,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        while self.owed > 0 {
            let left = (self.owed - 1) % BODY + 1;
            let mut offset = (BODY - left) as u64;
            match sendfile(&self.tcp, pages, Some(&mut offset), left) {
                Ok(sent) => self.owed -= sent,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The caller's end of a tunnel.
struct Taker {
    tcp: TcpStream,
    /// How much of the body has come.
    come: usize,
    /// The first body is looked at.
    first: Option<Vec<u8>>,
}

impl Taker {
    /// Whether a body has come to its end.
    fn work(&mut self, buffer: &mut [u8], body: &[u8]) -> io::Result<bool> {
        let room = (BODY - self.come).min(buffer.len());
        let length = if let Some(first) = &mut self.first {
            let length = self.tcp.read(&mut buffer[..room])?;
            first.extend_from_slice(&buffer[..length]);
            length
        } else {
            // TRUNC: the kernel throws the bytes away (tcp(7)).
            recv(&self.tcp, &mut buffer[..room], RecvFlags::TRUNC)?.1
        };
        if length == 0 {
            return Err(io::Error::other("a tunnel ended within a body"));
        }
        self.come += length;
        if self.come < BODY {
            return Ok(false);
        }
        self.come = 0;
        if self.first.take().is_some_and(|first| first != body) {
            return Err(io::Error::other("a body was changed on its way"));
        }
        self.tcp.write_all(REQUEST)?;
        Ok(true)
    }
}

/// Each connection is a tunnel in which one body after the other is asked for.
pub(crate) fn bodies(load: &Tunnels) -> io::Result<String> {
    let mut poller = Poller::new()?;
    let door = door(load.origin, &poller)?;
    let body: Vec<u8> = (0..BODY as u32).map(|place| place.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let pages = memfd_create("body", MemfdFlags::CLOEXEC)?;
    io::Write::write_all(&mut std::fs::File::from(pages.try_clone()?), &body)?;
    let (mut takers, mut givers) = (Vec::new(), Vec::new());
    for place in 0..load.connections {
        let mut tcp = TcpStream::connect(load.path.to)?;
        ask_for_tunnel(&mut tcp, &load.target())?;
        tcp.write_all(REQUEST)?;
        tcp.set_nonblocking(true)?;
        poller.add(&tcp, CALLER + place as u64, EventFlags::IN)?;
        takers.push(Taker { tcp, come: 0, first: Some(Vec::with_capacity(BODY)) });
    }
    let mut tally = Tally::new(load);
    let mut buffer = vec![0; BODY];
    while let Some(place) = poller.ready(tally.end, Waiting::Sleep)? {
        if place == DOOR {
            while let Some(tcp) = accept(&door)? {
                tcp.set_nonblocking(true)?;
                poller.add(&tcp, givers.len() as u64, EventFlags::IN | EventFlags::OUT | EventFlags::ET)?;
                givers.push(Giver { tcp, owed: 0 });
            }
        } else if place >= CALLER {
            let taker = &mut takers[(place - CALLER) as usize];
            match taker.work(&mut buffer, &body) {
                Ok(true) => tally.add(poller.idle),
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        } else {
            givers[place as usize].work(&pages)?;
        }
    }
    Ok(tally.line(poller.idle, 0))
}

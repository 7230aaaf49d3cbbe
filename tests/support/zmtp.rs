//! A peer that speaks ZMTP in raw bytes: sends what it is told, reads frames with a deadline.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

/// The greeting of a peer.
pub(crate) fn greeting(version: u8, mechanism: &str) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    (bytes[0], bytes[8], bytes[9], bytes[10]) = (0xFF, 1, 0x7F, version);
    bytes[12..12 + mechanism.len()].copy_from_slice(mechanism.as_bytes());
    bytes
}

/// A command with its name and data.
pub(crate) fn command(name: &str, data: &[u8]) -> Vec<u8> {
    let length = u8::try_from(1 + name.len() + data.len()).expect("a test's commands are short");
    let named = u8::try_from(name.len()).expect("it is shorter");
    [&[4, length, named], name.as_bytes(), data].concat()
}

/// READY of a socket of this type.
pub(crate) fn ready(socket_type: &str) -> Vec<u8> {
    let length = u8::try_from(socket_type.len()).expect("a name of a few letters");
    command("READY", &[b"\x0bSocket-Type\0\0\0", [length].as_slice(), socket_type.as_bytes()].concat())
}

/// A message of short frames.
pub(crate) fn message(frames: &[&[u8]]) -> Vec<u8> {
    let last = frames.len() - 1;
    let frame = |(index, body): (usize, &&[u8])| {
        let length = u8::try_from(body.len()).expect("a test's frames are short");
        [&[u8::from(index < last), length], *body].concat()
    };
    frames.iter().enumerate().flat_map(frame).collect()
}

/// One connection to the listener.
pub(crate) struct Peer(TcpStream);

impl Peer {
    /// Connects, and says nothing.
    #[track_caller]
    pub(crate) fn connect(addr: SocketAddr) -> Peer {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE).expect("the address accepts connections");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time is set");
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
        Peer(stream)
    }

    /// Connects, and completes the handshake with NULL.
    #[track_caller]
    pub(crate) fn null(addr: SocketAddr, socket_type: &str) -> Peer {
        let mut peer = Peer::connect(addr);
        peer.send(&[greeting(3, "NULL"), ready(socket_type)].concat());
        peer.bytes(64);
        let (flags, body) = peer.frame();
        assert!(flags == 4 && body.starts_with(b"\x05READY"), "{flags} {}", body.escape_ascii());
        peer
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the gateway reads");
    }

    /// Sends as long as the gateway reads.
    pub(crate) fn pour(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).ok();
    }

    /// Asks with a message of these frames.
    #[track_caller]
    pub(crate) fn ask(&mut self, frames: &[&[u8]]) {
        self.send(&message(frames));
    }

    #[track_caller]
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).expect("the gateway answers");
        bytes
    }

    /// The next frame: its flags and its body.
    #[track_caller]
    pub(crate) fn frame(&mut self) -> (u8, Vec<u8>) {
        let flags = self.bytes(1)[0];
        let length = if flags & 2 == 0 {
            self.bytes(1)[0].into()
        } else {
            u64::from_be_bytes(self.bytes(8).try_into().expect("eight bytes"))
        };
        (flags, self.bytes(usize::try_from(length).expect("a short frame")))
    }

    /// The frames of the next message, as text.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Vec<String> {
        let mut frames = Vec::new();
        loop {
            let (flags, body) = self.frame();
            assert_eq!(flags & 4, 0, "a command: {}", body.escape_ascii());
            frames.push(String::from_utf8(body).expect("answers are text"));
            if flags & 1 == 0 {
                return frames;
            }
        }
    }

    /// Waits for the end of the connection; what comes before it is dropped.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        let mut rest = Vec::new();
        let read = self.0.read_to_end(&mut rest);
        let is_reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(read.is_ok() || read.as_ref().is_err_and(is_reset), "the gateway does not close: {read:?}");
    }
}

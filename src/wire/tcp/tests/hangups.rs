//! Watch for a hang-up under random orders of reads, watches and the peer's bytes and end.
//!
//! A world is one connection on loopback. Before each step of the reader, the peer may send up to three bytes, and may end
//! the connection with a FIN or an RST; the runtime learns of it then, or only later. The model is a list of the bytes sent
//! and the peer's end.

use std::future::poll_fn;
use std::io::Write;
use std::net;
use std::task::Waker;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::*;

/// Number of worlds, each of its own seed.
const WORLDS: u64 = 3000;
/// Reached by a failing test only.
const AGES: Duration = Duration::from_secs(10);

/// End of the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Fin,
    Rst,
}

/// Random numbers of a seed (xorshift64*).
struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % sides
    }
}

struct World {
    tcp: Tcp,
    peer: Option<net::TcpStream>,
    sent: Vec<u8>,
    end: Option<End>,
    read: Vec<u8>,
    /// The reader has seen the end of the bytes.
    is_read: bool,
    dice: Dice,
    /// Steps so far, for the message of a failure.
    steps: Vec<String>,
}

impl World {
    async fn new(seed: u64) -> World {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = listener.accept().await.unwrap().0;
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let tcp = if dice.roll(2) == 0 { Tcp::new(stream) } else { Tcp::accepted(stream) };
        let (sent, read, steps) = (Vec::new(), Vec::new(), vec![format!("seed {seed}")]);
        World { tcp, peer: Some(peer), sent, end: None, read, is_read: false, dice, steps }
    }

    /// The peer sends up to three bytes and may end, and the runtime may learn of it.
    async fn meanwhile(&mut self) {
        let count = self.dice.roll(4);
        if let Some(peer) = self.peer.as_mut().filter(|_| self.end.is_none()) {
            let next = u8::try_from(self.sent.len()).unwrap();
            let bytes: Vec<u8> = (next..).take(usize::try_from(count).unwrap()).collect();
            peer.write_all(&bytes).unwrap();
            self.sent.extend(bytes);
            self.steps.push(format!("send {count}"));
        }
        match self.dice.roll(16) {
            0 => self.end(End::Fin),
            1 => self.end(End::Rst),
            _ => {}
        }
        if self.dice.roll(2) == 0 {
            self.turn().await;
        }
    }

    fn end(&mut self, end: End) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(end);
        self.steps.push(format!("{end:?}"));
        let peer = self.peer.take().unwrap();
        if end == End::Rst {
            socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
            return;
        }
        peer.shutdown(Shutdown::Write).unwrap();
        self.peer = Some(peer);
    }

    /// A turn of the runtime's reactor.
    async fn turn(&mut self) {
        self.steps.push("turn".to_owned());
        for _ in 0..2 {
            tokio::task::yield_now().await;
        }
    }

    /// A step of the reader, which waits for nothing.
    fn step(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        match self.dice.roll(5) {
            0 | 1 => {
                let size = usize::try_from(1 + self.dice.roll(4)).unwrap();
                self.steps.push(format!("read {size}"));
                let _ = self.poll_read(&mut cx, size);
            }
            2 | 3 => {
                self.steps.push("watch".to_owned());
                let is_over = self.tcp.poll_hangup(&mut cx).is_ready();
                assert!(!is_over || self.end.is_some(), "a hang-up of a peer that is there: {:?}", self.steps);
            }
            _ => {
                self.steps.push("readable, force".to_owned());
                let _ = self.tcp.poll_readable(&mut cx);
                self.tcp.force_read();
            }
        }
    }

    /// Reads up to `size` bytes into `read`; ready with false at their end.
    fn poll_read(&mut self, cx: &mut Context<'_>, size: usize) -> Poll<bool> {
        let (mut room, before) = ([0; 4], self.read.len());
        let mut into = ReadBuf::new(&mut room[..size]);
        let read = ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut into));
        self.read.extend(into.filled());
        let has_bytes = self.read.len() > before;
        match self.end {
            _ if has_bytes => {}
            Some(End::Fin) => assert!(read.is_ok(), "{read:?}: {:?}", self.steps),
            Some(End::Rst) => {}
            None => panic!("the bytes of a peer that is there have ended, {read:?}: {:?}", self.steps),
        }
        Poll::Ready(has_bytes)
    }

    /// Waits for every byte that was sent, while nothing more comes that could wake the reader.
    async fn catch_up(&mut self) {
        self.steps.push("catch up".to_owned());
        while self.read.len() < self.sent.len() && self.end != Some(End::Rst) {
            let size = usize::try_from(1 + self.dice.roll(4)).unwrap();
            let read = timeout(AGES, poll_fn(|cx| self.poll_read(cx, size))).await;
            assert!(read.is_ok(), "a read hangs: {:?}", self.steps);
        }
    }

    /// Waits for the hang-up, which comes before or after the first poll of the watch.
    async fn watch(&mut self) {
        let end = if self.dice.roll(2) == 0 { End::Fin } else { End::Rst };
        let watching = poll_fn(|cx| {
            let watched = self.tcp.poll_hangup(cx);
            if self.end.is_none() {
                assert!(watched.is_pending(), "a hang-up of a peer that is there: {:?}", self.steps);
                self.steps.push("watch".to_owned());
                self.end(end);
            }
            watched
        });
        let watched = timeout(AGES, watching).await;
        assert!(watched.is_ok(), "the hang-up is not seen: {:?}", self.steps);
    }

    /// Reads to the end: every byte in its order, but for those that a reset has discarded.
    async fn drain(&mut self) {
        while !self.is_read {
            let size = usize::try_from(1 + self.dice.roll(4)).unwrap();
            let read = timeout(AGES, poll_fn(|cx| self.poll_read(cx, size))).await;
            self.is_read = !read.unwrap_or_else(|_| panic!("a read hangs: {:?}", self.steps));
        }
        let expected = if self.end == Some(End::Rst) { &self.sent[..self.read.len()] } else { &self.sent[..] };
        assert_eq!(self.read, expected, "{:?}", self.steps);
    }
}

/// A runtime that asks the kernel after each poll of a task.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().event_interval(1).build().unwrap()
}

#[test]
fn a_hang_up_is_reported_when_the_peer_is_gone_and_no_byte_is_lost_in_any_order_of_steps() {
    let (mut fins, mut resets, mut bytes) = (0, 0, 0);
    runtime().block_on(async {
        for seed in 0..WORLDS {
            let mut world = World::new(seed).await;
            for _ in 0..world.dice.roll(8) {
                world.meanwhile().await;
                world.step();
                if world.dice.roll(4) == 0 {
                    world.catch_up().await;
                }
            }
            world.watch().await;
            world.drain().await;
            bytes += world.read.len();
            *(if world.end == Some(End::Fin) { &mut fins } else { &mut resets }) += 1;
        }
    });
    assert!(fins > 500 && resets > 500 && bytes > 10_000, "{fins} FINs, {resets} resets, {bytes} bytes");
}

//! Flow control of HTTP/2: a stream's window grows with what the other side takes, and with nothing else.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::support::caller2::get;
use crate::support::frames::{ACK, DATA, END_STREAM, Frame, Frames, HEADERS, PING, SETTINGS, WINDOW_UPDATE, request};
use crate::support::stage::by_hand;
use crate::support::*;

/// Window of a stream before anything was consumed.
const START: i64 = 64 << 10;
/// The largest window of a stream.
const MOST: i64 = 4 << 20;
/// Silence after which a sender to whom nothing should be granted gives up.
const QUIET: Duration = Duration::from_secs(2);

/// Sends content as far as the gateway's windows let, and remembers how wide its own became.
struct Sender {
    stream: u32,
    /// SETTINGS_INITIAL_WINDOW_SIZE.
    initial: i64,
    /// Bytes that may still be sent on the stream, and on the connection.
    room: i64,
    connection: i64,
    sent: i64,
    widest: i64,
    /// A PING, and the number of sent bytes at which it is answered.
    ping: Option<(Vec<u8>, i64)>,
    /// Number of windows sent before a PING is answered: the distance of this peer.
    distance: i64,
}

impl Sender {
    fn new(stream: u32, distance: i64) -> Sender {
        let standard = 65_535;
        let (initial, room, connection) = (standard, standard, standard);
        Sender { stream, initial, room, connection, sent: 0, widest: 0, ping: None, distance }
    }

    fn take(&mut self, frames: &mut Frames<'_>, frame: &Frame) {
        let number = |at: usize| i64::from(u32::from_be_bytes(frame.payload[at..at + 4].try_into().unwrap()));
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => {
                for at in (0..frame.payload.len()).step_by(6).filter(|at| frame.payload[at + 1] == 4) {
                    self.room += number(at + 2) - self.initial;
                    self.initial = number(at + 2);
                }
                frames.send(&Frame::new(SETTINGS, ACK, 0, []));
            }
            PING if frame.flags & ACK == 0 => {
                self.ping = Some((frame.payload.clone(), self.sent + self.distance * self.initial));
            }
            WINDOW_UPDATE if frame.stream == 0 => self.connection += number(0),
            WINDOW_UPDATE if frame.stream == self.stream => self.room += number(0),
            _ => {}
        }
        self.widest = self.widest.max(self.room);
        self.pong(frames);
    }

    fn pong(&mut self, frames: &mut Frames<'_>) {
        if self.ping.as_ref().is_some_and(|(_, at)| self.sent >= *at) {
            let (payload, _) = self.ping.take().unwrap();
            frames.send(&Frame::new(PING, ACK, 0, payload));
        }
    }

    /// Takes frames until the head of a request has come.
    fn wait_for_head(&mut self, frames: &mut Frames<'_>) {
        loop {
            let frame = frames.next().expect("a request comes");
            self.take(frames, &frame);
            if frame.kind == HEADERS {
                return;
            }
        }
    }

    /// Sends `count` bytes; gives up once there is no room and nothing comes.
    fn send(&mut self, frames: &mut Frames<'_>, count: i64) {
        while self.sent < count {
            let part = self.room.min(self.connection).min(16_384).min(count - self.sent);
            // A peer at no distance is one whose content is not read.
            let patience = if self.distance == 0 { QUIET } else { PATIENCE };
            let end = if part > 0 { Instant::now() } else { Instant::now() + patience };
            if part > 0 {
                if !frames.send(&Frame::new(DATA, 0, self.stream, vec![b'x'; usize::try_from(part).unwrap()])) {
                    return;
                }
                self.sent += part;
                self.room -= part;
                self.connection -= part;
                self.pong(frames);
                // A look for frames takes a millisecond if there is none.
                if self.room.min(self.connection) > 0 && self.sent % START != 0 {
                    continue;
                }
            }
            match frames.next_until(end) {
                Ok(frame) => self.take(frames, &frame),
                Err(stream::Stop::Silence) if part > 0 => {}
                Err(_) => return,
            }
        }
        frames.send(&Frame::new(DATA, END_STREAM, self.stream, []));
    }
}

/// A stage whose origin answers each request with `count` bytes, and tells its sender after each.
#[track_caller]
fn downloads(count: i64, distance: i64) -> (stage::Stage, Origin, mpsc::Receiver<Sender>) {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let (stage, origin) = by_hand(UNLIMITED, move |_, mut frames| {
        let mut sender = Sender::new(1, distance);
        sender.wait_for_head(&mut frames);
        frames.send(&Frame::headers(1, 0, &[(":status", "200")]));
        sender.send(&mut frames, count);
        tell.lock().unwrap().send(sender).ok();
        while frames.next().is_ok() {}
    });
    (stage, origin, told)
}

#[test]
fn a_download_widens_its_window_as_the_caller_reads() {
    let (stage, origin, told) = downloads(16 << 20, 2);
    let to = format!("localhost:{}", origin.port());
    let answer = stage.get(&to, "/large");
    assert_eq!((answer.status, answer.body.len()), (200, 16 << 20));
    let sender = told.recv_timeout(PATIENCE).unwrap();
    assert!((1 << 20..=MOST).contains(&sender.widest), "{} bytes", sender.widest);
}

#[test]
fn a_download_that_its_caller_does_not_read_widens_nothing() {
    let (stage, origin, told) = downloads(16 << 20, 0);
    let to = format!("localhost:{}", origin.port());
    let caller = stage.opened2(&to);
    let mut call = caller.start(get(&format!("https://{to}/large")), More::None);
    let (answer, _unread) = call.try_head().unwrap();
    assert_eq!(answer.status, 200);
    let sender = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!((sender.initial, sender.widest), (START, START));
    assert!(sender.sent < 4 * START, "{} bytes were taken for a caller that reads none", sender.sent);
}

#[test]
fn an_upload_widens_its_window_as_the_origin_reads() {
    let (gateway, origin) = (Gateway::start(UNLIMITED), Origin::start());
    let mut caller = gateway.caller();
    let mut frames = Frames::caller(&mut caller.stream);
    frames.send(&Frame::headers(1, 0, &request("POST", &origin.authority(), "/large")));
    let mut sender = Sender::new(1, 2);
    sender.send(&mut frames, 16 << 20);
    assert_eq!(sender.sent, 16 << 20);
    assert!((1 << 20..=MOST).contains(&sender.widest), "{} bytes", sender.widest);
    assert!(matches!(frames.fate(1), frames::Fate::Answered(200)));
}

#[test]
fn an_upload_that_its_origin_does_not_read_widens_nothing() {
    let (stage, origin) = by_hand(UNLIMITED, |_, mut frames| while frames.next_of(HEADERS).is_ok() {});
    let to = format!("localhost:{}", origin.port());
    let config = certs::offering(stage.trusting(), &["h2"]);
    let mut caller = stage.tunnel(&to).into_tls_with("localhost", config);
    let mut frames = Frames::caller(&mut caller.stream);
    let mut fields = request("POST", &to, "/large");
    fields[1].1 = "https";
    frames.send(&Frame::headers(1, 0, &fields));
    let mut sender = Sender::new(1, 0);
    sender.send(&mut frames, 16 << 20);
    assert_eq!((sender.initial, sender.widest), (START, START));
    assert!(sender.sent < 4 * START, "{} bytes were taken for an origin that reads none", sender.sent);
}

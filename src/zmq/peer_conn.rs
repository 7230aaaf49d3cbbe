//! Connection of one peer: handshake, then asks and answers until the peer hangs up.
//!
//! An ask is answered when it is decided, so answers to a DEALER that waits for several may overtake one another. Asks
//! that wait are tasks of a set: when the connection ends, the set is dropped, and they leave the queue.

use std::collections::HashMap;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::fault_log::{FaultKind, FaultLog};
use super::frames::{FrameDecoder, MultipartMessage, ProtocolError, Received, put_command, put_message, split_command};
use super::handshake::{Handshake, Mechanism, Progress};
use super::message::{self, AnswerForm, AskMessage};
use crate::auth::LoginError;
use crate::gate::clock::Clock;
use crate::net::drain::{Drain, RequestGuard, ShutdownWatch};
use crate::proxy::CurrentSnapshot;
use crate::proxy::program_ask::{AskDecision, ProgramPeer};
use crate::time::Time;

/// Bytes of one read.
const READ: usize = 8 * 1024;
/// Bytes of answers that may be unsent before the peer's asks are no longer read.
const MAX_OUTPUT: usize = 64 * 1024;
/// Most asks of one peer that wait at one time; further ones are answered `sorry` at once.
const MAX_WAITING: usize = 1000;
/// Most bytes of the context of a PING (rfc.zeromq.org/spec/37).
const MAX_PING_CONTEXT: usize = 16;
/// Unit of the time to live in a PING.
const PING_TTL_UNIT: Duration = Duration::from_millis(100);
/// Time without an ask after which a connection ends that another process has taken over from. ZMTP has no farewell, so
/// an ask that is on its way at that moment is lost; the longer the silence, the less likely that is.
const QUIET: Duration = Duration::from_secs(5);

/// End of a connection.
#[derive(Debug)]
enum ConnEnd {
    /// The peer has hung up, or nothing is wanted of it any more.
    Closed,
    /// The peer has done wrong.
    Fault(FaultKind, String),
}

impl From<io::Error> for ConnEnd {
    fn from(_: io::Error) -> ConnEnd {
        ConnEnd::Closed
    }
}

impl From<ProtocolError> for ConnEnd {
    fn from(error: ProtocolError) -> ConnEnd {
        ConnEnd::Fault(FaultKind::Frames, error.to_string())
    }
}

/// Connection of a peer.
pub(super) struct PeerConn {
    stream: TcpStream,
    /// Bound address of the listener that accepted the connection.
    listener: SocketAddr,
    /// The peer, shared with its asks.
    program: Arc<ProgramPeer>,
    /// Configuration in force, which says if passwords are required.
    current: Arc<CurrentSnapshot>,
    drain: Drain,
    faults: Rc<FaultLog>,
    clock: Clock,
    /// Bytes that were read and not decoded.
    input: BytesMut,
    /// Bytes that are to be sent.
    output: Vec<u8>,
}

impl PeerConn {
    /// A connection on which nothing was read or sent. `listener`: bound address of its listener.
    pub(super) fn new(
        stream: TcpStream,
        listener: SocketAddr,
        program: Arc<ProgramPeer>,
        current: Arc<CurrentSnapshot>,
        drain: Drain,
        faults: Rc<FaultLog>,
    ) -> PeerConn {
        let clock = current.snapshot().clock();
        let (input, output) = (BytesMut::new(), Vec::new());
        PeerConn { stream, listener, program, current, drain, faults, clock, input, output }
    }

    /// Serves the peer until its connection ends.
    pub(super) async fn serve(mut self) {
        let peer = self.program.address();
        let faults = Rc::clone(&self.faults);
        let ended = match self.shake_hands().await {
            Ok(()) => Traffic::new(self).run().await,
            Err(end) => end,
        };
        if let ConnEnd::Fault(kind, why) = ended {
            faults.log(kind, peer, &why);
        }
    }

    /// Completes the handshake within `[timeouts] head`.
    async fn shake_hands(&mut self) -> Result<(), ConnEnd> {
        let limit = self.current.snapshot().timeouts().head;
        let until = Instant::from_std(self.clock.instant(self.clock.now() + limit));
        match timeout_at(until, self.establish()).await {
            Ok(established) => established,
            Err(_) => {
                let why = format!("its handshake was not complete within [timeouts] head ({limit:?})");
                Err(ConnEnd::Fault(FaultKind::Handshake, why))
            }
        }
    }

    async fn establish(&mut self) -> Result<(), ConnEnd> {
        let mut handshake = Handshake::begin(self.mechanism(), &mut self.output);
        loop {
            let advanced = handshake.advance(&mut self.input, &mut self.output);
            match advanced {
                Ok(Progress::Established) => return Ok(()),
                Ok(Progress::Login { name, password }) => match self.program.login(name, password).await {
                    Ok(()) => handshake.accept(&mut self.output),
                    Err(error) => {
                        // The others are over in a while, and libzmq would not connect again after an ERROR.
                        if error == LoginError::InvalidCredentials {
                            handshake.reject(&mut self.output);
                        }
                        self.flush()?;
                        return Err(ConnEnd::Fault(FaultKind::Login, error.to_string()));
                    }
                },
                Ok(Progress::Incomplete) => {
                    self.flush()?;
                    self.stream.ready(self.interest()).await?;
                    if self.fill()? == Some(0) {
                        return Err(ConnEnd::Closed);
                    }
                }
                Err(error) => {
                    self.flush()?;
                    return Err(ConnEnd::Fault(error.kind, error.why.to_string()));
                }
            }
        }
    }

    /// Mechanism that the peer must use. Beyond loopback that is PLAIN, though there may be no users any more: a reload
    /// can drop them, and cannot move the listener to loopback. Then no peer is let in.
    fn mechanism(&self) -> Mechanism {
        let required = self.current.snapshot().asks_for_passwords() || !self.listener.ip().is_loopback();
        if required { Mechanism::Plain } else { Mechanism::Null }
    }

    /// Events of the socket that are waited for.
    fn interest(&self) -> Interest {
        match (self.output.is_empty(), self.output.len() < MAX_OUTPUT) {
            (true, _) => Interest::READABLE,
            (false, true) => Interest::READABLE | Interest::WRITABLE,
            (false, false) => Interest::WRITABLE,
        }
    }

    /// Reads once; returns the number of bytes, 0 at the end, `None` if there are none yet.
    fn fill(&mut self) -> io::Result<Option<usize>> {
        let mut bytes = [0; READ];
        match self.stream.try_read(&mut bytes) {
            Ok(count) => {
                self.input.extend_from_slice(&bytes[..count]);
                Ok(Some(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends as much of the output as the socket takes; returns true if it took some.
    fn flush(&mut self) -> io::Result<bool> {
        if self.output.is_empty() {
            return Ok(false);
        }
        match self.stream.try_write(&self.output) {
            Ok(count) => {
                self.output.drain(..count);
                // Idle connections hold no memory.
                if self.output.is_empty() {
                    self.output = Vec::new();
                }
                Ok(count > 0)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Envelope and form of an ask that waits.
struct WaitingAsk {
    envelope: Vec<Vec<u8>>,
    form: AnswerForm,
}

/// Traffic of a peer after its handshake.
struct Traffic {
    conn: PeerConn,
    shutdown: ShutdownWatch,
    decoder: FrameDecoder,
    /// Asks that wait.
    decisions: JoinSet<(AskDecision, RequestGuard)>,
    waiting: HashMap<Id, WaitingAsk>,
    /// Guards of the asks whose answers are in the output.
    sending: Vec<RequestGuard>,
    /// Time to live that the peer has stated in a PING; `None`: none.
    ttl: Option<Duration>,
    /// Time of the last byte that was read.
    last_read: Time,
    /// Time since which the output could not be sent; `None`: it is empty, or some was sent.
    stalled: Option<Time>,
}

impl Traffic {
    fn new(conn: PeerConn) -> Traffic {
        Traffic {
            last_read: conn.clock.now(),
            shutdown: conn.drain.watch(),
            decoder: FrameDecoder::default(),
            decisions: JoinSet::new(),
            waiting: HashMap::new(),
            sending: Vec::new(),
            ttl: None,
            stalled: None,
            conn,
        }
    }

    /// Reads asks and sends answers until the connection ends; returns its end.
    async fn run(mut self) -> ConnEnd {
        loop {
            if let Err(end) = self.step().await {
                return end;
            }
        }
    }

    /// Answers the input and sends the answers, then waits for an event.
    ///
    /// # Errors
    /// The end of the connection.
    async fn step(&mut self) -> Result<(), ConnEnd> {
        // Each turn decodes some of the input, and ends when the socket takes no more.
        while !self.decode().await? && self.send()? {}
        self.send()?;
        if self.conn.input.is_empty() {
            // Idle connections hold no memory.
            self.conn.input = BytesMut::new();
        }
        self.wait().await
    }

    /// Decodes the input as long as the answers find room; returns true if nothing in it is left to decode.
    async fn decode(&mut self) -> Result<bool, ConnEnd> {
        while self.conn.output.len() < MAX_OUTPUT {
            match self.decoder.next(&mut self.conn.input)? {
                None => return Ok(true),
                Some(Received::Command(body)) => self.command(&body)?,
                Some(Received::Message(message)) => self.message(message).await,
            }
        }
        Ok(false)
    }

    /// Sends answers; returns true if there is room for more of them now.
    fn send(&mut self) -> Result<bool, ConnEnd> {
        let is_sent = self.conn.flush()?;
        if self.conn.output.is_empty() {
            self.stalled = None;
            self.sending.clear();
        } else if is_sent || self.stalled.is_none() {
            self.stalled = Some(self.conn.clock.now());
        }
        Ok(self.conn.output.len() < MAX_OUTPUT)
    }

    /// Handles a command: PING is answered. Others do not concern asks, and are ignored.
    fn command(&mut self, body: &[u8]) -> Result<(), ConnEnd> {
        let (b"PING", data) = split_command(body)? else { return Ok(()) };
        let Some((ttl, context)) = data.split_first_chunk::<2>().filter(|(_, rest)| rest.len() <= MAX_PING_CONTEXT)
        else {
            return Err(ConnEnd::Fault(FaultKind::Frames, "a malformed PING".to_owned()));
        };
        let ttl = u16::from_be_bytes(*ttl);
        self.ttl = (ttl > 0).then(|| PING_TTL_UNIT * u32::from(ttl));
        put_command(&mut self.conn.output, "PONG", context);
        Ok(())
    }

    /// Handles a message: answers it at once, or lets its ask wait.
    async fn message(&mut self, message: MultipartMessage) {
        let AskMessage { envelope, form, ask } = message::read(message);
        let ask = match ask {
            Ok(ask) => ask,
            Err(why) => return self.answer(&envelope, &message::error_answer(&why)),
        };
        if self.decisions.len() >= MAX_WAITING {
            return self.answer(&envelope, &message::too_many_answer(form));
        }
        let mut deciding = Box::pin(Arc::clone(&self.conn.program).decide(ask));
        match poll_fn(|cx| Poll::Ready(deciding.as_mut().poll(cx))).await {
            Poll::Ready(decided) => self.decided(&envelope, form, decided),
            Poll::Pending => {
                let task = self.decisions.spawn(deciding);
                self.waiting.insert(task.id(), WaitingAsk { envelope, form });
            }
        }
    }

    /// Answers an ask that was decided.
    fn decided(&mut self, envelope: &[Vec<u8>], form: AnswerForm, (decision, running): (AskDecision, RequestGuard)) {
        self.answer(envelope, &message::answer(form, &decision));
        self.sending.push(running);
    }

    /// Appends an answer to the output.
    fn answer(&mut self, envelope: &[Vec<u8>], body: &[u8]) {
        let frames = envelope.iter().map(Vec::as_slice).chain([body]);
        put_message(&mut self.conn.output, frames);
    }

    /// Waits for bytes, room for output, a decision, or the end of a time.
    async fn wait(&mut self) -> Result<(), ConnEnd> {
        let interest = self.conn.interest();
        let (until, end) = self.deadline().unzip();
        let is_leaving = self.is_leaving();
        let Traffic { conn, shutdown, decisions, .. } = self;
        tokio::select! {
            ready = conn.stream.ready(interest) => {
                let ready = ready?;
                if ready.is_readable() || ready.is_read_closed() {
                    match conn.fill()? {
                        Some(0) => return Err(ConnEnd::Closed),
                        Some(_) => self.last_read = conn.clock.now(),
                        None => {}
                    }
                }
            }
            Some(decided) = decisions.join_next_with_id(), if !decisions.is_empty() => {
                // An error is a panic, which the log has: the peer learns of it by the end of its connection.
                let (id, decided) = decided.map_err(|_| ConnEnd::Closed)?;
                if let Some(WaitingAsk { envelope, form }) = self.waiting.remove(&id) {
                    self.decided(&envelope, form, decided);
                }
            }
            () = poll_fn(|cx| shutdown.poll_lame_duck(cx)), if !is_leaving => {}
            () = sleep_until_some(until) => return Err(end.unwrap_or(ConnEnd::Closed)),
        }
        Ok(())
    }

    /// True once another process takes over, or the gateway shuts down.
    fn is_leaving(&self) -> bool {
        self.conn.drain.is_draining()
    }

    /// The next moment at which the connection ends by itself, with its end.
    fn deadline(&self) -> Option<(Instant, ConnEnd)> {
        let clock = self.conn.clock;
        let at = |time: Time| Instant::from_std(clock.instant(time));
        let fault = |why: String| ConnEnd::Fault(FaultKind::Frames, why);
        let silent = self.ttl.map(|ttl| {
            let why = format!("nothing came within the {ttl:?} that its PING has stated");
            (at(self.last_read + ttl), fault(why))
        });
        let unread = self.stalled.map(|since| {
            let limit = self.conn.current.snapshot().timeouts().body_idle;
            (at(since + limit), fault(format!("it did not read its answers for [timeouts] body_idle ({limit:?})")))
        });
        let is_quiet = self.is_leaving() && self.decisions.is_empty() && self.conn.output.is_empty();
        let quiet = is_quiet.then(|| (at(self.last_read + QUIET), ConnEnd::Closed));
        silent.into_iter().chain(unread).chain(quiet).min_by_key(|(at, _)| *at)
    }
}

/// Sleeps until a moment; for ever if there is none.
async fn sleep_until_some(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => pending().await,
    }
}

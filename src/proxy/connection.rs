//! One caller's connection, from its first byte to its last.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::net::TcpStream;

use super::deadline::Deadline;
use super::exchange::{self, Outcome};
use super::first_admission::FirstAdmission;
use super::intercept::{self, Spoken, Within};
use super::pinned::Pinned;
use super::refusal::Refusal;
use super::target::Ingress;
use super::{Worker, http2, local_response, tunnel};
use crate::net::drain::ShutdownWatch;
use crate::wire::head::may_be_complete;
use crate::wire::http2::PREFACE;
use crate::wire::{Conn, RequestHead, ResponseHead, Stream};

/// How long, and for how many bytes, a connection that we close is still read, so that our last answer is not
/// destroyed by a reset (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// A caller's connection and what serves it; of HTTP/2, one of its requests.
pub(super) struct Caller {
    pub(super) worker: Worker,
    pub(super) peer: SocketAddr,
    pub(super) conn: Conn,
    pub(super) alarm: Deadline,
    pub(super) head: RequestHead,
    pub(super) response: ResponseHead,
    /// It came through TLS to a listener that has it.
    pub(super) secure: bool,
    /// It came to a listener on loopback.
    pub(super) loopback: bool,
    /// What it says has come through an opened tunnel.
    pub(super) within: Option<Arc<Within>>,
    /// Whether a request has been read since it was accepted. Until then the alarm is set to the time that the first head
    /// has, TLS handshake included, and is left alone: a connection that asks for nothing is not idle but unwanted.
    pub(super) has_asked: bool,
    /// Signals that a request was admitted; of HTTP/2 alone.
    pub(super) first_admission: Option<Rc<FirstAdmission>>,
    /// The connections to origins that are its own.
    pub(super) pinned: Pinned,
}

/// What comes next on an idle connection.
enum Next {
    Request,
    /// The first words of HTTP/2, which the caller speaks without having asked (RFC 9113 §3.3).
    Http2,
    Malformed(Refusal),
    /// It is closed, idle too long, or the gateway shuts down.
    End,
}

/// Serves one connection after the other, each to its end, with the memory of the one before.
pub struct Server {
    caller: Caller,
    stopping: ShutdownWatch,
}

impl Server {
    /// One that has served nobody yet. Must be called inside the worker's runtime.
    pub fn new(worker: Worker) -> Server {
        let stopping = worker.proxy.drain.watch();
        let nobody = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        Server { caller: Caller::new(worker, nobody, Stream::closed()), stopping }
    }

    /// Serves one caller's connection until either side ends it. `listener`: where it was accepted.
    ///
    /// # Cancel safety
    /// Dropping the future breaks the connection off at the latest when the server serves the next, or is dropped itself.
    pub async fn serve(&mut self, stream: TcpStream, peer: SocketAddr, listener: SocketAddr) {
        let Server { caller, stopping } = self;
        caller.worker.refresh();
        caller.meet(stream, peer);
        caller.loopback = listener.ip().is_loopback();
        caller.alarm.set(caller.worker.proxy.timeouts.head);
        let spoken = match caller.worker.proxy.identity.as_deref().cloned() {
            Some(identity) => Box::pin(intercept::greet(caller, identity)).await,
            None => Some(Spoken::Http1),
        };
        if let Some(spoken) = spoken {
            speak(caller, spoken, stopping).await;
        }
        // Here the connection is closed, and those that were its own.
        caller.conn = Conn::new(Stream::closed());
        caller.pinned.begin_anew();
    }
}

/// Serves what is said on a connection, or in an opened tunnel.
pub(super) async fn speak(caller: &mut Caller, mut spoken: Spoken, stopping: &mut ShutdownWatch) {
    let drain = caller.worker.proxy.drain.clone();
    let mut is_first = true;
    loop {
        if spoken == Spoken::Http2 {
            return Box::pin(http2::serve(caller, stopping)).await;
        }
        match caller.next(stopping).await {
            Next::End => return caller.part(),
            Next::Http2 if is_first => {
                spoken = Spoken::Http2;
                continue;
            }
            Next::Http2 => return caller.refuse(&Refusal::Version).await,
            Next::Malformed(refusal) => return caller.refuse(&refusal).await,
            Next::Request => is_first = false,
        }
        let busy = drain.request_guard();
        caller.worker.refresh();
        match exchange::run(caller).await {
            // While it leaves it still answers once: the caller may have been told that it can.
            Outcome::Keep if drain.is_stopping() => return caller.linger().await,
            Outcome::Keep => {}
            Outcome::Close => return caller.linger().await,
            Outcome::Abort => return caller.conn.stream.abort(),
            Outcome::Tunnel(tunnel) => return tunnel::relay(caller, tunnel).await,
            Outcome::Opened(opening) => match Box::pin(intercept::open(caller, *opening)).await {
                Some(within) => (spoken, is_first) = (within, true),
                None => return,
            },
        }
        drop(busy);
    }
}

impl Caller {
    /// A caller that has said nothing yet.
    pub(super) fn new(worker: Worker, peer: SocketAddr, stream: Stream) -> Caller {
        let alarm = Deadline::new(worker.proxy.gate.clock(), worker.proxy.timeouts.idle);
        Caller {
            worker,
            peer,
            conn: Conn::new(stream),
            alarm,
            head: RequestHead::default(),
            response: ResponseHead::default(),
            secure: false,
            loopback: false,
            within: None,
            has_asked: true,
            first_admission: None,
            pinned: Pinned::default(),
        }
    }

    /// Begins anew, with a connection on which nothing has been said.
    fn meet(&mut self, stream: TcpStream, peer: SocketAddr) {
        self.peer = peer;
        self.conn = Conn::new(Stream::accepted(stream));
        self.pinned.begin_anew();
        (self.secure, self.within, self.has_asked) = (false, None, false);
    }

    /// How its requests come to us.
    pub(super) fn came(&self) -> Ingress<'_> {
        let within = self.within.as_deref().map(|within| &within.origin);
        Ingress { secure: self.secure, loopback: self.loopback, within }
    }

    /// Answers bytes that are no request, and closes.
    async fn refuse(&mut self, refusal: &Refusal) {
        local_response::refuse_bytes(self, refusal).await;
        self.linger().await;
    }

    /// Closes an idle connection: TLS says goodbye, if the caller still listens.
    fn part(&mut self) {
        let _ = self.conn.stream.poll_shutdown(&mut Context::from_waker(Waker::noop()));
    }

    /// Waits for the next request's head.
    async fn next(&mut self, stopping: &mut ShutdownWatch) -> Next {
        let timeouts = &self.worker.proxy.timeouts;
        if self.conn.input.is_empty() {
            self.conn.release_buffers();
            self.head.shrink();
            if self.has_asked {
                self.alarm.set(timeouts.idle);
            }
            let readable = poll_fn(|cx| {
                if self.conn.stream.may_have_unread() {
                    if let Poll::Ready(filled) = self.conn.poll_fill(cx) {
                        return Poll::Ready(filled.is_ok_and(|count| count > 0));
                    }
                    self.conn.release_buffers();
                }
                if let Poll::Ready(readable) = self.conn.stream.poll_readable(cx) {
                    return Poll::Ready(readable.is_ok());
                }
                if self.alarm.poll_expired(cx).is_ready() || stopping.poll(cx).is_ready() {
                    return Poll::Ready(false);
                }
                Poll::Pending
            });
            if !readable.await {
                return Next::End;
            }
        }
        let (mut timed, mut seen) = (!self.has_asked, 0);
        loop {
            // Empty lines before a request are nothing (RFC 9112 §2.2), however many.
            while self.conn.input.bytes().starts_with(b"\r\n") {
                self.conn.input.consume(2);
            }
            let bytes = self.conn.input.bytes();
            if bytes.starts_with(PREFACE) {
                return Next::Http2;
            }
            let may_be_preface = bytes.first() == Some(&PREFACE[0]) && PREFACE.starts_with(bytes);
            if !may_be_preface && may_be_complete(bytes, seen) {
                match self.head.read(bytes) {
                    Ok(Some(length)) => {
                        self.conn.input.consume(length);
                        self.has_asked = true;
                        return Next::Request;
                    }
                    Ok(None) => {}
                    Err(error) => return Next::Malformed(Refusal::from(error)),
                }
            }
            seen = self.conn.input.bytes().len();
            if !timed {
                self.alarm.set(timeouts.head);
                timed = true;
            }
            let filled = poll_fn(|cx| {
                if let Poll::Ready(filled) = self.conn.poll_fill(cx) {
                    return Poll::Ready(Some(filled));
                }
                self.alarm.poll_expired(cx).map(|()| None)
            });
            match filled.await {
                Some(Ok(0) | Err(_)) => return Next::End,
                Some(Ok(_)) => {}
                None if self.conn.input.is_empty() => return Next::End,
                None => return Next::Malformed(Refusal::HeadTimeout),
            }
        }
    }

    /// Closes so that the caller can still read our last answer.
    pub(super) async fn linger(&mut self) {
        linger(&mut self.conn, &mut self.alarm).await;
    }
}

/// Closes a connection so that its peer can still read what we said last.
pub(super) async fn linger(conn: &mut Conn, alarm: &mut Deadline) {
    alarm.set(LINGER);
    // What was read already is dropped too: a head that was too large has left no room.
    conn.input.consume(conn.input.bytes().len());
    let mut left = LINGER_BYTES;
    poll_fn(|cx| {
        if conn.poll_flush(cx)?.is_ready() && conn.stream.poll_shutdown(cx)?.is_ready() {
            while let Poll::Ready(count) = conn.poll_fill(cx)? {
                conn.input.consume(conn.input.bytes().len());
                left = left.saturating_sub(count);
                if count == 0 || left == 0 {
                    return Poll::Ready(std::io::Result::Ok(()));
                }
            }
        }
        alarm.poll_expired(cx).map(Ok)
    })
    .await
    // Whatever breaks here breaks a connection that ends anyway.
    .unwrap_or_default();
}

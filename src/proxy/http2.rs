//! HTTP/2 server: a caller's connection with many concurrent requests, each in a session of its
//! own.
//!
//! Division of work: the h2 crate does frames and flow control, `wire::http2` turns streams into
//! the gateway's connections, and this file decides on tasks, timeouts and abuse. Each stream is
//! served like a connection of HTTP/1.1 with one request.
//!
//! Bounds: the number of concurrent streams is that of `wire::http2`; the receive window of the
//! connection stays small until one of its requests was admitted.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::spawn_local;

use super::deadline::Deadline;
use super::first_admission::FirstAdmission;
use super::intercept;
use super::local_response::refuse;
use super::outcome::Outcome;
use super::pinned::Pinned;
use super::refusal::Refusal;
use super::request_log::RequestLog;
use super::session::{HostRule, InterceptedTunnel, Protocol, Session, TunnelEntry, linger};
use super::task_pool::{NewTask, TaskPool};
use super::worker::Worker;
use super::{exchange, tunnel};
use crate::net::drain::ShutdownWatch;
use crate::time::Time;
use crate::wire::http2::{H2CallerConn, IncomingRequest, KickReason};
use crate::wire::{Conn, Length, Stream, framing};

/// Abuse score that ends a connection if it grows by that much within [`ABUSE_SPAN`]: 1000 resets
/// or settings, or 10 000 pings. A caller that cancels all of its requests at once sends 128
/// resets.
const MAX_ABUSE: u64 = 10_000;
/// Span in which the abuse score is bounded by [`MAX_ABUSE`].
const ABUSE_SPAN: Duration = Duration::from_secs(1);

/// Time for the caller's last frames after GOAWAY: a round trip over any link.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// Number of idle tasks that are kept for the next requests. A new task costs a session's memory
/// and timer, a kept one some KiB.
const MAX_IDLE: usize = 16;

/// Function that serves a connection, or the requests in a tunnel, which a stream of HTTP/2 can
/// become. Passed as an argument, because the connection loop uses this module.
pub(super) type Serve =
    for<'s> fn(&'s mut Session, Protocol, &'s mut ShutdownWatch) -> Pin<Box<dyn Future<Output = ()> + 's>>;

/// State shared by all requests of a connection, and the tasks that serve them.
struct SharedSession {
    /// Worker that sessions of new tasks are made from.
    worker: Worker,
    /// As in [`Session`].
    peer: SocketAddr,
    /// Caller of the tunnel that the connection runs in; without one, each request has its own.
    caller: IpAddr,
    /// As in [`Session`].
    secure: bool,
    /// As in [`Session`].
    loopback: bool,
    /// Tunnel that the connection runs in, if its requests are read.
    within: Option<Arc<InterceptedTunnel>>,
    /// Signals that one of the requests was admitted.
    first_admission: Rc<FirstAdmission>,
    /// Connections to origins that belong to this connection.
    pinned: Pinned,
    /// Number of running requests.
    running: Cell<usize>,
    /// Tasks of this connection; at most [`MAX_IDLE`] of them idle.
    tasks: TaskPool<IncomingRequest>,
    /// See [`Serve`].
    serve: Serve,
}

impl SharedSession {
    fn now(&self) -> Time {
        self.worker.snapshot.gate.clock().now()
    }

    /// Gives a request to an idle task, or spawns a new one.
    fn submit(self: &Rc<Self>, request: IncomingRequest) {
        self.running.update(|running| running + 1);
        if let Some(task) = self.tasks.submit(request) {
            spawn_local(Box::pin(serve_requests(Rc::clone(self), task)));
        }
    }

    /// Gives a stream to a session, with the state of this connection: nothing stays of an earlier request.
    fn attach(&self, session: &mut Session, stream: Stream) {
        session.conn = Conn::new(stream);
        (session.secure, session.loopback, session.within) = (self.secure, self.loopback, self.within.clone());
        session.caller = self.caller;
        (session.entry, session.hosts) = (TunnelEntry::Http, HostRule::Checked);
    }
}

/// Serves the connection until either side ends it.
///
/// A handshake that fails or takes longer than `[timeouts] head` ends the connection without a
/// response, as no request was read.
pub(super) async fn serve(session: &mut Session, shutdown: &mut ShutdownWatch, serve: Serve) {
    if session.has_read_request {
        session.deadline.set(session.worker.snapshot.timeouts.head);
    }
    let handshake = H2CallerConn::handshake(session.conn.take_stream());
    let conn = match session.deadline.run(handshake).await {
        Some(Ok(conn)) => conn,
        Some(Err(error)) => return tracing::debug!(peer = %session.peer, %error, "HTTP/2 handshake failed"),
        None => return,
    };
    let Session { deadline, .. } = session;
    if session.has_read_request {
        deadline.set(session.worker.snapshot.timeouts.idle);
    }
    let common = Rc::new(SharedSession {
        worker: session.worker.clone(),
        peer: session.peer,
        caller: session.caller,
        secure: session.secure,
        loopback: session.loopback,
        within: session.within.clone(),
        first_admission: Rc::default(),
        pinned: session.pinned.clone(),
        running: Cell::default(),
        tasks: TaskPool::new(MAX_IDLE),
        serve,
    });
    if session.within.is_some() {
        // The tunnel's CONNECT was admitted.
        common.first_admission.set();
    }
    let abuse = AbuseMark { since: common.now(), before: 0 };
    H2Server { conn, deadline, shutdown, common, abuse, stage: H2ServerState::Open, has_room: false }.run().await;
}

/// One connection: accepts its requests, and ends it.
struct H2Server<'a> {
    conn: H2CallerConn<Stream>,
    deadline: &'a mut Deadline,
    shutdown: &'a mut ShutdownWatch,
    common: Rc<SharedSession>,
    abuse: AbuseMark,
    stage: H2ServerState,
    /// True if the receive window of the connection holds as much content as those of its streams
    /// together.
    has_room: bool,
}

/// Life cycle of the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum H2ServerState {
    /// Requests are accepted.
    Open,
    /// New requests are refused; running ones may end.
    Closing,
    /// The connection ends as soon as the caller has received the reason.
    Over,
}

/// Abuse score at the start of the current span.
struct AbuseMark {
    since: Time,
    /// Score at `since`.
    before: u64,
}

impl H2Server<'_> {
    /// Serves until the connection ends.
    ///
    /// Requests still running at the end have lost their stream; each ends by itself.
    async fn run(mut self) {
        while let Some(request) = poll_fn(|cx| self.poll_request(cx)).await {
            self.deadline.set(self.common.worker.snapshot.timeouts.idle);
            self.common.submit(request);
        }
        self.common.tasks.end();
        if let Some(stream) = self.conn.into_stream() {
            linger(&mut Conn::new(stream), self.deadline).await;
        }
    }

    /// Next request; `None` when the connection has ended.
    ///
    /// Deadlines: `[timeouts] idle` after each request and while any runs; a second after the
    /// GOAWAY that ends an idle or abusive connection.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Option<IncomingRequest>> {
        loop {
            if !self.has_room && self.common.first_admission.poll(cx).is_ready() {
                self.conn.enlarge_window();
                self.has_room = true;
            }
            let polled = self.conn.poll_request(cx);
            if self.stage != H2ServerState::Over
                && let Some(reason) = self.kick_reason()
            {
                tracing::debug!(peer = %self.common.peer, ?reason, "HTTP/2 connection closed");
                self.conn.kick(reason);
                self.deadline.set(GOAWAY_TIMEOUT);
                self.stage = H2ServerState::Over;
                continue;
            }
            match polled {
                Poll::Ready(Some(Ok(request))) => return Poll::Ready(Some(request)),
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(peer = %self.common.peer, %error, "HTTP/2 connection failed");
                    return Poll::Ready(None);
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {}
            }
            if self.stage == H2ServerState::Open && self.shutdown.poll_lame_duck(cx).is_ready() {
                self.close();
                continue;
            }
            match self.deadline.poll_expired(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if self.stage == H2ServerState::Over => return Poll::Ready(None),
                Poll::Ready(()) if self.common.running.get() > 0 => {
                    self.deadline.set(self.common.worker.snapshot.timeouts.idle);
                }
                Poll::Ready(()) if self.stage == H2ServerState::Closing => return Poll::Ready(None),
                Poll::Ready(()) => {
                    self.close();
                    self.deadline.set(GOAWAY_TIMEOUT);
                }
            }
        }
    }

    /// Sends GOAWAY, and accepts no more requests.
    ///
    /// Requests that run already are served to their end (RFC 9113 §6.8).
    fn close(&mut self) {
        self.conn.send_goaway();
        self.stage = H2ServerState::Closing;
    }

    /// Reason to end the connection at once, if there is one.
    fn kick_reason(&mut self) -> Option<KickReason> {
        if self.conn.begins_wrongly() {
            return Some(KickReason::Violation);
        }
        self.is_abusive().then_some(KickReason::Abuse)
    }

    /// True if the abuse score has grown by [`MAX_ABUSE`] within the current span.
    fn is_abusive(&mut self) -> bool {
        let score = self.conn.abuse_score();
        if score - self.abuse.before < MAX_ABUSE {
            return false;
        }
        let now = self.common.now();
        let is_flood = now.since(self.abuse.since) < ABUSE_SPAN;
        self.abuse = AbuseMark { since: now, before: score };
        is_flood
    }
}

/// Serves requests of a connection, one after the other.
async fn serve_requests(common: Rc<SharedSession>, task: NewTask) {
    let mut session = Session::new(common.worker.clone(), common.peer, Stream::closed());
    (session.first_admission, session.pinned) = (Some(Rc::clone(&common.first_admission)), common.pinned.clone());
    while let Some(request) = poll_fn(|cx| common.tasks.poll_take(task, cx)).await {
        let guard = common.worker.snapshot.drain.request_guard();
        let inside = serve_request(&common, &mut session, request).await;
        drop(guard);
        if let Some(protocol) = inside {
            let mut shutdown = common.worker.snapshot.drain.watch();
            (common.serve)(&mut session, protocol, &mut shutdown).await;
            // The tunnel has an idle timeout of its own; until it ends, the connection that carries it is not idle.
            return common.running.update(|running| running - 1);
        }
        common.running.update(|running| running - 1);
        // Dropping the stream tells the caller that no more of it is read.
        session.conn = Conn::new(Stream::closed());
    }
}

/// Serves one request to its end. Returns the protocol spoken inside if its stream has become a tunnel
/// with requests.
///
/// A head that breaks HTTP/2's rules for requests is answered on its stream; the connection goes
/// on.
async fn serve_request(common: &SharedSession, session: &mut Session, request: IncomingRequest) -> Option<Protocol> {
    session.worker.refresh();
    let read = request.read_head(if common.secure { "https" } else { "http" }, &mut session.head);
    common.attach(session, Stream::caller(request.stream));
    let (outcome, log) = match read {
        Ok(()) => exchange::run(session).await,
        Err(error) => {
            session.forget_caller();
            let mut log = RequestLog::begin(session);
            (refuse(session, &mut log, &Refusal::from(error)).await, log)
        }
    };
    match outcome {
        Outcome::Tunnel(tunnel) => return tunnel::relay(session, tunnel, log).await,
        Outcome::Intercept(tunnel) => return Box::pin(intercept::open(session, tunnel, log)).await,
        Outcome::Keep | Outcome::Close => {
            log.finish(session);
            // A caller that still sends must read our response before it is told to stop: some forget the response
            // otherwise.
            if framing::of_request(&session.head) != Ok(Length::Empty) {
                session.linger().await;
            }
        }
        Outcome::Abort => {
            log.finish(session);
            session.conn.stream.abort();
        }
    }
    None
}

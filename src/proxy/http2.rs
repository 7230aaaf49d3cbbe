//! A caller's connection that carries many requests at one time (HTTP/2).

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::spawn_local;

use super::connection::{self, Caller};
use super::deadline::Deadline;
use super::exchange::{self, Outcome};
use super::first_admission::FirstAdmission;
use super::intercept::{self, Spoken, Within};
use super::pinned::Pinned;
use super::refusal::Refusal;
use super::request_log::Story;
use super::task_pool::{NewTask, TaskPool};
use super::{Worker, local_response, tunnel};
use crate::net::drain::ShutdownWatch;
use crate::time::Time;
use crate::wire::http2::{H2CallerConn, IncomingRequest};
use crate::wire::{Conn, Length, Stream, framing};

/// How much noise is borne within [`CALM`]: 1000 resets or settings, or 10 000 pings. A caller that gives up all of its
/// requests at once makes 128 resets.
const NOISE: u64 = 10_000;
const CALM: Duration = Duration::from_secs(1);

/// How long a caller has for its last words when it is asked to go.
const FAREWELL: Duration = Duration::from_secs(1);

/// How many who have nothing to do are kept for the next requests. To begin anew costs a caller's memory and timer,
/// to be kept costs some KiB.
const MAX_IDLE: usize = 16;

/// What all requests of a connection have in common, and those who serve them.
struct Common {
    worker: Worker,
    peer: SocketAddr,
    secure: bool,
    loopback: bool,
    within: Option<Arc<Within>>,
    /// Whether any of them was admitted.
    first_admission: Rc<FirstAdmission>,
    pinned: Pinned,
    /// How many requests are running.
    running: Cell<usize>,
    /// The tasks that serve them.
    hands: TaskPool<IncomingRequest>,
}

impl Common {
    fn now(&self) -> Time {
        self.worker.proxy.gate.clock().now()
    }

    /// Gives a request to whoever has nothing to do, or to somebody new.
    fn give(self: &Rc<Self>, call: IncomingRequest) {
        self.running.update(|running| running + 1);
        if let Some(hired) = self.hands.give(call) {
            spawn_local(Box::pin(serve_calls(Rc::clone(self), hired)));
        }
    }
}

/// Serves the connection until either side ends it.
pub(super) async fn serve(caller: &mut Caller, stopping: &mut ShutdownWatch) {
    if caller.has_asked {
        caller.alarm.set(caller.worker.proxy.timeouts.head);
    }
    let begin = H2CallerConn::handshake(caller.conn.take_stream());
    let session = match caller.alarm.during(begin).await {
        Some(Ok(session)) => session,
        Some(Err(error)) => return tracing::debug!(peer = %caller.peer, %error, "HTTP/2 did not begin"),
        None => return,
    };
    let Caller { alarm, .. } = caller;
    if caller.has_asked {
        alarm.set(caller.worker.proxy.timeouts.idle);
    }
    let common = Rc::new(Common {
        worker: caller.worker.clone(),
        peer: caller.peer,
        secure: caller.secure,
        loopback: caller.loopback,
        within: caller.within.clone(),
        first_admission: Rc::default(),
        pinned: caller.pinned.clone(),
        running: Cell::default(),
        hands: TaskPool::new(MAX_IDLE),
    });
    if caller.within.is_some() {
        // The CONNECT of the tunnel was admitted.
        common.first_admission.set();
    }
    let quiet = Quiet { since: common.now(), before: 0 };
    Host { session, alarm, stopping, common, quiet, stage: Stage::Open, has_room: false }.run().await;
}

/// What keeps one connection going.
struct Host<'a> {
    session: H2CallerConn,
    alarm: &'a mut Deadline,
    stopping: &'a mut ShutdownWatch,
    common: Rc<Common>,
    quiet: Quiet,
    stage: Stage,
    /// Whether the caller may send as much content at one time as its streams hold together.
    has_room: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// New requests are turned away; those that run may end.
    Closing,
    /// It is over, as soon as the caller has read why.
    Over,
}

/// Since when how much noise was made.
struct Quiet {
    since: Time,
    before: u64,
}

impl Host<'_> {
    async fn run(mut self) {
        while let Some(call) = poll_fn(|cx| self.poll_call(cx)).await {
            self.alarm.set(self.common.worker.proxy.timeouts.idle);
            self.common.give(call);
        }
        self.common.hands.end();
        if let Some(stream) = self.session.into_stream() {
            connection::linger(&mut Conn::new(stream), self.alarm).await;
        }
    }

    /// The next request; `None` when the connection has ended.
    fn poll_call(&mut self, cx: &mut Context<'_>) -> Poll<Option<IncomingRequest>> {
        loop {
            if !self.has_room && self.common.first_admission.poll(cx).is_ready() {
                self.session.enlarge_window();
                self.has_room = true;
            }
            let polled = self.session.poll_request(cx);
            if self.stage != Stage::Over && self.is_too_loud() {
                tracing::debug!(peer = %self.common.peer, "an HTTP/2 connection makes nothing but noise, and is ended");
                self.session.kick();
                self.alarm.set(FAREWELL);
                self.stage = Stage::Over;
                continue;
            }
            match polled {
                Poll::Ready(Some(Ok(call))) => return Poll::Ready(Some(call)),
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(peer = %self.common.peer, %error, "an HTTP/2 connection broke");
                    return Poll::Ready(None);
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {}
            }
            if self.stage == Stage::Open && self.stopping.poll_lame_duck(cx).is_ready() {
                self.close();
                continue;
            }
            match self.alarm.poll_expired(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if self.stage == Stage::Over => return Poll::Ready(None),
                Poll::Ready(()) if self.common.running.get() > 0 => {
                    self.alarm.set(self.common.worker.proxy.timeouts.idle);
                }
                Poll::Ready(()) if self.stage == Stage::Closing => return Poll::Ready(None),
                Poll::Ready(()) => {
                    self.close();
                    self.alarm.set(FAREWELL);
                }
            }
        }
    }

    fn close(&mut self) {
        self.session.send_goaway();
        self.stage = Stage::Closing;
    }

    fn is_too_loud(&mut self) -> bool {
        let noise = self.session.abuse_score();
        if noise - self.quiet.before < NOISE {
            return false;
        }
        let now = self.common.now();
        let too_soon = now.since(self.quiet.since) < CALM;
        self.quiet = Quiet { since: now, before: noise };
        too_soon
    }
}

/// Serves requests of a connection, one after the other.
async fn serve_calls(common: Rc<Common>, who: NewTask) {
    let mut caller = Caller::new(common.worker.clone(), common.peer, Stream::closed());
    (caller.secure, caller.loopback, caller.within) = (common.secure, common.loopback, common.within.clone());
    (caller.first_admission, caller.pinned) = (Some(Rc::clone(&common.first_admission)), common.pinned.clone());
    while let Some(call) = poll_fn(|cx| common.hands.poll_take(who, cx)).await {
        let busy = common.worker.proxy.drain.request_guard();
        let opened = serve_call(&mut caller, call).await;
        drop(busy);
        if let Some(spoken) = opened {
            let mut stopping = common.worker.proxy.drain.watch();
            // Boxed, because what is spoken in it may be HTTP/2 again.
            let speaking: Pin<Box<dyn Future<Output = ()> + '_>> =
                Box::pin(connection::speak(&mut caller, spoken, &mut stopping));
            speaking.await;
            // The tunnel has an idle time of its own; until it ends the connection that carries it is not idle.
            return common.running.update(|running| running - 1);
        }
        common.running.update(|running| running - 1);
        // Dropped, a stream says that nothing more is wanted from it.
        caller.conn = Conn::new(Stream::closed());
    }
}

/// Serves one request to its end; or to where its stream is a connection of its own.
async fn serve_call(caller: &mut Caller, call: IncomingRequest) -> Option<Spoken> {
    caller.worker.refresh();
    let read = call.read_head(if caller.secure { "https" } else { "http" }, &mut caller.head);
    caller.conn = Conn::new(Stream::caller(call.stream));
    let outcome = match read {
        Ok(()) => exchange::run(caller).await,
        Err(error) => {
            let mut story = Story::begin(caller);
            let outcome = local_response::refuse(caller, &mut story, &Refusal::from(error)).await;
            story.end(caller);
            outcome
        }
    };
    match outcome {
        // A caller that is still sending must read our answer before it is told to stop: some forget it otherwise.
        Outcome::Keep | Outcome::Close if framing::of_request(&caller.head) != Ok(Length::Empty) => {
            caller.linger().await
        }
        Outcome::Keep | Outcome::Close => {}
        Outcome::Abort => caller.conn.stream.abort(),
        Outcome::Tunnel(tunnel) => tunnel::relay(caller, tunnel).await,
        Outcome::Opened(opening) => return Box::pin(intercept::open(caller, *opening)).await,
    }
    None
}

//! A caller's connection that carries many requests at one time (HTTP/2).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::spawn_local;

use super::alarm::Alarm;
use super::connection::{self, Caller, Stopping};
use super::exchange::{self, Outcome};
use super::intercept::{self, Spoken, Within};
use super::refusal::Refusal;
use super::story::Story;
use super::{Worker, answer, tunnel};
use crate::time::Time;
use crate::wire::http2::{Call, Session};
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
    within: Option<Arc<Within>>,
    /// How many requests are running.
    running: Cell<usize>,
    hands: RefCell<Hands>,
}

/// The tasks of a connection. Each serves one request after the other, with the memory of the one before.
#[derive(Default)]
struct Hands {
    /// Requests that nobody has taken yet.
    calls: VecDeque<Call>,
    /// Who has nothing to do, each by its number, once.
    idle: Vec<(u64, Waker)>,
    /// How many there have been.
    hired: u64,
    /// Nothing comes any more.
    over: bool,
}

impl Common {
    fn now(&self) -> Time {
        self.worker.proxy.gate.clock().now()
    }

    /// Gives a request to whoever has nothing to do, or to somebody new.
    fn give(self: &Rc<Self>, call: Call) {
        self.running.update(|running| running + 1);
        let mut hands = self.hands.borrow_mut();
        hands.calls.push_back(call);
        match hands.idle.pop() {
            Some((_, waker)) => waker.wake(),
            None => {
                hands.hired += 1;
                spawn_local(Box::pin(serve_calls(Rc::clone(self), hands.hired)));
            }
        }
    }

    /// The next request for somebody; `None` when there is none and nobody needs to wait for it.
    fn poll_take(&self, number: u64, cx: &Context<'_>) -> Poll<Option<Call>> {
        let mut hands = self.hands.borrow_mut();
        // It may have been polled for another reason than a request, and whoever is busy or gone must not be called.
        hands.idle.retain(|(idle, _)| *idle != number);
        if let Some(call) = hands.calls.pop_front() {
            return Poll::Ready(Some(call));
        }
        if hands.over || hands.idle.len() >= MAX_IDLE {
            return Poll::Ready(None);
        }
        hands.idle.push((number, cx.waker().clone()));
        Poll::Pending
    }

    /// Lets those go who have nothing to do.
    fn end(&self) {
        let mut hands = self.hands.borrow_mut();
        hands.over = true;
        hands.idle.drain(..).for_each(|(_, waker)| waker.wake());
    }
}

/// Serves the connection until either side ends it.
pub(super) async fn serve(mut caller: Caller, stopping: Stopping) {
    caller.alarm.set(caller.worker.proxy.timeouts.head);
    let begin = Session::begin(caller.conn.take_stream());
    let session = match caller.alarm.during(begin).await {
        Some(Ok(session)) => session,
        Some(Err(error)) => return tracing::debug!(peer = %caller.peer, %error, "HTTP/2 did not begin"),
        None => return,
    };
    let Caller { worker, peer, secure, within, mut alarm, .. } = caller;
    alarm.set(worker.proxy.timeouts.idle);
    let common = Rc::new(Common { worker, peer, secure, within, running: Cell::default(), hands: RefCell::default() });
    let quiet = Quiet { since: common.now(), before: 0 };
    Host { session, alarm, stopping, common, quiet, stage: Stage::Open }.run().await;
}

/// What keeps one connection going.
struct Host {
    session: Session,
    alarm: Alarm,
    stopping: Stopping,
    common: Rc<Common>,
    quiet: Quiet,
    stage: Stage,
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

impl Host {
    async fn run(mut self) {
        while let Some(call) = poll_fn(|cx| self.poll_call(cx)).await {
            self.alarm.set(self.common.worker.proxy.timeouts.idle);
            self.common.give(call);
        }
        self.common.end();
        if let Some(stream) = self.session.into_rest() {
            connection::linger(&mut Conn::new(stream), &mut self.alarm).await;
        }
    }

    /// The next request; `None` when the connection has ended.
    fn poll_call(&mut self, cx: &mut Context<'_>) -> Poll<Option<Call>> {
        loop {
            let polled = self.session.poll_call(cx);
            if self.stage != Stage::Over && self.is_too_loud() {
                tracing::debug!(peer = %self.common.peer, "an HTTP/2 connection makes nothing but noise, and is ended");
                self.session.throw_out();
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
            if self.stage == Stage::Open && self.stopping.as_mut().poll(cx).is_ready() {
                self.close();
                continue;
            }
            match self.alarm.poll_ring(cx) {
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
        self.session.close();
        self.stage = Stage::Closing;
    }

    fn is_too_loud(&mut self) -> bool {
        let noise = self.session.noise();
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
async fn serve_calls(common: Rc<Common>, number: u64) {
    let mut caller = Caller::new(common.worker.clone(), common.peer, Stream::gone());
    (caller.secure, caller.within) = (common.secure, common.within.clone());
    while let Some(call) = poll_fn(|cx| common.poll_take(number, cx)).await {
        let busy = common.worker.proxy.drain.busy();
        let opened = serve_call(&mut caller, call).await;
        common.running.update(|running| running - 1);
        if let Some(spoken) = opened {
            // Boxed, because what is spoken in it may be HTTP/2 again.
            let speaking: Pin<Box<dyn Future<Output = ()>>> = Box::pin(connection::speak(caller, spoken));
            return speaking.await;
        }
        drop(busy);
        // Dropped, a stream says that nothing more is wanted from it.
        caller.conn = Conn::new(Stream::gone());
    }
}

/// Serves one request to its end; or to where its stream is a connection of its own.
async fn serve_call(caller: &mut Caller, call: Call) -> Option<Spoken> {
    let read = call.read_head(caller.secure, &mut caller.head);
    caller.conn = Conn::new(Stream::caller(call.stream));
    let outcome = match read {
        Ok(()) => exchange::run(caller).await,
        Err(error) => {
            let mut story = Story::begin(caller);
            let outcome = answer::refuse(caller, &mut story, &Refusal::from(error)).await;
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
        Outcome::Tunnel(tunnel) => Box::pin(tunnel::relay(caller, *tunnel)).await,
        Outcome::Opened(opening) => return Box::pin(intercept::open(caller, *opening)).await,
    }
    None
}

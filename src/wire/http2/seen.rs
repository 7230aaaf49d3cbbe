//! State of an HTTP/2 connection that `h2` does not tell: which heads are out, which streams a GOAWAY leaves undone, signs
//! of life, and orders to the task that drives it.

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use super::liveness::Signs;
use crate::wire::Stream;

/// What has been seen of a connection.
#[derive(Default)]
pub(super) struct Seen {
    state: Mutex<State>,
    /// An answer to a PING has come, or none can come any more.
    pong: Notify,
    /// The peer's settings are in force, or it can send none any more.
    settled: Notify,
}

/// An order to the task that drives a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DriverOrder {
    /// Send a PING.
    Ping,
    /// End the connection.
    End(Ending),
}

struct State {
    /// The last stream of whose head something was handed to the connection.
    begun: u32,
    /// The last stream whose head was handed over whole.
    written: u32,
    /// The last stream whose head is out: with the kernel, or where the other side can read it.
    departed: u32,
    /// Tasks that wait for a head to be out.
    waiting: Vec<(u32, Waker)>,
    /// The last stream that the peer looks at; it has said goodbye if it is not the greatest.
    last: u32,
    /// There is no connection any more.
    closed: bool,
    /// Bytes that have come, frames among them that are part of a message, and answers to PINGs.
    received: u64,
    messages: u64,
    pongs: u64,
    /// The peer has told its settings, and they are in force.
    settings: Option<SettingsState>,
    /// A PING must be sent.
    ping: bool,
    /// It must end, and in what way.
    ending: Option<Ending>,
    /// The task that drives the connection.
    driver: Option<Waker>,
    /// The error that broke it; `h2` keeps of it no more than a text.
    failure: Option<Arc<io::Error>>,
    /// The connection itself, when `h2` has no use for it any more.
    rest: Option<Stream>,
    /// Frames from the peer that carry neither a message nor room for one, the worse ones more than once.
    noise: u64,
}

/// How far the first settings of the peer have come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SettingsState {
    Told,
    InForce,
}

/// How a connection ends that we do not want any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// With a farewell, if the peer takes it soon.
    InOrder,
    /// Without a word.
    AtOnce,
}

impl Default for State {
    fn default() -> State {
        State {
            begun: 0,
            written: 0,
            departed: 0,
            waiting: Vec::new(),
            last: u32::MAX,
            closed: false,
            received: 0,
            messages: 0,
            pongs: 0,
            settings: None,
            ping: false,
            ending: None,
            driver: None,
            failure: None,
            rest: None,
            noise: 0,
        }
    }
}

impl Seen {
    /// Ready when the head of this stream is out, or the peer has said that it will not look at it: `h2` may have thrown it
    /// away then. An error if the connection ended before.
    pub(super) fn poll_departed(&self, stream: u32, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        if state.departed >= stream || state.last < stream {
            return Poll::Ready(Ok(()));
        }
        if state.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        state.waiting.retain(|(waiting, _)| *waiting != stream);
        state.waiting.push((stream, cx.waker().clone()));
        Poll::Pending
    }

    /// Whether anything of this stream, which `h2` has been given, has left or may still leave.
    pub(super) fn may_leave(&self, stream: u32) -> bool {
        let state = self.lock();
        !state.closed || state.begun >= stream
    }

    /// Whether the peer has said that it does not look at this stream (RFC 9113 §6.8).
    pub(super) fn is_left_undone(&self, stream: u32) -> bool {
        self.lock().last < stream
    }

    /// Whether new streams make sense.
    pub(super) fn is_open(&self) -> bool {
        let state = self.lock();
        !state.closed && state.last == u32::MAX
    }

    /// The connection is gone.
    pub(super) fn close(&self) {
        let waiting = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
        self.pong.notify_waiters();
        self.settled.notify_waiters();
    }

    /// Ends the connection. The first call holds.
    pub(super) fn end(&self, ending: Ending) {
        self.order(|state| _ = state.ending.get_or_insert(ending));
    }

    /// Sends a PING. None may be under way.
    pub(super) fn ping(&self) {
        self.order(|state| state.ping = true);
    }

    fn order(&self, change: impl FnOnce(&mut State)) {
        let driver = {
            let mut state = self.lock();
            change(&mut state);
            state.driver.take()
        };
        driver.into_iter().for_each(Waker::wake);
    }

    /// The next order to the driver.
    pub(super) fn poll_order(&self, cx: &mut Context<'_>) -> Poll<DriverOrder> {
        let mut state = self.lock();
        if let Some(ending) = state.ending {
            return Poll::Ready(DriverOrder::End(ending));
        }
        if std::mem::take(&mut state.ping) {
            return Poll::Ready(DriverOrder::Ping);
        }
        match &mut state.driver {
            Some(driver) => driver.clone_from(cx.waker()),
            None => state.driver = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// The peer has told settings, and `h2` is about to hear of them.
    pub(super) fn settings_told(&self) {
        self.lock().settings.get_or_insert(SettingsState::Told);
    }

    /// `h2` has heard of all that has come.
    pub(super) fn caught_up(&self) {
        let is_new = {
            let mut state = self.lock();
            let is_new = state.settings == Some(SettingsState::Told);
            if is_new {
                state.settings = Some(SettingsState::InForce);
            }
            is_new
        };
        if is_new {
            self.settled.notify_waiters();
        }
    }

    /// Waits until the first settings of the peer are in force, or the connection has ended.
    pub(super) async fn wait_for_settings(&self) {
        let mut settled = pin!(self.settled.notified());
        settled.as_mut().enable();
        let is_over = {
            let state = self.lock();
            state.closed || state.settings == Some(SettingsState::InForce)
        };
        if !is_over {
            settled.await;
        }
    }

    /// A PING was answered.
    pub(super) fn ponged(&self) {
        self.lock().pongs += 1;
        self.pong.notify_waiters();
    }

    /// Waits until more PINGs than so many have been answered, or the connection has ended.
    pub(super) async fn wait_for_pong(&self, before: u64) {
        let mut pong = pin!(self.pong.notified());
        // In line before looking, so that none falls between the look and the wait.
        pong.as_mut().enable();
        let is_over = {
            let state = self.lock();
            state.closed || state.pongs > before
        };
        if !is_over {
            pong.await;
        }
    }

    /// Its signs of life, with so many streams.
    pub(super) fn signs(&self, streams: usize) -> Signs {
        let State { received, messages, pongs, departed, .. } = *self.lock();
        Signs { received, messages, pongs, departed, streams }
    }

    /// What broke the connection, if it was a fault of what lies beneath it.
    pub(super) fn failure(&self) -> Option<Arc<io::Error>> {
        self.lock().failure.clone()
    }

    /// The connection itself, once `h2` has let go of it.
    pub(super) fn take_rest(&self) -> Option<Stream> {
        self.lock().rest.take()
    }

    /// How loud the peer has been.
    pub(super) fn noise(&self) -> u64 {
        self.lock().noise
    }

    /// So many bytes have come, with so many frames that are part of a message.
    pub(super) fn received(&self, bytes: usize, messages: u64) {
        let mut state = self.lock();
        state.received += bytes as u64;
        state.messages += messages;
    }

    /// The peer has made so much noise, and has said goodbye to all streams behind `last`.
    pub(super) fn heard(&self, noise: u64, last: u32) {
        {
            let mut state = self.lock();
            state.noise += noise;
            state.last = state.last.min(last);
        }
        if last < u32::MAX {
            self.tell_departed();
        }
    }

    /// Heads up to `begun` were handed to the connection in part, up to `written` as a whole.
    pub(super) fn handed_over(&self, begun: u32, written: u32) {
        let mut state = self.lock();
        // Trailers are HEADERS too, of a stream that has begun before.
        state.begun = state.begun.max(begun);
        state.written = state.written.max(written);
    }

    /// Everything that was handed over is out.
    pub(super) fn flushed(&self) {
        {
            let mut state = self.lock();
            state.departed = state.written;
        }
        self.tell_departed();
    }

    /// It broke by a fault of what lies beneath it.
    pub(super) fn broke(&self, error: io::Error) {
        self.lock().failure = Some(Arc::new(error));
    }

    /// `h2` has let go of it; this is left.
    pub(super) fn left(&self, rest: Stream) {
        self.lock().rest = Some(rest);
        self.close();
    }

    /// Wakes those whose wait is over.
    fn tell_departed(&self) {
        let due: Vec<Waker> = {
            let mut state = self.lock();
            let (departed, last) = (state.departed, state.last);
            let due = |(stream, _): &mut (u32, Waker)| *stream <= departed || *stream > last;
            state.waiting.extract_if(.., due).map(|(_, waker)| waker).collect()
        };
        due.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

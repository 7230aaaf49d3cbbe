//! State of an HTTP/2 connection that `h2` does not tell: which heads are out, which streams a GOAWAY leaves undone, signs
//! of life, and orders to the task that drives it.

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use super::liveness::Activity;
use crate::wire::Stream;

/// What has been seen of a connection.
#[derive(Default)]
pub(super) struct WireState {
    state: Mutex<Inner>,
    /// An answer to a PING has come, or none can come any more.
    pong: Notify,
    /// The peer's settings are in force, or it can send none any more.
    settings_applied: Notify,
}

/// An order to the task that drives a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DriverCommand {
    /// Send a PING.
    Ping,
    /// End the connection.
    Close(CloseMode),
}

struct Inner {
    /// The last stream of whose head something was handed to the connection.
    head_started: u32,
    /// The last stream whose head was handed over whole.
    head_written: u32,
    /// The last stream whose head is out: with the kernel, or where the other side can read it.
    head_flushed: u32,
    /// Tasks that wait for a head to be out.
    flush_waiters: Vec<(u32, Waker)>,
    /// The last stream that the peer looks at; it has said goodbye if it is not the greatest.
    goaway_last: u32,
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
    close_mode: Option<CloseMode>,
    /// The task that drives the connection.
    driver: Option<Waker>,
    /// The error that broke it; `h2` keeps of it no more than a text.
    failure: Option<Arc<io::Error>>,
    /// The connection itself, when `h2` has no use for it any more.
    released: Option<Stream>,
    /// Frames from the peer that carry neither a message nor room for one, the worse ones more than once.
    abuse_score: u64,
}

/// How far the first settings of the peer have come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SettingsState {
    Received,
    Applied,
}

/// How a connection ends that we do not want any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CloseMode {
    /// With a farewell, if the peer takes it soon.
    Graceful,
    /// Without a word.
    Immediate,
}

impl Default for Inner {
    fn default() -> Inner {
        Inner {
            head_started: 0,
            head_written: 0,
            head_flushed: 0,
            flush_waiters: Vec::new(),
            goaway_last: u32::MAX,
            closed: false,
            received: 0,
            messages: 0,
            pongs: 0,
            settings: None,
            ping: false,
            close_mode: None,
            driver: None,
            failure: None,
            released: None,
            abuse_score: 0,
        }
    }
}

impl WireState {
    /// Ready when the head of this stream is out, or the peer has said that it will not look at it: `h2` may have thrown it
    /// away then. An error if the connection ended before.
    pub(super) fn poll_head_sent(&self, stream: u32, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        if state.head_flushed >= stream || state.goaway_last < stream {
            return Poll::Ready(Ok(()));
        }
        if state.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        state.flush_waiters.retain(|(waiting, _)| *waiting != stream);
        state.flush_waiters.push((stream, cx.waker().clone()));
        Poll::Pending
    }

    /// Whether anything of this stream, which `h2` has been given, has left or may still leave.
    pub(super) fn may_be_sent(&self, stream: u32) -> bool {
        let state = self.lock();
        !state.closed || state.head_started >= stream
    }

    /// Whether the peer has said that it does not look at this stream (RFC 9113 §6.8).
    pub(super) fn is_unprocessed(&self, stream: u32) -> bool {
        self.lock().goaway_last < stream
    }

    /// Whether new streams make sense.
    pub(super) fn is_open(&self) -> bool {
        let state = self.lock();
        !state.closed && state.goaway_last == u32::MAX
    }

    /// The connection is gone.
    pub(super) fn on_closed(&self) {
        let waiting = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.flush_waiters)
        };
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
        self.pong.notify_waiters();
        self.settings_applied.notify_waiters();
    }

    /// Ends the connection. The first call holds.
    pub(super) fn close_with(&self, mode: CloseMode) {
        self.command(|state| _ = state.close_mode.get_or_insert(mode));
    }

    /// Sends a PING. None may be under way.
    pub(super) fn ping(&self) {
        self.command(|state| state.ping = true);
    }

    fn command(&self, change: impl FnOnce(&mut Inner)) {
        let driver = {
            let mut state = self.lock();
            change(&mut state);
            state.driver.take()
        };
        driver.into_iter().for_each(Waker::wake);
    }

    /// The next order to the driver.
    pub(super) fn poll_command(&self, cx: &mut Context<'_>) -> Poll<DriverCommand> {
        let mut state = self.lock();
        if let Some(mode) = state.close_mode {
            return Poll::Ready(DriverCommand::Close(mode));
        }
        if std::mem::take(&mut state.ping) {
            return Poll::Ready(DriverCommand::Ping);
        }
        match &mut state.driver {
            Some(driver) => driver.clone_from(cx.waker()),
            None => state.driver = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// The peer has told settings, and `h2` is about to hear of them.
    pub(super) fn on_settings_received(&self) {
        self.lock().settings.get_or_insert(SettingsState::Received);
    }

    /// `h2` has heard of all that has come.
    pub(super) fn on_bytes_processed(&self) {
        let is_new = {
            let mut state = self.lock();
            let is_new = state.settings == Some(SettingsState::Received);
            if is_new {
                state.settings = Some(SettingsState::Applied);
            }
            is_new
        };
        if is_new {
            self.settings_applied.notify_waiters();
        }
    }

    /// Waits until the first settings of the peer are in force, or the connection has ended.
    pub(super) async fn wait_for_settings(&self) {
        let mut settings_applied = pin!(self.settings_applied.notified());
        settings_applied.as_mut().enable();
        let is_over = {
            let state = self.lock();
            state.closed || state.settings == Some(SettingsState::Applied)
        };
        if !is_over {
            settings_applied.await;
        }
    }

    /// A PING was answered.
    pub(super) fn on_pong(&self) {
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

    /// Its activity of life, with so many streams.
    pub(super) fn activity(&self, streams: usize) -> Activity {
        let Inner { received, messages, pongs, head_flushed, .. } = *self.lock();
        Activity { received, messages, pongs, last_head_sent: head_flushed, streams }
    }

    /// What broke the connection, if it was a fault of what lies beneath it.
    pub(super) fn failure(&self) -> Option<Arc<io::Error>> {
        self.lock().failure.clone()
    }

    /// The connection itself, once `h2` has let go of it.
    pub(super) fn take_stream(&self) -> Option<Stream> {
        self.lock().released.take()
    }

    /// How loud the peer has been.
    pub(super) fn abuse_score(&self) -> u64 {
        self.lock().abuse_score
    }

    /// So many bytes have come, with so many frames that are part of a message.
    pub(super) fn on_received(&self, bytes: usize, messages: u64) {
        let mut state = self.lock();
        state.received += bytes as u64;
        state.messages += messages;
    }

    /// The peer has made so much abuse_score, and has said goodbye to all streams behind `last`.
    pub(super) fn on_abuse_or_goaway(&self, abuse_score: u64, goaway_last: u32) {
        {
            let mut state = self.lock();
            state.abuse_score += abuse_score;
            state.goaway_last = state.goaway_last.min(goaway_last);
        }
        if goaway_last < u32::MAX {
            self.wake_flushed();
        }
    }

    /// Heads up to `head_started` were handed to the connection in part, up to `written` as a whole.
    pub(super) fn on_written(&self, head_started: u32, head_written: u32) {
        let mut state = self.lock();
        // Trailers are HEADERS too, of a stream that has begun before.
        state.head_started = state.head_started.max(head_started);
        state.head_written = state.head_written.max(head_written);
    }

    /// Everything that was handed over is out.
    pub(super) fn on_flushed(&self) {
        {
            let mut state = self.lock();
            state.head_flushed = state.head_written;
        }
        self.wake_flushed();
    }

    /// It broke by a fault of what lies beneath it.
    pub(super) fn on_io_error(&self, error: io::Error) {
        self.lock().failure = Some(Arc::new(error));
    }

    /// `h2` has let go of it; this is left.
    pub(super) fn on_released(&self, rest: Stream) {
        self.lock().released = Some(rest);
        self.on_closed();
    }

    /// Wakes those whose wait is over.
    fn wake_flushed(&self) {
        let due: Vec<Waker> = {
            let mut state = self.lock();
            let (head_flushed, goaway_last) = (state.head_flushed, state.goaway_last);
            let due = |(stream, _): &mut (u32, Waker)| *stream <= head_flushed || *stream > goaway_last;
            state.flush_waiters.extract_if(.., due).map(|(_, waker)| waker).collect()
        };
        due.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

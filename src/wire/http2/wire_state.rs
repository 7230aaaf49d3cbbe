//! Wire-level state of an HTTP/2 connection that `h2` does not tell: heads sent, GOAWAY, activity,
//! and commands to its driver.
//!
//! Written by the observer, which sees the frames, and read by streams and liveness. One lock, held
//! for a few instructions and never across a call of `h2` or a wake. Streams are named by their
//! number: identifiers of a client grow (RFC 9113 §5.1.1), so "sent up to stream 7" is one number
//! for all heads.

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use super::liveness::Activity;

/// State of a connection as seen by its [`FrameObserver`](super::frame_observer::FrameObserver).
#[derive(Default)]
pub(super) struct WireState {
    state: Mutex<Inner>,
    /// Notified when a PING is answered, or can be answered no more.
    pong: Notify,
    /// Notified when the peer's settings are applied, or can come no more.
    settings_applied: Notify,
}

/// Command to the task that drives a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DriverCommand {
    /// Send a PING.
    Ping,
    /// Close the connection.
    Close(CloseMode),
}

/// Numbers of streams are 0 before the first.
struct Inner {
    /// Last stream with a head written in part.
    head_started: u32,
    /// Last stream with a head written as a whole.
    head_written: u32,
    /// Last stream with a head sent: flushed to the kernel, or to the peer.
    head_flushed: u32,
    /// Tasks that wait for a stream's head to be sent. At most one for each stream.
    flush_waiters: Vec<(u32, Waker)>,
    /// Last stream that the peer processes; below `u32::MAX` after a GOAWAY.
    goaway_last: u32,
    /// True after the connection has ended.
    closed: bool,
    /// Numbers of received bytes, of received frames that are part of a message, and of answers to
    /// PINGs.
    received: u64,
    /// Number of received HEADERS and DATA frames.
    messages: u64,
    /// Number of answered PINGs.
    pongs: u64,
    /// Progress of the peer's first settings. `None` before they have arrived.
    settings: Option<SettingsState>,
    /// Number of our settings that the peer has acknowledged.
    settings_acks: u64,
    /// True if a PING is to be sent.
    ping: bool,
    /// Set if the connection is to close.
    close_mode: Option<CloseMode>,
    /// Task that drives the connection.
    driver: Option<Waker>,
    /// Error of the transport; `h2` keeps only its text.
    failure: Option<Arc<io::Error>>,
    /// Abuse score: received frames that carry neither a message nor window, weighted.
    abuse_score: u64,
    /// True if the peer's first frame was not SETTINGS.
    begins_wrongly: bool,
}

/// Progress of the peer's first settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SettingsState {
    /// Read from the transport, and not yet processed by `h2`.
    Received,
    /// Processed: the number of streams that the origin allows is known.
    Applied,
}

/// Way of closing a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CloseMode {
    /// With a GOAWAY, if the peer reads it soon.
    Graceful,
    /// Without a GOAWAY.
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
            settings_acks: 0,
            ping: false,
            close_mode: None,
            driver: None,
            failure: None,
            abuse_score: 0,
            begins_wrongly: false,
        }
    }
}

impl WireState {
    /// Ready when the head of this stream is sent, or the peer's GOAWAY excludes the stream: `h2`
    /// may have dropped the head then. An error if the connection ended before.
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

    /// True if any part of this stream, which `h2` has taken, was sent or may still be.
    ///
    /// False only for a stream of a connection that ended before the first byte of the head was
    /// written: such a request can be sent again, whatever its method.
    pub(super) fn may_be_sent(&self, stream: u32) -> bool {
        let state = self.lock();
        !state.closed || state.head_started >= stream
    }

    /// True if the peer's GOAWAY excludes this stream (RFC 9113 §6.8).
    ///
    /// Requests on it were not acted on, and can be sent again.
    pub(super) fn is_unprocessed(&self, stream: u32) -> bool {
        self.lock().goaway_last < stream
    }

    /// True if new streams can be opened.
    pub(super) fn is_open(&self) -> bool {
        let state = self.lock();
        !state.closed && state.goaway_last == u32::MAX
    }

    /// Records the end of the connection and wakes all waiting tasks.
    ///
    /// Called once, by the drop of the observer. Waiting tasks then find the connection closed.
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

    /// Closes the connection. The first call decides the mode.
    pub(super) fn close_with(&self, mode: CloseMode) {
        self.command(|state| _ = state.close_mode.get_or_insert(mode));
    }

    /// Sends a PING. The last one must be answered.
    pub(super) fn ping(&self) {
        self.command(|state| state.ping = true);
    }

    /// Changes the state for the driver and wakes it, after the lock is released.
    fn command(&self, change: impl FnOnce(&mut Inner)) {
        let driver = {
            let mut state = self.lock();
            change(&mut state);
            state.driver.take()
        };
        driver.into_iter().for_each(Waker::wake);
    }

    /// The next command to the driver.
    ///
    /// A close comes before a PING, and is reported at every poll; a PING once. Only the driver
    /// calls it: one waker is kept.
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

    /// Records settings of the peer, which `h2` is about to read.
    pub(super) fn on_settings_received(&self) {
        self.lock().settings.get_or_insert(SettingsState::Received);
    }

    /// Records that `h2` has processed all received bytes.
    ///
    /// Called by the driver after each poll of `h2`, which reads all that it was given.
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

    /// Waits until the peer's first settings are applied, or the connection has ended.
    ///
    /// # Cancel safety
    /// Cancel safe.
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

    /// Counts acknowledgements of our settings.
    pub(super) fn on_settings_acks(&self, count: u64) {
        self.lock().settings_acks += count;
    }

    /// Number of our settings that the peer has acknowledged.
    pub(super) fn settings_acks(&self) -> u64 {
        self.lock().settings_acks
    }

    /// Number of received frames that are part of a message; 0 on a connection of a caller.
    pub(super) fn messages(&self) -> u64 {
        self.lock().messages
    }

    /// Records the answer to a PING.
    pub(super) fn on_pong(&self) {
        self.lock().pongs += 1;
        self.pong.notify_waiters();
    }

    /// Waits until more than `before` PINGs were answered, or the connection has ended.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn wait_for_pong(&self, before: u64) {
        let mut pong = pin!(self.pong.notified());
        // Registered before the check, so that no notification is lost in between.
        pong.as_mut().enable();
        let is_over = {
            let state = self.lock();
            state.closed || state.pongs > before
        };
        if !is_over {
            pong.await;
        }
    }

    /// Current activity counters, with this number of streams.
    pub(super) fn activity(&self, streams: usize) -> Activity {
        let Inner { received, messages, pongs, head_flushed, .. } = *self.lock();
        Activity { received, messages, pongs, last_head_sent: head_flushed, streams }
    }

    /// Error of the transport that broke the connection, if there was one.
    pub(super) fn failure(&self) -> Option<Arc<io::Error>> {
        self.lock().failure.clone()
    }

    /// Abuse score of the peer.
    pub(super) fn abuse_score(&self) -> u64 {
        self.lock().abuse_score
    }

    /// True if the peer's first frame was not SETTINGS.
    pub(super) fn begins_wrongly(&self) -> bool {
        self.lock().begins_wrongly
    }

    /// Records that the peer's first frame was not SETTINGS.
    pub(super) fn on_wrong_begin(&self) {
        self.lock().begins_wrongly = true;
    }

    /// Counts received bytes, and frames that are part of a message.
    pub(super) fn on_received(&self, bytes: usize, messages: u64) {
        let mut state = self.lock();
        state.received += bytes as u64;
        state.messages += messages;
    }

    /// Adds to the abuse score, and records the last stream of a GOAWAY (`u32::MAX`: none).
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

    /// Records written heads: in part up to stream `head_started`, as a whole up to `head_written`.
    pub(super) fn on_written(&self, head_started: u32, head_written: u32) {
        let mut state = self.lock();
        // Trailers are HEADERS, too, of a stream that was counted before.
        state.head_started = state.head_started.max(head_started);
        state.head_written = state.head_written.max(head_written);
    }

    /// Records that all written bytes were flushed.
    pub(super) fn on_flushed(&self) {
        {
            let mut state = self.lock();
            state.head_flushed = state.head_written;
        }
        self.wake_flushed();
    }

    /// Records an error of the transport.
    pub(super) fn on_io_error(&self, error: io::Error) {
        self.lock().failure = Some(Arc::new(error));
    }

    /// Wakes the tasks of heads that were sent or excluded.
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
        // Each change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

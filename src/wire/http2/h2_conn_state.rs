//! State of an HTTP/2 connection to an origin, shared by its handles and its streams.
//!
//! Counts streams, remembers the first request, and asks [`Liveness`] for PINGs and the end.
//! Handles (`H2Conn`) and streams (through [`StreamGuard`]) hold it; the last one that is dropped
//! closes the connection with a GOAWAY.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::time::timeout;

use super::liveness::{Activity, Liveness, LivenessAction, Readiness};
use super::window_growth::{StreamMeter, WindowMeter};
use super::wire_state::{CloseMode, WireState};
use crate::time::Time;

/// Longest wait for an origin's settings: a round trip with a lost segment (initial RTO of 1 s, RFC
/// 6298 §2).
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(1);

/// Shared state of a connection to an origin.
pub(super) struct H2ConnState {
    /// State at the level of frames; it outlives this one while `h2` has the stream.
    pub(super) wire: Arc<WireState>,
    /// Number of streams that are open or promised to a request.
    streams: AtomicUsize,
    /// Consumption of the streams, and the room that their windows leave for further ones.
    windows: Arc<WindowMeter>,
    /// True after the first request.
    used: AtomicBool,
    /// Schedule of PINGs; locked for one check at a time.
    liveness: Mutex<Liveness>,
    /// True if it takes no more requests, though running ones may still succeed.
    retired: AtomicBool,
}

impl H2ConnState {
    /// State of a connection that was opened at `now`.
    pub(super) fn new(wire: Arc<WireState>, windows: Arc<WindowMeter>, now: Time) -> Arc<H2ConnState> {
        Arc::new(H2ConnState {
            wire,
            streams: AtomicUsize::new(0),
            windows,
            used: AtomicBool::new(false),
            liveness: Mutex::new(Liveness::new(now)),
            retired: AtomicBool::new(false),
        })
    }

    /// Reserves one of at most `most` streams.
    ///
    /// Several tasks may try at once: the counter passes `most` for a moment, and none gets a
    /// stream above it.
    pub(super) fn reserve_stream(self: &Arc<Self>, most: usize) -> Option<StreamGuard> {
        if self.streams.fetch_add(1, Ordering::Relaxed) >= most {
            self.streams.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(StreamGuard(Arc::clone(self)))
    }

    /// Most streams that its windows leave room for.
    pub(super) fn most_streams(&self) -> usize {
        self.windows.most_streams()
    }

    /// Meter for one more stream.
    pub(super) fn stream_meter(&self) -> StreamMeter {
        StreamMeter::new(&self.windows)
    }

    /// True if it has `most` streams already.
    pub(super) fn is_full(&self, most: usize) -> bool {
        self.streams.load(Ordering::Relaxed) >= most
    }

    /// True if new requests can be sent on it.
    pub(super) fn is_open(&self) -> bool {
        !self.retired.load(Ordering::Relaxed) && self.wire.is_open()
    }

    /// Closes the connection at once.
    pub(super) fn close(&self) {
        self.retire();
        self.wire.close_with(CloseMode::Immediate);
    }

    /// Excludes the connection from new requests.
    ///
    /// Final. Running requests go on.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// True if `h2` takes a request. It does not after a connection error, which may be known long
    /// before the connection ends, nor without a stream identifier left (RFC 9113 §5.1.1). Both are
    /// final: the connection is retired.
    pub(super) fn is_ready(&self, send: &mut SendRequest<Bytes>) -> bool {
        // Never pending: no handle has a stream that waits to be opened.
        let is_ready = matches!(send.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())));
        if !is_ready {
            self.retire();
        }
        is_ready && self.is_open()
    }

    /// True if it has no streams.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.load(Ordering::Relaxed) == 0
    }

    /// Handle to wait for the origin's settings, without which it has room for one stream.
    pub(super) fn settings(&self) -> SettingsWait {
        SettingsWait(Arc::clone(&self.wire))
    }

    /// Handle to wait until the head of this stream, which `h2` has taken, is sent.
    pub(super) fn head_flush(self: &Arc<Self>, stream: u32) -> HeadFlush {
        HeadFlush { state: Arc::clone(self), stream }
    }

    /// Sends a PING or closes the connection, if that is due.
    pub(super) fn check_liveness(&self, now: Time) {
        self.with_liveness(|liveness, activity| ((), liveness.check(activity, now)));
    }

    /// Readiness for a new request. May send a PING to find out.
    pub(super) fn readiness(&self, now: Time) -> Readiness {
        self.with_liveness(|liveness, activity| liveness.check_for_request(activity, now))
    }

    /// Marks the connection as suspect: a request on it had no answer in time.
    pub(super) fn mark_suspect(&self, now: Time) {
        self.with_liveness(|liveness, activity| ((), liveness.suspect(activity, now)));
    }

    /// True if a request that found the connection ready may still use it.
    pub(super) fn is_still_ready(&self) -> bool {
        self.with_liveness(|liveness, activity| (liveness.is_still_ready(activity), LivenessAction::Nothing))
    }

    /// Handle to wait for the answer to a PING, if it is expected soon.
    pub(super) fn awaited_pong(self: &Arc<Self>, now: Time) -> Option<PongWait> {
        let (patience, before) = self
            .with_liveness(|liveness, activity| ((liveness.pong_wait(now), activity.pongs), LivenessAction::Nothing));
        Some(PongWait { wire: Arc::clone(&self.wire), before, patience: patience? })
    }

    /// Runs a check with fresh counters, and carries out its action after the lock is released.
    fn with_liveness<T>(&self, ask: impl FnOnce(&mut Liveness, Activity) -> (T, LivenessAction)) -> T {
        let activity = self.wire.activity(self.streams.load(Ordering::Relaxed));
        // Each change is complete before anything can panic.
        let (told, due) = ask(&mut self.liveness.lock().unwrap_or_else(PoisonError::into_inner), activity);
        match due {
            LivenessAction::Nothing => {}
            LivenessAction::Ping => self.wire.ping(),
            LivenessAction::Close => self.close(),
        }
        told
    }

    /// True after the first request.
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Records the first request.
    pub(super) fn set_used(&self) {
        self.used.store(true, Ordering::Relaxed);
    }
}

/// Without handles and streams the connection is of no use.
impl Drop for H2ConnState {
    fn drop(&mut self) {
        self.wire.close_with(CloseMode::Graceful);
    }
}

/// Wait for the answer to a PING.
pub struct PongWait {
    wire: Arc<WireState>,
    /// Number of answers before. The wait ends when it grows.
    before: u64,
    /// Time left of the longest wait for an answer, at most a second.
    patience: Duration,
}

impl PongWait {
    /// Waits until the answer arrives or the connection ends, at most for the time left.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait(self) {
        // The result shows in the next check of the connection.
        let _elapsed = timeout(self.patience, self.wire.wait_for_pong(self.before)).await;
    }
}

/// Wait for the first settings of an origin.
pub struct SettingsWait(Arc<WireState>);

impl SettingsWait {
    /// Waits until the settings are applied, for a second at most: they come with an origin's first
    /// bytes (RFC 9113 §3.4).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait(self) {
        // Without settings there is room for a single stream.
        let _elapsed = timeout(SETTINGS_TIMEOUT, self.0.wait_for_settings()).await;
    }
}

/// Wait for the head of a request that `h2` has taken and cannot give back.
pub struct HeadFlush {
    state: Arc<H2ConnState>,
    /// Number of the stream in the connection.
    stream: u32,
}

impl HeadFlush {
    /// Waits until the head is sent. `false`: the connection ended before, and the head will never
    /// be sent.
    ///
    /// Holds a stream of the connection from this call on, since the request's own stream may be
    /// dropped: the waiting heads of a connection are never more than its streams, and a connection
    /// with one is not idle.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub fn wait(self) -> impl Future<Output = bool> + Send + 'static {
        let HeadFlush { state, stream } = self;
        state.streams.fetch_add(1, Ordering::Relaxed);
        let guard = StreamGuard(state);
        async move { poll_fn(|cx| guard.0.wire.poll_head_sent(stream, cx)).await.is_ok() }
    }
}

/// One stream of a connection; returned on drop.
pub(super) struct StreamGuard(pub(super) Arc<H2ConnState>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

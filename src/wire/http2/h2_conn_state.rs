//! State of a connection to an origin that its streams share.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::time::timeout;

use super::liveness::{Activity, Liveness, LivenessAction, Readiness};
use super::wire_state::{CloseMode, WireState};
use crate::time::Time;

/// How long an origin's settings are waited for: a round trip, with a lost segment on the way.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(1);

/// State of a connection, of which its handles and its streams know.
pub(super) struct H2ConnState {
    pub(super) wire: Arc<WireState>,
    /// How many streams are open or promised to a request.
    streams: AtomicUsize,
    /// It has carried a request.
    used: AtomicBool,
    liveness: Mutex<Liveness>,
    /// It takes no more requests, though those that it has may still end well.
    retired: AtomicBool,
}

impl H2ConnState {
    /// The state of a connection that was opened now.
    pub(super) fn new(wire: Arc<WireState>, now: Time) -> Arc<H2ConnState> {
        Arc::new(H2ConnState {
            wire,
            streams: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            liveness: Mutex::new(Liveness::new(now)),
            retired: AtomicBool::new(false),
        })
    }

    /// One of at most `most` streams.
    pub(super) fn reserve_stream(self: &Arc<Self>, most: usize) -> Option<StreamGuard> {
        if self.streams.fetch_add(1, Ordering::Relaxed) >= most {
            self.streams.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(StreamGuard(Arc::clone(self)))
    }

    /// Whether it has so many streams already.
    pub(super) fn is_full(&self, most: usize) -> bool {
        self.streams.load(Ordering::Relaxed) >= most
    }

    /// Whether new requests can be sent on it.
    pub(super) fn is_open(&self) -> bool {
        !self.retired.load(Ordering::Relaxed) && self.wire.is_open()
    }

    /// Ends the connection at once.
    pub(super) fn close(&self) {
        self.retire();
        self.wire.close_with(CloseMode::Immediate);
    }

    /// No new request can be sent on it.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether `h2` would take a request. It would not after an error of the connection, which may long be known before the
    /// connection has ended, nor when there is no stream identifier left (RFC 9113 §5.1.1). That never changes: the
    /// connection is retired.
    pub(super) fn is_ready(&self, send: &mut SendRequest<Bytes>) -> bool {
        // It is never pending: no handle has a stream that waits to be opened.
        let is_ready = matches!(send.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())));
        if !is_ready {
            self.retire();
        }
        is_ready && self.is_open()
    }

    /// Whether it has no streams.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.load(Ordering::Relaxed) == 0
    }

    /// The settings of the origin, without which it has room for one stream.
    pub(super) fn settings(&self) -> SettingsWait {
        SettingsWait(Arc::clone(&self.wire))
    }

    /// The way of the head of this stream, which `h2` has been given.
    pub(super) fn head_flush(self: &Arc<Self>, stream: u32) -> HeadFlush {
        HeadFlush { state: Arc::clone(self), stream }
    }

    /// Does what is due for its liveness: a PING, or the end.
    pub(super) fn check_liveness(&self, now: Time) {
        self.with_liveness(|liveness, activity| ((), liveness.check(activity, now)));
    }

    /// Whether a new request may be sent on it now. A PING may go out to find that out.
    pub(super) fn readiness(&self, now: Time) -> Readiness {
        self.with_liveness(|liveness, activity| liveness.check_for_request(activity, now))
    }

    /// A request on it had no answer in time.
    pub(super) fn mark_suspect(&self, now: Time) {
        self.with_liveness(|liveness, activity| ((), liveness.suspect(activity, now)));
    }

    /// Whether there is no doubt about it for a request that found it good before.
    pub(super) fn is_still_ready(&self) -> bool {
        self.with_liveness(|liveness, activity| (liveness.is_still_ready(activity), LivenessAction::Nothing))
    }

    /// The answer to a PING, if it is worth a wait.
    pub(super) fn awaited_pong(self: &Arc<Self>, now: Time) -> Option<PongWait> {
        let (patience, before) = self
            .with_liveness(|liveness, activity| ((liveness.pong_wait(now), activity.pongs), LivenessAction::Nothing));
        Some(PongWait { wire: Arc::clone(&self.wire), before, patience: patience? })
    }

    fn with_liveness<T>(&self, ask: impl FnOnce(&mut Liveness, Activity) -> (T, LivenessAction)) -> T {
        let activity = self.wire.activity(self.streams.load(Ordering::Relaxed));
        // Each change is whole before anything can panic.
        let (told, due) = ask(&mut self.liveness.lock().unwrap_or_else(PoisonError::into_inner), activity);
        match due {
            LivenessAction::Nothing => {}
            LivenessAction::Ping => self.wire.ping(),
            LivenessAction::Close => self.close(),
        }
        told
    }

    /// Whether it has carried a request.
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// It can_carry_path a request.
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

/// The answer to a PING.
pub struct PongWait {
    wire: Arc<WireState>,
    /// How many there have been.
    before: u64,
    patience: Duration,
}

impl PongWait {
    /// Waits for it, or for the end of the connection, but not for long.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait(self) {
        // The next look at the connection tells what came of it.
        let _elapsed = timeout(self.patience, self.wire.wait_for_pong(self.before)).await;
    }
}

/// The first settings of an origin.
pub struct SettingsWait(Arc<WireState>);

impl SettingsWait {
    /// Waits until they are in force, but not for long: they come with the first bytes of an origin (RFC 9113 §3.4).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait(self) {
        // Without them there is room for a single stream.
        let _elapsed = timeout(SETTINGS_TIMEOUT, self.0.wait_for_settings()).await;
    }
}

/// The head of a request that `h2` has been given and cannot be asked to give back.
pub struct HeadFlush {
    state: Arc<H2ConnState>,
    stream: u32,
}

impl HeadFlush {
    /// Waits until the head is out. `false`: its connection has ended before, and it never will be.
    ///
    /// From this call on it has the place of a stream, as its stream is gone or about to be: heads that wait in a connection
    /// are no more than it may have streams, and it is not idle.
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

/// One of the streams that a link may have; free again when dropped.
pub(super) struct StreamGuard(pub(super) Arc<H2ConnState>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

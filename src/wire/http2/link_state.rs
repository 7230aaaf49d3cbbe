//! State of a connection to an origin that its streams share.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::time::timeout;

use super::liveness::{Due, Liveness, Signs, Trust};
use super::seen::{Ending, Seen};
use crate::time::Time;

/// How long an origin's settings are waited for: a round trip, with a lost segment on the way.
const SETTINGS: Duration = Duration::from_secs(1);

/// State of a connection, of which its handles and its streams know.
pub(super) struct LinkState {
    pub(super) seen: Arc<Seen>,
    /// How many streams are open or promised to a request.
    streams: AtomicUsize,
    /// It has carried a request.
    used: AtomicBool,
    liveness: Mutex<Liveness>,
    /// It takes no more requests, though those that it has may still end well.
    retired: AtomicBool,
}

impl LinkState {
    /// The state of a connection that was opened now.
    pub(super) fn new(seen: Arc<Seen>, now: Time) -> Arc<LinkState> {
        Arc::new(LinkState {
            seen,
            streams: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            liveness: Mutex::new(Liveness::new(now)),
            retired: AtomicBool::new(false),
        })
    }

    /// One of at most `most` streams.
    pub(super) fn place(self: &Arc<Self>, most: usize) -> Option<Place> {
        if self.streams.fetch_add(1, Ordering::Relaxed) >= most {
            self.streams.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place(Arc::clone(self)))
    }

    /// Whether it has so many streams already.
    pub(super) fn is_full(&self, most: usize) -> bool {
        self.streams.load(Ordering::Relaxed) >= most
    }

    /// Whether new requests can be sent on it.
    pub(super) fn is_open(&self) -> bool {
        !self.retired.load(Ordering::Relaxed) && self.seen.is_open()
    }

    /// Ends the connection at once.
    pub(super) fn end(&self) {
        self.retire();
        self.seen.end(Ending::AtOnce);
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
    pub(super) fn settings(&self) -> PeerSettings {
        PeerSettings(Arc::clone(&self.seen))
    }

    /// The way of the head of this stream, which `h2` has been given.
    pub(super) fn departure(self: &Arc<Self>, stream: u32) -> Departure {
        Departure { state: Arc::clone(self), stream }
    }

    /// Does what is due for its liveness: a PING, or the end.
    pub(super) fn look(&self, now: Time) {
        self.alive(|liveness, signs| ((), liveness.look(signs, now)));
    }

    /// Whether a new request may be sent on it now. A PING may go out to find that out.
    pub(super) fn trust(&self, now: Time) -> Trust {
        self.alive(|liveness, signs| liveness.offer(signs, now))
    }

    /// A request on it had no answer in time.
    pub(super) fn doubt(&self, now: Time) {
        self.alive(|liveness, signs| ((), liveness.doubt(signs, now)));
    }

    /// Whether there is no doubt about it for a request that found it good before.
    pub(super) fn is_trusted(&self) -> bool {
        self.alive(|liveness, signs| (liveness.is_trusted(signs), Due::Nothing))
    }

    /// The answer to a PING, if it is worth a wait.
    pub(super) fn pong(self: &Arc<Self>, now: Time) -> Option<Pong> {
        let (patience, before) = self.alive(|liveness, signs| ((liveness.patience(now), signs.pongs), Due::Nothing));
        Some(Pong { seen: Arc::clone(&self.seen), before, patience: patience? })
    }

    fn alive<T>(&self, ask: impl FnOnce(&mut Liveness, Signs) -> (T, Due)) -> T {
        let signs = self.seen.signs(self.streams.load(Ordering::Relaxed));
        // Each change is whole before anything can panic.
        let (told, due) = ask(&mut self.liveness.lock().unwrap_or_else(PoisonError::into_inner), signs);
        match due {
            Due::Nothing => {}
            Due::Ping => self.seen.ping(),
            Due::End => self.end(),
        }
        told
    }

    /// Whether it has carried a request.
    pub(super) fn was_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// It carries a request.
    pub(super) fn set_used(&self) {
        self.used.store(true, Ordering::Relaxed);
    }
}

/// Without handles and streams the connection is of no use.
impl Drop for LinkState {
    fn drop(&mut self) {
        self.seen.end(Ending::InOrder);
    }
}

/// The answer to a PING.
pub struct Pong {
    seen: Arc<Seen>,
    /// How many there have been.
    before: u64,
    patience: Duration,
}

impl Pong {
    /// Waits for it, or for the end of the connection, but not for long.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait(self) {
        // The next look at the connection tells what came of it.
        let _elapsed = timeout(self.patience, self.seen.wait_for_pong(self.before)).await;
    }
}

/// The first settings of an origin.
pub struct PeerSettings(Arc<Seen>);

impl PeerSettings {
    /// Waits until they are in force, but not for long: they come with the first bytes of an origin (RFC 9113 §3.4).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait(self) {
        // Without them there is room for a single stream.
        let _elapsed = timeout(SETTINGS, self.0.wait_for_settings()).await;
    }
}

/// The head of a request that `h2` has been given and cannot be asked to give back.
pub struct Departure {
    state: Arc<LinkState>,
    stream: u32,
}

impl Departure {
    /// Waits until the head is out. `false`: its connection has ended before, and it never will be.
    ///
    /// From this call on it has the place of a stream, as its stream is gone or about to be: heads that wait in a connection
    /// are no more than it may have streams, and it is not idle.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub fn is_out(self) -> impl Future<Output = bool> + Send + 'static {
        let Departure { state, stream } = self;
        state.streams.fetch_add(1, Ordering::Relaxed);
        let place = Place(state);
        async move { poll_fn(|cx| place.0.seen.poll_departed(stream, cx)).await.is_ok() }
    }
}

/// One of the streams that a link may have; free again when dropped.
pub(super) struct Place(pub(super) Arc<LinkState>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

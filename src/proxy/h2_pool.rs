//! HTTP/2 connection pool: connections to origins that many requests share, and the choice of the
//! request that dials the next one.
//!
//! A request asks [`H2Pool::checkout`] for its next step, takes it, and asks again if that was a
//! wait. At most one request per origin dials at one time as long as the version that the origin
//! speaks is unknown or HTTP/2; for an origin that chose HTTP/1.1 every request dials for itself.
//!
//! Streams of one connection share its fate: after an answer that did not come in time it must
//! answer a PING before it carries further requests.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::upstream::Upstream;
use crate::time::Time;
use crate::wire::http2::{H2Conn, OriginStream, PongWait};

/// Connections to origins that speak HTTP/2, and the HTTP version of each origin that speaks TLS.
#[derive(Default)]
pub(super) struct H2Pool {
    origins: Mutex<HashMap<Upstream, OriginState>>,
}

/// Age that a connection may have to carry a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Opened at this time or later. The connection may carry other requests: it is not the cause
    /// of earlier failures.
    Since(Time),
    /// Any age.
    Any,
}

/// Number of idle connections that are kept to one origin. One has room for many requests, as a
/// rule; where it has not, these save most handshakes.
const MAX_SPARE: usize = 4;

/// Time for which idle connections beyond [`MAX_SPARE`] are kept: a burst that goes on reuses them
/// within that time.
const SURPLUS_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection, and its age and idle time.
struct PooledH2Conn {
    /// Handle of the connection; a task of its own moves its frames.
    conn: H2Conn,
    /// Time of the handshake.
    opened_at: Time,
    /// Time from which it was seen without a stream.
    idle_since: Option<Time>,
}

impl PooledH2Conn {
    /// Opens a stream on it, if it has room and is fresh enough.
    fn open(&mut self, fresh: Freshness, now: Time) -> Option<Box<OriginStream>> {
        let stream = if self.is_fresh(fresh) { self.conn.open_stream(now) } else { None };
        if stream.is_some() {
            self.idle_since = None;
        }
        stream
    }

    /// Pending answer to a PING, after which it may be usable.
    fn pong(&self, fresh: Freshness, now: Time) -> Option<PongWait> {
        if self.is_fresh(fresh) { self.conn.awaited_pong(now) } else { None }
    }

    fn is_fresh(&self, fresh: Freshness) -> bool {
        match fresh {
            Freshness::Since(since) => self.opened_at >= since,
            Freshness::Any => true,
        }
    }

    /// True if it is usable now or carries streams.
    fn is_alive(&self) -> bool {
        self.conn.is_open() && self.conn.accepts_streams() || !self.conn.is_idle()
    }

    /// Time for which it has been idle; `None` while it has streams.
    fn idle(&mut self, now: Time) -> Option<Duration> {
        self.idle_since = self.conn.is_idle().then(|| self.idle_since.unwrap_or(now));
        self.idle_since.map(|since| now.since(since))
    }
}

#[derive(Default)]
/// State of one origin.
struct OriginState {
    /// Connections in the order in which they were opened; the first with room is used, so the last
    /// become idle.
    conns: Vec<PooledH2Conn>,
    /// Dial under way, if one is.
    dial: Option<Arc<SharedDial>>,
    /// Reason for HTTP/1.1, if its last connection spoke that.
    http1: Option<Http1>,
    /// Time of the last request.
    used: Time,
}

impl OriginState {
    /// Closes connections that are dead, idle for longer than `idle`, or more than will be needed
    /// soon.
    ///
    /// Idle beyond need: those after the first [`MAX_SPARE`] idle ones, once they were idle for
    /// [`SURPLUS_TIMEOUT`].
    fn trim(&mut self, idle: Duration, now: Time) {
        let mut spare = 0;
        self.conns.retain_mut(|pooled| {
            let Some(lasts) = pooled.idle(now) else { return true };
            spare += 1;
            pooled.is_alive() && lasts < idle && (spare <= MAX_SPARE || lasts < SURPLUS_TIMEOUT)
        });
    }
}

/// Reason for which an origin is spoken to in HTTP/1.1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Http1 {
    /// It chose HTTP/1.1 in ALPN.
    Chosen,
    /// It speaks HTTP/2, but required HTTP/1.1 for a request (RFC 9113 §7, HTTP_1_1_REQUIRED).
    Required,
}

/// A dial that other requests wait for, until it is known whether its connection can be shared.
///
/// No value is handed over: the requests ask the pool again, and find the connection there.
#[derive(Default)]
pub(super) struct SharedDial {
    /// Wakes the waiting requests.
    ended: Notify,
    /// Set before `ended` is signalled.
    finished: AtomicBool,
    /// True if there is no connection; valid once `finished` is set.
    failed: AtomicBool,
}

impl SharedDial {
    /// Waits for the end of the dial; returns true if there is a connection.
    pub(super) async fn ended(&self) -> bool {
        let mut ended = std::pin::pin!(self.ended.notified());
        // Registered before the check, so that no end falls between the check and the wait.
        ended.as_mut().enable();
        if !self.finished.load(Ordering::Acquire) {
            ended.await;
        }
        !self.failed.load(Ordering::Relaxed)
    }
}

/// Next step of a request that needs a connection.
pub(super) enum Checkout {
    /// Use this stream: a connection has room.
    Stream(Box<OriginStream>),
    /// Wait for the answer to a PING: a connection may be good again in a moment.
    AwaitPong(PongWait),
    /// Dial; other requests wait for the result.
    Lead(DialLeader),
    /// Wait for the dial of another request.
    Follow(Arc<SharedDial>),
    /// Dial for this request alone: nothing is shared with this origin.
    Alone(Http1),
}

/// Guard of the request that dials for others. Dropped without [`DialLeader::succeed`], it marks
/// the dial as failed.
pub(super) struct DialLeader {
    pool: Arc<H2Pool>,
    origin: Upstream,
    dial: Arc<SharedDial>,
    failed: bool,
}

impl DialLeader {
    /// Reports that the dial has made a connection.
    pub(super) fn succeed(mut self) {
        self.failed = false;
    }
}

impl Drop for DialLeader {
    fn drop(&mut self) {
        if let Some(state) = self.pool.lock().get_mut(&self.origin) {
            state.dial = None;
        }
        self.dial.failed.store(self.failed, Ordering::Relaxed);
        self.dial.finished.store(true, Ordering::Release);
        self.dial.ended.notify_waiters();
    }
}

impl H2Pool {
    /// Opens a stream on an existing connection to the origin, if one has room.
    pub(super) fn open(&self, origin: &Upstream, now: Time) -> Option<Box<OriginStream>> {
        let mut all = self.lock();
        let state = all.get_mut(origin)?;
        state.used = now;
        state.conns.iter_mut().find_map(|pooled| pooled.open(Freshness::Any, now))
    }

    /// Decides the next step of a request for the origin.
    ///
    /// Decides under one lock and never waits. The order: a stream, a pending PING, HTTP/1.1, the
    /// dial of another request, a dial of its own.
    pub(super) fn checkout(self: &Arc<Self>, origin: &Upstream, fresh: Freshness, now: Time) -> Checkout {
        let mut all = self.lock();
        let state = all.entry(origin.clone()).or_default();
        state.used = now;
        state.conns.retain(PooledH2Conn::is_alive);
        if let Some(stream) = state.conns.iter_mut().find_map(|pooled| pooled.open(fresh, now)) {
            return Checkout::Stream(stream);
        }
        if let Some(pong) = state.conns.iter().find_map(|pooled| pooled.pong(fresh, now)) {
            return Checkout::AwaitPong(pong);
        }
        if let Some(http1) = state.http1 {
            return Checkout::Alone(http1);
        }
        if let Some(dial) = &state.dial {
            return Checkout::Follow(Arc::clone(dial));
        }
        let dial = Arc::<SharedDial>::default();
        state.dial = Some(Arc::clone(&dial));
        Checkout::Lead(DialLeader { pool: Arc::clone(self), origin: origin.clone(), dial, failed: true })
    }

    /// Adds a connection on which the origin has chosen HTTP/2.
    ///
    /// A recorded `Chosen` is forgotten; `Required` stays.
    pub(super) fn keep(&self, origin: &Upstream, conn: H2Conn, now: Time) {
        let mut all = self.lock();
        let state = all.entry(origin.clone()).or_default();
        state.http1 = state.http1.filter(|http1| *http1 == Http1::Required);
        state.conns.push(PooledH2Conn { conn, opened_at: now, idle_since: None });
    }

    /// Records that the origin speaks HTTP/1.1.
    ///
    /// `Required` is never replaced by `Chosen`.
    pub(super) fn set_http1(&self, origin: &Upstream, http1: Http1) {
        let mut all = self.lock();
        let state = all.entry(origin.clone()).or_default();
        if state.http1 != Some(Http1::Required) {
            state.http1 = Some(http1);
        }
    }

    /// Checks the liveness of connections, closes those idle for longer than `idle`, and forgets
    /// origins unused for as long.
    pub(super) fn reap(&self, idle: Duration, now: Time) {
        self.lock().retain(|_, state| {
            state.conns.iter().for_each(|pooled| pooled.conn.check_liveness(now));
            state.trim(idle, now);
            let busy = state.dial.is_some() || state.conns.iter().any(|pooled| !pooled.conn.is_idle());
            if busy {
                state.used = now;
            }
            now.since(state.used) < idle
        });
    }

    /// Number of connections.
    pub(super) fn count(&self) -> usize {
        self.lock().values().map(|state| state.conns.len()).sum()
    }

    /// Closes every connection without a stream; returns true if there was one.
    pub(super) fn close_idle(&self) -> bool {
        let mut all = self.lock();
        let idle = all.values_mut().flat_map(|state| state.conns.extract_if(.., |pooled| pooled.conn.is_idle()));
        idle.map(|pooled| pooled.conn.close()).count() > 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Upstream, OriginState>> {
        // A panic elsewhere cannot leave the map half changed: each change is one call.
        self.origins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

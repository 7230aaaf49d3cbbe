//! HTTP/2 connection pool: connections to origins that many requests share, and the choice of the request that dials the
//! next one.

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
    known: Mutex<HashMap<Upstream, Known>>,
}

/// Age that a connection may have to carry a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fresh {
    /// Opened at this time or later. The connection may carry other requests: it is not the cause of earlier failures.
    Since(Time),
    /// Any age.
    No,
}

/// Number of idle connections that are kept to one origin. One has room for many requests, as a rule; where it has not,
/// these save most handshakes.
const SPARE: usize = 4;

/// Time for which idle connections beyond [`SPARE`] are kept: a burst that goes on reuses them within that time.
const SURPLUS: Duration = Duration::from_secs(1);

/// A connection, and its age and idle time.
struct PooledH2Conn {
    link: H2Conn,
    opened_at: Time,
    /// Time from which it was seen without a stream.
    idle_since: Option<Time>,
}

impl PooledH2Conn {
    /// Opens a stream on it, if it has room and is fresh enough.
    fn open(&mut self, fresh: Fresh, now: Time) -> Option<Box<OriginStream>> {
        let stream = if self.is_fresh(fresh) { self.link.open_stream(now) } else { None };
        if stream.is_some() {
            self.idle_since = None;
        }
        stream
    }

    /// Pending answer to a PING, after which it may be usable.
    fn pong(&self, fresh: Fresh, now: Time) -> Option<PongWait> {
        if self.is_fresh(fresh) { self.link.awaited_pong(now) } else { None }
    }

    fn is_fresh(&self, fresh: Fresh) -> bool {
        match fresh {
            Fresh::Since(since) => self.opened_at >= since,
            Fresh::No => true,
        }
    }

    /// True if it is usable now or carries streams.
    fn is_alive(&self) -> bool {
        self.link.is_open() && self.link.accepts_streams() || !self.link.is_idle()
    }

    /// Time for which it has been idle; `None` while it has streams.
    fn idle(&mut self, now: Time) -> Option<Duration> {
        self.idle_since = self.link.is_idle().then(|| self.idle_since.unwrap_or(now));
        self.idle_since.map(|since| now.since(since))
    }
}

#[derive(Default)]
/// State of one origin.
struct Known {
    links: Vec<PooledH2Conn>,
    dialling: Option<Arc<SharedDial>>,
    /// Reason for HTTP/1.1, if its last connection spoke that.
    http1: Option<Http1>,
    used: Time,
}

impl Known {
    /// Closes connections that are dead, idle for longer than `idle`, or more than will be needed soon.
    fn trim(&mut self, idle: Duration, now: Time) {
        let mut spare = 0;
        self.links.retain_mut(|pooled| {
            let Some(lasts) = pooled.idle(now) else { return true };
            spare += 1;
            pooled.is_alive() && lasts < idle && (spare <= SPARE || lasts < SURPLUS)
        });
    }
}

/// Reason for which an origin is spoken to in HTTP/1.1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Http1 {
    /// It chose HTTP/1.1 in ALPN.
    Chosen,
    /// It speaks HTTP/2, but required HTTP/1.1 for a request (RFC 9113 §7, HTTP_1_1_REQUIRED).
    Wanted,
}

/// A dial that other requests wait for, until it is known whether its connection can be shared.
#[derive(Default)]
pub(super) struct SharedDial {
    ended: Notify,
    over: AtomicBool,
    failed: AtomicBool,
}

impl SharedDial {
    /// Waits for the end of the dial; returns true if there is a connection.
    pub(super) async fn ended(&self) -> bool {
        let mut ended = std::pin::pin!(self.ended.notified());
        // Registered before the check, so that no end falls between the check and the wait.
        ended.as_mut().enable();
        if !self.over.load(Ordering::Acquire) {
            ended.await;
        }
        !self.failed.load(Ordering::Relaxed)
    }
}

/// Next step of a request that needs a connection.
pub(super) enum Checkout {
    /// Use this stream: a connection has room.
    Shared(Box<OriginStream>),
    /// Wait for the answer to a PING: a connection may be good again in a moment.
    Asked(PongWait),
    /// Dial; other requests wait for the result.
    First(DialLeader),
    /// Wait for the dial of another request.
    After(Arc<SharedDial>),
    /// Dial for this request alone: nothing is shared with this origin.
    Alone(Http1),
}

/// Guard of the request that dials for others. Dropped without [`DialLeader::arrive`], it marks the dial as failed.
pub(super) struct DialLeader {
    links: Arc<H2Pool>,
    origin: Upstream,
    dialling: Arc<SharedDial>,
    failed: bool,
}

impl DialLeader {
    /// Reports that the dial has made a connection.
    pub(super) fn arrive(mut self) {
        self.failed = false;
    }
}

impl Drop for DialLeader {
    fn drop(&mut self) {
        if let Some(known) = self.links.lock().get_mut(&self.origin) {
            known.dialling = None;
        }
        self.dialling.failed.store(self.failed, Ordering::Relaxed);
        self.dialling.over.store(true, Ordering::Release);
        self.dialling.ended.notify_waiters();
    }
}

impl H2Pool {
    /// Opens a stream on an existing connection to the origin, if one has room.
    pub(super) fn open(&self, origin: &Upstream, now: Time) -> Option<Box<OriginStream>> {
        let mut all = self.lock();
        let known = all.get_mut(origin)?;
        known.used = now;
        known.links.iter_mut().find_map(|pooled| pooled.open(Fresh::No, now))
    }

    /// Decides the next step of a request for the origin.
    pub(super) fn turn(self: &Arc<Self>, origin: &Upstream, fresh: Fresh, now: Time) -> Checkout {
        let mut all = self.lock();
        let known = all.entry(origin.clone()).or_default();
        known.used = now;
        known.links.retain(PooledH2Conn::is_alive);
        if let Some(stream) = known.links.iter_mut().find_map(|pooled| pooled.open(fresh, now)) {
            return Checkout::Shared(stream);
        }
        if let Some(pong) = known.links.iter().find_map(|pooled| pooled.pong(fresh, now)) {
            return Checkout::Asked(pong);
        }
        if let Some(http1) = known.http1 {
            return Checkout::Alone(http1);
        }
        if let Some(dialling) = &known.dialling {
            return Checkout::After(Arc::clone(dialling));
        }
        let dialling = Arc::<SharedDial>::default();
        known.dialling = Some(Arc::clone(&dialling));
        Checkout::First(DialLeader { links: Arc::clone(self), origin: origin.clone(), dialling, failed: true })
    }

    /// Adds a connection on which the origin has chosen HTTP/2.
    pub(super) fn keep(&self, origin: &Upstream, link: H2Conn, now: Time) {
        let mut all = self.lock();
        let known = all.entry(origin.clone()).or_default();
        known.http1 = known.http1.filter(|http1| *http1 == Http1::Wanted);
        known.links.push(PooledH2Conn { link, opened_at: now, idle_since: None });
    }

    /// Records that the origin speaks HTTP/1.1.
    pub(super) fn set_http1(&self, origin: &Upstream, http1: Http1) {
        let mut all = self.lock();
        let known = all.entry(origin.clone()).or_default();
        if known.http1 != Some(Http1::Wanted) {
            known.http1 = Some(http1);
        }
    }

    /// Checks the liveness of connections, closes those idle for longer than `idle`, and forgets origins unused for as
    /// long.
    pub(super) fn reap(&self, idle: Duration, now: Time) {
        self.lock().retain(|_, known| {
            known.links.iter().for_each(|pooled| pooled.link.check_liveness(now));
            known.trim(idle, now);
            let busy = known.dialling.is_some() || known.links.iter().any(|pooled| !pooled.link.is_idle());
            if busy {
                known.used = now;
            }
            now.since(known.used) < idle
        });
    }

    /// Number of connections.
    pub(super) fn count(&self) -> usize {
        self.lock().values().map(|known| known.links.len()).sum()
    }

    /// Closes every connection without a stream; returns true if there was one.
    pub(super) fn close_idle(&self) -> bool {
        let mut all = self.lock();
        let idle = all.values_mut().flat_map(|known| known.links.extract_if(.., |pooled| pooled.link.is_idle()));
        idle.map(|pooled| pooled.link.close()).count() > 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Upstream, Known>> {
        // A panic elsewhere cannot leave the map half changed: each change is one call.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Connections that many requests share (HTTP/2), and who opens the next one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::upstream::Upstream;
use crate::time::Time;
use crate::wire::http2::{H2Conn, OriginStream, PongWait};

/// What is known of the origins that speak TLS, and the connections to those that speak HTTP/2.
#[derive(Default)]
pub(super) struct H2Pool {
    known: Mutex<HashMap<Upstream, Known>>,
}

/// Whether a connection will do that was opened before the request looked for one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fresh {
    /// Only one that was opened since then. It may carry other requests: what made the earlier ones fail is not its fault.
    Since(Time),
    /// Any that is good.
    No,
}

/// How many idle connections are kept to one origin: each has room for many requests, as a rule. Where it has not, these
/// save most handshakes.
const SPARE: usize = 4;

/// How long others are kept: a burst that is going on uses them again within that time.
const SURPLUS: Duration = Duration::from_secs(1);

/// A connection, and what decides about its use.
struct PooledH2Conn {
    link: H2Conn,
    opened_at: Time,
    /// Since when it has been seen without a stream.
    idle_since: Option<Time>,
}

impl PooledH2Conn {
    /// A stream on it, if it has room and will do.
    fn open(&mut self, fresh: Fresh, now: Time) -> Option<Box<OriginStream>> {
        let stream = if self.is_fresh(fresh) { self.link.open_stream(now) } else { None };
        if stream.is_some() {
            self.idle_since = None;
        }
        stream
    }

    /// The answer to a PING after which it may do.
    fn pong(&self, fresh: Fresh, now: Time) -> Option<PongWait> {
        if self.is_fresh(fresh) { self.link.awaited_pong(now) } else { None }
    }

    fn is_fresh(&self, fresh: Fresh) -> bool {
        match fresh {
            Fresh::Since(since) => self.opened_at >= since,
            Fresh::No => true,
        }
    }

    /// Whether it is of any use, now or later.
    fn is_alive(&self) -> bool {
        self.link.is_open() && self.link.accepts_streams() || !self.link.is_idle()
    }

    /// How long it has been idle.
    fn idle(&mut self, now: Time) -> Option<Duration> {
        self.idle_since = self.link.is_idle().then(|| self.idle_since.unwrap_or(now));
        self.idle_since.map(|since| now.since(since))
    }
}

#[derive(Default)]
struct Known {
    links: Vec<PooledH2Conn>,
    dialling: Option<Arc<SharedDial>>,
    /// What it spoke last, if it is not HTTP/2.
    http1: Option<Http1>,
    used: Time,
}

impl Known {
    /// Closes connections that are of no use, that have been idle for so long, or that are more than will be needed soon.
    fn trim(&mut self, idle: Duration, now: Time) {
        let mut spare = 0;
        self.links.retain_mut(|pooled| {
            let Some(lasts) = pooled.idle(now) else { return true };
            spare += 1;
            pooled.is_alive() && lasts < idle && (spare <= SPARE || lasts < SURPLUS)
        });
    }
}

/// Why HTTP/1.1 is spoken to an origin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Http1 {
    /// It chose so.
    Chosen,
    /// It speaks HTTP/2, but wanted HTTP/1.1 when it was asked (RFC 9113 §7, HTTP_1_1_REQUIRED).
    Wanted,
}

/// A dialling that others wait for: nobody knows yet whether the connection can be shared.
#[derive(Default)]
pub(super) struct SharedDial {
    ended: Notify,
    over: AtomicBool,
    failed: AtomicBool,
}

impl SharedDial {
    /// Waits for its end; whether there is a connection.
    pub(super) async fn ended(&self) -> bool {
        let mut ended = std::pin::pin!(self.ended.notified());
        // In line before looking, so that no end falls between the look and the wait.
        ended.as_mut().enable();
        if !self.over.load(Ordering::Acquire) {
            ended.await;
        }
        !self.failed.load(Ordering::Relaxed)
    }
}

/// What a request for an origin is to do next.
pub(super) enum Checkout {
    /// A connection has room for it.
    Shared(Box<OriginStream>),
    /// A connection may be good again in a moment.
    Asked(PongWait),
    /// Dial, for everybody: the others wait for it.
    First(DialLeader),
    /// Somebody else dials for all.
    After(Arc<SharedDial>),
    /// Dial for itself: nothing is shared with this origin.
    Alone(Http1),
}

/// Held by whom the others wait for. Dropped without an outcome, the dialling has failed.
pub(super) struct DialLeader {
    links: Arc<H2Pool>,
    origin: Upstream,
    dialling: Arc<SharedDial>,
    failed: bool,
}

impl DialLeader {
    /// It has a connection.
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
    /// A stream to the origin on a connection that is there, if one has room.
    pub(super) fn open(&self, origin: &Upstream, now: Time) -> Option<Box<OriginStream>> {
        let mut all = self.lock();
        let known = all.get_mut(origin)?;
        known.used = now;
        known.links.iter_mut().find_map(|pooled| pooled.open(Fresh::No, now))
    }

    /// What is to be done for a request to the origin.
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

    /// The origin has chosen HTTP/2 on a new connection.
    pub(super) fn keep(&self, origin: &Upstream, link: H2Conn, now: Time) {
        let mut all = self.lock();
        let known = all.entry(origin.clone()).or_default();
        known.http1 = known.http1.filter(|http1| *http1 == Http1::Wanted);
        known.links.push(PooledH2Conn { link, opened_at: now, idle_since: None });
    }

    /// The origin speaks HTTP/1.1.
    pub(super) fn set_http1(&self, origin: &Upstream, http1: Http1) {
        let mut all = self.lock();
        let known = all.entry(origin.clone()).or_default();
        if known.http1 != Some(Http1::Wanted) {
            known.http1 = Some(http1);
        }
    }

    /// Looks whether connections are alive, closes those that have been idle for so long, and forgets origins that have not been
    /// called.
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

    /// How many connections there are.
    pub(super) fn count(&self) -> usize {
        self.lock().values().map(|known| known.links.len()).sum()
    }

    /// Closes every connection that nobody uses; whether there was one.
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

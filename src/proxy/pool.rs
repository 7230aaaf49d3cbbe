//! Connection pool: dials origins, and keeps idle connections for the next requests.
//!
//! Order in which a request gets its connection: a stream of a shared HTTP/2 connection, the idle
//! HTTP/1.1 connection used last, or a new one.
//!
//! Each runtime has a pool of its own. A reload makes a new pool; the old one lives as long as a
//! worker uses it.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

pub(super) use super::h2_pool::Freshness;
use super::h2_pool::{Checkout, H2Pool, Http1};
use super::idle_conns::{IdleConn, IdleConns};
use super::metrics::{Metrics, Pool, PoolSize};
use super::parent::{ParentDialer, ParentRequest, ParentRule, ParentStream, Parents};
use super::parent_idle::ParentIdleConns;
use super::pattern::HostPattern;
use super::refusal::Refusal;
use super::send::OriginConn;
use super::settings::PoolSettings;
use super::snapshot::ConfigSnapshot;
use super::target::Scheme;
use super::upstream::{Upstream, Way};
use crate::gate::clock::Clock;
use crate::locker::Caller;
use crate::net::dial::{DialStrategy, Dialer, Endpoint};
use crate::time::Time;
use crate::tls::verify::{self, Connector, HandshakeOptions, Offer};
use crate::wire::Stream;
use crate::wire::http2::H2Conn;

/// Connections of one runtime to origins, and the means to dial new ones.
pub(super) struct OriginPool {
    /// Resolves names, checks addresses, and connects.
    dialer: Arc<Dialer>,
    /// Makes handshakes, and checks certificates of origins.
    tls: Arc<Connector>,
    clock: Clock,
    /// TCP user timeout (RFC 5482): time that sent data may stay unacknowledged before the connection is closed.
    user_timeout: Duration,
    settings: PoolSettings,
    /// Client certificates by host: index into the identities of the TLS settings.
    identities: Vec<(HostPattern, usize)>,
    metrics: Arc<Metrics>,
    /// Idle connections of HTTP/1.1 by origin.
    idle: Mutex<HashMap<Upstream, IdleConns>>,
    /// Connections of HTTP/2.
    h2: Arc<H2Pool>,
    /// Parent proxies.
    parents: Arc<Parents>,
    /// Idle connections to them, which any request in absolute form may use.
    to_parents: ParentIdleConns,
    /// Number of dials ahead by origin, at most [`MAX_PRECONNECTS`] each.
    preconnects: Mutex<HashMap<Upstream, usize>>,
}

/// Least TCP user timeout (RFC 5482); `[timeouts] idle` applies if it is longer, because an origin that has stopped
/// reading is not gone. Linux alone would try for a quarter of an hour.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Most waiters for which connections are dialled ahead at one time, for each origin and runtime. A turn may come much
/// later than forecast; if all of a long queue dialled, more connections would be opened than are ever used together.
/// The other waiters use the connections that earlier requests have returned.
const MAX_PRECONNECTS: usize = 32;

/// Most times that a request waits for a connection dialled by another. If it still has no stream then, each of the
/// origin's connections has room for very few.
const MAX_CHECKOUTS: u32 = 8;

/// Time that a request waits for idle connections to close when descriptors have run out. HTTP/2 connections end in
/// tasks of their own, some on other threads.
const RECLAIM_TIMEOUT: Duration = Duration::from_millis(10);

/// Right to dial one connection ahead; free again when dropped.
pub(super) struct PreconnectSlot {
    origins: Arc<OriginPool>,
    origin: Upstream,
}

impl Drop for PreconnectSlot {
    fn drop(&mut self) {
        let mut preconnects = self.origins.preconnects.lock().unwrap_or_else(PoisonError::into_inner);
        match preconnects.get_mut(&self.origin) {
            Some(taken) if *taken > 1 => *taken -= 1,
            Some(_) | None => drop(preconnects.remove(&self.origin)),
        }
    }
}

/// Requirement on a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnRequirement {
    /// Age that it may have.
    pub(super) fresh: Freshness,
    /// Versions of HTTP to offer in the handshake of TLS. Without TLS, the version to speak: HTTP/2
    /// with prior knowledge, or HTTP/1.1.
    pub(super) offer: Offer,
}

/// Parameters of a dial that depend on the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct DialParams {
    /// Caller of the request.
    pub(super) caller: Caller,
    /// Order in which the addresses are tried.
    pub(super) attempts: DialStrategy,
    /// Time by which there must be a connection, including waits for other dials and repeated tries.
    pub(super) until: Time,
    /// Number of gateways of our name that the request has passed, for parent proxies.
    pub(super) hops: u8,
}

impl OriginPool {
    pub(super) fn new(snapshot: &ConfigSnapshot) -> Arc<OriginPool> {
        let origins = Arc::new(OriginPool {
            metrics: Arc::clone(&snapshot.metrics),
            dialer: Arc::clone(&snapshot.dialer),
            tls: Arc::clone(&snapshot.tls),
            clock: snapshot.gate.clock(),
            user_timeout: snapshot.timeouts.idle.max(USER_TIMEOUT),
            settings: snapshot.pool.clone(),
            identities: snapshot.identities.clone(),
            idle: Mutex::default(),
            h2: Arc::default(),
            parents: Arc::clone(&snapshot.parents),
            to_parents: ParentIdleConns::new(snapshot.parents.count()),
            preconnects: Mutex::default(),
        });
        let pool: Weak<OriginPool> = Arc::downgrade(&origins);
        origins.metrics.watch(pool);
        origins
    }

    /// Takes an idle connection that meets the requirement: a stream on a shared one, or a kept one that is still
    /// usable.
    ///
    /// Connections that have been closed by their origin, have unread bytes, or are near the end that
    /// it has announced are dropped on the way. Never waits.
    pub(super) fn idle(&self, origin: &Upstream, want: ConnRequirement) -> Option<Box<OriginConn>> {
        if want.fresh != Freshness::Any {
            return None;
        }
        if want.offer == Offer::Http2 {
            if let Some(stream) = self.h2.open(origin, self.clock.now()) {
                self.metrics.reused.add_one();
                return Some(OriginConn::shared(stream));
            }
            if origin.scheme == Scheme::Http {
                return None;
            }
        }
        let now = self.clock.now();
        if let Way::Forward(_) = origin.way
            && let Some(rule) = self.parents.rule(origin.way)
            && let Some(ready) = self.to_parents.take(rule, now)
        {
            self.metrics.reused.add_one();
            return Some(ready);
        }
        loop {
            let idle = self.lock().get_mut(origin)?.pop()?;
            if let Some(ready) = idle.into_usable(now) {
                self.metrics.reused.add_one();
                return Some(ready);
            }
        }
    }

    /// Right to dial ahead for a waiter; `None` if [`MAX_PRECONNECTS`] are taken.
    pub(super) fn preconnect_slot(self: &Arc<Self>, origin: &Upstream) -> Option<PreconnectSlot> {
        let mut preconnects = self.preconnects.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = preconnects.entry(origin.clone()).or_default();
        if *taken >= MAX_PRECONNECTS {
            return None;
        }
        *taken += 1;
        Some(PreconnectSlot { origins: Arc::clone(self), origin: origin.clone() })
    }

    /// Dials a connection, TLS handshake included; or opens a stream on one that another request has opened meanwhile.
    ///
    /// Concurrent requests for an origin of HTTP/2 share one dial: the first leads it, the others
    /// wait for its result. After 8 rounds without a stream a request dials for itself.
    ///
    /// # Errors
    /// 502, 503 or 504 by the cause; 403 if the address may not be dialled; 508 if it is the gateway's own.
    ///
    /// # Cancel safety
    /// Dropping the future ends the dial; requests that wait for it then dial for themselves.
    pub(super) async fn dial(
        &self,
        origin: &Upstream,
        how: DialParams,
        want: ConnRequirement,
    ) -> Result<Box<OriginConn>, Refusal> {
        if want.offer == Offer::Http1 {
            return self.dial_alone(origin, how, Offer::Http1).await;
        }
        let until = self.instant(how.until);
        for _ in 0..MAX_CHECKOUTS {
            match self.h2.checkout(origin, want.fresh, self.clock.now()) {
                Checkout::Stream(stream) => return Ok(OriginConn::shared(stream)),
                Checkout::AwaitPong(pong) => {
                    timeout_at(until, pong.wait()).await.map_err(|_| Refusal::ConnectTimeout)?
                }
                Checkout::Alone(Http1::Chosen) => break,
                Checkout::Alone(Http1::Required) => return self.dial_alone(origin, how, Offer::Http1).await,
                Checkout::Lead(leader) => {
                    let mut dialled = self.dial_alone(origin, how, want.offer).await;
                    if let Ok(ready) = &mut dialled {
                        ready.release_followers(leader);
                    }
                    return dialled;
                }
                // After a failed dial each request dials for itself: in turn they would take a multiple of the timeout.
                Checkout::Follow(dialling) => match timeout_at(until, dialling.ended()).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(_elapsed) => return Err(Refusal::ConnectTimeout),
                },
            }
        }
        self.dial_alone(origin, how, want.offer).await
    }

    fn instant(&self, at: Time) -> Instant {
        Instant::from_std(self.clock.instant(at))
    }

    /// Dials a connection; if descriptors have run out, frees some and tries again.
    ///
    /// Exhaustion (EMFILE and the like) is met once, by closing idle connections of all pools; a
    /// second one is refused with 503.
    async fn dial_alone(&self, origin: &Upstream, how: DialParams, offer: Offer) -> Result<Box<OriginConn>, Refusal> {
        match self.dial_once(origin, how, offer).await {
            // Frees the descriptors of idle connections, those of other runtimes too.
            Err(Refusal::Exhausted) if self.metrics.close_idle() => {
                // Always elapses, because it waits for nothing else.
                let _elapsed = tokio::time::timeout(RECLAIM_TIMEOUT, pending::<()>()).await;
                self.dial_once(origin, how, offer).await
            }
            dialled => dialled,
        }
    }

    /// Dials once: DNS, TCP, TLS.
    async fn dial_once(&self, origin: &Upstream, how: DialParams, offer: Offer) -> Result<Box<OriginConn>, Refusal> {
        let DialParams { caller, attempts, until, hops } = how;
        let (host, port, reach) = (&*origin.host, origin.port, origin.reach);
        let endpoint = Endpoint { host, port, reach, caller: caller.0, strategy: attempts };
        let stream = match self.parents.rule(origin.way) {
            None => {
                let within = until.since(self.clock.now());
                let mut stream = Stream::plain(self.dialer.connect(endpoint, within).await?);
                stream.set_user_timeout(Some(self.user_timeout));
                stream
            }
            Some(rule) => {
                let is_forward = matches!(origin.way, Way::Forward(_));
                let request = ParentRequest { endpoint, is_forward, until, hops };
                let connected = Box::pin(self.dial_through(rule, request)).await?;
                if connected.forward.is_some() {
                    self.metrics.dialled.add_one();
                    let mut ready = OriginConn::new(connected.stream);
                    ready.forward = connected.forward;
                    return Ok(ready);
                }
                connected.stream
            }
        };
        self.metrics.dialled.add_one();
        match origin.scheme {
            Scheme::Http if offer == Offer::Http2 => self.begin_http2(origin, stream).await,
            Scheme::Http => Ok(OriginConn::new(stream)),
            Scheme::Https => {
                let handshake = timeout_at(self.instant(until), Box::pin(self.handshake(origin, stream, offer))).await;
                handshake.map_err(|_| Refusal::ConnectTimeout)?
            }
        }
    }

    /// Connects through a parent proxy.
    async fn dial_through(&self, rule: &ParentRule, request: ParentRequest<'_>) -> Result<ParentStream, Refusal> {
        let dialer = ParentDialer {
            dialer: &self.dialer,
            tls: &self.tls,
            clock: self.clock,
            user_timeout: self.user_timeout,
            identity: &|host, port| self.identity(host, port),
        };
        dialer.connect(rule, request).await
    }

    /// Index of the client certificate that a server is shown.
    fn identity(&self, host: &str, port: u16) -> Option<usize> {
        self.identities.iter().find(|(pattern, _)| pattern.matches(host, port)).map(|(_, identity)| *identity)
    }

    /// Makes the TLS handshake, and begins HTTP/2 if the origin chose it.
    ///
    /// # Errors
    /// 502 if the certificate is not valid, TLS fails, or the preface of HTTP/2 cannot be
    /// exchanged.
    async fn handshake(&self, origin: &Upstream, stream: Stream, offer: Offer) -> Result<Box<OriginConn>, Refusal> {
        let wish = HandshakeOptions { offer, identity: self.identity(&origin.host, origin.port) };
        let tls = self.tls.connect(&origin.host, stream, wish).await.map_err(refusal_of_tls)?;
        let chosen = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let stream = Stream::tls(tls);
        if !chosen {
            if offer == Offer::Http2 {
                self.h2.set_http1(origin, Http1::Chosen);
            }
            return Ok(OriginConn::new(stream));
        }
        self.begin_http2(origin, stream).await
    }

    /// Sends the preface of HTTP/2, keeps the connection for other requests, and opens its first stream.
    ///
    /// # Errors
    /// 502 if the connection breaks.
    async fn begin_http2(&self, origin: &Upstream, stream: Stream) -> Result<Box<OriginConn>, Refusal> {
        let (conn, driving) = H2Conn::handshake(stream, self.settings.response_head, self.clock.now())
            .await
            .map_err(|_| Refusal::ConnectionTerminated)?;
        tokio::spawn(driving);
        let now = self.clock.now();
        let ready = conn.open_stream(now).map(OriginConn::shared);
        self.h2.keep(origin, conn, now);
        ready.ok_or(Refusal::ConnectionTerminated)
    }

    /// Records that the origin requires HTTP/1.1 for a request sent in HTTP/2.
    pub(super) fn force_http1(&self, origin: &Upstream) {
        self.h2.set_http1(origin, Http1::Required);
    }

    /// Keeps a connection for the next request. Its last message has ended, and no byte of another was read.
    ///
    /// Dropped instead, which closes it: a connection in the middle of a message, and any beyond
    /// `idle_per_origin`.
    pub(super) fn keep(&self, origin: &Upstream, ready: Box<OriginConn>) {
        if ready.forward.is_some() {
            return self.to_parents.keep(ready, self.clock.now());
        }
        let Some(idle) = IdleConn::new(ready, self.clock.now()) else { return };
        let most = self.settings.idle_per_origin;
        let mut all = self.lock();
        match all.get_mut(origin) {
            Some(kept) => kept.push(idle, most),
            // Clones the key only for the first connection of an origin.
            None if most > 0 => all.entry(origin.clone()).or_default().push(idle, most),
            None => {}
        }
    }

    /// Closes connections that were idle too long, were closed by their origin or do not answer. Called once a second.
    pub(super) fn reap(&self) {
        let now = self.clock.now();
        self.h2.reap(self.settings.idle_timeout, now);
        self.to_parents.reap(self.settings.idle_timeout, now);
        self.lock().retain(|_, kept| kept.reap(self.settings.idle_timeout, now));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Upstream, IdleConns>> {
        // A panic elsewhere cannot leave the map half changed: each change is one call.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool for OriginPool {
    fn kept(&self) -> PoolSize {
        let to_origins: usize = self.lock().values().map(IdleConns::len).sum();
        PoolSize { idle: to_origins + self.to_parents.count(), shared: self.h2.count() }
    }

    fn close_idle(&self) -> bool {
        let shared = self.h2.close_idle();
        let alone = std::mem::take(&mut *self.lock());
        let to_parents = self.to_parents.close();
        shared || to_parents || !alone.is_empty()
    }
}

/// Refusal for a handshake that failed: `Certificate` if the origin could not be identified, else
/// `TlsError`.
fn refusal_of_tls(error: verify::Error) -> Refusal {
    match error {
        verify::Error::Certificate(_) | verify::Error::Name(_) => Refusal::Certificate(error.to_string()),
        verify::Error::Tls(_) => Refusal::TlsError(error.to_string()),
        verify::Error::Io(_) => Refusal::TlsError(error.to_string()),
    }
}

//! Connections to origins: kept, made ready, and the door out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use super::refusal::Refusal;
use super::target::{Origin, Scheme};
use super::{PoolSettings, Timeouts};
use crate::gate::clock::Clock;
use crate::gate::{Flight, Permit};
use crate::net::dial::{self, Dialer};
use crate::time::Time;
use crate::tls::verify::{self, Connector};
use crate::wire::{Conn, Stream};

/// How one runtime reaches origins, and the connections that it keeps to them.
pub(super) struct Origins {
    dialer: Arc<Dialer>,
    tls: Arc<Connector>,
    clock: Clock,
    connect: Duration,
    settings: PoolSettings,
    idle: Mutex<HashMap<Origin, Vec<Idle>>>,
    places: Mutex<HashMap<Origin, usize>>,
}

/// For how many in line a connection is made ready at one time, for each origin and runtime. A turn may be much later
/// than was foreseen; a crowd that all dialled would open more connections than will ever be used together. The others
/// find those that their predecessors have left.
const PLACES: usize = 32;

/// The place of one of them; free again when dropped.
pub(super) struct Place {
    origins: Arc<Origins>,
    origin: Origin,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.origins.places.lock().unwrap_or_else(PoisonError::into_inner);
        match places.get_mut(&self.origin) {
            Some(taken) if *taken > 1 => *taken -= 1,
            Some(_) | None => drop(places.remove(&self.origin)),
        }
    }
}

const WISH: verify::Wish = verify::Wish { offer: verify::Offer::Http1, identity: None };

struct Idle {
    conn: Conn,
    since: Time,
}

/// A connection on which a request can be sent now.
pub(super) struct Ready {
    pub(super) conn: Conn,
    /// It has carried a request before, so the origin may be closing it at this very moment.
    pub(super) reused: bool,
}

/// Whether a kept connection will do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fresh {
    Yes,
    No,
}

impl Fresh {
    /// A kept connection that is still good, if one will do.
    pub(super) fn or_idle(self, origins: &Origins, origin: &Origin) -> Option<Ready> {
        if self == Fresh::Yes { None } else { origins.idle(origin) }
    }
}

/// Why a request's head did not leave.
pub(super) enum Unsent {
    /// Not one byte left; the permit can be used on another connection.
    Untouched(Permit),
    /// Some bytes left before the connection broke: the origin may count it.
    Partly,
}

impl Origins {
    pub(super) fn new(
        dialer: Arc<Dialer>,
        tls: Arc<Connector>,
        clock: Clock,
        timeouts: &Timeouts,
        settings: PoolSettings,
    ) -> Origins {
        Origins {
            dialer,
            tls,
            clock,
            connect: timeouts.connect,
            settings,
            idle: Mutex::default(),
            places: Mutex::default(),
        }
    }

    /// A kept connection that is still good.
    pub(super) fn idle(&self, origin: &Origin) -> Option<Ready> {
        loop {
            let mut conn = self.lock().get_mut(origin)?.pop()?.conn;
            if conn.stream.is_quiet(&mut Context::from_waker(Waker::noop())) {
                return Some(Ready { conn, reused: true });
            }
        }
    }

    /// A place among those for whom a connection is made ready, if there is one left.
    pub(super) fn place(self: &Arc<Self>, origin: &Origin) -> Option<Place> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = places.entry(origin.clone()).or_default();
        if *taken >= PLACES {
            return None;
        }
        *taken += 1;
        Some(Place { origins: Arc::clone(self), origin: origin.clone() })
    }

    /// A new connection, after its TLS handshake if the origin has one.
    ///
    /// # Errors
    /// 502, 503 or 504 by what went wrong; 403 if the address may not be dialled; 508 if it is our own.
    pub(super) async fn dial(&self, origin: &Origin, named: bool) -> Result<Ready, Refusal> {
        match self.dial_once(origin, named).await {
            // Descriptors that nobody uses at the moment serve this request better.
            Err(Refusal::Exhausted) if self.let_idle_go() => self.dial_once(origin, named).await,
            dialled => dialled,
        }
    }

    /// Closes every idle connection; whether there was one.
    fn let_idle_go(&self) -> bool {
        !std::mem::take(&mut *self.lock()).is_empty()
    }

    async fn dial_once(&self, origin: &Origin, named: bool) -> Result<Ready, Refusal> {
        let until = tokio::time::Instant::from_std(self.clock.instant(self.clock.now() + self.connect));
        let tcp = self.dialer.connect(&origin.host, origin.port, named, self.connect).await.map_err(refusal_of_dial)?;
        let stream = match origin.scheme {
            Scheme::Http => Stream::plain(tcp),
            Scheme::Https => {
                let handshake = tokio::time::timeout_at(until, self.tls.connect(&origin.host, tcp, WISH)).await;
                Stream::tls(handshake.map_err(|_| Refusal::ConnectTimeout)?.map_err(refusal_of_tls)?)
            }
        };
        Ok(Ready { conn: Conn::new(stream), reused: false })
    }

    /// Keeps a connection for the next request. Its last message has ended, and nothing of another was read.
    pub(super) fn keep(&self, origin: &Origin, mut conn: Conn) {
        if !conn.input.is_empty() || conn.pending() > 0 {
            return;
        }
        conn.rest();
        let idle = Idle { conn, since: self.clock.now() };
        let mut all = self.lock();
        if !all.contains_key(origin) {
            all.insert(origin.clone(), Vec::new());
        }
        let Some(kept) = all.get_mut(origin) else { return };
        if kept.len() < self.settings.idle_per_origin {
            kept.push(idle);
        }
    }

    /// Closes what has been idle too long or was closed by its origin.
    pub(super) fn reap(&self) {
        let now = self.clock.now();
        let mut cx = Context::from_waker(Waker::noop());
        self.lock().retain(|_, kept| {
            kept.retain_mut(|idle| {
                now.since(idle.since) < self.settings.idle_timeout && idle.conn.stream.is_quiet(&mut cx)
            });
            !kept.is_empty()
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Origin, Vec<Idle>>> {
        // A panic elsewhere cannot leave the map half changed: each change is one call.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ready {
    /// Whether nothing was said on it since it was made ready.
    pub(super) fn is_good(&mut self) -> bool {
        self.conn.input.is_empty() && self.conn.stream.is_quiet(&mut Context::from_waker(Waker::noop()))
    }

    /// The door out: writes what was appended to the connection (a head, and the start of its body), and nothing
    /// leaves but with a permit. The slot's time runs from the moment that all of it is written.
    ///
    /// # Errors
    /// See [`Unsent`].
    ///
    /// # Cancel safety
    /// Dropped half-way, the slots settle as those of a failed attempt.
    pub(super) async fn send(&mut self, permit: Permit) -> Result<Flight, Unsent> {
        let before = self.conn.total_written();
        let mut flight = permit.depart();
        match self.conn.flush().await {
            Ok(()) => {
                let sent = flight.sent();
                tracing::trace!(target: "lockgate::sent", sent_ns = sent.as_nanos());
                Ok(flight)
            }
            Err(_) if self.conn.total_written() == before => Err(Unsent::Untouched(flight.nothing_left())),
            Err(_) => Err(Unsent::Partly),
        }
    }
}

fn refusal_of_dial(error: dial::Error) -> Refusal {
    match error {
        dial::Error::Dns(_) => Refusal::DnsError,
        dial::Error::DnsTimeout => Refusal::DnsTimeout,
        dial::Error::Denied => Refusal::AddressDenied,
        dial::Error::Loop => Refusal::Loop,
        dial::Error::Refused(_) => Refusal::ConnectionRefused,
        dial::Error::Unreachable(_) => Refusal::Unreachable,
        dial::Error::Timeout => Refusal::ConnectTimeout,
        dial::Error::Exhausted(_) => Refusal::Exhausted,
    }
}

fn refusal_of_tls(error: verify::Error) -> Refusal {
    match error {
        verify::Error::Certificate(_) | verify::Error::Name(_) => Refusal::Certificate(error.to_string()),
        verify::Error::Tls(_) => Refusal::TlsError(error.to_string()),
        verify::Error::Io(_) => Refusal::TlsError(error.to_string()),
    }
}

//! Sends a request on a connection to its origin: the only way out, and it takes a permit.

use std::future::poll_fn;
use std::task::Poll;

use tokio::runtime::Handle;

use super::h2_pool::DialLeader;
use crate::gate::{Flight, Permit};
use crate::time::Time;
use crate::wire::http2::{HeadFlush, OriginStream};
use crate::wire::{Conn, Stream};

/// A connection on which a request can be sent now.
pub(super) struct OriginConn {
    pub(super) conn: Conn,
    /// It has carried a request before, so the origin may be closing it at this very moment.
    pub(super) reused: bool,
    /// It belongs to the caller's connection, see [`pinned`](super::pinned).
    pub(super) pinned: bool,
}

/// Why a request's head did not leave.
pub(super) enum SendError {
    /// Not one byte left; the permit can be used on another connection.
    Untouched(Permit),
    /// Some bytes left before the connection broke: the origin may count it.
    Partly,
}

impl OriginConn {
    /// A connection that was opened now.
    pub(super) fn new(stream: Stream) -> OriginConn {
        OriginConn { conn: Conn::new(stream), reused: false, pinned: false }
    }

    /// A stream on a connection that others use too.
    pub(super) fn shared(stream: Box<OriginStream>) -> OriginConn {
        let reused = stream.is_reused();
        OriginConn { conn: Conn::new(Stream::origin(stream)), reused, pinned: false }
    }

    /// It was dialled for others too. They come when the origin has said how many it takes.
    pub(super) fn lead(&mut self, guide: DialLeader) {
        match self.conn.stream.as_origin() {
            None => guide.arrive(),
            Some(stream) => {
                let settings = stream.settings();
                tokio::spawn(async move {
                    settings.wait().await;
                    guide.arrive();
                });
            }
        }
    }

    /// The origin did not answer in time. A connection of HTTP/1.1 is closed with its request; one that is shared must prove
    /// that it is alive.
    pub(super) fn doubt(&mut self, now: Time) {
        if let Some(stream) = self.conn.stream.as_origin() {
            stream.mark_suspect(now);
        }
    }

    /// Whether nothing was said on it since it was made ready.
    pub(super) fn is_good(&mut self) -> bool {
        self.conn.input.is_empty() && self.conn.stream.is_reusable()
    }

    /// Writes what was appended to the connection (a head, and the start of its body): nothing
    /// leaves but with a permit. The slot's time runs from the moment that the head is out.
    ///
    /// # Errors
    /// See [`SendError`].
    ///
    /// # Cancel safety
    /// Dropped half-way, the slots settle as those of a failed attempt; or, if the head cannot be taken back, when it leaves.
    pub(super) async fn send(&mut self, permit: Permit) -> Result<Flight, SendError> {
        let before = self.conn.write_mark();
        let mut leaving = SendGuard { flight: Some(permit.depart()), departure: None };
        let departing = poll_fn(|cx| {
            // A head that cannot be taken back is late at worst, and counted when it leaves.
            if leaving.departure.is_none() && !leaving.is_good() {
                return Poll::Ready(Err(std::io::ErrorKind::NotConnected.into()));
            }
            let departed = self.conn.poll_flush_head(cx);
            if departed.is_pending() && leaving.departure.is_none() {
                leaving.departure = self.conn.stream.as_origin().and_then(|stream| stream.head_flush());
            }
            departed
        });
        let departed = departing.await;
        let is_untouched = self.conn.write_mark() == before;
        match (departed, leaving.flight.take()) {
            (Ok(()), Some(mut flight)) => {
                let sent = flight.sent();
                tracing::trace!(target: "lockgate::sent", sent_ns = flight.clock().monotonic_nanos(sent));
                Ok(flight)
            }
            (Err(_), Some(flight)) if is_untouched => Err(SendError::Untouched(flight.nothing_left())),
            (_, flight) => {
                leaving.flight = flight;
                Err(SendError::Partly)
            }
        }
    }
}

/// A request on its way out. HTTP/2 writes what it has been given even if nothing asks for it any more: then the slots stay
/// taken until that has left, or can leave no more.
struct SendGuard {
    flight: Option<Flight>,
    departure: Option<HeadFlush>,
}

impl SendGuard {
    fn is_good(&self) -> bool {
        self.flight.as_ref().is_some_and(Flight::is_good)
    }
}

impl Drop for SendGuard {
    fn drop(&mut self) {
        let (Some(mut flight), Some(departure)) = (self.flight.take(), self.departure.take()) else { return };
        // Without a runtime nothing can leave any more.
        let Ok(runtime) = Handle::try_current() else { return };
        let is_out = departure.wait();
        runtime.spawn(async move {
            if is_out.await {
                flight.sent();
            }
        });
    }
}

//! Sending of requests: the only way out to an origin, and it consumes a permit.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tokio::runtime::Handle;

use super::h2_pool::DialLeader;
use super::parent::ParentProxy;
use crate::gate::{Flight, Permit};
use crate::time::Time;
use crate::wire::http2::{HeadFlush, OriginStream};
use crate::wire::{Conn, Stream};

/// A connection to an origin on which a request can be sent now.
///
/// Boxed for its life: it moves from the pool through each step of a request and back, and a pointer
/// moves at no cost.
pub(super) struct OriginConn {
    pub(super) conn: Conn,
    /// True if it has carried a request before: the origin may be closing it at this moment.
    pub(super) reused: bool,
    /// True if it belongs to the caller's connection, see [`pinned`](super::pinned).
    pub(super) pinned: bool,
    /// Time until which it can be used, as its origin has announced.
    pub(super) usable_until: Time,
    /// Parent proxy at its other end, which takes requests in absolute form; `None`: the origin.
    pub(super) forward: Option<Arc<ParentProxy>>,
}

/// Reason for which a request's head was not sent.
pub(super) enum SendError {
    /// No byte was sent; the permit can be used on another connection.
    Untouched(Permit),
    /// Some bytes were sent before the connection broke: the origin may count the request.
    Partly,
}

impl OriginConn {
    /// A connection that was just opened.
    pub(super) fn new(stream: Stream) -> Box<OriginConn> {
        let conn = Conn::new(stream);
        Box::new(OriginConn { conn, reused: false, pinned: false, usable_until: Time::NEVER, forward: None })
    }

    /// A stream on a connection that other requests share.
    pub(super) fn shared(stream: Box<OriginStream>) -> Box<OriginConn> {
        let reused = stream.is_reused();
        let mut shared = OriginConn::new(Stream::origin(stream));
        shared.reused = reused;
        shared
    }

    /// Marks the connection as dialled for other requests too; they continue once the origin has
    /// announced how many streams it accepts.
    pub(super) fn release_followers(&mut self, leader: DialLeader) {
        match self.conn.stream.as_origin() {
            None => leader.succeed(),
            Some(stream) => {
                let settings = stream.settings();
                tokio::spawn(async move {
                    settings.wait().await;
                    leader.succeed();
                });
            }
        }
    }

    /// Reports that the origin did not answer in time. A connection of HTTP/1.1 is closed with its
    /// request; a shared one must answer a PING.
    pub(super) fn mark_suspect(&mut self, now: Time) {
        if let Some(stream) = self.conn.stream.as_origin() {
            stream.mark_suspect(now);
        }
    }

    /// True if the connection is still usable, and nothing was received on it since it was made
    /// ready.
    pub(super) fn is_good(&mut self, now: Time) -> bool {
        now < self.usable_until && self.conn.input.is_empty() && self.conn.stream.is_reusable()
    }

    /// Writes the bytes that were appended to the connection (a head, and the start of its body),
    /// which requires a permit. The slot settles by the time at which the head has left.
    ///
    /// # Errors
    /// See [`SendError`].
    ///
    /// # Cancel safety
    /// Dropped half-way, the slots settle as those of a failed attempt; or, if the head cannot be
    /// taken back, at the time that it leaves.
    pub(super) async fn send(&mut self, permit: Permit) -> Result<Flight, SendError> {
        let before = self.conn.write_mark();
        let mut leaving = SendGuard { flight: Some(permit.depart()), departure: None };
        let departing = poll_fn(|cx| {
            // A head that cannot be taken back may leave late, and is counted when it does.
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

/// Guard of a request that is being written. HTTP/2 writes queued bytes even after the request was
/// dropped: the slots then stay taken until the bytes have left, or can leave no more.
struct SendGuard {
    flight: Option<Flight>,
    /// Event of the head leaving a connection of HTTP/2; `None` for HTTP/1.1, where a write is
    /// enough.
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
        // Without a runtime no byte can leave any more.
        let Ok(runtime) = Handle::try_current() else { return };
        let is_out = departure.wait();
        runtime.spawn(async move {
            if is_out.await {
                flight.sent();
            }
        });
    }
}

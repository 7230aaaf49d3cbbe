//! A connection to an origin that many requests share.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::Ping;
use h2::client::{Builder, Connection, SendRequest};

use super::data::broken;
use super::link_state::{LinkState, Pong};
use super::liveness::Trust;
use super::origin_stream::OriginStream;
use super::seen::{DriverOrder, Ending, Seen};
use super::watch::Watch;
use super::{CONNECTION_WINDOW, MAX_STREAMS, SEND_BUFFER, STREAM_WINDOW};
use crate::time::Time;
use crate::wire::Stream;
use crate::wire::head::MAX_HEAD;

/// How long an origin has to take our farewell. One that reads nothing would keep the connection for ever.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection to an origin.
#[derive(Clone)]
pub struct Link {
    send: SendRequest<Bytes>,
    state: Arc<LinkState>,
}

impl Link {
    /// Exchanges the first words with an origin that has agreed to speak HTTP/2. What comes with it must be polled for
    /// anything on the connection to move, and ends with it.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn begin(stream: Stream, now: Time) -> io::Result<(Link, impl Future<Output = ()> + Send + 'static)> {
        let mut settings = Builder::new();
        settings
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER)
            // Until the origin has said how many it takes: those that are too many would wait in `h2`, out of reach.
            .initial_max_send_streams(1);
        let (watch, seen) = Watch::origin(stream);
        let (send, connection) = settings.handshake(watch).await.map_err(broken)?;
        let state = LinkState::new(Arc::clone(&seen), now);
        Ok((Link { send, state }, drive(connection, seen)))
    }

    /// A stream on it, if it has room and is trusted.
    pub fn open(&self, now: Time) -> Option<Box<OriginStream>> {
        // Most of the connections that a request in a burst looks at are full, so that is asked first.
        let most = self.send.current_max_send_streams().min(MAX_STREAMS as usize);
        if self.state.is_full(most) {
            return None;
        }
        let mut send = self.send.clone();
        if !self.state.is_ready(&mut send) || self.state.trust(now) != Trust::Full {
            return None;
        }
        let place = self.state.place(most)?;
        Some(Box::new(OriginStream::new(send, place)))
    }

    /// Whether the origin takes requests on it at all, now or later.
    pub fn is_welcome(&self) -> bool {
        self.send.current_max_send_streams() > 0
    }

    /// Whether new requests can be sent on it.
    pub fn is_open(&self) -> bool {
        self.state.is_open()
    }

    /// Whether nobody uses it.
    pub fn is_idle(&self) -> bool {
        self.state.is_idle()
    }

    /// Does what is due for its liveness; to be called about once a second.
    pub fn look(&self, now: Time) {
        self.state.look(now);
    }

    /// The answer to a PING, if it can be used after that.
    pub fn pong(&self, now: Time) -> Option<Pong> {
        if self.is_open() { self.state.pong(now) } else { None }
    }

    /// Ends it at once, whatever is under way on it.
    pub fn end(&self) {
        self.state.end();
    }
}

/// Moves everything on the connection until it ends, or is to end.
async fn drive(mut connection: Connection<Watch, Bytes>, seen: Arc<Seen>) {
    let mut ping = connection.ping_pong().expect("it is asked for once");
    let (mut is_asked, mut ended) = (false, None);
    let ending = poll_fn(|cx| {
        loop {
            if let Poll::Ready(end) = Pin::new(&mut connection).poll(cx) {
                ended = Some(end);
                return Poll::Ready(Ending::InOrder);
            }
            seen.caught_up();
            if is_asked && let Poll::Ready(pong) = ping.poll_pong(cx) {
                is_asked = false;
                if pong.is_ok() {
                    seen.ponged();
                }
            }
            match ready!(seen.poll_order(cx)) {
                DriverOrder::Ping => is_asked |= ping.send_ping(Ping::opaque()).is_ok(),
                DriverOrder::End(ending) => return Poll::Ready(ending),
            }
        }
    });
    let ending = ending.await;
    if ended.is_none() && ending == Ending::InOrder {
        ended = tokio::time::timeout(FAREWELL, &mut connection).await.ok();
    }
    if let Some(Err(error)) = &ended {
        tracing::debug!(%error, "an HTTP/2 connection to an origin ended");
    }
    drop(connection);
    // The descriptor is free from here on, though streams may still be held.
    if let Some(mut stream) = seen.take_rest()
        && ended.is_none()
    {
        // Bytes that the kernel still has to send are of no use any more.
        stream.abort();
    }
}

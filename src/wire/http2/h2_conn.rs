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

use super::frame_observer::FrameObserver;
use super::h2_conn_state::{H2ConnState, PongWait};
use super::limits::{CONNECTION_WINDOW, MAX_STREAMS, SEND_BUFFER, STREAM_WINDOW};
use super::liveness::Readiness;
use super::origin_stream::OriginStream;
use super::stream_content::to_io_error;
use super::wire_state::{CloseMode, DriverCommand, WireState};
use crate::time::Time;
use crate::wire::Stream;
use crate::wire::head::MAX_HEAD;

/// How long an origin has to take our farewell. One that reads nothing would keep the connection for ever.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection to an origin.
#[derive(Clone)]
pub struct H2Conn {
    send: SendRequest<Bytes>,
    state: Arc<H2ConnState>,
}

impl H2Conn {
    /// Exchanges the first words with an origin that has agreed to speak HTTP/2. What comes with it must be polled for
    /// anything on the connection to move, and ends with it.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn handshake(
        stream: Stream,
        now: Time,
    ) -> io::Result<(H2Conn, impl Future<Output = ()> + Send + 'static)> {
        let mut settings = Builder::new();
        settings
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER)
            // Until the origin has said how many it takes: those that are too many would wait in `h2`, out of reach.
            .initial_max_send_streams(1);
        let (watch, wire) = FrameObserver::origin(stream);
        let (send, connection) = settings.handshake(watch).await.map_err(to_io_error)?;
        let state = H2ConnState::new(Arc::clone(&wire), now);
        Ok((H2Conn { send, state }, drive(connection, wire)))
    }

    /// A stream on it, if it has room and is trusted.
    pub fn open_stream(&self, now: Time) -> Option<Box<OriginStream>> {
        // Most of the connections that a request in a burst looks at are full, so that is asked first.
        let most = self.send.current_max_send_streams().min(MAX_STREAMS as usize);
        if self.state.is_full(most) {
            return None;
        }
        let mut send = self.send.clone();
        if !self.state.is_ready(&mut send) || self.state.readiness(now) != Readiness::Ready {
            return None;
        }
        let guard = self.state.reserve_stream(most)?;
        Some(Box::new(OriginStream::new(send, guard)))
    }

    /// Whether the origin takes requests on it at all, now or later.
    pub fn accepts_streams(&self) -> bool {
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
    pub fn check_liveness(&self, now: Time) {
        self.state.check_liveness(now);
    }

    /// The answer to a PING, if it can be used after that.
    pub fn awaited_pong(&self, now: Time) -> Option<PongWait> {
        if self.is_open() { self.state.awaited_pong(now) } else { None }
    }

    /// Ends it at once, whatever is under way on it.
    pub fn close(&self) {
        self.state.close();
    }
}

/// Moves everything on the connection until it ends, or is to end.
async fn drive(mut connection: Connection<FrameObserver, Bytes>, wire: Arc<WireState>) {
    let mut ping = connection.ping_pong().expect("it is asked for once");
    let (mut is_asked, mut ended) = (false, None);
    let ending = poll_fn(|cx| {
        loop {
            if let Poll::Ready(end) = Pin::new(&mut connection).poll(cx) {
                ended = Some(end);
                return Poll::Ready(CloseMode::Graceful);
            }
            wire.on_bytes_processed();
            if is_asked && let Poll::Ready(pong) = ping.poll_pong(cx) {
                is_asked = false;
                if pong.is_ok() {
                    wire.on_pong();
                }
            }
            match ready!(wire.poll_command(cx)) {
                DriverCommand::Ping => is_asked |= ping.send_ping(Ping::opaque()).is_ok(),
                DriverCommand::Close(mode) => return Poll::Ready(mode),
            }
        }
    });
    let ending = ending.await;
    if ended.is_none() && ending == CloseMode::Graceful {
        ended = tokio::time::timeout(GOAWAY_TIMEOUT, &mut connection).await.ok();
    }
    if let Some(Err(error)) = &ended {
        tracing::debug!(%error, "an HTTP/2 connection to an origin ended");
    }
    drop(connection);
    // The descriptor is free from here on, though streams may still be held.
    if let Some(mut stream) = wire.take_stream()
        && ended.is_none()
    {
        // Bytes that the kernel still has to send are of no use any more.
        stream.abort();
    }
}

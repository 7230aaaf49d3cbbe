//! HTTP/2 connection to an origin (client side), shared by many requests.
//!
//! The handle can be cloned into a pool; the connection lives as long as a handle or a stream of
//! it. A task of its own drives it ([`H2Conn::handshake`] returns the future): all frames of all
//! streams are read and written there, and the streams exchange bytes with it through `h2`.
//!
//! Order of an end: the driver is told to close, sends a GOAWAY (at most one second), drops `h2`,
//! and then aborts the stream beneath unless it has ended, so that its descriptor is free even if
//! streams still exist.

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
use super::limits::{CONNECTION_WINDOW, SEND_BUFFER, STREAM_WINDOW};
use super::liveness::Readiness;
use super::lower_stream::{LowerStream, Released};
use super::origin_stream::OriginStream;
use super::stream_content::to_io_error;
use super::window_growth::{PingPolicy, WindowGrowth};
use super::wire_state::{CloseMode, DriverCommand, WireState};
use crate::time::Time;
use crate::wire::response_head::HeadLimits;

/// Longest time that sending a GOAWAY may take. An origin that reads nothing would keep the
/// connection forever.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// Handle of an HTTP/2 connection to an origin.
#[derive(Clone)]
pub struct H2Conn {
    /// Door of `h2` for new requests; a clone of it goes into each stream.
    send: SendRequest<Bytes>,
    /// State shared with the streams; its drop ends the connection.
    state: Arc<H2ConnState>,
}

impl H2Conn {
    /// Performs the HTTP/2 handshake (preface and SETTINGS). The returned future drives the
    /// connection: without polling it nothing moves, and it ends with the connection.
    ///
    /// Settings sent: no server push, the windows of `limits`, and the longest head of a response. Returns without
    /// waiting for the origin's SETTINGS: see [`H2Conn::open_stream`] for the room until then.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn handshake<S: LowerStream>(
        stream: S,
        limits: HeadLimits,
        now: Time,
    ) -> io::Result<(H2Conn, impl Future<Output = ()> + Send + 'static)> {
        let mut settings = Builder::new();
        settings
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(limits.bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER)
            // Until the origin's SETTINGS arrive: streams above its limit would wait inside `h2`, out of reach.
            .initial_max_send_streams(1);
        let observer = FrameObserver::origin(stream);
        let (wire, released) = (observer.wire(), observer.released());
        let (send, connection) = settings.handshake(observer).await.map_err(to_io_error)?;
        let windows = WindowGrowth::new(Arc::clone(&wire), PingPolicy::Strict);
        let state = H2ConnState::new(Arc::clone(&wire), windows.meter(), now);
        Ok((H2Conn { send, state }, drive(connection, wire, windows, released)))
    }

    /// Opens a stream if the connection has room and is ready (a PING may be due first).
    ///
    /// Has room: fewer streams than the origin allows, and than our own limit of 128, or less if
    /// their windows have grown; one before its settings have arrived. `None` says nothing about the future: the caller asks another
    /// connection, or opens one.
    pub fn open_stream(&self, now: Time) -> Option<Box<OriginStream>> {
        // In a burst most connections are full, so that is checked first.
        let most = self.send.current_max_send_streams().min(self.state.most_streams());
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

    /// True unless the origin allows no streams at all.
    ///
    /// SETTINGS_MAX_CONCURRENT_STREAMS of 0 is legal (RFC 9113 §6.5.2), but an origin that keeps to
    /// it can serve nothing on this connection.
    pub fn accepts_streams(&self) -> bool {
        self.send.current_max_send_streams() > 0
    }

    /// True if new requests can be sent on it.
    ///
    /// False after a GOAWAY, a connection error or [`H2Conn::close`]; requests on it may still
    /// succeed.
    pub fn is_open(&self) -> bool {
        self.state.is_open()
    }

    /// True if it has no streams.
    pub fn is_idle(&self) -> bool {
        self.state.is_idle()
    }

    /// Sends a PING or closes the connection, if that is due. Called about once a second.
    pub fn check_liveness(&self, now: Time) {
        self.state.check_liveness(now);
    }

    /// Handle to wait for an outstanding PING's answer, after which the connection may be usable.
    ///
    /// `None` if no answer is outstanding, if it is overdue, or if the connection takes no more
    /// requests.
    pub fn awaited_pong(&self, now: Time) -> Option<PongWait> {
        if self.is_open() { self.state.awaited_pong(now) } else { None }
    }

    /// Closes the connection at once, with all requests on it.
    pub fn close(&self) {
        self.state.close();
    }
}

/// Drives the connection until it ends or is told to close.
///
/// Each turn reports answered PINGs, adapts the windows, polls `h2`, and carries out one command.
/// Liveness and the windows share the one PING that `h2` has under way: any answer shows that the
/// peer lives.
///
/// # Panics
/// Never: `ping_pong` returns `None` only at a second call.
async fn drive<S: LowerStream>(
    mut connection: Connection<FrameObserver<S>, Bytes>,
    wire: Arc<WireState>,
    mut windows: WindowGrowth,
    released: Released<S>,
) {
    let mut ping = connection.ping_pong().expect("it is asked for once");
    let (mut is_asked, mut ended) = (false, None);
    let ending = poll_fn(|cx| {
        loop {
            // Before the poll that sends what is announced here.
            windows.narrow(cx, |window| connection.set_initial_window_size(window).is_ok());
            if is_asked && let Poll::Ready(pong) = ping.poll_pong(cx) {
                is_asked = false;
                if pong.is_ok() {
                    wire.on_pong();
                    windows.on_pong(|window| connection.set_initial_window_size(window).is_ok());
                }
            }
            if !is_asked && windows.poll_measure(cx).is_ready() {
                is_asked = ping.send_ping(Ping::opaque()).is_ok();
            }
            if let Poll::Ready(end) = Pin::new(&mut connection).poll(cx) {
                ended = Some(end);
                return Poll::Ready(CloseMode::Graceful);
            }
            wire.on_bytes_processed();
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
    // The descriptor is free from here on, though streams may still exist.
    if let Some(mut stream) = released.take()
        && ended.is_none()
    {
        // Bytes that the kernel has not sent yet are of no use any more.
        stream.abort();
    }
}

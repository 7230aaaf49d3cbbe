//! Observer of the frames between `h2` and its connection, for what `h2` does not tell: heads sent,
//! streams left unprocessed by a GOAWAY, and abuse.
//!
//! Sits between `h2` and the byte stream, and passes all bytes unchanged. Both directions are
//! parsed to an origin, only the received one from a caller: heads that are sent to a caller settle
//! nothing. Parsing costs a few instructions for each frame, since payloads are skipped.
//!
//! Errors of reads are kept in full for the log; `h2` is given their kind alone.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame_parser::{FrameEvent, FrameParser, frame_type};
use super::limits::PREFACE;
use super::lower_stream::{LowerStream, Released};
use super::wire_state::WireState;

/// Stream beneath `h2`, with parsers of its frames.
pub(super) struct FrameObserver<S: LowerStream> {
    /// Stream of the bytes: TCP, TLS, or a stream of another HTTP/2 connection.
    stream: S,
    /// Takes the stream when `h2` drops this.
    released: Released<S>,
    /// Place of the findings, read by the connection and its streams.
    wire: Arc<WireState>,
    /// Parser of received frames.
    inbound: FrameParser,
    /// Parser of sent frames; only on a connection to an origin.
    outbound: Option<FrameParser>,
    /// True once a frame was received.
    has_begun: bool,
    /// True if the first frame received was not SETTINGS.
    begins_wrongly: bool,
    /// True if a head was written since the last flush.
    unflushed: bool,
}

impl<S: LowerStream> FrameObserver<S> {
    /// Observes a connection opened by a caller.
    ///
    /// A caller's first bytes are the preface, which is not a frame.
    pub(super) fn caller(stream: S) -> FrameObserver<S> {
        FrameObserver::new(stream, FrameParser::after(PREFACE.len()), None)
    }

    /// Observes a connection to an origin.
    ///
    /// The preface is among the sent bytes here.
    pub(super) fn origin(stream: S) -> FrameObserver<S> {
        FrameObserver::new(stream, FrameParser::after(0), Some(FrameParser::after(PREFACE.len())))
    }

    fn new(stream: S, inbound: FrameParser, outbound: Option<FrameParser>) -> FrameObserver<S> {
        let (released, wire) = (Released::new(), Arc::default());
        FrameObserver {
            stream,
            released,
            wire,
            inbound,
            outbound,
            has_begun: false,
            begins_wrongly: false,
            unflushed: false,
        }
    }

    /// State of the observed connection.
    pub(super) fn wire(&self) -> Arc<WireState> {
        Arc::clone(&self.wire)
    }

    /// Place where the stream will be once `h2` has dropped this.
    pub(super) fn released(&self) -> Released<S> {
        self.released.clone()
    }

    /// Records what the received bytes hold: GOAWAY, abuse, acknowledged settings, and to an origin
    /// the counters of liveness and the arrival of settings. At most one lock of the state for each of these and
    /// for each read.
    fn received(&mut self, bytes: &[u8]) {
        let (mut abuse, mut goaway_last, mut messages, mut settings, mut acks) = (0, u32::MAX, 0, false, 0);
        let (has_begun, mut begins_wrongly) = (&mut self.has_begun, false);
        self.inbound.parse(bytes, |event| match event {
            // A connection begins with SETTINGS (RFC 9113 §3.4), which `h2` does not check.
            FrameEvent::Start(frame) if !std::mem::replace(has_begun, true) && !frame.is_settings() => {
                begins_wrongly = true;
            }
            FrameEvent::End(frame) if frame.kind == frame_type::GOAWAY => {
                goaway_last = goaway_last.min(frame.first & (u32::MAX >> 1))
            }
            FrameEvent::Start(frame) if matches!(frame.kind, frame_type::HEADERS | frame_type::DATA) => messages += 1,
            FrameEvent::Start(frame) => abuse += abuse_weight(frame.kind),
            FrameEvent::End(frame) => {
                settings |= frame.is_settings();
                acks += u64::from(frame.is_settings_ack());
            }
        });
        if begins_wrongly {
            self.begins_wrongly = true;
            self.wire.on_wrong_begin();
        }
        // Liveness is checked on connections to origins only.
        if self.outbound.is_some() {
            self.wire.on_received(bytes.len(), messages);
            if settings {
                self.wire.on_settings_received();
            }
        }
        if acks > 0 {
            self.wire.on_settings_acks(acks);
        }
        if abuse > 0 || goaway_last < u32::MAX {
            self.wire.on_abuse_or_goaway(abuse, goaway_last);
        }
    }

    /// Records heads among the first `count` bytes of `parts`: those that have begun, and those
    /// that are complete.
    fn sent(&mut self, parts: &[IoSlice<'_>], mut count: usize) {
        let Some(outbound) = &mut self.outbound else { return };
        let (mut begun, mut written) = (0, 0);
        for part in parts {
            let here = &part[..count.min(part.len())];
            count -= here.len();
            outbound.parse(here, |event| match event {
                FrameEvent::Start(frame) if frame.kind == frame_type::HEADERS => begun = begun.max(frame.stream),
                FrameEvent::End(frame) if frame.ends_head() => written = written.max(frame.stream),
                FrameEvent::Start(_) | FrameEvent::End(_) => {}
            });
        }
        if begun > 0 || written > 0 {
            self.wire.on_written(begun, written);
            self.unflushed = true;
        }
    }
}

/// Abuse score of a received frame. Messages and window updates have none. Frames that cause work
/// for nothing count more than a PING, of which gRPC sends many to measure the bandwidth.
fn abuse_weight(frame: u8) -> u64 {
    match frame {
        frame_type::DATA | frame_type::HEADERS | frame_type::WINDOW_UPDATE => 0,
        frame_type::RST_STREAM | frame_type::SETTINGS | frame_type::CONTINUATION => 10,
        _ => 1,
    }
}

impl<S: LowerStream> AsyncRead for FrameObserver<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        if let Err(error) = ready!(Pin::new(&mut self.stream).poll_read(cx, into)) {
            let kind = error.kind();
            self.wire.on_io_error(error);
            return Poll::Ready(Err(kind.into()));
        }
        self.received(&into.filled()[before..]);
        if self.outbound.is_some() && self.begins_wrongly {
            // A caller is told the reason by its connection; an origin is not spoken to any more.
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: LowerStream> AsyncWrite for FrameObserver<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, data))?;
        self.sent(&[IoSlice::new(data)], count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        if std::mem::take(&mut self.unflushed) {
            self.wire.on_flushed();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, parts))?;
        self.sent(parts, count);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<S: LowerStream> Drop for FrameObserver<S> {
    fn drop(&mut self) {
        self.released.set(self.stream.take());
        self.wire.on_closed();
    }
}

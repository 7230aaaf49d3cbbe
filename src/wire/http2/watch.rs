//! Stands between `h2` and its connection, and sees what h2 does not tell: when a head has left, what a peer's
//! farewell leaves undone, how much noise it makes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::PREFACE;
use super::frames::{Frames, Passed, kind};
use super::seen::Seen;
use crate::wire::Stream;

/// A connection under `h2`.
pub(super) struct Watch {
    stream: Stream,
    seen: Arc<Seen>,
    inbound: Frames,
    /// Whether heads of ours are waited for: on a connection to an origin.
    outbound: Option<Frames>,
    /// A head was handed over since the last flush.
    unflushed: bool,
}

impl Watch {
    /// A connection that a caller opened.
    pub(super) fn caller(stream: Stream) -> (Watch, Arc<Seen>) {
        Watch::new(stream, Frames::after(PREFACE.len()), None)
    }

    /// A connection that we opened.
    pub(super) fn origin(stream: Stream) -> (Watch, Arc<Seen>) {
        Watch::new(stream, Frames::after(0), Some(Frames::after(PREFACE.len())))
    }

    fn new(stream: Stream, inbound: Frames, outbound: Option<Frames>) -> (Watch, Arc<Seen>) {
        let seen = Arc::<Seen>::default();
        (Watch { stream, seen: Arc::clone(&seen), inbound, outbound, unflushed: false }, seen)
    }

    fn received(&mut self, bytes: &[u8]) {
        let (mut noise, mut last, mut messages, mut settings) = (0, u32::MAX, 0, false);
        self.inbound.pass(bytes, |passed| match passed {
            Passed::Ended(frame) if frame.kind == kind::GOAWAY => last = last.min(frame.first & (u32::MAX >> 1)),
            Passed::Begun(frame) if matches!(frame.kind, kind::HEADERS | kind::DATA) => messages += 1,
            Passed::Begun(frame) => noise += loudness(frame.kind),
            Passed::Ended(frame) => settings |= frame.is_settings(),
        });
        // The life of a caller's connection is its own affair.
        if self.outbound.is_some() {
            self.seen.received(bytes.len(), messages);
            if settings {
                self.seen.settings_told();
            }
        }
        if noise > 0 || last < u32::MAX {
            self.seen.heard(noise, last);
        }
    }

    fn sent(&mut self, parts: &[IoSlice<'_>], mut count: usize) {
        let Some(outbound) = &mut self.outbound else { return };
        let (mut begun, mut written) = (0, 0);
        for part in parts {
            let here = &part[..count.min(part.len())];
            count -= here.len();
            outbound.pass(here, |passed| match passed {
                Passed::Begun(frame) if frame.kind == kind::HEADERS => begun = begun.max(frame.stream),
                Passed::Ended(frame) if frame.ends_head() => written = written.max(frame.stream),
                Passed::Begun(_) | Passed::Ended(_) => {}
            });
        }
        if begun > 0 || written > 0 {
            self.seen.handed_over(begun, written);
            self.unflushed = true;
        }
    }
}

/// How much noise a frame from a peer is. Messages and room for them are none; what makes us work for nothing is
/// louder than a ping, of which gRPC sends many to measure its way.
fn loudness(frame: u8) -> u64 {
    match frame {
        kind::DATA | kind::HEADERS | kind::WINDOW_UPDATE => 0,
        kind::RST_STREAM | kind::SETTINGS | kind::CONTINUATION => 10,
        _ => 1,
    }
}

impl AsyncRead for Watch {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        if let Err(error) = ready!(Pin::new(&mut self.stream).poll_read(cx, into)) {
            let kind = error.kind();
            self.seen.broke(error);
            return Poll::Ready(Err(kind.into()));
        }
        self.received(&into.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watch {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, data))?;
        self.sent(&[IoSlice::new(data)], count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        if std::mem::take(&mut self.unflushed) {
            self.seen.flushed();
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

impl Drop for Watch {
    fn drop(&mut self) {
        self.seen.left(self.stream.take());
    }
}

//! Stands between `h2` and its connection, and sees what h2 does not tell: when a head has left, what a peer's
//! farewell leaves undone, how much noise it makes.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::PREFACE;
use super::frames::{Frames, Passed, kind};
use crate::wire::Stream;

/// What has been seen of a connection.
#[derive(Default)]
pub(super) struct Seen {
    state: Mutex<State>,
}

struct State {
    /// The last stream of whose head something was handed to the connection.
    begun: u32,
    /// The last stream whose head was handed over whole.
    written: u32,
    /// The last stream whose head is out: with the kernel, or where the other side can read it.
    departed: u32,
    /// Who waits for a head to be out.
    waiting: Vec<(u32, Waker)>,
    /// The last stream that the peer looks at; it has said goodbye if it is not the greatest.
    last: u32,
    /// There is no connection any more.
    closed: bool,
    /// It is to end, and in what way.
    ending: Option<Ending>,
    /// What moves the connection.
    driver: Option<Waker>,
    /// What broke it; `h2` keeps of it no more than a text.
    failure: Option<Arc<io::Error>>,
    /// The connection itself, when `h2` has no use for it any more.
    rest: Option<Stream>,
    /// Frames from the peer that carry neither a message nor room for one, see [`loudness`].
    noise: u64,
}

/// How a connection ends that we do not want any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// With a farewell, if the peer takes it soon.
    InOrder,
    /// Without a word.
    AtOnce,
}

impl Default for State {
    fn default() -> State {
        State {
            begun: 0,
            written: 0,
            departed: 0,
            waiting: Vec::new(),
            last: u32::MAX,
            closed: false,
            ending: None,
            driver: None,
            failure: None,
            rest: None,
            noise: 0,
        }
    }
}

impl Seen {
    /// Ready when the head of this stream is out, or the peer has said that it will not look at it: `h2` may have thrown it
    /// away then. An error if the connection ended before.
    pub(super) fn poll_departed(&self, stream: u32, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        if state.departed >= stream || state.last < stream {
            return Poll::Ready(Ok(()));
        }
        if state.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        state.waiting.retain(|(waiting, _)| *waiting != stream);
        state.waiting.push((stream, cx.waker().clone()));
        Poll::Pending
    }

    /// Whether anything of this stream, which `h2` has been given, has left or may still leave.
    pub(super) fn may_leave(&self, stream: u32) -> bool {
        let state = self.lock();
        !state.closed || state.begun >= stream
    }

    /// Whether the peer has said that it does not look at this stream (RFC 9113 §6.8).
    pub(super) fn is_left_undone(&self, stream: u32) -> bool {
        self.lock().last < stream
    }

    /// Whether new streams make sense.
    pub(super) fn is_open(&self) -> bool {
        let state = self.lock();
        !state.closed && state.last == u32::MAX
    }

    /// The connection is gone.
    pub(super) fn close(&self) {
        let waiting = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Ends the connection. What is said first holds.
    pub(super) fn end(&self, ending: Ending) {
        let driver = {
            let mut state = self.lock();
            state.ending.get_or_insert(ending);
            state.driver.take()
        };
        driver.into_iter().for_each(Waker::wake);
    }

    /// Ready when the connection is to end.
    pub(super) fn poll_ending(&self, cx: &mut Context<'_>) -> Poll<Ending> {
        let mut state = self.lock();
        match state.ending {
            Some(ending) => Poll::Ready(ending),
            None => {
                match &mut state.driver {
                    Some(driver) => driver.clone_from(cx.waker()),
                    None => state.driver = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    /// What broke the connection, if it was a fault of what lies beneath it.
    pub(super) fn failure(&self) -> Option<Arc<io::Error>> {
        self.lock().failure.clone()
    }

    /// The connection itself, once `h2` has let go of it.
    pub(super) fn take_rest(&self) -> Option<Stream> {
        self.lock().rest.take()
    }

    /// How loud the peer has been.
    pub(super) fn noise(&self) -> u64 {
        self.lock().noise
    }

    fn flushed(&self) {
        {
            let mut state = self.lock();
            state.departed = state.written;
        }
        self.tell_departed();
    }

    /// Wakes those whose wait is over.
    fn tell_departed(&self) {
        let due: Vec<Waker> = {
            let mut state = self.lock();
            let (departed, last) = (state.departed, state.last);
            let due = |(stream, _): &mut (u32, Waker)| *stream <= departed || *stream > last;
            state.waiting.extract_if(.., due).map(|(_, waker)| waker).collect()
        };
        due.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The head of a request that `h2` has been given and cannot be asked to give back.
pub struct Departure {
    pub(super) seen: Arc<Seen>,
    pub(super) stream: u32,
}

impl Departure {
    /// Waits until the head is out. `false`: its connection has ended before, and it never will be.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn is_out(self) -> bool {
        poll_fn(|cx| self.seen.poll_departed(self.stream, cx)).await.is_ok()
    }
}

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
        let (mut noise, mut last) = (0, u32::MAX);
        self.inbound.pass(bytes, |passed| match passed {
            Passed::Ended(frame) if frame.kind == kind::GOAWAY => last = last.min(frame.first & (u32::MAX >> 1)),
            Passed::Begun(frame) => noise += loudness(frame.kind),
            Passed::Ended(_) => {}
        });
        if noise > 0 || last < u32::MAX {
            let mut state = self.seen.lock();
            state.noise += noise;
            state.last = state.last.min(last);
        }
        if last < u32::MAX {
            self.seen.tell_departed();
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
            let mut state = self.seen.lock();
            // Trailers are HEADERS too, of a stream that has begun before.
            state.begun = state.begun.max(begun);
            state.written = state.written.max(written);
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
            self.seen.lock().failure = Some(Arc::new(error));
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
        self.seen.lock().rest = Some(self.stream.take());
        self.seen.close();
    }
}

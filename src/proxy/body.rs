//! Body streaming with back-pressure: bytes received from one side are written to the other before
//! more are read.

use std::io;
use std::task::{Context, Poll, Waker, ready};

use super::trailers::Trailers;
use crate::wire::chunked::{BadChunk, ChunkedDecoder, Piece, write_chunk};
use crate::wire::trailer_section::Grammar;
use crate::wire::{Conn, Length};

/// Pieces up to this number of bytes are buffered with the head before them; larger ones are
/// written straight from the read buffer.
const GATHER: usize = 8 * 1024;

/// Largest body that is kept so that its request can be sent again, in bytes.
pub(super) const MAX_REPLAY: usize = 64 * 1024;

/// Reason for which a body did not reach its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// The sending side broke off.
    #[error("the sender of the body broke off")]
    Source(#[source] Option<io::Error>),
    /// The sending side violates the grammar of chunks.
    #[error("the body is malformed: {0}")]
    Malformed(#[from] BadChunk),
    /// The receiving side is gone.
    #[error("the receiver of the body is gone")]
    Sink(#[source] io::Error),
}

/// A body in transit from one connection to another.
#[derive(Debug)]
pub(super) struct Body {
    /// Framing and rest of the body on the connection that it is read from.
    source: Source,
    /// Framing on the connection that it is written to.
    framing: Length,
    /// True if its trailers are forwarded.
    trailers: bool,
    /// Number of bytes of the body moved so far, without framing.
    pub(super) moved: u64,
    /// Copy of the body so far; `None` if it is not kept, or has grown beyond [`MAX_REPLAY`].
    replay: Option<Replay>,
}

/// A body that was written once and is kept to be written again, in any version of HTTP.
#[derive(Debug, Default)]
pub(super) struct Replay {
    data: Vec<u8>,
    trailers: Trailers<Vec<u8>>,
}

impl Replay {
    /// Appends the body, framed for `length`.
    pub(super) fn write(&self, length: Length, to: &mut Conn) {
        if length == Length::Chunked {
            write_chunk(&self.data, to.out());
        } else {
            to.out().extend_from_slice(&self.data);
        }
        self.trailers.borrowed().write(length, to);
        to.finish();
    }
}

/// Framing of a body on the connection that it is read from.
#[derive(Debug)]
enum Source {
    /// Number of bytes to come.
    Exact(u64),
    Chunked(ChunkedDecoder),
    UntilClose,
    Ended,
}

impl Body {
    /// A body framed as `from` on the source, to be framed as `to` on the sink, with its trailers.
    pub(super) fn new(from: Length, to: Length) -> Body {
        Body::read_by(Grammar::Strict, from, to)
    }

    /// As [`Body::new`], of a response.
    pub(super) fn of_response(from: Length, to: Length) -> Body {
        Body::read_by(Grammar::Lenient, from, to)
    }

    fn read_by(grammar: Grammar, from: Length, to: Length) -> Body {
        let source = match from {
            Length::Empty => Source::Ended,
            Length::Exact(length) => Source::Exact(length),
            Length::Chunked => Source::Chunked(ChunkedDecoder::new(grammar)),
            Length::UntilClose => Source::UntilClose,
        };
        Body { source, framing: to, trailers: true, moved: 0, replay: None }
    }

    /// Drops the trailers.
    pub(super) fn without_trailers(self) -> Body {
        Body { trailers: false, ..self }
    }

    /// Keeps a copy of the body as it is written, as long as it stays within [`MAX_REPLAY`].
    pub(super) fn keep(mut self) -> Body {
        self.replay = Some(Replay::default());
        self
    }

    /// Takes the copy of the whole body, if it has ended and was kept.
    pub(super) fn take_replay(&mut self) -> Option<Replay> {
        self.has_ended().then(|| self.replay.take()).flatten()
    }

    /// Frames the rest of the body as `to`.
    pub(super) fn reframe(&mut self, to: Length) {
        self.framing = to;
    }

    /// Appends the bytes of the body that were already read to the head that is about to be
    /// written.
    ///
    /// # Errors
    /// If its chunks are malformed.
    pub(super) fn gather(&mut self, from: &mut Conn, to: &mut Conn) -> Result<(), BodyError> {
        let mut cx = Context::from_waker(Waker::noop());
        while !self.has_ended() && to.pending() < GATHER && from.input.bytes().len() <= GATHER {
            match self.poll_pass(&mut cx, from, to)? {
                Poll::Ready(true) => {}
                Poll::Ready(false) | Poll::Pending => break,
            }
        }
        if self.has_ended() {
            self.finish_message(to);
        }
        Ok(())
    }

    fn finish_message(&self, to: &mut Conn) {
        if self.framing == Length::UntilClose { to.finish_and_close() } else { to.finish() }
    }

    /// True if the whole body has been read.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.source, Source::Ended)
    }

    /// Moves as many bytes as possible. Ready when the whole body is written out.
    ///
    /// Back-pressure: nothing more is read from `from` while bytes wait for `to`.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub(super) fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Conn,
        to: &mut Conn,
    ) -> Poll<Result<(), BodyError>> {
        loop {
            if ready!(self.poll_pass(cx, from, to))? {
                continue;
            }
            if self.has_ended() {
                self.finish_message(to);
            }
            if self.has_ended() || to.pending() >= GATHER {
                ready!(to.poll_flush(cx)).map_err(BodyError::Sink)?;
            }
            if self.has_ended() {
                return Poll::Ready(Ok(()));
            }
            match from.poll_fill(cx) {
                Poll::Ready(Ok(0)) => self.source_closed(from, to)?,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(BodyError::Source(Some(error)))),
                Poll::Pending => {
                    // Nothing more to gather: flushes the buffer, and polls the source again when it has more.
                    ready!(to.poll_flush(cx)).map_err(BodyError::Sink)?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Moves one piece from the read buffer to the write buffer; `false` if no whole piece is
    /// buffered.
    fn poll_pass(&mut self, cx: &mut Context<'_>, from: &mut Conn, to: &mut Conn) -> Poll<Result<bool, BodyError>> {
        if self.has_ended() || from.input.is_empty() {
            return Poll::Ready(Ok(false));
        }
        // Flushes before the chunk reader runs: a piece that it has announced must be consumed at once.
        if to.pending() >= GATHER {
            ready!(to.poll_flush(cx)).map_err(BodyError::Sink)?;
        }
        let here = from.input.bytes();
        let taken = match &mut self.source {
            Source::Chunked(reader) => match reader.next(here)? {
                Piece::More => return Poll::Ready(Ok(false)),
                Piece::Framing(length) => {
                    from.input.consume(length);
                    return Poll::Ready(Ok(true));
                }
                Piece::End(length) => {
                    let trailers = if self.trailers { Trailers::Http1(&here[..length]) } else { Trailers::None };
                    self.source = Source::Ended;
                    self.finish(trailers, to);
                    from.input.consume(length);
                    return Poll::Ready(Ok(true));
                }
                Piece::Data(length) => {
                    self.append(&here[..length], to);
                    length
                }
            },
            Source::Exact(left) => {
                let length = usize::try_from(*left).map_or(here.len(), |left| left.min(here.len()));
                let taken = ready!(self.poll_put(cx, &here[..length], to))?;
                self.exact_taken(taken);
                taken
            }
            Source::UntilClose => ready!(self.poll_put(cx, here, to))?,
            Source::Ended => return Poll::Ready(Ok(false)),
        };
        from.input.consume(taken);
        self.moved += taken as u64;
        Poll::Ready(Ok(true))
    }

    /// Counts bytes of a body with a known length.
    fn exact_taken(&mut self, taken: usize) {
        if let Source::Exact(left) = &mut self.source {
            *left -= taken as u64;
            if *left == 0 {
                self.source = Source::Ended;
            }
        }
    }

    /// Writes `data`: large pieces straight from the read buffer, small ones behind the bytes
    /// already buffered.
    fn poll_put(&mut self, cx: &mut Context<'_>, data: &[u8], to: &mut Conn) -> Poll<Result<usize, BodyError>> {
        if data.len() > GATHER && self.framing != Length::Chunked && self.replay.is_none() {
            return to.poll_write_through(cx, data).map_err(BodyError::Sink);
        }
        self.append(data, to);
        Poll::Ready(Ok(data.len()))
    }

    fn append(&mut self, data: &[u8], to: &mut Conn) {
        if self.framing == Length::Chunked {
            write_chunk(data, to.out());
        } else {
            to.out().extend_from_slice(data);
        }
        if let Some(replay) = &mut self.replay {
            if replay.data.len() + data.len() > MAX_REPLAY {
                self.replay = None;
            } else {
                replay.data.extend_from_slice(data);
            }
        }
    }

    /// Writes the end of the body.
    fn finish(&mut self, trailers: Trailers<&[u8]>, to: &mut Conn) {
        if let Some(replay) = &mut self.replay {
            replay.trailers = trailers.to_owned();
        }
        trailers.write(self.framing, to);
    }

    /// Handles the close of the source: the end of some bodies, an error in others.
    fn source_closed(&mut self, from: &mut Conn, to: &mut Conn) -> Result<(), BodyError> {
        if !matches!(self.source, Source::UntilClose) {
            return Err(BodyError::Source(None));
        }
        self.source = Source::Ended;
        let trailers = from.stream.take_trailers().filter(|_| self.trailers);
        self.finish(trailers.map_or(Trailers::None, Trailers::Http2), to);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::wire::Stream;

    async fn pair() -> (Conn, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Conn::new(Stream::plain(listener.accept().await.unwrap().0)), peer)
    }

    /// Sends `sent`, framed as `from`, through a body framed as `to`; returns the received bytes,
    /// and those left for the next message.
    async fn moved(from: Length, to: Length, sent: &[u8]) -> (Result<(), BodyError>, Vec<u8>, Vec<u8>) {
        let ((mut source, mut sender), (mut sink, mut receiver)) = (pair().await, pair().await);
        let sent = sent.to_vec();
        let sending = tokio::spawn(async move {
            for piece in sent.chunks(7001) {
                sender.write_all(piece).await.unwrap();
            }
        });
        let receiving = tokio::spawn(async move {
            let mut all = Vec::new();
            receiver.read_to_end(&mut all).await.unwrap();
            all
        });
        let mut body = Body::new(from, to);
        let end = poll_fn(|cx| body.poll_move(cx, &mut source, &mut sink)).await;
        drop(sink);
        sending.await.unwrap();
        (end, receiving.await.unwrap(), source.input.bytes().to_vec())
    }

    #[tokio::test]
    async fn a_body_arrives_whole_under_every_framing() {
        let large: Vec<u8> = (0..100_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let next = [&large[..], b"next"].concat();
        let (end, arrived, left) = moved(Length::Exact(100_000), Length::Exact(100_000), &next).await;
        assert!(end.is_ok() && arrived == large && left.starts_with(b"n"));
        let (end, arrived, _) = moved(Length::UntilClose, Length::UntilClose, &large).await;
        assert!(end.is_ok() && arrived == large);
        let (end, chunked, _) = moved(Length::UntilClose, Length::Chunked, &large).await;
        assert!(end.is_ok() && chunked.len() > large.len() && chunked.ends_with(b"0\r\n\r\n"));
        let (end, again, left) = moved(Length::Chunked, Length::Chunked, &[&chunked[..], b"n"].concat()).await;
        assert!(end.is_ok() && again.ends_with(b"0\r\n\r\n") && left == b"n");
        let (end, arrived, _) = moved(Length::Chunked, Length::UntilClose, &again).await;
        assert!(end.is_ok() && arrived == large);
    }

    #[tokio::test]
    async fn trailers_are_passed_on() {
        let sent = b"1\r\na\r\n0\r\nX: y\r\n\r\n";
        assert_eq!(moved(Length::Chunked, Length::Chunked, sent).await.1, sent);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_an_error_and_has_no_clean_end() {
        let (end, _, _) = moved(Length::Exact(10), Length::Exact(10), b"short").await;
        assert!(matches!(end, Err(BodyError::Source(None))));
        let (end, arrived, _) = moved(Length::Chunked, Length::Chunked, b"5\r\nab").await;
        assert!(matches!(end, Err(BodyError::Source(None))) && !arrived.ends_with(b"0\r\n\r\n"));
    }

    #[tokio::test]
    async fn a_receiver_that_does_not_read_holds_the_sender_back() {
        let ((mut source, mut sender), (mut sink, receiver)) = (pair().await, pair().await);
        let writing = tokio::spawn(async move {
            let mut sent = 0_usize;
            while sent < 64 << 20
                && tokio::time::timeout(std::time::Duration::from_millis(500), sender.write_all(&[0; 65536]))
                    .await
                    .is_ok()
            {
                sent += 65536;
            }
            sent
        });
        let mut body = Body::new(Length::UntilClose, Length::UntilClose).without_trailers();
        let mut writing = std::pin::pin!(writing);
        let sent = tokio::select! {
            _ = poll_fn(|cx| body.poll_move(cx, &mut source, &mut sink)) => panic!("the receiver never read"),
            sent = &mut writing => sent.unwrap(),
        };
        assert!(sent < 64 << 20, "{sent} bytes were taken for a receiver that reads none");
        assert!(source.input.bytes().len() <= MAX_REPLAY && sink.pending() <= MAX_REPLAY);
        drop(receiver);
    }

    #[tokio::test]
    async fn a_small_body_is_kept_as_it_was_written_and_a_large_one_is_not() {
        for (size, kept) in [(10, true), (MAX_REPLAY, true), (MAX_REPLAY + 1, false)] {
            let ((mut source, mut sender), (mut sink, mut receiver)) = (pair().await, pair().await);
            let sent = vec![b'x'; size];
            let copy = sent.clone();
            tokio::spawn(async move { sender.write_all(&copy).await.unwrap() });
            tokio::spawn(async move { tokio::io::copy(&mut receiver, &mut tokio::io::sink()).await });
            let length = Length::Exact(size as u64);
            let mut body = Body::new(length, length).keep();
            poll_fn(|cx| body.poll_move(cx, &mut source, &mut sink)).await.unwrap();
            assert_eq!(body.take_replay().map(|replay| replay.data), kept.then_some(sent), "{size}");
        }
    }
}

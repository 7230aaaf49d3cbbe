//! HTTP/2 heads and trailers of a message on a stream; they are not among its bytes.

use std::io;

use http::{HeaderMap, Request, Response};

use super::{Stream, Transport};

impl Stream {
    /// Sets the response head, sent with the next write. Only for a caller's stream.
    pub fn set_response(&mut self, head: Response<()>) {
        if let Transport::Caller(stream) = &mut self.transport {
            stream.set_head(Some(head));
        }
    }

    /// Sets the request head, sent with the next write. Only for a stream to an origin.
    pub fn set_request(&mut self, head: Request<()>) {
        if let Transport::Origin(stream) = &mut self.transport {
            stream.set_head(Some(head));
        }
    }

    /// Makes a caller's stream the tunnel of a CONNECT (RFC 9113 §8.5): its bytes are those of another connection, such as
    /// messages of HTTP/1. The head of its response must have been sent. No effect on other streams, which are that
    /// already.
    pub fn become_tunnel(&mut self) {
        if let Transport::Caller(stream) = &mut self.transport {
            stream.become_tunnel();
        }
    }

    /// Discards a head that was not sent.
    pub fn discard_head(&mut self) {
        match &mut self.transport {
            Transport::Caller(stream) => stream.set_head(None),
            Transport::Origin(stream) => stream.set_head(None),
            Transport::Plain(_) | Transport::Tls(_) | Transport::Closed => {}
        }
    }

    /// True if a head waits to be sent.
    pub fn has_head(&self) -> bool {
        match &self.transport {
            Transport::Caller(stream) => stream.has_head(),
            Transport::Origin(stream) => stream.has_head(),
            Transport::Plain(_) | Transport::Tls(_) | Transport::Closed => false,
        }
    }

    /// True if a head was sent, or can no longer be taken back.
    pub fn is_head_sent(&self) -> bool {
        match &self.transport {
            Transport::Caller(stream) => stream.is_head_sent(),
            Transport::Origin(stream) => stream.is_head_sent(),
            Transport::Plain(_) | Transport::Tls(_) | Transport::Closed => false,
        }
    }

    /// Sends an interim (1xx) response at once. Only for a caller's stream.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn send_interim(&mut self, head: Response<()>) -> io::Result<()> {
        match &mut self.transport {
            Transport::Caller(stream) => stream.send_interim(head),
            Transport::Origin(_) | Transport::Plain(_) | Transport::Tls(_) | Transport::Closed => Ok(()),
        }
    }

    /// Takes the received trailers, available at the end of the content.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        match &mut self.transport {
            Transport::Caller(stream) => stream.content().take_trailers(),
            Transport::Origin(stream) => stream.content().take_trailers(),
            Transport::Plain(_) | Transport::Tls(_) | Transport::Closed => None,
        }
    }

    /// Sets the trailers, sent after the content.
    pub fn set_trailers(&mut self, trailers: HeaderMap) {
        match &mut self.transport {
            Transport::Caller(stream) => stream.content().set_trailers(trailers),
            Transport::Origin(stream) => stream.content().set_trailers(trailers),
            Transport::Plain(_) | Transport::Tls(_) | Transport::Closed => {}
        }
    }
}

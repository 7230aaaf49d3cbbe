//! Heads and trailers of a message on a stream: in HTTP/2 they are not among its bytes.

use std::io;

use http::{HeaderMap, Request, Response};

use super::{Stream, Transport};

impl Stream {
    /// The response that is to be sent before what is written next. Only on a caller's stream.
    pub fn set_response(&mut self, head: Response<()>) {
        if let Transport::Caller(stream) = &mut self.transport {
            stream.set_head(Some(head));
        }
    }

    /// The request that is to be sent before what is written next. Only on a stream to an origin.
    pub fn set_request(&mut self, head: Request<()>) {
        if let Transport::Origin(stream) = &mut self.transport {
            stream.set_head(Some(head));
        }
    }

    /// Forgets a head that was not sent.
    pub fn discard_head(&mut self) {
        match &mut self.transport {
            Transport::Caller(stream) => stream.set_head(None),
            Transport::Origin(stream) => stream.set_head(None),
            Transport::Plain(_) | Transport::Tls(_) | Transport::Closed => {}
        }
    }

    /// Whether a head waits to be sent.
    pub fn has_head(&self) -> bool {
        match &self.transport {
            Transport::Caller(stream) => stream.has_head(),
            Transport::Origin(stream) => stream.has_head(),
            Transport::Plain(_) | Transport::Tls(_) | Transport::Closed => false,
        }
    }

    /// Whether a head has left.
    pub fn is_head_sent(&self) -> bool {
        match &self.transport {
            Transport::Caller(stream) => stream.is_head_sent(),
            Transport::Origin(stream) => stream.is_head_sent(),
            Transport::Plain(_) | Transport::Tls(_) | Transport::Closed => false,
        }
    }

    /// Sends an interim response at once. Only on a caller's stream.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn send_interim(&mut self, head: Response<()>) -> io::Result<()> {
        match &mut self.transport {
            Transport::Caller(stream) => stream.send_interim(head),
            Transport::Origin(_) | Transport::Plain(_) | Transport::Tls(_) | Transport::Closed => Ok(()),
        }
    }

    /// What came after the content that was read to its end.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        match &mut self.transport {
            Transport::Caller(stream) => stream.content().take_trailers(),
            Transport::Origin(stream) => stream.content().take_trailers(),
            Transport::Plain(_) | Transport::Tls(_) | Transport::Closed => None,
        }
    }

    /// What is to be sent after the content.
    pub fn set_trailers(&mut self, trailers: HeaderMap) {
        match &mut self.transport {
            Transport::Caller(stream) => stream.content().set_trailers(trailers),
            Transport::Origin(stream) => stream.content().set_trailers(trailers),
            Transport::Plain(_) | Transport::Tls(_) | Transport::Closed => {}
        }
    }
}

//! Hyper's HTTP/1 server over bytes in memory: the requests that it finds in them.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};

use crate::wire::field::MAX_ADDED;
use crate::wire::head::MAX_FIELDS;

/// Most times that the connection is polled; it never waits for anything but its input.
const MAX_POLLS: usize = 10_000;

/// Request as hyper has read it.
#[derive(Clone, PartialEq, Debug)]
pub struct SeenRequest {
    /// Method.
    pub method: String,
    /// Target, as hyper writes it.
    pub target: String,
    /// Names in lower case and values, sorted by name; the values of one name keep their order.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// Body; `None` if it did not reach its end.
    pub body: Option<Vec<u8>>,
}

impl SeenRequest {
    /// Sorts fields by name; those of one name keep their order.
    pub fn sorted(mut fields: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
        fields.sort_by(|(one, _), (other, _)| one.cmp(other));
        fields
    }
}

/// Requests that hyper's server finds in the bytes of a connection.
pub fn requests_seen(bytes: &[u8]) -> Vec<SeenRequest> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.ok().map(|body| body.to_bytes().to_vec());
            let fields = head.headers.iter().map(|(name, value)| (name.as_str().into(), value.as_bytes().to_vec()));
            seen.borrow_mut().push(SeenRequest {
                method: head.method.as_str().to_owned(),
                target: head.uri.to_string(),
                fields: SeenRequest::sorted(fields.collect()),
                body,
            });
            Ok::<_, Infallible>(Response::new(String::new()))
        }
    });
    let mut builder = http1::Builder::new();
    // As many fields as a head of ours may have.
    builder.max_headers(MAX_FIELDS + MAX_ADDED).half_close(true);
    let mut connection = Box::pin(builder.serve_connection(ByteSource { bytes: bytes.to_vec(), at: 0 }, service));
    let mut cx = Context::from_waker(Waker::noop());
    let ended = (0..MAX_POLLS).any(|_| connection.as_mut().poll(&mut cx).is_ready());
    assert!(ended, "hyper's connection does not end: {}", bytes.escape_ascii());
    drop(connection);
    seen.take()
}

/// Connection whose peer has sent these bytes and closed its side; takes all that is written.
struct ByteSource {
    bytes: Vec<u8>,
    /// Number of bytes that were read.
    at: usize,
}

impl hyper::rt::Read for ByteSource {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        mut into: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let count = into.remaining().min(self.bytes.len() - self.at);
        into.put_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for ByteSource {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

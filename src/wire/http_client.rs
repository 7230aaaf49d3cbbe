//! HTTP/1.1 client for the gateway's own requests: trace export, `lockgate top` and `lockgate
//! exec`.
//!
//! One request per connection, by hyper. Requests of callers never come here: they need a permit
//! and [`super::conn`], which tells when a head has left.
//!
//! Errors have two kinds only, a broken connection and a peer that does not speak HTTP. Connecting,
//! TLS and timeouts are the caller's: the stream is given, and dropping the future gives it up.

use std::error::Error as _;
use std::io;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// The most bytes of a response head. Servers that these requests are for send some hundred.
const MAX_RESPONSE_HEAD: usize = 16 << 10;

/// Reason for a missing response.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer closed or reset the connection before the response was complete, or time was up.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// The peer sent bytes that are no HTTP/1.x response.
    #[error("the answer is not HTTP")]
    NotHttp(#[source] hyper::Error),
}

/// Sends a request on a connection of its own and reads the response, of its content the first
/// `max_content` bytes.
///
/// The target is written as it stands in the request: a path, or a whole URI for a proxy. `Host` is
/// the caller's to set; `Content-Length` is added. It has no timeout of its own.
///
/// # Errors
/// See [`Error`]; a status of any kind is none.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn send<S>(stream: S, request: Request<Full<Bytes>>, max_content: usize) -> Result<Response<Bytes>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut client = http1::Builder::new();
    client.max_buf_size(MAX_RESPONSE_HEAD);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await.map_err(classify)?;
    let exchange = async {
        let (head, content) = sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(head, read(content, max_content).await?))
    };
    let (mut exchange, mut connection) = (std::pin::pin!(exchange), Box::pin(connection));
    let response = tokio::select! {
        response = &mut exchange => response,
        // It may end first. What it has read can still be taken; a request that it has not taken fails once it is dropped, for
        // the connection's own reason.
        ended = &mut connection => {
            drop(connection);
            exchange.await.map_err(|error| ended.err().unwrap_or(error))
        }
    };
    response.map_err(classify)
}

/// Reads content until its end, or until there are `max` bytes of it.
///
/// Content behind `max` is neither read nor discarded: the connection is closed with the future of
/// [`send`]. Trailer fields are skipped.
async fn read(mut content: Incoming, max: usize) -> Result<Bytes, hyper::Error> {
    let mut read = BytesMut::new();
    while read.len() < max
        && let Some(frame) = content.frame().await
    {
        // Trailer fields are of no use here.
        if let Ok(data) = frame?.into_data() {
            read.extend_from_slice(&data[..data.len().min(max - read.len())]);
        }
    }
    Ok(read.freeze())
}

/// Tells a broken connection from bytes that are not HTTP. The cause may lie inside several layers
/// of hyper's errors.
///
/// An `io::Error` anywhere in the chain of sources wins: its errno, or else its kind, becomes
/// [`Error::Broken`]. A message that ends early is `Broken` with `UnexpectedEof`. All the rest,
/// such as a status line that begins with `SSH-2.0`, is [`Error::NotHttp`].
fn classify(error: hyper::Error) -> Error {
    let mut innermost = &error;
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return Error::Broken(io.raw_os_error().map_or(io.kind().into(), io::Error::from_raw_os_error));
        }
        innermost = inner.downcast_ref().unwrap_or(innermost);
        source = inner.source();
    }
    match innermost.is_incomplete_message() || innermost.is_canceled() || innermost.is_closed() {
        true => Error::Broken(io::ErrorKind::UnexpectedEof.into()),
        false => Error::NotHttp(error),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// The result of a request to a peer that answers with these bytes and closes.
    async fn answered(with: &'static [u8], max_content: usize) -> (String, Result<Response<Bytes>, Error>) {
        let (near, mut far) = duplex(1 << 16);
        let peer = async move {
            let mut request = [0; 1024];
            let length = far.read(&mut request).await.unwrap();
            far.write_all(with).await.unwrap();
            String::from_utf8(request[..length].to_vec()).unwrap()
        };
        let request = Request::post("/a?b").header("host", "h:1").body(Full::from("content")).unwrap();
        tokio::join!(peer, send(near, request, max_content))
    }

    #[tokio::test]
    async fn a_request_is_written_and_its_response_read() {
        for response in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"[..],
            b"HTTP/1.0 200 OK\r\n\r\nbody",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        ] {
            let (request, response) = answered(response, 100).await;
            assert_eq!(request, "POST /a?b HTTP/1.1\r\nhost: h:1\r\ncontent-length: 7\r\n\r\ncontent");
            assert_eq!(response.unwrap().into_body(), "body");
        }
    }

    #[tokio::test]
    async fn no_more_content_is_read_than_asked_for() {
        let (_, response) = answered(b"HTTP/1.1 200 OK\r\n\r\nlong content", 4).await;
        assert_eq!(response.unwrap().into_body(), "long");
    }

    #[tokio::test]
    async fn a_peer_that_hangs_up_is_told_from_one_that_does_not_speak_http() {
        for cut in [&b""[..], b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbo"] {
            let (_, response) = answered(cut, 100).await;
            assert!(matches!(response, Err(Error::Broken(_))), "{response:?}");
        }
        for other in [&b"SSH-2.0-OpenSSH\r\n"[..], b"220 ready\r\n", b"\x15\x03\x01\x00\x02\x02\x32"] {
            let (_, response) = answered(other, 100).await;
            assert!(matches!(response, Err(Error::NotHttp(_))), "{response:?}");
        }
    }

    #[tokio::test]
    async fn a_peer_that_has_gone_before_the_request_is_a_broken_connection() {
        for _ in 0..20 {
            let (near, far) = duplex(1 << 16);
            drop(far);
            let response = send(near, Request::new(Full::default()), 100).await;
            assert!(matches!(response, Err(Error::Broken(_))), "{response:?}");
        }
    }

    #[tokio::test]
    async fn a_peer_that_speaks_first_does_not_speak_http() {
        let (near, mut far) = duplex(1 << 16);
        far.write_all(b"SSH-2.0-OpenSSH\r\n").await.unwrap();
        let response = send(near, Request::new(Full::default()), 100).await;
        assert!(matches!(response, Err(Error::NotHttp(_))), "{response:?}");
    }
}

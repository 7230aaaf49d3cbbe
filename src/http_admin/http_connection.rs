//! One connection of the HTTP server: TLS if the listener has it, then HTTP/1.1 or HTTP/2 until its end.
//!
//! On a listener with TLS the protocol is agreed by ALPN, as on `[listen] tls`. A first byte that begins no TLS record is
//! answered in plain text (400), for clients with `http://` in their URL. Without TLS, HTTP/1 alone is served.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::header::{CONNECTION, HOST};
use axum::http::{HeaderValue, StatusCode, Version};
use axum::middleware::{Next, from_fn};
use axum::{Extension, Router};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::lingering_stream::LingeringStream;
use super::problem_response::problem;
use crate::tls::accept::{FIRST_BYTE, IncomingHandshake};

/// Timeout of a TLS handshake, of a request's head, of its content, and of the last responses at shutdown: enough for
/// a slow link, as requests are short. A connection of HTTP/2 without a new request for this long is told to close.
pub(super) const READ_TIMEOUT: Duration = if cfg!(test) { Duration::from_secs(3) } else { Duration::from_secs(10) };
/// Time for the first request of a connection that was accepted before the shutdown began: some
/// round trips. Another process may wait for this listener to end.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Time after which a connection of HTTP/2 is asked for a sign of life, and within which it must answer.
const PING_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum number of requests at one time on a connection of HTTP/2. A dashboard needs ten; each may have 64 KiB of
/// content in memory.
const MAX_STREAMS: u32 = 32;

/// Maximum length of a head of HTTP/1, in bytes: that of heads to the proxy. Browsers send the cookies of all ports of
/// the address. Contents and responses may be longer.
const MAX_HEAD: usize = 64 << 10;

/// Protection of the connection that a request came by: an extension of each request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransportSecurity {
    /// Plain HTTP.
    Plain,
    /// TLS, under the certificate of the listener.
    Tls,
}

/// HTTP server of single connections.
#[derive(Clone)]
pub(super) struct HttpServer {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl HttpServer {
    pub(super) fn new() -> HttpServer {
        let mut http1 = http1::Builder::new();
        http1.timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT).max_buf_size(MAX_HEAD);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
        http2.keep_alive_interval(PING_TIMEOUT).keep_alive_timeout(PING_TIMEOUT);
        HttpServer { http1, http2 }
    }

    /// Serves one connection. Once `shutdown` has lost its sender, the connection closes after its next
    /// response, but not before its first one: hyper's graceful shutdown alone closes a connection
    /// before its first request is read.
    ///
    /// Returns when the connection is closed.
    pub(super) async fn serve(
        &self,
        stream: TcpStream,
        tls: Option<Arc<ServerConfig>>,
        router: Router,
        shutdown: watch::Receiver<()>,
    ) {
        let Some(config) = tls else {
            return self.serve_http1(stream, router.layer(Extension(TransportSecurity::Plain)), shutdown).await;
        };
        let accepting = timeout(READ_TIMEOUT, accept(stream, config));
        let accepted = tokio::select! {
            accepted = accepting => accepted,
            () = end_of_patience(shutdown.clone()) => return,
        };
        let router = router.layer(Extension(TransportSecurity::Tls));
        match accepted {
            Ok(Ok(Accepted::Http2(stream))) => self.serve_http2(stream, router, shutdown).await,
            Ok(Ok(Accepted::Http1(stream))) => self.serve_http1(stream, router, shutdown).await,
            Ok(Ok(Accepted::Plain(stream))) => self.serve_http1(stream, plain_router(), shutdown).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_elapsed) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    async fn serve_http1<S>(&self, stream: S, router: Router, shutdown: watch::Receiver<()>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (router, requests) = count_requests(router, shutdown.clone());
        let connection = self.http1.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        drive(connection, end_of_service(requests, shutdown)).await;
    }

    /// Also ends a connection that is idle, which HTTP/1 does by its timeout of a head. One that never had a request is
    /// dropped: its peer may not even have sent the preface, without which there is no graceful end.
    async fn serve_http2(&self, stream: TlsStream<TcpStream>, router: Router, shutdown: watch::Receiver<()>) {
        let (router, requests) = count_requests(router, shutdown.clone());
        let stream = TokioIo::new(LingeringStream::new(stream));
        let connection = self.http2.serve_connection(stream, TowerToHyperService::new(router));
        let mut first = requests.clone();
        let time_to_close = async {
            tokio::select! {
                () = idle(requests.clone()) => {}
                () = end_of_service(requests, shutdown) => {}
            }
        };
        tokio::select! {
            () = drive(connection, time_to_close) => {}
            () = silence(&mut first) => {}
        }
    }
}

/// A connection whose first bytes were read.
enum Accepted {
    Http1(TlsStream<TcpStream>),
    Http2(TlsStream<TcpStream>),
    /// The client speaks no TLS; nothing was consumed.
    Plain(TcpStream),
}

/// Performs the TLS handshake, unless the client speaks plain text.
async fn accept(stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<Accepted> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first[0] != FIRST_BYTE {
        return Ok(Accepted::Plain(stream));
    }
    let stream = IncomingHandshake::read(stream).await?.accept(config).await?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(if is_http2 { Accepted::Http2(stream) } else { Accepted::Http1(stream) })
}

/// Answers every request of a client that speaks plain HTTP to a listener with TLS, and closes its connection.
fn plain_router() -> Router {
    let not_tls = || async {
        let mut answer = problem(StatusCode::BAD_REQUEST, "this address speaks TLS: write https:// in the URL");
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        answer
    };
    Router::new().fallback(not_tls)
}

/// Counts the requests of a connection, and prepares them and their responses for the handlers. Once `shutdown` has lost
/// its sender, responses of HTTP/1 announce the end of the connection; HTTP/2 does so by GOAWAY.
fn count_requests(router: Router, shutdown: watch::Receiver<()>) -> (Router, watch::Receiver<u64>) {
    let (count, requests) = watch::channel(0);
    let router = router.layer(from_fn(move |mut request: Request, next: Next| {
        count.send_modify(|count| *count += 1);
        name_host(&mut request);
        let is_last = request.version() < Version::HTTP_2 && shutdown.has_changed().is_err();
        async move {
            let mut answer = next.run(request).await;
            if is_last {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            answer
        }
    }));
    (router, requests)
}

/// Sets Host of a request of HTTP/2, which names its host by `:authority` (RFC 9113 §8.3.1): checks and handlers read
/// Host alone.
fn name_host(request: &mut Request) {
    let Some(authority) = request.uri().authority().filter(|_| request.version() == Version::HTTP_2) else { return };
    if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
        request.headers_mut().insert(HOST, host);
    }
}

/// Serves a connection until it is closed; asks it to close once `time_to_close` has ended.
async fn drive<C: GracefulConnection>(connection: C, time_to_close: impl Future<Output = ()>) {
    let mut connection = pin!(connection);
    // An error concerns this connection alone, and the client has seen it.
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = time_to_close => connection.as_mut().graceful_shutdown(),
    }
    connection.await.ok();
}

/// Ends when a connection must close for the shutdown: after its first request, or some time without one.
async fn end_of_service(mut requests: watch::Receiver<u64>, mut shutdown: watch::Receiver<()>) {
    // Ends with an error when the sender is dropped; no value is ever sent.
    shutdown.changed().await.ok();
    let _elapsed = timeout(FIRST_REQUEST_TIMEOUT, requests.wait_for(|count| *count > 0)).await;
}

/// Ends some time after the shutdown has begun.
async fn end_of_patience(mut shutdown: watch::Receiver<()>) {
    shutdown.changed().await.ok();
    let _elapsed = timeout(FIRST_REQUEST_TIMEOUT, std::future::pending::<()>()).await;
}

/// Ends when no request has come for [`READ_TIMEOUT`].
async fn idle(mut requests: watch::Receiver<u64>) {
    // An error means that the connection has ended.
    while let Ok(Ok(())) = timeout(READ_TIMEOUT, requests.changed()).await {}
}

/// Ends if no first request comes within [`READ_TIMEOUT`]; never, if one does.
async fn silence(requests: &mut watch::Receiver<u64>) {
    let has_request = matches!(timeout(READ_TIMEOUT, requests.wait_for(|count| *count > 0)).await, Ok(Ok(_)));
    if has_request {
        std::future::pending().await
    }
}

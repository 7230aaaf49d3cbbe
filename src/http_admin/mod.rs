//! RECEIVES whoever comes to a listener that is no proxy's: lets them in, few enough at one time, and knows what browsers
//! say of themselves.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{ConnectInfo, Request};
use axum::http::header::{AUTHORIZATION, CONNECTION, HOST, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::timeout;

use crate::gate::clock::Clock;
use crate::net::listen::Listener;
use crate::proxy::Problem;
use crate::proxy::password::Passwords;
use crate::proxy::refusal::Refusal;
use crate::wire::cross_site;

#[cfg(test)]
mod tests;

/// How long the head of a request may take, its content, and the last answers.
const READ_TIMEOUT: Duration = if cfg!(test) { Duration::from_secs(3) } else { Duration::from_secs(10) };
/// How long a connection that was accepted before the end, and on which nothing was requested yet, has for its first request: some
/// round trips. Another process may wait for the end of this listener.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a peer may leave unread what is sent to it; the kernel then ends the connection. As long as a page that is
/// suspended in a browser is still worth its permit.
const UNREAD_TIMEOUT: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(30) };
/// The most content that a request may have: a lock's wish or a limit's new rule is a line.
const MAX_CONTENT: usize = 64 << 10;

/// Lets visitors in, so many at one time, until `stop`. Each of them is answered once at least: a connection that was accepted
/// by then has [`FIRST_REQUEST_TIMEOUT`] for its first request. A connection from an address that is not `is_allowed` is stop before
/// a byte of it is read.
pub async fn serve(
    mut listener: Listener,
    router: Router,
    max_connections: usize,
    is_allowed: impl Fn(IpAddr) -> bool,
    stop: impl Future<Output = ()>,
) {
    let permits = Arc::new(Semaphore::new(max_connections));
    let (end, shutdown) = watch::channel(());
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT);
    let router = router.layer(from_fn(buffer_content));
    let mut stop = std::pin::pin!(stop);
    loop {
        // One who finds no permit waits at the listener, and takes no descriptor.
        let permit = tokio::select! {
            permit = Arc::clone(&permits).acquire_owned() => permit,
            () = &mut stop => break,
        };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        if !is_allowed(peer.ip()) {
            tracing::debug!(%peer, listener = %listener.local_addr(), "turned away, its address is not allowed");
            continue;
        }
        // A peer that reads nothing must not keep a permit (tcp(7): it holds for windows of zero too).
        SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD_TIMEOUT)).ok();
        let Ok(stream) = TcpStream::from_std(stream) else { continue };
        let (server, router, shutdown) = (server.clone(), router.clone(), shutdown.clone());
        tokio::spawn(async move {
            serve_connection(&server, stream, router.layer(Extension(ConnectInfo::<SocketAddr>(peer))), shutdown).await;
            drop(permit);
        });
    }
    drop((listener, shutdown, end));
    // Whoever would stay longer is another process's visitor by now.
    let all_closed = permits.acquire_many(u32::try_from(max_connections).unwrap_or(u32::MAX));
    let _elapsed = timeout(READ_TIMEOUT, all_closed).await;
}

/// Serves one connection. When `shutdown` has no sender any more it ends, but not before its first answer: hyper would close one
/// whose request has not been read yet.
async fn serve_connection(
    server: &http1::Builder,
    stream: TcpStream,
    router: Router,
    mut shutdown: watch::Receiver<()>,
) {
    let requested = Arc::new(Notify::new());
    let (notify_request, end) = (Arc::clone(&requested), shutdown.clone());
    let router = router.layer(from_fn(move |request: Request, next: Next| {
        notify_request.notify_one();
        let is_last = end.has_changed().is_err();
        async move {
            let mut answer = next.run(request).await;
            if is_last {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            answer
        }
    }));
    let mut connection =
        std::pin::pin!(server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let time_to_close = async {
        // An error is what is waited for: no value is ever sent.
        shutdown.changed().await.ok();
        let _elapsed = timeout(FIRST_REQUEST_TIMEOUT, requested.notified()).await;
    };
    // Whatever breaks is the visitor's connection.
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = time_to_close => connection.as_mut().graceful_shutdown(),
    }
    connection.await.ok();
}

/// Reads the content of a request before anything is done for it, within its time and bound.
async fn buffer_content(request: Request, next: Next) -> Response {
    let (head, content) = request.into_parts();
    match timeout(READ_TIMEOUT, to_bytes(content, MAX_CONTENT)).await {
        Ok(Ok(content)) => next.run(Request::from_parts(head, content.into())).await,
        Ok(Err(_)) => problem(StatusCode::PAYLOAD_TOO_LARGE, "the content is broken, or longer than 64 KiB"),
        Err(_) => problem(StatusCode::REQUEST_TIMEOUT, "the content did not come in time"),
    }
}

/// Whether these are the credentials of a user; if not, the answer.
///
/// # Errors
/// 401, or 429 and 503 where nobody looks at them now.
pub async fn check_password(
    passwords: &Passwords,
    peer: IpAddr,
    headers: &HeaderMap,
    clock: Clock,
) -> Result<(), impl IntoResponse + use<>> {
    let field = headers.get(AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    match passwords.check(peer, field, clock).await {
        Ok(_) => Ok(()),
        Err(refusal @ (Refusal::TooManyTries { .. } | Refusal::Exhausted)) => {
            let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            Err(problem(status, &refusal.detail()))
        }
        Err(_) => Err(unauthorized()),
    }
}

/// A name and its password are needed.
pub fn unauthorized() -> Response {
    let ask = [(WWW_AUTHENTICATE, "Basic realm=\"lockgate\", charset=\"UTF-8\"")];
    (ask, problem(StatusCode::UNAUTHORIZED, "a name and its password are needed")).into_response()
}

/// The host that the visitor requested for, without its port.
fn host(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(HOST)?.to_str().ok()?;
    match host.strip_prefix('[') {
        Some(six) => six.split_once(']').map(|(host, _)| host),
        None => Some(host.rsplit_once(':').map_or(host, |(host, _)| host)),
    }
}

/// Whether a visitor that was requested for by this host may be a web page with a name of its own (DNS rebinding).
pub fn may_be_dns_rebinding(headers: &HeaderMap) -> bool {
    host(headers).is_none_or(cross_site::may_be_rebound)
}

/// Whether a page of another site has a browser ask.
pub fn is_cross_site(headers: &HeaderMap) -> bool {
    let value = |name: &str| headers.get(name).map(|value| value.as_bytes());
    cross_site::is_cross_site(value("sec-fetch-site"), value("origin"), value("host"))
}

/// A refusal as a problem document (RFC 9457).
pub fn problem(status: StatusCode, detail: &str) -> Response {
    let problem = Problem::of_status(status.as_u16(), status.canonical_reason().unwrap_or("Error"), detail);
    let json = [("content-type", "application/problem+json")];
    (status, json, problem.to_string()).into_response()
}

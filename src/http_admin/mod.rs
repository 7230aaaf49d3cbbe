//! HTTP server for the admin and lock listeners: connection cap, timeouts, password check,
//! cross-site checks.
//!
//! It serves an axum router by hyper, not by [`crate::wire`]: these listeners carry little traffic,
//! and need routing rather than speed. It knows nothing of what the router does.
//!
//! Order for each connection: the permit, the accept, the address, then for each request its head
//! within the timeout, its content within length and timeout, and the handler. HTTP/1 alone is
//! served, without TLS.

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

use crate::auth::{LoginError, Passwords};
use crate::gate::clock::Clock;
use crate::net::listen::Listener;
use crate::proxy::Problem;
use crate::proxy::refusal::Refusal;
use crate::wire::cross_site;

/// Timeout of a request's head, of its content, and of the last responses at shutdown: enough for a
/// slow link, as requests are short.
const READ_TIMEOUT: Duration = if cfg!(test) { Duration::from_secs(3) } else { Duration::from_secs(10) };
/// Time for the first request of a connection that was accepted before the shutdown began: some
/// round trips. Another process may wait for this listener to end.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Time after which the kernel closes a connection on which the peer acknowledges no data
/// (TCP_USER_TIMEOUT). Long enough for a dashboard in a browser tab that is suspended for a moment.
const UNREAD_TIMEOUT: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(30) };
/// Maximum length of a request's content, in bytes; a lock request or a limit's new rule takes one
/// line.
const MAX_CONTENT: usize = 64 << 10;

/// Serves `router` on a listener, with at most `max_connections` at one time, until `stop` ends.
///
/// A connection beyond the maximum waits in the kernel's queue. One from an address for which
/// `is_allowed` is false is closed before a byte of it is read. After `stop` every accepted
/// connection still gets one response: one without a request so far has two seconds for it. Returns
/// when all connections have ended, at the latest after the read timeout.
///
/// Handlers find the peer's address in `ConnectInfo<SocketAddr>`.
///
/// # Cancel safety
/// Not cancel safe: dropping it closes the listener, and leaves connections to their tasks.
pub async fn serve(
    mut listener: Listener,
    router: Router,
    max_connections: usize,
    is_allowed: impl Fn(IpAddr) -> bool,
    stop: impl Future<Output = ()>,
) {
    let permits = Arc::new(Semaphore::new(max_connections));
    let (shutdown_sender, shutdown) = watch::channel(());
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT);
    let router = router.layer(from_fn(buffer_content));
    let mut stop = std::pin::pin!(stop);
    loop {
        // The permit comes before the accept: a connection that waits for it stays in the kernel's queue and takes no
        // descriptor.
        let permit = tokio::select! {
            permit = Arc::clone(&permits).acquire_owned() => permit,
            () = &mut stop => break,
        };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        if !is_allowed(peer.ip()) {
            tracing::debug!(%peer, listener = %listener.local_addr(), "connection closed, its address is not allowed");
            continue;
        }
        // A peer that reads nothing must not keep its permit. (The timeout covers zero windows, too: tcp(7).)
        SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD_TIMEOUT)).ok();
        let Ok(stream) = TcpStream::from_std(stream) else { continue };
        let (server, router, shutdown) = (server.clone(), router.clone(), shutdown.clone());
        tokio::spawn(async move {
            serve_connection(&server, stream, router.layer(Extension(ConnectInfo::<SocketAddr>(peer))), shutdown).await;
            drop(permit);
        });
    }
    drop((listener, shutdown, shutdown_sender));
    // Connections that take longer are dropped; a process that has taken over accepts new ones.
    let all_closed = permits.acquire_many(u32::try_from(max_connections).unwrap_or(u32::MAX));
    let _elapsed = timeout(READ_TIMEOUT, all_closed).await;
}

/// Serves one connection. Once `shutdown` has lost its sender, the connection closes after its next
/// response, but not before its first one: hyper's graceful shutdown alone closes a connection
/// before its first request is read.
///
/// Returns when the connection is closed.
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
        // Ends with an error when the sender is dropped; no value is ever sent.
        shutdown.changed().await.ok();
        let _elapsed = timeout(FIRST_REQUEST_TIMEOUT, requested.notified()).await;
    };
    // An error concerns this connection alone, and the client has seen it.
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = time_to_close => connection.as_mut().graceful_shutdown(),
    }
    connection.await.ok();
}

/// Middleware: reads the content of a request before its handler runs, within the time and length
/// allowed. 408 or 413 otherwise.
///
/// Handlers thus get a content that is complete, and never wait for a slow client.
async fn buffer_content(request: Request, next: Next) -> Response {
    let (head, content) = request.into_parts();
    match timeout(READ_TIMEOUT, to_bytes(content, MAX_CONTENT)).await {
        Ok(Ok(content)) => next.run(Request::from_parts(head, content.into())).await,
        Ok(Err(_)) => problem(StatusCode::PAYLOAD_TOO_LARGE, "the content is broken, or longer than 64 KiB"),
        Err(_) => problem(StatusCode::REQUEST_TIMEOUT, "the content did not arrive in time"),
    }
}

/// Checks the Basic credentials of a request (RFC 7617).
///
/// The check of bcrypt takes some 50 ms of a thread; credentials that were right are remembered.
///
/// # Errors
/// The response: 401 for missing or wrong credentials; 429 after too many wrong ones from the
/// peer's address, and 503 if the gateway cannot check them now.
pub async fn check_password(
    passwords: &Passwords,
    peer: IpAddr,
    headers: &HeaderMap,
    clock: Clock,
) -> Result<(), impl IntoResponse + use<>> {
    let field = headers.get(AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    match passwords.check(peer, field, move || clock.now()).await {
        Ok(_) => Ok(()),
        Err(error @ (LoginError::TooManyFailures { .. } | LoginError::Overloaded)) => {
            let refusal = Refusal::from(error);
            let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            Err(problem(status, &refusal.detail()))
        }
        Err(LoginError::InvalidCredentials) => Err(unauthorized()),
    }
}

/// Response 401 that asks for Basic credentials (RFC 7617) in the realm `lockgate`, in UTF-8.
///
/// A browser shows its dialog for name and password.
pub fn unauthorized() -> Response {
    let ask = [(WWW_AUTHENTICATE, "Basic realm=\"lockgate\", charset=\"UTF-8\"")];
    (ask, problem(StatusCode::UNAUTHORIZED, "a name and its password are needed")).into_response()
}

/// The Host of a request without its port (RFC 9110 §7.2), and without brackets if it is an IPv6
/// address; `None` if there is none.
///
/// `127.0.0.1:8081` gives `127.0.0.1`, `[::1]:8081` gives `::1`.
fn host(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(HOST)?.to_str().ok()?;
    match host.strip_prefix('[') {
        Some(six) => six.split_once(']').map(|(host, _)| host),
        None => Some(host.rsplit_once(':').map_or(host, |(host, _)| host)),
    }
}

/// True if the Host is a name that its owner may have pointed to this listener (DNS rebinding):
/// anything but an IP address or `localhost`.
///
/// A request without Host is one, too.
pub fn may_be_dns_rebinding(headers: &HeaderMap) -> bool {
    host(headers).is_none_or(cross_site::may_be_rebound)
}

/// True if a page of another site made a browser send the request (CSRF).
///
/// Browsers mark requests with Sec-Fetch-Site (Fetch Metadata) or, if they are older, with Origin.
/// Other clients send neither, and pass.
pub fn is_cross_site(headers: &HeaderMap) -> bool {
    let value = |name: &str| headers.get(name).map(|value| value.as_bytes());
    cross_site::is_cross_site(value("sec-fetch-site"), value("origin"), value("host"))
}

/// Response with a problem document (RFC 9457) of this status. `detail`: one sentence for people,
/// which names the cause.
///
/// For instance `{"type":"about:blank","title":"Not Found","detail":"...","status":404}`.
pub fn problem(status: StatusCode, detail: &str) -> Response {
    let problem = Problem::of_status(status.as_u16(), status.canonical_reason().unwrap_or("Error"), detail);
    let json = [("content-type", "application/problem+json")];
    (status, json, problem.to_string()).into_response()
}

#[cfg(test)]
mod tests;

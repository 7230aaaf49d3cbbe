//! HTTP server for the admin and lock listeners: connection cap, timeouts, password check,
//! cross-site checks.
//!
//! It serves an axum router by hyper, not by [`crate::wire`]: these listeners carry little traffic,
//! and need routing rather than speed. It knows nothing of what the router does.
//!
//! Order for each connection: the permit, the accept, the address, TLS if the listener has it, then for
//! each request its head within the timeout, its content within length and timeout, and the handler.

mod http_connection;
mod lingering_stream;
mod problem_response;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{ConnectInfo, Request};
use axum::http::header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

pub use self::http_connection::TransportSecurity;
use self::http_connection::{HttpServer, READ_TIMEOUT};
pub use self::problem_response::problem;
use crate::auth::{LoginError, Passwords};
use crate::gate::clock::Clock;
use crate::net::listen::Listener;
use crate::proxy::refusal::Refusal;
use crate::tls::listener_tls::ListenerTls;
use crate::wire::cross_site;

/// Time after which the kernel closes a connection on which the peer acknowledges no data
/// (TCP_USER_TIMEOUT). Long enough for a dashboard in a browser tab that is suspended for a moment.
const UNREAD_TIMEOUT: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(30) };
/// Maximum length of a request's content, in bytes; a lock request or a limit's new rule takes one
/// line.
const MAX_CONTENT: usize = 64 << 10;

/// Serves `router` on a listener, with at most `max_connections` at one time, until `stop` ends. Each connection begins with
/// the TLS that is in force when it is accepted.
///
/// A connection beyond the maximum waits in the kernel's queue. One from an address for which
/// `is_allowed` is false is closed before a byte of it is read. After `stop` every accepted
/// connection still gets one response: one without a request so far has two seconds for it. Returns
/// when all connections have ended, at the latest after the read timeout.
///
/// Handlers find the peer's address in `ConnectInfo<SocketAddr>`, and the protection of its connection in
/// [`TransportSecurity`].
///
/// # Cancel safety
/// Not cancel safe: dropping it closes the listener, and leaves connections to their tasks.
pub async fn serve(
    mut listener: Listener,
    tls: &ListenerTls,
    router: Router,
    max_connections: usize,
    is_allowed: impl Fn(IpAddr) -> bool,
    stop: impl Future<Output = ()>,
) {
    let permits = Arc::new(Semaphore::new(max_connections));
    let (shutdown_sender, shutdown) = watch::channel(());
    let server = HttpServer::new();
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
        let (server, router, shutdown, tls) = (server.clone(), router.clone(), shutdown.clone(), tls.config());
        tokio::spawn(async move {
            let router = router.layer(Extension(ConnectInfo::<SocketAddr>(peer)));
            server.serve(stream, tls, router, shutdown).await;
            drop(permit);
        });
    }
    drop((listener, shutdown, shutdown_sender));
    // Connections that take longer are dropped; a process that has taken over accepts new ones.
    let all_closed = permits.acquire_many(u32::try_from(max_connections).unwrap_or(u32::MAX));
    let _elapsed = timeout(READ_TIMEOUT, all_closed).await;
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

/// Checks the Basic credentials of a request (RFC 7617), and returns the name of their user.
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
) -> Result<Arc<str>, impl IntoResponse + use<>> {
    let field = headers.get(AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    match passwords.check(peer, field, move || clock.now()).await {
        Ok(user) => Ok(user),
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
/// A request without Host is one, too. Requests over TLS are not: a browser sends none to a server whose certificate
/// does not bear the name in its URL.
pub fn may_be_dns_rebinding(request: &Request) -> bool {
    let is_protected = request.extensions().get() == Some(&TransportSecurity::Tls);
    !is_protected && host(request.headers()).is_none_or(cross_site::may_be_rebound)
}

/// True if a page of another site made a browser send the request (CSRF).
///
/// Browsers mark requests with Sec-Fetch-Site (Fetch Metadata) or, if they are older, with Origin.
/// Other clients send neither, and pass.
pub fn is_cross_site(headers: &HeaderMap) -> bool {
    let value = |name: &str| headers.get(name).map(|value| value.as_bytes());
    cross_site::is_cross_site(value("sec-fetch-site"), value("origin"), value("host"))
}

#[cfg(test)]
mod tests;

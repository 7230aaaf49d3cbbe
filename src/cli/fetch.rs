//! Blocking HTTP client of the subcommands, for requests to a gateway that runs.
//!
//! One request per connection, and no redirects, proxies or TLS: `exec` asks a gateway on a known address.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::runtime;
use tokio::time::timeout;

use crate::net::dial;
use crate::wire::http_client::{Error, send};

/// Sends a request to an address and reads the response, of its content the first `max_content`
/// bytes. Blocks the thread for `within` at most.
///
/// Each call has a runtime of its own on the calling thread, so it must not be called inside
/// another.
///
/// # Errors
/// See [`Error`]. A connection that cannot be opened is `Broken` by `ConnectionRefused` or another
/// error of connect(2), a response that is late by `TimedOut`.
pub(super) fn fetch(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
    max_content: usize,
    within: Duration,
) -> Result<Response<Bytes>, Error> {
    let exchange = async {
        let stream = dial::connect_address(address).await.map_err(Error::Broken)?;
        send(stream, request, max_content).await
    };
    block_on(within, exchange, Error::Broken)
}

/// Runs an exchange to its end on a runtime of its own, for `within` at most. `broken` makes the error of one that
/// cannot be run, or is late (`TimedOut`).
pub(super) fn block_on<T, E>(
    within: Duration,
    exchange: impl Future<Output = Result<T, E>>,
    broken: impl Fn(io::Error) -> E,
) -> Result<T, E> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(&broken)?;
    let timed_out = |_elapsed| Err(broken(io::ErrorKind::TimedOut.into()));
    runtime.block_on(async { timeout(within, exchange).await.unwrap_or_else(timed_out) })
}

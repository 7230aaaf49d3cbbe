//! Race of connection attempts to the addresses of one name: in parallel after a delay, or one at a time.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Error, classify, connect_tcp};

/// Orders addresses by alternating families, beginning with the family of the resolver's first
/// choice (RFC 8305 §4).
pub(super) fn interleave_families(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let first_is_ipv6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv6() == first_is_ipv6);
    let mut second = second.into_iter();
    let mut turns: VecDeque<SocketAddr> =
        first.into_iter().flat_map(|address| [Some(address), second.next()]).flatten().collect();
    turns.extend(second);
    turns
}

/// A connection attempt to one address.
type Attempt = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// Happy Eyeballs (RFC 8305 §5): starts an attempt every `delay`, or at once when one fails. The
/// first connection wins; the other attempts are dropped.
pub(super) async fn happy_eyeballs(mut addresses: VecDeque<SocketAddr>, delay: Duration) -> Result<TcpStream, Error> {
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut failure: Option<Error> = None;
    loop {
        match addresses.pop_front() {
            Some(address) => attempts.push(Box::pin(connect_tcp(address))),
            None if attempts.is_empty() => return Err(failure.unwrap_or_else(nothing_to_try)),
            None => {}
        }
        let done = if addresses.is_empty() {
            first_done(&mut attempts).await
        } else {
            match timeout(delay, first_done(&mut attempts)).await {
                Ok(done) => done,
                Err(_elapsed) => continue,
            }
        };
        match done {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Some(more_specific(failure, classify(error))),
        }
    }
}

/// Tries one address at a time. Each but the last has the time `each`, and is dropped before the
/// next begins.
pub(super) async fn sequential(mut addresses: VecDeque<SocketAddr>, each: Duration) -> Result<TcpStream, Error> {
    let mut failure: Option<Error> = None;
    while let Some(address) = addresses.pop_front() {
        let opened = match addresses.is_empty() {
            true => connect_tcp(address).await.map_err(classify),
            false => {
                timeout(each, connect_tcp(address)).await.map_or(Err(Error::Timeout), |opened| opened.map_err(classify))
            }
        };
        match opened {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Some(more_specific(failure, error)),
        }
    }
    Err(failure.unwrap_or_else(nothing_to_try))
}

fn nothing_to_try() -> Error {
    Error::Unreachable(io::ErrorKind::AddrNotAvailable.into())
}

/// Removes the first attempt that has ended, and returns its result.
async fn first_done(attempts: &mut Vec<Attempt>) -> io::Result<TcpStream> {
    poll_fn(|context| {
        for index in 0..attempts.len() {
            if let Poll::Ready(done) = attempts[index].as_mut().poll(context) {
                drop(attempts.swap_remove(index));
                return Poll::Ready(done);
            }
        }
        Poll::Pending
    })
    .await
}

/// The more specific of two addresses' errors: an answer of the machine says more than a missing
/// route.
pub(super) fn more_specific(before: Option<Error>, now: Error) -> Error {
    let weight = |error: &Error| match error {
        Error::Refused(_) => 3,
        Error::Timeout => 2,
        Error::Exhausted(_) => 1,
        Error::Unreachable(_) | Error::Dns(_) | Error::DnsTimeout | Error::Denied | Error::Loop => 0,
    };
    match before {
        Some(before) if weight(&before) >= weight(&now) => before,
        _ => now,
    }
}

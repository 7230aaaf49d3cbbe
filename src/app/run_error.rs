//! Errors that end a run: of the start, and of a running gateway.

use std::io;
use std::net::SocketAddr;

use super::listen_error::ListenError;
use crate::gate::{journal, takeover};
use crate::proxy;
use crate::tls::identity;

/// Reason why the gateway cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A socket that was passed to this process cannot be used.
    #[error(transparent)]
    Socket(io::Error),
    /// The system gives no thread, poll descriptor or signal handler.
    #[error("cannot start a runtime")]
    Runtime(#[source] io::Error),
    /// Certificates or keys are missing or invalid.
    #[error(transparent)]
    Proxy(#[from] proxy::Error),
    /// A certificate of another listener than the proxy's cannot be used.
    #[error("the certificate of [admin] or [locks] cannot be used")]
    Identity(#[from] identity::Error),
    /// The export of metrics cannot be started.
    #[error("the export of metrics cannot be started")]
    MetricsExport(#[source] io::Error),
    /// The lock service cannot be opened.
    #[error("cannot start the lock service: {0}")]
    Locks(io::Error),
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] journal::Error),
    /// The standard input is no socket to a previous process.
    #[error(
        "there is no process to take over from: a running gateway starts its successor when it gets the signal USR2"
    )]
    NoPreviousProcess(#[source] io::Error),
    /// The take-over failed, and the previous process goes on.
    #[error(transparent)]
    TakeOver(#[from] takeover::Error),
    /// The timer has stopped, so that no waiter would be woken. A fault of the gateway's.
    #[error("the gate's timer stopped: {0}")]
    Timer(String),
    /// An accept loop has panicked, so that the address would accept nothing. A fault of the
    /// gateway's.
    #[error("the listener at {0} stopped")]
    Accept(SocketAddr),
    /// The thread of the ZeroMQ listener has panicked, so that its peers get no answers. A fault of the gateway's.
    #[error("the ZeroMQ listener stopped")]
    ZmqListener,
    /// The lock service has stopped, so that locks would not expire. A fault of the gateway's.
    #[error("the lock service stopped: {0}")]
    LockService(String),
}

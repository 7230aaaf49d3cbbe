//! Byte stream beneath an HTTP/2 connection, and the way back of it once the connection is over.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite};

/// Byte stream that carries an HTTP/2 connection.
///
/// A trait, because the stream may itself be one of an HTTP/2 connection (a tunnel in a tunnel): `wire::Stream`, which
/// implements it, is made of the types of this module.
pub trait LowerStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Takes the stream out; a closed one stays behind.
    fn take(&mut self) -> Self;

    /// Breaks the connection: the peer sees a reset, never a clean end.
    fn abort(&mut self);
}

/// Place of the stream beneath a connection, after `h2` has released it.
///
/// Clones share the place. The observer fills it on its drop; the driver, or the owner of a
/// caller's connection, empties it.
#[derive(Debug)]
pub(super) struct Released<S>(Arc<Mutex<Option<S>>>);

impl<S> Released<S> {
    /// Empty place.
    pub(super) fn new() -> Released<S> {
        Released(Arc::default())
    }

    /// Stores the stream.
    pub(super) fn set(&self, stream: S) {
        // The change is complete before anything can panic.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
    }

    /// Takes the stream; `None` while `h2` has it.
    pub(super) fn take(&self) -> Option<S> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<S> Clone for Released<S> {
    fn clone(&self) -> Released<S> {
        Released(Arc::clone(&self.0))
    }
}

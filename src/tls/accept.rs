//! A TLS handshake that somebody else begins: what they want is read before it is decided who we are.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

/// The first byte of every TLS connection (RFC 8446 §5.1: a record of the type handshake).
pub const FIRST_BYTE: u8 = 22;

/// A handshake of which the first message has come.
pub struct IncomingHandshake<S>(StartHandshake<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> IncomingHandshake<S> {
    /// Reads the first message. It has no timeout of its own.
    ///
    /// # Errors
    /// If it is none, or the connection breaks.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn read(stream: S) -> io::Result<IncomingHandshake<S>> {
        LazyConfigAcceptor::new(Acceptor::default(), stream).await.map(IncomingHandshake)
    }

    /// The name that the other side wants to speak to (SNI, RFC 6066 §3); addresses are never named.
    pub fn server_name(&self) -> Option<String> {
        self.0.client_hello().server_name().map(str::to_owned)
    }

    /// Completes the handshake as whoever `config` makes us.
    ///
    /// # Errors
    /// If the other side does not agree, or the connection breaks.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn accept(self, config: Arc<ServerConfig>) -> io::Result<TlsStream<S>> {
        self.0.into_stream(config).await
    }
}

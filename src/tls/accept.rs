//! Server side of a TLS handshake: reads the ClientHello before a certificate is chosen.
//!
//! Two steps, because the certificate depends on the name that the hello asks for:
//! [`IncomingHandshake::read`], then a leaf is made or taken from the cache, then
//! [`IncomingHandshake::accept`].

use std::io;
use std::sync::Arc;

use rustls::server::Acceptor;
use rustls::{AlertDescription, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

/// First byte of every TLS connection (RFC 8446 §5.1: a record of the type handshake).
pub const FIRST_BYTE: u8 = 22;

/// TLS handshake after its ClientHello has arrived.
///
/// Nothing was answered yet: dropping it closes the connection without an alert.
pub struct IncomingHandshake<S>(StartHandshake<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> IncomingHandshake<S> {
    /// Reads the ClientHello. It has no timeout of its own.
    ///
    /// # Errors
    /// If the message is not a ClientHello, or the connection breaks.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn read(stream: S) -> io::Result<IncomingHandshake<S>> {
        LazyConfigAcceptor::new(Acceptor::default(), stream).await.map(IncomingHandshake)
    }

    /// Server name of the ClientHello (SNI, RFC 6066 §3); never an address.
    pub fn server_name(&self) -> Option<String> {
        self.0.client_hello().server_name().map(str::to_owned)
    }

    /// Completes the handshake with the certificate of `config`.
    ///
    /// TLS 1.2 and 1.3, with the protocols (ALPN) of `config`.
    ///
    /// # Errors
    /// If the client does not agree, or the connection breaks.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn accept(self, config: Arc<ServerConfig>) -> io::Result<TlsStream<S>> {
        self.0.into_stream(config).await
    }
}

/// Name of the alert by which a client has rejected our certificate (RFC 8446 §6.2); `None` if the
/// handshake failed for another reason.
///
/// Clients that do not trust the issuer send different ones of these: OpenSSL `UnknownCA`, Go
/// `BadCertificate`, Java `CertificateUnknown`.
pub fn rejected_certificate(error: &io::Error) -> Option<String> {
    let Some(rustls::Error::AlertReceived(alert)) = error.get_ref()?.downcast_ref::<rustls::Error>() else {
        return None;
    };
    let rejects = matches!(
        alert,
        AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::CertificateUnknown
    );
    rejects.then(|| format!("{alert:?}"))
}

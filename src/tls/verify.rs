//! TLS client for origins: certificates are verified as strictly as by a browser.
//!
//! The public door is [`Connector`]. Verification needs a trusted root, a chain that is valid now,
//! and the host's name among the alternative names of the leaf; `strict_verifier` adds a minimum
//! key length, and `describe` turns errors into advice. There is no switch to turn any of it off.

mod describe;
mod reject_reason;
mod strict_verifier;

use std::io;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::ClientConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use self::strict_verifier::StrictVerifier;
use super::identity::Identity;

/// Trusted roots and client certificates.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Settings {
    /// Root certificates (DER) beside the system's.
    pub trust: Vec<CertificateDer<'static>>,
    /// Client certificates for origins that ask for one.
    pub identities: Vec<Identity>,
}

/// Parameters of one handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandshakeOptions {
    /// Protocols offered by ALPN.
    pub offer: Offer,
    /// Index into [`Settings::identities`] of the client certificate shown if the origin asks.
    pub identity: Option<usize>,
}

/// Protocols that the origin may choose from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    /// HTTP/1.1 alone: for a request that asks for another protocol on its connection.
    Http1,
    /// HTTP/2, or HTTP/1.1 if the origin does not speak it.
    Http2,
}

/// TLS client for origins: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN.
pub struct Connector {
    /// The first without a client certificate, then one for each identity. Sessions are resumed
    /// only within one of them, so that none continues under another identity.
    tls: Vec<ConnectorPair>,
}

/// One connector for each [`Offer`].
struct ConnectorPair {
    /// Offers HTTP/1.1 alone.
    http1: TlsConnector,
    /// Offers HTTP/2 first, and HTTP/1.1.
    http2: TlsConnector,
}

impl ConnectorPair {
    /// Two configurations from one, each with its own sessions.
    fn new(mut config: ClientConfig) -> ConnectorPair {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut both = config.clone();
        // A session negotiated with one offer must not be resumed under the other.
        both.resumption = rustls::client::Resumption::default();
        both.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        ConnectorPair { http1: TlsConnector::from(Arc::new(config)), http2: TlsConnector::from(Arc::new(both)) }
    }
}

/// Reason for a failed TLS connection. The origin is at fault in each case: 502.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The origin's certificate is rejected.
    #[error("the certificate is not accepted: {}", describe::certificate_error(.0))]
    Certificate(#[source] rustls::Error),
    /// The origin speaks no TLS, has no version or cipher in common with us, or rejects our client
    /// certificate.
    #[error("{}", describe::handshake_error(.0))]
    Tls(#[source] rustls::Error),
    /// The origin closed or reset the connection.
    #[error("the connection broke during the TLS handshake")]
    Io(#[source] io::Error),
    /// The host is neither a DNS name nor an IP address.
    #[error("{0:?} is not a name that a certificate can bear")]
    Name(String),
}

impl Connector {
    /// Trusts the system's roots and those of the settings. A broken root of the system is skipped
    /// with a debug line.
    ///
    /// # Errors
    /// If a certificate of the settings is malformed, if there is no root at all, or if an
    /// identity's key does not match.
    pub fn new(settings: Settings) -> io::Result<Connector> {
        let verifier = Arc::new(StrictVerifier::new(Arc::new(roots(settings.trust)?)).map_err(io::Error::other)?);
        let config = |identity: Option<Identity>| {
            // The provider is named: the process-wide default depends on which library set one first.
            let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_safe_default_protocol_versions()?
                // The method is called dangerous, but our verifier only adds checks to rustls' own.
                .dangerous()
                .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<_>);
            match identity {
                None => Ok(builder.with_no_client_auth()),
                Some(identity) => builder.with_client_auth_cert(identity.chain, identity.key),
            }
        };
        let identities = std::iter::once(None).chain(settings.identities.into_iter().map(Some));
        let pairs = identities.map(|identity| config(identity).map(ConnectorPair::new));
        let tls = pairs.collect::<Result<_, rustls::Error>>().map_err(io::Error::other)?;
        Ok(Connector { tls })
    }

    /// Connector for the store (Valkey/Redis): as strict, without ALPN and without a client
    /// certificate.
    ///
    /// # Errors
    /// As [`Connector::new`].
    pub fn without_alpn(settings: Settings) -> io::Result<TlsConnector> {
        let verifier = StrictVerifier::new(Arc::new(roots(settings.trust)?)).map_err(io::Error::other)?;
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }

    /// Performs the TLS handshake over `stream`; the origin must prove that it is `host` (a DNS
    /// name, or an IP address without brackets). It has no timeout of its own.
    ///
    /// # Errors
    /// See [`Error`]; all are a 502.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    ///
    /// # Panics
    /// If `options.identity` is not an index into the identities of the settings.
    pub async fn connect<S>(&self, host: &str, stream: S, options: HandshakeOptions) -> Result<TlsStream<S>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(host.to_owned()).map_err(|_invalid| Error::Name(host.to_owned()))?;
        let pairs = &self.tls[options.identity.map_or(0, |identity| identity + 1)];
        let tls = match options.offer {
            Offer::Http1 => &pairs.http1,
            Offer::Http2 => &pairs.http2,
        };
        tls.connect(name, stream).await.map_err(classify)
    }
}

/// Trusted roots: the system's and those of the settings.
fn roots(trust: Vec<CertificateDer<'static>>) -> io::Result<RootCertStore> {
    let mut roots = system_roots();
    for (index, certificate) in trust.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| {
            let reason = format!("certificate {} of those to trust cannot be used: {error}", index + 1);
            io::Error::new(io::ErrorKind::InvalidData, reason)
        })?;
    }
    if roots.is_empty() {
        let reason = "no root certificates: the system has none (is the package ca-certificates installed?), and none are configured";
        return Err(io::Error::new(io::ErrorKind::NotFound, reason));
    }
    Ok(roots)
}

/// Roots of the system, as `rustls-native-certs` finds them (`SSL_CERT_FILE` and `SSL_CERT_DIR`
/// come first). Unusable ones are skipped: one odd root must not stop the gateway.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "cannot read a root certificate of the system");
    }
    let (_used, skipped) = roots.add_parsable_certificates(found.certs);
    if skipped > 0 {
        tracing::debug!(skipped, "skipped unusable root certificates of the system");
    }
    roots
}

/// Sorts an I/O error by the rustls error inside it, if there is one.
fn classify(error: io::Error) -> Error {
    match error.downcast::<rustls::Error>() {
        Ok(error) if is_certificate_error(&error) => Error::Certificate(error),
        Ok(error) => Error::Tls(error),
        Err(error) => Error::Io(error),
    }
}

fn is_certificate_error(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(_)
            | rustls::Error::NoCertificatesPresented
            | rustls::Error::UnsupportedNameType
    )
}

/// Reason of a failed read after a complete handshake, if it is the origin's rejection of our
/// client certificate: with TLS 1.3 it arrives only then (RFC 8446 §4.4.2.4). `None`: something
/// else failed.
pub fn late_rejection(error: &io::Error) -> Option<Error> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    describe::rejects_client_cert(error).then(|| Error::Tls(error.clone()))
}

#[cfg(test)]
mod tests;

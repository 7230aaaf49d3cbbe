//! The origin's certificate, as strictly as a browser.

use std::io;
use std::sync::Arc;

use rustls::client::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::identity::Identity;

/// Whom to trust.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Root certificates (DER) beside the system's.
    pub trust: Vec<CertificateDer<'static>>,
    /// What we show to origins that ask who we are.
    pub identities: Vec<Identity>,
}

/// What is asked of one handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    /// What may be spoken, by ALPN.
    pub offer: Offer,
    /// Which of the identities is shown if the origin asks.
    pub identity: Option<usize>,
}

/// The protocols that the origin may choose from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offer {
    /// HTTP/1.1 alone: a request that asks for another protocol on its connection.
    Http1,
    /// HTTP/2, or HTTP/1.1 if the origin does not speak it.
    Http2,
}

/// Speaks TLS to origins: TLS 1.2 and 1.3, HTTP/1.1 by ALPN.
pub struct Connector {
    tls: TlsConnector,
}

/// Why there is no TLS connection. The origin is at fault in each case: 502.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The origin did not prove that it is who it should be.
    #[error("the certificate is not accepted: {}", in_words(.0))]
    Certificate(#[source] rustls::Error),
    /// The origin speaks no TLS, or not ours.
    #[error("TLS failed: {0}")]
    Tls(#[source] rustls::Error),
    /// The origin closed or reset the connection.
    #[error("the connection broke during the TLS handshake")]
    Io(#[source] io::Error),
    /// Neither a DNS name nor an IP address.
    #[error("{0:?} is not a name that a certificate can bear")]
    Name(String),
}

impl Connector {
    /// Trusts the system's roots and those of the settings. A broken root of the system's is skipped with a debug line.
    ///
    /// # Errors
    /// If a certificate of the settings is none, or if there is no root at all.
    pub fn new(settings: Settings) -> io::Result<Connector> {
        let mut roots = system_roots();
        for (index, certificate) in settings.trust.into_iter().enumerate() {
            roots.add(certificate).map_err(|error| {
                let reason = format!("certificate {} of those to trust cannot be used: {error}", index + 1);
                io::Error::new(io::ErrorKind::InvalidData, reason)
            })?;
        }
        if roots.is_empty() {
            let reason = "no root certificates: the system has none (is the package ca-certificates installed?), and none are configured";
            return Err(io::Error::new(io::ErrorKind::NotFound, reason));
        }
        // The provider is named, because a process-wide default would be whoever's set one first.
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Connector { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// The TLS handshake over `stream`, with the origin proving that it is `host` (a DNS name, or an IP address without
    /// brackets). It has no timeout of its own.
    ///
    /// # Errors
    /// See [`Error`]; all are a 502.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn connect<S>(&self, host: &str, stream: S, _wish: Wish) -> Result<TlsStream<S>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(host.to_owned()).map_err(|_invalid| Error::Name(host.to_owned()))?;
        self.tls.connect(name, stream).await.map_err(judge)
    }
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "a root certificate of the system cannot be read");
    }
    let (_used, skipped) = roots.add_parsable_certificates(found.certs);
    if skipped > 0 {
        tracing::debug!(skipped, "root certificates of the system cannot be used");
    }
    roots
}

/// What rustls found lies inside of the I/O error that carried it.
fn judge(error: io::Error) -> Error {
    match error.downcast::<rustls::Error>() {
        Ok(error) if concerns_certificate(&error) => Error::Certificate(error),
        Ok(error) => Error::Tls(error),
        Err(error) => Error::Io(error),
    }
}

fn concerns_certificate(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(_)
            | rustls::Error::NoCertificatesPresented
            | rustls::Error::UnsupportedNameType
    )
}

/// What a user can act on; rustls' own words for the rest.
fn in_words(error: &rustls::Error) -> String {
    let rustls::Error::InvalidCertificate(reason) = error else {
        return error.to_string();
    };
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is open; what it does not name here has words of its own"
    )]
    match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        CertificateError::UnknownIssuer => {
            "its issuer is not trusted (roots beside the system's are named in [tls] trust)".to_owned()
        }
        CertificateError::NotValidForName => "it is for another name".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            format!("it is not for {} but for {}", expected.to_str(), listed(presented))
        }
        CertificateError::BadSignature => "the issuer that it names did not sign it".to_owned(),
        CertificateError::Revoked => "it was revoked".to_owned(),
        other => other.to_string(),
    }
}

/// The first names of a certificate, which may bear hundreds.
fn listed(presented: &[String]) -> String {
    const MOST: usize = 3;
    let first = presented.iter().take(MOST).map(|name| plain(name)).collect::<Vec<_>>().join(", ");
    match presented.len() {
        0 => "no name at all".to_owned(),
        1..=MOST => first,
        more => format!("{first} and {} more", more - MOST),
    }
}

/// `DnsName("a.example")` as rustls writes it, without its shell.
fn plain(name: &str) -> String {
    let bare = name.split_once('(').and_then(|(_kind, rest)| rest.strip_suffix(')')).unwrap_or(name);
    bare.trim_matches('"').escape_default().to_string()
}

#[cfg(test)]
mod tests;

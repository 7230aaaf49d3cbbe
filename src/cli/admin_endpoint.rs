//! Admin listener of a gateway, as a subcommand reaches it: by the configuration of this machine, or by an address.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;

use super::certified_name::certified_name;
use super::fetch::block_on;
use crate::config::Settings;
use crate::net::dial;
use crate::tls::identity::Identity;
use crate::tls::pem;
use crate::tls::verify::{self, Connector, HandshakeOptions, Offer};
use crate::wire::http_client;

/// Address of an admin listener on the command line: `127.0.0.1:8081`, or an http or https URL without a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct AdminUrl {
    is_tls: bool,
    /// A name, or an IP address without brackets.
    host: String,
    port: u16,
}

/// Reason why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The name does not resolve, or the connection cannot be opened.
    #[error(transparent)]
    Dial(dial::Error),
    /// The connection broke, or the response is late.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// The certificate is not accepted, or the server speaks no TLS.
    #[error("no TLS: {0}")]
    Tls(verify::Error),
    /// The server does not speak HTTP.
    #[error(transparent)]
    NotHttp(http_client::Error),
}

/// Reason why the roots for `https://` cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrustError {
    /// The file of `--cacert` cannot be used.
    #[error("--cacert cannot be used: {0}; it names {remedy}", remedy = .0.remedy())]
    File(pem::Error),
    /// There are no roots, or one of them is malformed.
    #[error("no certificate can be verified")]
    Roots(#[source] io::Error),
}

/// Admin listener that requests are sent to.
pub(super) struct AdminEndpoint {
    url: AdminUrl,
    /// `None` for plain HTTP.
    tls: Option<TlsClient>,
}

/// TLS with an admin listener.
struct TlsClient {
    /// Name that its certificate must bear.
    name: String,
    connector: Connector,
}

impl FromStr for AdminUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<AdminUrl, Self::Err> {
        const RIGHT: &str = "an address such as 127.0.0.1:8081, or a URL such as https://gateway.example:8081";
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(AdminUrl { is_tls: false, host: address.ip().to_string(), port: address.port() });
        }
        let uri: Uri = text.parse().map_err(|_| RIGHT)?;
        let (is_tls, default) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            Some(_) | None => return Err(RIGHT),
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or(RIGHT)?;
        if !matches!(uri.path_and_query().map_or("/", |path| path.as_str()), "/") {
            return Err(RIGHT);
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        Ok(AdminUrl { is_tls, host, port: authority.port_u16().unwrap_or(default) })
    }
}

impl AdminUrl {
    /// Host and port as in a URL; an IPv6 address stands in brackets (RFC 3986 §3.2.2).
    fn authority(&self) -> String {
        let AdminUrl { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl AdminEndpoint {
    /// The listener at this address. `cacert`: PEM file of roots beside the system's.
    ///
    /// # Errors
    /// If the roots cannot be used; plain HTTP needs none.
    pub(super) fn at(url: AdminUrl, cacert: Option<&Path>) -> Result<AdminEndpoint, TrustError> {
        let tls =
            url.is_tls.then(|| TlsClient::new(url.host.clone(), verify::Settings::default(), cacert)).transpose()?;
        Ok(AdminEndpoint { url, tls })
    }

    /// The listener of `[admin]`; `None` without the section.
    ///
    /// With TLS the certificate must bear a name that the one in the file bears, too. It is trusted itself, beside the
    /// system's roots, `[tls] trust` and `cacert`.
    ///
    /// # Errors
    /// As [`AdminEndpoint::at`].
    pub(super) fn configured(settings: &Settings, cacert: Option<&Path>) -> Result<Option<AdminEndpoint>, TrustError> {
        let Some(admin) = &settings.admin else { return Ok(None) };
        let (ip, port) = (admin.listen.ip(), admin.listen.port());
        let url = AdminUrl { is_tls: admin.tls.is_some(), host: ip.to_string(), port };
        let client = |identity: &Identity| {
            let name = certified_name(identity, ip).or_else(|| identity.first_dns_name());
            let trust = settings.proxy.tls.trust.iter().chain(&identity.chain).cloned().collect();
            let roots = verify::Settings { trust, identities: Vec::new() };
            TlsClient::new(name.unwrap_or_else(|| ip.to_string()), roots, cacert)
        };
        let tls = admin.tls.as_ref().map(client).transpose()?;
        Ok(Some(AdminEndpoint { url, tls }))
    }

    /// Address for people, with the scheme if it is `https`.
    pub(super) fn name(&self) -> String {
        let authority = self.url.authority();
        if self.url.is_tls { format!("https://{authority}") } else { authority }
    }

    /// Value of Host for requests to it.
    pub(super) fn host(&self) -> String {
        self.url.authority()
    }

    /// Sends a request and reads the response, of its content the first `max_content` bytes. Blocks the thread for
    /// `within` at most.
    ///
    /// # Errors
    /// See [`Error`]; a response that is late is `Broken` with `TimedOut`.
    pub(super) fn fetch(
        &self,
        request: Request<Full<Bytes>>,
        max_content: usize,
        within: Duration,
    ) -> Result<Response<Bytes>, Error> {
        let exchange = async {
            let AdminUrl { host, port, .. } = &self.url;
            let stream = dial::connect_unchecked(host, *port, within).await.map_err(Error::Dial)?;
            let response = match &self.tls {
                None => http_client::send(stream, request, max_content).await,
                Some(tls) => {
                    let options = HandshakeOptions { offer: Offer::Http1, identity: None };
                    let stream = tls.connector.connect(&tls.name, stream, options).await.map_err(Error::Tls)?;
                    http_client::send(stream, request, max_content).await
                }
            };
            response.map_err(|error| match error {
                http_client::Error::Broken(source) => Error::Broken(source),
                http_client::Error::NotHttp(_) => Error::NotHttp(error),
            })
        };
        block_on(within, exchange, Error::Broken)
    }
}

impl TlsClient {
    fn new(name: String, mut roots: verify::Settings, cacert: Option<&Path>) -> Result<TlsClient, TrustError> {
        if let Some(path) = cacert {
            roots.trust.extend(pem::certificates(path).map_err(TrustError::File)?);
        }
        Ok(TlsClient { name, connector: Connector::new(roots).map_err(TrustError::Roots)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_urls_are_read_and_other_texts_are_not() {
        let url = |is_tls, host: &str, port| Ok(AdminUrl { is_tls, host: host.to_owned(), port });
        for (text, read) in [
            ("127.0.0.1:8081", url(false, "127.0.0.1", 8081)),
            ("[::1]:8081", url(false, "::1", 8081)),
            ("http://127.0.0.1:8081/", url(false, "127.0.0.1", 8081)),
            ("https://gateway.example", url(true, "gateway.example", 443)),
            ("https://[::1]:8443", url(true, "::1", 8443)),
        ] {
            assert_eq!(text.parse::<AdminUrl>(), read, "{text}");
        }
        for text in ["", "8081", "gateway.example:8081", "https://", "https://a@b/", "https://a/metrics", "ftp://a/"] {
            assert!(text.parse::<AdminUrl>().is_err(), "{text}");
        }
        assert_eq!("https://[::1]:8443".parse::<AdminUrl>().unwrap().authority(), "[::1]:8443");
    }
}

//! OTLP client: posts documents to a collector (OTLP/HTTP, JSON).
//!
//! Each document has a connection of its own, which is closed after the answer: a collector takes one
//! a second at most, and an idle connection would have to be watched. Documents are not sent again:
//! an answer other than 2xx, or none, loses the document.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST};
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::runtime::{self, Runtime};
use tokio::time::timeout;

use crate::net::dial;
use crate::tls::verify::{self, Connector, HandshakeOptions, Offer};
use crate::wire::http_client;

/// Time for one address of the collector: connection, TLS handshake and answer.
///
/// Shorter if the collector has more than five addresses, so that each of them gets its turn within
/// [`EXPORT_TIMEOUT`].
const ADDRESS_TIMEOUT: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(2) };
/// Time for one document, over all addresses of the collector and the lookup of its name; the default of
/// `OTEL_EXPORTER_OTLP_TIMEOUT`.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Reason for the loss of a document.
///
/// Its text is the field `error` of the warning about the loss.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL of the file cannot stand in a request.
    #[error("its URL cannot be requested: {0}")]
    Request(http::Error),
    /// A name that cannot be looked up.
    #[error("its name does not resolve: {0}")]
    Resolve(dial::Error),
    /// A name that stands for nothing.
    #[error("its name has no address")]
    NoAddress,
    /// Silence of all addresses within their time.
    #[error("it does not answer in time")]
    Timeout,
    /// The last address tried refuses connections, or is not reached.
    #[error("no connection: {0}")]
    Connect(io::Error),
    /// Refused certificate, or a server without TLS.
    #[error("no TLS connection: {0}")]
    Tls(verify::Error),
    /// Connection closed early, or a server that speaks no HTTP.
    #[error("no answer: {}", reason(.0))]
    Answer(http_client::Error),
    /// Status other than 2xx.
    #[error("it answers {0}")]
    Status(StatusCode),
}

/// Text of an HTTP client error, for the log.
fn reason(error: &http_client::Error) -> String {
    match error {
        http_client::Error::Broken(source) => source.to_string(),
        http_client::Error::NotHttp(source) => format!("{error} ({source})"),
    }
}

/// Collector of OpenTelemetry: `[trace] otlp` of the file.
#[derive(Clone, PartialEq, Debug)]
pub struct Collector {
    /// A DNS name, or an IP address without brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
    /// Path of the URL, without a slash at its end; that of the signal follows it.
    pub path: String,
    /// Trust in the collector's certificate; `None`: plain HTTP.
    pub tls: Option<verify::Settings>,
}

/// Posts documents of one signal to a collector. Blocks the thread that calls it.
pub struct OtlpClient {
    collector: Collector,
    /// Path that takes the signal, such as `/v1/traces`, behind that of the collector.
    path: String,
    /// Event loop of the calling thread alone: traffic of callers is never delayed by the export.
    runtime: Runtime,
    /// `None` for an `http://` endpoint.
    tls: Option<Connector>,
    /// Address that took the last document, tried first.
    preferred: Option<SocketAddr>,
}

impl OtlpClient {
    /// Prepares the client, without a connection. `signal`: path of the signal, such as `/v1/traces`.
    ///
    /// # Errors
    /// If the system gives no event loop, or there are no root certificates for an `https://` endpoint.
    pub fn new(collector: Collector, signal: &str) -> io::Result<OtlpClient> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let tls = collector.tls.clone().map(Connector::new).transpose()?;
        let path = format!("{}{signal}", collector.path);
        Ok(OtlpClient { collector, path, runtime, tls, preferred: None })
    }

    /// Host and port of the collector, for the log.
    pub fn name(&self) -> String {
        format!("{}:{}", self.collector.host, self.collector.port)
    }

    /// Posts a document to the collector.
    ///
    /// # Errors
    /// See [`Error`]; the document is lost then.
    pub fn post(&mut self, document: Bytes) -> Result<(), Error> {
        let Collector { host, port, .. } = &self.collector;
        let export = async {
            let addresses = dial::addresses(host, *port).await.map_err(Error::Resolve)?;
            self.try_addresses(addresses, document).await
        };
        let in_time = async { timeout(EXPORT_TIMEOUT, export).await.unwrap_or(Err(Error::Timeout)) };
        let (address, status) = self.runtime.block_on(in_time)?;
        self.preferred = Some(address);
        if status.is_success() { Ok(()) } else { Err(Error::Status(status)) }
    }

    /// Posts to the addresses in turn, beginning with the preferred one, until one answers.
    ///
    /// # Errors
    /// That of the last address tried, or `NoAddress` if the name has none. A status other than 2xx
    /// is an answer, not an error here.
    async fn try_addresses(
        &self,
        mut addresses: Vec<SocketAddr>,
        document: Bytes,
    ) -> Result<(SocketAddr, StatusCode), Error> {
        addresses.sort_by_key(|address| Some(*address) != self.preferred);
        let each = ADDRESS_TIMEOUT.min(EXPORT_TIMEOUT / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX));
        let mut failure = Error::NoAddress;
        for address in addresses {
            match timeout(each, self.try_address(address, document.clone())).await {
                Ok(Ok(status)) => return Ok((address, status)),
                Ok(Err(error)) => failure = error,
                Err(_elapsed) => failure = Error::Timeout,
            }
        }
        Err(failure)
    }

    /// Connects to one address, sends the document and reads the status of the answer; its content is
    /// ignored.
    async fn try_address(&self, address: SocketAddr, document: Bytes) -> Result<StatusCode, Error> {
        let (Collector { host, port, .. }, path) = (&self.collector, &self.path);
        // An IPv6 address stands in brackets in Host (RFC 3986 §3.2.2).
        let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let request = Request::post(path).header(HOST, authority).header(CONNECTION, "close");
        let request =
            request.header(CONTENT_TYPE, "application/json").body(Full::from(document)).map_err(Error::Request)?;
        let stream = dial::connect_address(address).await.map_err(Error::Connect)?;
        let response = match &self.tls {
            Some(tls) => {
                let options = HandshakeOptions { offer: Offer::Http1, identity: None };
                let stream = tls.connect(host, stream, options).await.map_err(Error::Tls)?;
                http_client::send(stream, request, 0).await
            }
            None => http_client::send(stream, request, 0).await,
        };
        Ok(response.map_err(Error::Answer)?.status())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn a_document_goes_to_the_first_address_that_answers() {
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let Ok([refuses, silent, answers]) = <[TcpListener; 3]>::try_from(listeners) else { unreachable!() };
        drop(refuses);
        let collector = thread::spawn(move || {
            let (mut stream, _) = answers.accept().unwrap();
            stream.read_exact(&mut [0; 16]).unwrap();
            stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").unwrap();
        });
        let host = "collector.example".to_owned();
        let collector_at = Collector { host, port: 4318, path: String::new(), tls: None };
        let client = OtlpClient::new(collector_at, "/v1/traces").unwrap();
        let answered = client.runtime.block_on(client.try_addresses(addresses.clone(), "{}".into())).unwrap();
        assert_eq!(answered, (addresses[2], StatusCode::ACCEPTED));
        collector.join().unwrap();
        drop(silent);
    }
}

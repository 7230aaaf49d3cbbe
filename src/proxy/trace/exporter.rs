//! OTLP exporter: a thread that posts spans in batches to a collector (OTLP/HTTP).
//!
//! Each batch has a connection of its own, which is closed after the answer: a collector takes one
//! batch a second, and an idle connection would have to be watched. Batches are not sent again: an
//! answer other than 2xx, or none, loses the batch and counts its spans as dropped.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST};
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::runtime::{self, Runtime};
use tokio::time::timeout;

use super::{Settings, Span, otlp};
use crate::gate::clock::Clock;
use crate::net::dial;
use crate::proxy::histogram::Count;
use crate::tls::verify::{self, Connector, HandshakeOptions, Offer};
use crate::wire::http_client;

/// Most spans in one request; the default of `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`.
const MAX_BATCH: usize = 512;
/// Longest wait of a span for others of its batch: short enough for a person at a tracing UI.
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// Time for one address of the collector: connection, TLS handshake and answer.
///
/// Shorter if the collector has more than five addresses, so that each of them gets its turn within
/// [`EXPORT_TIMEOUT`].
const ADDRESS_TIMEOUT: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(2) };
/// Time for one batch, over all addresses of the collector and the lookup of its name; the default of
/// `OTEL_EXPORTER_OTLP_TIMEOUT`.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Reason for the loss of a batch.
///
/// Its text is the field `error` of the warning about lost traces.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("its URL cannot be requested: {0}")]
    Request(http::Error),
    #[error("its name does not resolve: {0}")]
    Resolve(dial::Error),
    #[error("its name has no address")]
    NoAddress,
    #[error("it does not answer in time")]
    Timeout,
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("no TLS connection: {0}")]
    Tls(verify::Error),
    #[error("no answer: {}", reason(.0))]
    Answer(http_client::Error),
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

/// Posts spans to a collector.
pub(super) struct Exporter {
    /// Host, port, path and trust of the collector.
    settings: Settings,
    /// Clock of the gate: spans carry its times, which are turned into Unix time when a batch is
    /// encoded.
    clock: Clock,
    /// Event loop of this thread alone: traffic of callers is never delayed by the export.
    runtime: Runtime,
    /// `None` for an `http://` endpoint.
    tls: Option<Connector>,
    /// Address that took the last batch, tried first.
    preferred: Option<SocketAddr>,
}

impl Exporter {
    /// Prepares the exporter, without a connection.
    ///
    /// # Errors
    /// If the system gives no event loop, or there are no root certificates for an `https://` endpoint.
    pub(super) fn new(settings: Settings, clock: Clock) -> io::Result<Exporter> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let tls = settings.tls.clone().map(Connector::new).transpose()?;
        Ok(Exporter { settings, clock, runtime, tls, preferred: None })
    }

    /// Exports spans until the last sender is gone; adds the lost ones to `dropped`. Blocks the thread.
    ///
    /// A failure is logged once, and again only after a batch has succeeded in between.
    pub(super) fn run(mut self, spans: &Receiver<Span>, dropped: &Count) {
        let mut works = true;
        while let Ok(first) = spans.recv() {
            let batch = self.gather(first, spans);
            let document = otlp::encode(&batch, self.clock);
            match self.post(document.into()) {
                Ok(()) => works = true,
                Err(error) => {
                    (0..batch.len()).for_each(|_| dropped.add_one());
                    // Logged once, until a batch succeeds again.
                    if std::mem::replace(&mut works, false) {
                        let collector = format!("{}:{}", self.settings.host, self.settings.port);
                        tracing::warn!(collector, %error, "cannot export traces; they are dropped");
                    }
                }
            }
        }
    }

    /// Waits for further spans, until the batch is full or its time is over.
    fn gather(&self, first: Span, spans: &Receiver<Span>) -> Vec<Span> {
        let mut batch = vec![first];
        let end = self.now() + BATCH_DELAY;
        while batch.len() < MAX_BATCH {
            match spans.recv_timeout(end.saturating_duration_since(self.now())) {
                Ok(span) => batch.push(span),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        batch
    }

    /// Reads the clock of the gate, as an instant of the standard library.
    fn now(&self) -> Instant {
        self.clock.instant(self.clock.now())
    }

    /// Posts a batch to the collector.
    ///
    /// # Errors
    /// See [`Error`]; the batch is lost then.
    fn post(&mut self, document: Bytes) -> Result<(), Error> {
        let Settings { host, port, .. } = &self.settings;
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

    /// Connects to one address, sends the batch and reads the status of the answer; its content is
    /// ignored.
    async fn try_address(&self, address: SocketAddr, document: Bytes) -> Result<StatusCode, Error> {
        let Settings { host, port, path, .. } = &self.settings;
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
    fn a_batch_goes_to_the_first_address_that_answers() {
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let Ok([refuses, silent, answers]) = <[TcpListener; 3]>::try_from(listeners) else { unreachable!() };
        drop(refuses);
        let collector = thread::spawn(move || {
            let (mut stream, _) = answers.accept().unwrap();
            stream.read_exact(&mut [0; 16]).unwrap();
            stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").unwrap();
        });
        let (host, path) = ("collector.example".to_owned(), "/v1/traces".to_owned());
        let settings = Settings { host, port: 4318, path, tls: None, one_in: 1 };
        let exporter = Exporter::new(settings, Clock::start()).unwrap();
        let answered = exporter.runtime.block_on(exporter.try_addresses(addresses.clone(), "{}".into())).unwrap();
        assert_eq!(answered, (addresses[2], StatusCode::ACCEPTED));
        collector.join().unwrap();
        drop(silent);
    }
}

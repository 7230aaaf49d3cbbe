//! Export of metrics: a thread that posts all of them to a collector (OTLP/HTTP) at a fixed interval.
//!
//! Requests never wait for it: it reads the counters as a scrape does, and blocks its own thread alone. Sums are
//! cumulative, so that a document which the collector does not take loses nothing but its moment.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::metric_sources::MetricSources;
use super::otlp_metrics;
use crate::config::MetricsExport;
use crate::gate::StepReader;
use crate::proxy::trace::otlp_client::OtlpClient;

/// Order to export once more, to answer, and to end.
struct LastExport(oneshot::Sender<()>);

/// A running export. Its thread ends without another export when it is dropped.
pub struct MetricsExporter {
    settings: MetricsExport,
    orders: Sender<LastExport>,
}

impl MetricsExporter {
    /// Starts the export; the first one comes after the interval.
    ///
    /// # Errors
    /// If the system gives no thread or no event loop, or there are no root certificates for an `https://` collector.
    pub fn start(settings: MetricsExport, sources: Arc<MetricSources>) -> io::Result<MetricsExporter> {
        let (orders, received) = channel();
        let client = OtlpClient::new(settings.collector.clone(), "/v1/metrics")?;
        let task = ExportTask { client, sources, settings: settings.clone(), works: true };
        thread::Builder::new().name("metrics".to_owned()).spawn(move || task.run(&received))?;
        Ok(MetricsExporter { settings, orders })
    }

    /// The settings that it was started with.
    pub fn settings(&self) -> &MetricsExport {
        &self.settings
    }

    /// Exports for the last time. The receiver is ready when that is done; it has an error if the thread has ended before.
    pub fn finish(self) -> oneshot::Receiver<()> {
        let (done, is_done) = oneshot::channel();
        // The thread may have ended by a panic; then the receiver tells.
        self.orders.send(LastExport(done)).ok();
        is_done
    }
}

/// State of the export's thread.
struct ExportTask {
    client: OtlpClient,
    sources: Arc<MetricSources>,
    settings: MetricsExport,
    /// False after a failure, which was logged.
    works: bool,
}

impl ExportTask {
    /// Exports at each interval until the last order, or until the sender is gone. Blocks the thread.
    fn run(mut self, orders: &Receiver<LastExport>) {
        let mut next = self.now() + self.settings.interval;
        while let Some(order) = wait(orders, next.saturating_duration_since(self.now())) {
            self.export();
            if let Some(LastExport(done)) = order {
                // The process may not wait any more.
                done.send(()).ok();
                return;
            }
            // An export that took longer than the interval delays the next one.
            next = (next + self.settings.interval).max(self.now());
        }
    }

    /// Reads all metrics and posts them. A failure is logged once, and again only after a success in between.
    fn export(&mut self) {
        let families = self.sources.families(StepReader::Export);
        let document = otlp_metrics::encode(&families, self.sources.instance(), self.sources.times());
        match self.client.post(document.into()) {
            Ok(()) => self.works = true,
            Err(error) => {
                if std::mem::replace(&mut self.works, false) {
                    let collector = self.client.name();
                    tracing::warn!(collector, %error, "cannot export metrics; the next export has their sums again");
                }
            }
        }
    }

    /// Reads the clock of the gate, as an instant of the standard library.
    fn now(&self) -> Instant {
        let clock = self.sources.clock();
        clock.instant(clock.now())
    }
}

/// Waits for the last order, at most for this time, after which an export is due (`Some(None)`). `None`: there are no
/// orders any more.
fn wait(orders: &Receiver<LastExport>, time: Duration) -> Option<Option<LastExport>> {
    match orders.recv_timeout(time) {
        Ok(last) => Some(Some(last)),
        Err(RecvTimeoutError::Timeout) => Some(None),
        Err(RecvTimeoutError::Disconnected) => None,
    }
}

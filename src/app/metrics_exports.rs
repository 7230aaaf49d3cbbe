//! Export of metrics by the configuration in force: started, replaced by a reload, and finished at the end of the process.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::admin::MetricSources;
use crate::admin::metrics_export::MetricsExporter;
use crate::config::MetricsExport;

/// Time for the last export at exit. A choice: a collector that works takes it at once, and one that does not must not
/// hold up the exit.
const LAST_EXPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// The export of this process.
pub(super) struct MetricsExports {
    sources: Arc<MetricSources>,
    /// `None`: the configuration in force exports nothing, or the process ends.
    running: RefCell<Option<MetricsExporter>>,
}

/// The export that a reload is about to put in force.
pub(super) enum PreparedExport {
    /// The one that runs, or none.
    Keep,
    /// Another one, or none.
    Replace(Option<MetricsExporter>),
}

impl MetricsExports {
    /// Starts nothing yet.
    pub(super) fn new(sources: MetricSources) -> MetricsExports {
        MetricsExports { sources: Arc::new(sources), running: RefCell::default() }
    }

    /// Prepares the export of these settings. One that runs with equal settings is kept, so that reloads move no export.
    ///
    /// # Errors
    /// As [`MetricsExporter::start`]; the one that runs goes on.
    pub(super) async fn prepare(&self, settings: Option<&MetricsExport>) -> io::Result<PreparedExport> {
        if self.running.borrow().as_ref().map(MetricsExporter::settings) == settings {
            return Ok(PreparedExport::Keep);
        }
        let Some(settings) = settings.cloned() else { return Ok(PreparedExport::Replace(None)) };
        let sources = Arc::clone(&self.sources);
        // Off the event loop: a collector with TLS is verified by the system's roots, which are read.
        let started = spawn_blocking(move || MetricsExporter::start(settings, sources)).await;
        Ok(PreparedExport::Replace(Some(started.map_err(io::Error::other)??)))
    }

    /// Puts a prepared export in force.
    pub(super) fn replace(&self, prepared: PreparedExport) {
        if let PreparedExport::Replace(exporter) = prepared {
            *self.running.borrow_mut() = exporter;
        }
    }

    /// Exports for the last time, within [`LAST_EXPORT_TIMEOUT`].
    pub(super) async fn finish(&self) {
        let exporter = self.running.borrow_mut().take();
        if let Some(exporter) = exporter {
            let _elapsed = timeout(LAST_EXPORT_TIMEOUT, exporter.finish()).await;
        }
    }
}

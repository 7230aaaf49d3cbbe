//! Exporter of spans: a thread that posts them in batches to a collector.
//!
//! A batch that the collector does not take is lost, and its spans count as dropped.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::otlp_client::{Collector, OtlpClient};
use super::{Span, otlp};
use crate::gate::clock::Clock;
use crate::proxy::histogram::Count;
use crate::proxy::instance_id::InstanceId;

/// Most spans in one request; the default of `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`.
const MAX_BATCH: usize = 512;
/// Longest wait of a span for others of its batch: short enough for a person at a tracing UI.
const BATCH_DELAY: Duration = Duration::from_secs(1);

/// Posts spans to a collector.
pub(super) struct Exporter {
    client: OtlpClient,
    /// Identity of this process.
    instance: InstanceId,
    /// Clock of the gate: spans carry its times, which are turned into Unix time when a batch is
    /// encoded.
    clock: Clock,
}

impl Exporter {
    /// Prepares the exporter, without a connection.
    ///
    /// # Errors
    /// As [`OtlpClient::new`].
    pub(super) fn new(collector: Collector, instance: InstanceId, clock: Clock) -> io::Result<Exporter> {
        Ok(Exporter { client: OtlpClient::new(collector, "/v1/traces")?, instance, clock })
    }

    /// Exports spans until the last sender is gone; adds the lost ones to `dropped`. Blocks the thread.
    ///
    /// A failure is logged once, and again only after a batch has succeeded in between.
    pub(super) fn run(mut self, spans: &Receiver<Span>, dropped: &Count) {
        let mut works = true;
        while let Ok(first) = spans.recv() {
            let batch = self.gather(first, spans);
            let document = otlp::encode(&batch, self.instance.as_str(), self.clock);
            match self.client.post(document.into()) {
                Ok(()) => works = true,
                Err(error) => {
                    (0..batch.len()).for_each(|_| dropped.add_one());
                    // Logged once, until a batch succeeds again.
                    if std::mem::replace(&mut works, false) {
                        let collector = self.client.name();
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
}

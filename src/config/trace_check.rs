//! Checks of `[trace]`: the collector, and the signals that it receives.

use std::time::Duration;

use rustls::pki_types::CertificateDer;

use super::checked_settings::MetricsExport;
use super::process_schema::TraceSection;
use super::report::Reports;
use super::value_parsers::Destination;
use crate::proxy::target::Scheme;
use crate::proxy::trace;
use crate::proxy::trace::otlp_client::Collector;
use crate::tls::verify;

/// Default of `metrics_interval`, that of `OTEL_METRIC_EXPORT_INTERVAL`.
const METRICS_INTERVAL: Duration = Duration::from_secs(60);

/// Builds the settings of traces and of the export of metrics. A collector with TLS is verified by the same roots as
/// origins: the system's and `trust`.
///
/// `one_in` applies to requests without a trace of their own. `None` for a signal that is off, and for both without a
/// valid `otlp`.
pub(super) fn check(
    written: &TraceSection,
    trust: &[CertificateDer<'static>],
    reports: &Reports<'_>,
) -> (Option<trace::Settings>, Option<MetricsExport>) {
    if written.is_present && written.otlp.is_absent() {
        reports.error(&written.span, "`otlp` is missing", "add otlp = \"http://127.0.0.1:4318\"");
    }
    if written.is_present && !written.traces && !written.metrics {
        let message = "this section exports nothing: `traces` is false, and `metrics` is not true";
        reports.error(&written.span, message, "add metrics = true, or leave the section out");
    }
    if let (Some(at), false) = (written.metrics_interval.get(), written.metrics) {
        reports.warn(&at.span, "no metrics are exported", "add metrics = true, or leave `metrics_interval` out");
    }
    let Some(at) = written.otlp.get() else { return (None, None) };
    let Destination { origin, path, .. } = &at.value;
    let trust = || verify::Settings { trust: trust.to_vec(), identities: Vec::new() };
    let collector = Collector {
        host: origin.host.to_string(),
        port: origin.port,
        // Signals' paths are appended, as OTLP exporters do (opentelemetry.io/docs/specs/otel/protocol/exporter).
        path: path.trim_end_matches('/').to_owned(),
        tls: (origin.scheme == Scheme::Https).then(trust),
    };
    let interval = written.metrics_interval.get().map_or(METRICS_INTERVAL, |at| at.value);
    let traces = trace::Settings { collector: collector.clone(), one_in: written.one_in };
    (written.traces.then_some(traces), written.metrics.then_some(MetricsExport { collector, interval }))
}

//! Distributed tracing: takes W3C trace context, and sends spans to an OpenTelemetry collector (OTLP/HTTP, JSON).
//!
//! A request with a context is traced if its sampled flag is set; of the others one in [`Settings::one_in`] is. The
//! origin receives our span as the parent. Spans that find the queue full are dropped and counted: no request waits for
//! the collector.
//!
//! Settings come from `[trace]`. The only thread is that of the exporter; it ends once a reload has
//! changed or removed the section, and no request holds the tracer any more.
//!
//! Example of the two fields (§3.2, §3.3); the first is written anew for the origin:
//!
//! ```text
//! traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
//! tracestate: vendor=value
//! ```

mod exporter;
mod otlp;
pub mod otlp_client;
pub mod otlp_json;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

use self::exporter::Exporter;
use self::otlp_client::Collector;
use super::histogram::Count;
use super::metrics::Metrics;
use crate::gate::clock::Clock;
use crate::time::Time;
use crate::wire::RequestHead;

/// Most spans that wait for the exporter: a second's worth at 4000 traced requests/s, a few MiB.
const MAX_QUEUED: usize = 4096;

/// Name of the field that carries the context (W3C Trace Context §3.2).
pub(super) const TRACEPARENT: &str = "traceparent";

/// Name of the field that carries vendors' additions to it (§3.3).
const TRACESTATE: &str = "tracestate";

/// The `[trace]` section: where spans go, and how many requests have one.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Collector that takes them.
    pub collector: Collector,
    /// Sampling: one in this number of requests without a context is traced. At least 1.
    ///
    /// 1 traces all of them. Requests with a context are not counted: their sender has decided.
    pub one_in: u32,
}

/// Position of a traced request in its trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TraceContext {
    /// Never 0.
    trace: u128,
    /// Span of the caller; `None`: the trace begins here.
    parent: Option<u64>,
    /// Span of the gateway, never 0.
    span: u64,
}

impl TraceContext {
    /// The value of `traceparent` for the origin.
    ///
    /// Version 00, 32 digits of the trace, 16 of our span, and flags with only the sampled bit set.
    pub(super) fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-01", self.trace, self.span)
    }

    /// True if a caller's field must not be forwarded: ours replaces `traceparent`; and if the trace begins here,
    /// `tracestate` belongs to another trace.
    pub(super) fn replaces(&self, field: &[u8]) -> bool {
        field.eq_ignore_ascii_case(TRACEPARENT.as_bytes())
            || self.parent.is_none() && field.eq_ignore_ascii_case(TRACESTATE.as_bytes())
    }
}

/// Span of a request.
#[derive(Clone, Debug)]
pub(super) struct Span {
    /// Identifiers of trace, parent and span.
    pub(super) context: TraceContext,
    /// Start of the exchange.
    pub(super) started: Time,
    /// End of the response, or of the tunnel.
    pub(super) ended: Time,
    /// Start and length of the wait for its permits; `None`: it did not wait.
    pub(super) waited: Option<(Time, Duration)>,
    /// Method, as received; also the name of the span.
    pub(super) method: String,
    /// Path without the query, which may hold credentials.
    pub(super) path: String,
    /// Address of the caller.
    pub(super) peer: IpAddr,
    /// Status that the caller received.
    pub(super) status: u16,
    /// Names of the limits that counted it.
    pub(super) limits: Vec<Arc<str>>,
    /// Party that refused it and the reason, as in the access log; `None`: the response is the origin's.
    pub(super) refused: Option<(&'static str, &'static str)>,
}

/// Samples requests, and queues their spans for the exporter.
pub(super) struct Tracer {
    /// See [`Settings::one_in`].
    one_in: u64,
    /// Number of requests without a context so far.
    unsampled: AtomicU64,
    /// Queue of the exporter, at most [`MAX_QUEUED`] spans.
    queue: SyncSender<Span>,
    /// Number of spans lost, see [`Metrics::spans_dropped`].
    dropped: Arc<Count>,
}

impl Tracer {
    /// Starts the exporter's thread, which ends after this tracer was dropped. It counts lost spans in `metrics`.
    ///
    /// # Errors
    /// If the system gives no thread or no event loop, or there are no root certificates for an `https://` collector.
    pub(super) fn start(settings: &Settings, metrics: &Metrics, clock: Clock) -> io::Result<Arc<Tracer>> {
        let (queue, spans) = sync_channel(MAX_QUEUED);
        let dropped = Arc::clone(&metrics.spans_dropped);
        let exporter = Exporter::new(settings.collector.clone(), metrics.instance.clone(), clock)?;
        let lost = Arc::clone(&dropped);
        thread::Builder::new().name("traces".to_owned()).spawn(move || exporter.run(&spans, &lost))?;
        Ok(Arc::new(Tracer { one_in: u64::from(settings.one_in.max(1)), unsampled: AtomicU64::new(0), queue, dropped }))
    }

    /// Decides whether a request is traced; returns its context if so.
    ///
    /// Returns `None` too if the system gives no random numbers.
    pub(super) fn sample(&self, head: &RequestHead) -> Option<TraceContext> {
        let (trace, parent) = match head.find(TRACEPARENT).map(parse) {
            Some(Some((trace, parent, true))) => (Some(trace), Some(parent)),
            Some(Some((_, _, false))) => return None,
            // A malformed field counts as absent (§3.2.2.3).
            Some(None) | None => (None, None),
        };
        if trace.is_none() && !self.unsampled.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.one_in) {
            return None;
        }
        let mut random = [0; 24];
        SystemRandom::new().fill(&mut random).ok()?;
        let (new_trace, span) = random.split_at(16);
        let number = |bytes: &[u8]| bytes.iter().fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
        // Zero is no valid identifier (§3.2.2.3, §3.2.2.4).
        let span = (number(span) as u64).max(1);
        Some(TraceContext { trace: trace.unwrap_or_else(|| number(new_trace).max(1)), parent, span })
    }

    /// Queues the span of a request that has ended; drops and counts it if the queue is full.
    ///
    /// Never blocks. Without an exporter, after its thread has ended, each span is dropped.
    pub(super) fn export(&self, span: Span) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.queue.try_send(span) {
            self.dropped.add_one();
        }
    }
}

/// Parses a `traceparent`: trace, parent span, and the sampled flag (W3C Trace Context §3.2). `None`: it is malformed.
///
/// Lower-case hexadecimal digits only. Version `ff` is invalid; versions above 00 may have more
/// parts behind the flags.
fn parse(value: &[u8]) -> Option<(u128, u64, bool)> {
    let text = std::str::from_utf8(value).ok()?;
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let sizes = [version, trace, parent, flags].map(str::len) == [2, 32, 16, 2];
    // Later versions may have further parts (§3.2.4).
    let fits = version != "ff" && (version != "00" || parts.next().is_none());
    if !(sizes && fits && [version, trace, parent, flags].into_iter().all(is_hex)) {
        return None;
    }
    let (trace, parent) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(parent, 16).ok()?);
    let flags = u8::from_str_radix(flags, 16).ok()?;
    (trace != 0 && parent != 0).then_some((trace, parent, flags & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_read_as_the_recommendation_says() {
        let of = |text: &str| parse(text.as_bytes());
        let trace = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(of(good), Some((trace, 0x00f0_67aa_0ba9_02b7, true)));
        assert_eq!(of(&good.replace("-01", "-00")), Some((trace, 0x00f0_67aa_0ba9_02b7, false)));
        assert_eq!(of(&format!("01{}-more", &good[2..])), Some((trace, 0x00f0_67aa_0ba9_02b7, true)));
        for bad in [
            "",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}

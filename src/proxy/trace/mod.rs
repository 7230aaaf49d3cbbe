//! Spans of requests for a collector of traces: OpenTelemetry's protocol (OTLP/HTTP, JSON), and the trace context of W3C.
//!
//! A request that comes with a context is traced if its caller says so; of the others one in so many is. The origin is told
//! our span as its parent. What cannot be told in time is dropped and counted: no request waits for it.

mod tell;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};

use super::tally::Count;
use crate::gate::clock::Clock;
use crate::time::Time;
use crate::wire::RequestHead;

/// How many requests may be untold.
const MOST_UNTOLD: usize = 4096;

/// The field that bears the context (W3C Trace Context §3.2).
pub(super) const FIELD: &str = "traceparent";

/// The field that bears what vendors add to it (§3.3).
const VENDORS_FIELD: &str = "tracestate";

/// To whom it is told, and of how many; the `[trace]` of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The collector's host and port; it is spoken to without TLS.
    pub host: String,
    /// See `host`.
    pub port: u16,
    /// Where it takes traces.
    pub path: String,
    /// Of the requests that bring no context, one in so many is traced.
    pub one_in: u32,
}

/// Where a traced request stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Context {
    trace: u128,
    /// The span of whoever called us.
    parent: Option<u64>,
    /// Ours.
    span: u64,
}

impl Context {
    /// What the origin is told.
    pub(super) fn field(&self) -> String {
        format!("00-{:032x}-{:016x}-01", self.trace, self.span)
    }

    /// Whether ours stands for what the caller sent: its context, and what vendors keep of a trace that is not this one.
    pub(super) fn replaces(&self, field: &[u8]) -> bool {
        field.eq_ignore_ascii_case(FIELD.as_bytes())
            || self.parent.is_none() && field.eq_ignore_ascii_case(VENDORS_FIELD.as_bytes())
    }
}

/// What is told of a request.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) context: Context,
    /// Since when, on the gateway's line, and when it ended.
    pub(super) started: Time,
    pub(super) ended: Time,
    /// Since when it waited for its permits, and how long.
    pub(super) waited: Option<(Time, Duration)>,
    pub(super) method: String,
    /// Without the query.
    pub(super) path: String,
    pub(super) peer: IpAddr,
    pub(super) status: u16,
    pub(super) limits: Vec<Arc<str>>,
    /// Who refused it, and the reason in a word.
    pub(super) refused: Option<(&'static str, &'static str)>,
}

/// Traces requests.
pub(super) struct Tracer {
    one_in: u64,
    seen: AtomicU64,
    untold: SyncSender<Span>,
    pub(super) dropped: Arc<Count>,
}

impl Tracer {
    /// With a thread that tells the collector, as long as this is there.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn start(settings: &Settings, clock: Clock) -> io::Result<Arc<Tracer>> {
        let (untold, spans) = sync_channel(MOST_UNTOLD);
        let dropped = Arc::<Count>::default();
        let (to, lost) = (settings.clone(), Arc::clone(&dropped));
        thread::Builder::new().name("traces".to_owned()).spawn(move || tell::run(&to, &spans, clock, &lost))?;
        Ok(Arc::new(Tracer { one_in: u64::from(settings.one_in.max(1)), seen: AtomicU64::new(0), untold, dropped }))
    }

    /// Whether this request is traced, and as what.
    pub(super) fn begin(&self, head: &RequestHead) -> Option<Context> {
        let (trace, parent) = match head.find(FIELD).map(read) {
            Some(Some((trace, parent, true))) => (Some(trace), Some(parent)),
            Some(Some((_, _, false))) => return None,
            // What cannot be read is as if it were not there (§3.2.2.3).
            Some(None) | None => (None, None),
        };
        if trace.is_none() && !self.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.one_in) {
            return None;
        }
        let mut random = [0; 24];
        SystemRandom::new().fill(&mut random).ok()?;
        let (ours, span) = random.split_at(16);
        let number = |bytes: &[u8]| bytes.iter().fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
        // All zeros are no identifier.
        let span = (number(span) as u64).max(1);
        Some(Context { trace: trace.unwrap_or_else(|| number(ours).max(1)), parent, span })
    }

    /// A traced request has ended.
    pub(super) fn tell(&self, span: Span) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.untold.try_send(span) {
            self.dropped.add_one();
        }
    }
}

/// The trace, the caller's span, and whether it is traced (W3C Trace Context §3.2); `None`: it is not well formed.
fn read(value: &[u8]) -> Option<(u128, u64, bool)> {
    let text = std::str::from_utf8(value).ok()?;
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let sizes = [version, trace, parent, flags].map(str::len) == [2, 32, 16, 2];
    // Later versions may say more.
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
        let of = |text: &str| read(text.as_bytes());
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

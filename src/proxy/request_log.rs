//! Request log: data of one request for its access-log entry, its trace span and the metrics, collected during the
//! exchange.
//!
//! Life of a log: [`RequestLog::begin`] when the head has been read, one call for each event on the
//! way, and [`RequestLog::finish`] at the end of the response or of the tunnel. A log that is
//! dropped without `finish` (its task was cancelled) leaves no line and no count.
//!
//! Strings are copied only if the access log is on or the request is traced; the metrics need none.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::access::Admitted;
use super::access_log::AccessLogEntry;
use super::account::{Account, RequestFigures};
use super::body::Body;
use super::capabilities;
use super::claims::Claims;
use super::host_metrics::HostMetrics;
use super::refusal::Refusal;
use super::session::Session;
use super::target::Origin;
use super::timeouts::Timeout;
use super::trace::{Span, TraceContext};
use super::tunnel_warnings::TunnelDenial;
use crate::gate::Permit;
use crate::time::Time;

/// Status in logs after the caller hung up before its response; nginx introduced it.
const CLIENT_CLOSED_REQUEST: u16 = 499;
/// Status of a connection that has changed its protocol (RFC 9110 §15.2.2).
const SWITCHING_PROTOCOLS: u16 = 101;

/// Part of the request's body that has been read from the session.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum BodyRead {
    /// No byte: the next bytes on the connection are the body's.
    #[default]
    Nothing,
    /// Some bytes: the connection cannot carry another request, as the rest would be taken for it.
    Partly,
    /// Everything, trailers included: the next bytes are another request's.
    All,
}

impl BodyRead {
    /// State after the body was read from at least once.
    pub(super) fn of(body: &Body) -> BodyRead {
        if body.has_ended() { BodyRead::All } else { BodyRead::Partly }
    }
}

/// Log of one request; written once, at its end.
#[derive(Default)]
pub(super) struct RequestLog {
    /// Start of the exchange, at which the head had been read.
    pub(super) started: Time,
    /// Sum of all waits for permits.
    pub(super) waited: Duration,
    /// Start of the first wait.
    pub(super) waited_since: Option<Time>,
    /// Position in a trace, if the request is traced.
    pub(super) trace: Option<TraceContext>,
    /// Status that the caller received; 0 until there is one.
    ///
    /// 499 if the caller hung up first, and 200 for a tunnel.
    pub(super) status: u16,
    /// Part of the body that was read: a connection can carry another request after one that was read to the end.
    pub(super) body: BodyRead,
    /// Bytes of the request's body.
    ///
    /// Without chunk framing; in a tunnel, bytes from the caller.
    pub(super) bytes_in: u64,
    /// Bytes of the response.
    ///
    /// The content without chunk framing for a forwarded response; head and body for one of the
    /// gateway's own; in a tunnel, bytes from the origin.
    pub(super) bytes_out: u64,
    /// Number of times that the request was sent again after a pushback.
    pub(super) resent: u8,
    /// Timeout of the connection to its origin, from the last permit on.
    pub(super) connect: Option<Timeout>,
    /// Metrics of the host that it is for; `None` before that is known, and for requests that the gateway answers itself.
    host: Option<Arc<HostMetrics>>,
    /// Account by which the caller logged in; `None` if no password is required, or before its check.
    user: Option<Arc<Account>>,
    /// Names of the limits that counted it.
    ///
    /// Filled only if `logged`; the broadest limit first, each once.
    limits: Vec<Arc<str>>,
    /// Party that refused it, and the reason in a word.
    ///
    /// As [`Refusal::refused_by`] and [`Refusal::note`], such as `("limit", "queue_full")`.
    refused: Option<(&'static str, &'static str)>,
    /// Limit in `dry_run` that would have held the request back, with the length of that wait.
    dry_run_delay: Option<(Arc<str>, Duration)>,
    /// Reason of a refusal or of an unusual end, such as `intercepted`.
    note: Option<Cow<'static, str>>,
    /// Timeout that has ended the request, in the form of the log.
    timeout: Option<String>,
    /// True if the access log or the trace needs the entry.
    logged: bool,
}

impl RequestLog {
    /// Starts a log for the head in the session: counts it as received, and decides whether the request is traced.
    pub(super) fn begin(session: &Session) -> RequestLog {
        let snapshot = &session.worker.snapshot;
        if !capabilities::is_asked(&session.head) {
            snapshot.metrics.received.add_one();
        }
        let trace = snapshot.tracer.as_ref().and_then(|tracer| tracer.sample(&session.head));
        let logged = snapshot.log.is_on() || trace.is_some();
        RequestLog { started: snapshot.gate.clock().now(), logged, trace, ..RequestLog::default() }
    }

    /// Records that a balancer should have told the caller's address, and has not; a later reason goes before it.
    pub(super) fn caller_not_told(&mut self, note: Option<&'static str>) {
        self.note = note.map(Cow::Borrowed);
    }

    /// Adds a wait for a permit, from `asked` to `now`.
    ///
    /// A request can wait several times: after a reload, and before each further sending.
    pub(super) fn add_wait(&mut self, asked: Time, now: Time) {
        self.waited_since.get_or_insert(asked);
        let waited = now.since(asked);
        self.waited += waited;
        // At once, and not at the end of a response or a tunnel that may last for hours.
        if let Some(user) = &self.user {
            user.waited(waited);
        }
    }

    /// Records the caller, once it is known.
    pub(super) fn identified(&mut self, caller: &Admitted) {
        self.user.clone_from(&caller.user);
    }

    /// Records the origin that the request is for, or its tunnel.
    pub(super) fn targeted(&mut self, session: &Session, origin: &Origin) {
        let host = session.worker.snapshot.hosts.find(&origin.host, origin.port);
        self.host = Some(Arc::clone(host));
    }

    /// Records the limits that count the request; those of a later call replace the earlier ones.
    pub(super) fn claimed(&mut self, session: &Session, claims: &Claims) {
        if self.logged {
            let rules = &session.worker.snapshot.rules;
            self.limits = claims.limits().map(|limit| Arc::clone(&rules.rule(limit).name)).collect();
        }
    }

    /// Records that a limit in `dry_run` would have delayed or refused the request.
    pub(super) fn granted(&mut self, session: &Session, permit: &Permit) {
        if self.logged
            && let Some((limit, wait)) = permit.overruled()
        {
            self.dry_run_delay = Some((Arc::clone(&session.worker.snapshot.rules.rule(limit).name), wait));
        }
    }

    /// Records the refusal that becomes the response: its status, party and reason.
    pub(super) fn refused(&mut self, refusal: &Refusal) {
        self.status = refusal.status();
        self.note_refusal(refusal);
    }

    /// Records that a parent proxy has answered in the origin's place; the response is forwarded.
    pub(super) fn answered_by_parent(&mut self) {
        self.refused = Some(("parent", "parent_limited"));
        self.note = Some("parent_limited".into());
    }

    /// Records that the caller hung up.
    pub(super) fn caller_gone(&mut self) {
        self.status = CLIENT_CLOSED_REQUEST;
        self.note = Some("the caller hung up".into());
    }

    /// Records that the caller hung up in the queue, before it had a permit; `waited` says after
    /// how long.
    pub(super) fn left_queue(&mut self) {
        self.status = CLIENT_CLOSED_REQUEST;
        self.note = Some("hung_up_in_queue".into());
    }

    /// Records that the response broke off.
    ///
    /// The status stays that of the origin, because the caller has received it.
    pub(super) fn truncated(&mut self) {
        self.note = Some("the response broke off".into());
    }

    /// Records that a response or a tunnel was ended, because nothing moved until the end of a timeout.
    pub(super) fn stalled(&mut self, timeout: Option<&Timeout>) {
        self.note = Some("stood still".into());
        self.timeout = timeout.map(Timeout::log_form);
    }

    /// Records that the tunnel is intercepted.
    pub(super) fn intercepted(&mut self) {
        self.note = Some("intercepted".into());
    }

    /// Records that the tunnel carries plain HTTP, whose requests are logged by themselves.
    pub(super) fn carries_http(&mut self) {
        self.note = Some("plain_http".into());
    }

    /// Records that a tunnel could not be connected after its 200 was sent.
    ///
    /// The status stays 200: the caller received it.
    pub(super) fn not_connected(&mut self, refusal: &Refusal) {
        self.note_refusal(refusal);
    }

    /// Records party, reason and timeout of a refusal.
    fn note_refusal(&mut self, refusal: &Refusal) {
        self.refused = Some((refusal.refused_by(), refusal.note()));
        self.note = self.logged.then(|| refusal.log_note());
        if let Refusal::Overdue { timeout, .. } = refusal {
            self.timeout = Some(timeout.log_form());
        }
    }

    /// Records that the tunnel could not be intercepted, and has ended; with the timeout that has ended
    /// it, if one has.
    ///
    /// The status stays 200: the caller received it before its handshake.
    pub(super) fn not_intercepted(&mut self, why: String, timeout: Option<&Timeout>) {
        self.note = Some(why.into());
        self.timeout = timeout.map(Timeout::log_form);
    }

    /// Records that the tunnel was ended because of its first bytes.
    ///
    /// The party is `access`.
    pub(super) fn tunnel_denied(&mut self, why: &TunnelDenial) {
        self.refused = Some(("access", why.reason()));
        self.note = Some(why.to_string().into());
    }

    /// Counts the request, and writes its entry and its trace span.
    ///
    /// Counts in the metrics first, which needs nothing of the entry. Never blocks: line and span
    /// are dropped if their queues are full.
    pub(super) fn finish(self, session: &Session) {
        let snapshot = &session.worker.snapshot;
        snapshot.metrics.ended(self.status, self.refused);
        if let Some(host) = &self.host {
            let is_stream = session.head.method() == "CONNECT" || self.status == SWITCHING_PROTOCOLS;
            let took = || snapshot.gate.clock().now().since(self.started);
            host.ended(self.status, (!is_stream).then(took));
        }
        if let Some(user) = &self.user {
            let (status, refused_by) = (self.status, self.refused.map(|(party, _)| party));
            user.ended(RequestFigures { status, refused_by, bytes_in: self.bytes_in, bytes_out: self.bytes_out });
        }
        if !self.logged {
            return;
        }
        self.export_trace(session);
        if !snapshot.log.is_on() {
            return;
        }
        snapshot.log.write(AccessLogEntry {
            peer: session.caller,
            user: self.user.map(|user| Arc::clone(user.name())),
            method: session.head.method().to_owned(),
            target: target(session),
            limits: self.limits,
            waited: self.waited,
            status: self.status,
            refused_by: self.refused.map(|(refused_by, _)| refused_by),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            took: snapshot.gate.clock().now().since(self.started),
            dry_run_delay: self.dry_run_delay,
            note: self.note,
            timeout: self.timeout,
        });
    }
}

impl RequestLog {
    /// Exports the trace span.
    ///
    /// The child span of the wait begins with the first wait and lasts as long as all waits
    /// together.
    fn export_trace(&self, session: &Session) {
        let snapshot = &session.worker.snapshot;
        let (Some(context), Some(tracer)) = (self.trace, &snapshot.tracer) else { return };
        let target = target(session);
        tracer.export(Span {
            context,
            started: self.started,
            ended: snapshot.gate.clock().now(),
            waited: self.waited_since.map(|since| (since, self.waited)),
            method: session.head.method().to_owned(),
            path: path_of(&target).to_owned(),
            peer: session.caller,
            status: self.status,
            limits: self.limits.clone(),
            refused: self.refused,
        });
    }
}

/// Path of a target, without authority and query.
///
/// Examples: `http://a.example/b?c` gives `/b`, `http://a.example` gives `/`, `/b?c` gives `/b`;
/// the target of a CONNECT stays as it is.
fn path_of(target: &str) -> &str {
    let path = target.split_once("://").map_or(target, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    path.split(['?', '#']).next().unwrap_or_default()
}

/// Target as received; inside an intercepted tunnel completed with the tunnel's origin.
///
/// Example: `/v1` in a tunnel to `api.example:443` becomes `https://api.example/v1`.
fn target(session: &Session) -> String {
    let target = session.head.target();
    match session.within.as_deref() {
        Some(within) if target.starts_with('/') => {
            let mut url = format!("{}://", within.origin.scheme.name()).into_bytes();
            within.origin.write_authority(&mut url);
            url.extend_from_slice(target.as_bytes());
            String::from_utf8_lossy(&url).into_owned()
        }
        Some(_) | None => target.to_owned(),
    }
}

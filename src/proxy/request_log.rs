//! Request log: data of one request for its access-log entry, its trace span and the metrics, collected during the
//! exchange.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::access::Admitted;
use super::access_log::AccessLogEntry;
use super::body::Body;
use super::claims::Claims;
use super::refusal::Refusal;
use super::session::Session;
use super::trace::{Span, TraceContext};
use crate::gate::Permit;
use crate::time::Time;

/// Status in logs after the caller hung up before its response; nginx introduced it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Part of the request's body that has been read from the session.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum BodyRead {
    #[default]
    Nothing,
    Partly,
    All,
}

impl BodyRead {
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
    pub(super) status: u16,
    /// Part of the body that was read: a connection can carry another request after one that was read to the end.
    pub(super) body: BodyRead,
    /// Bytes of the request's body.
    pub(super) bytes_in: u64,
    /// Bytes of the response.
    pub(super) bytes_out: u64,
    /// Number of times that the request was sent again after a pushback.
    pub(super) resent: u8,
    user: Option<Arc<str>>,
    /// Names of the limits that counted it.
    limits: Vec<Arc<str>>,
    /// Party that refused it, and the reason in a word.
    refused: Option<(&'static str, &'static str)>,
    dry_run_delay: Option<(Arc<str>, Duration)>,
    note: Option<Cow<'static, str>>,
    /// True if the access log or the trace needs the entry.
    logged: bool,
}

impl RequestLog {
    pub(super) fn begin(session: &Session) -> RequestLog {
        let snapshot = &session.worker.snapshot;
        let trace = snapshot.tracer.as_ref().and_then(|tracer| tracer.sample(&session.head));
        let logged = snapshot.log.is_on() || trace.is_some();
        RequestLog { started: snapshot.gate.clock().now(), logged, trace, ..RequestLog::default() }
    }

    /// Adds a wait for a permit, from `asked` to `now`.
    pub(super) fn add_wait(&mut self, asked: Time, now: Time) {
        self.waited_since.get_or_insert(asked);
        self.waited += now.since(asked);
    }

    pub(super) fn admitted(&mut self, admitted: &Admitted) {
        self.user.clone_from(&admitted.user);
    }

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

    pub(super) fn refused(&mut self, refusal: &Refusal) {
        self.status = refusal.status();
        self.refused = Some((refusal.refused_by(), refusal.note()));
        self.note = Some(refusal.note().into());
    }

    /// Records that the caller hung up.
    pub(super) fn caller_gone(&mut self) {
        self.status = CLIENT_CLOSED_REQUEST;
        self.note = Some("the caller hung up".into());
    }

    /// Records that the response broke off.
    pub(super) fn truncated(&mut self) {
        self.note = Some("the response broke off".into());
    }

    /// Records that the tunnel is intercepted.
    pub(super) fn intercepted(&mut self) {
        self.note = Some("intercepted".into());
    }

    /// Records that the tunnel could not be intercepted, and has ended.
    pub(super) fn not_intercepted(&mut self, why: String) {
        self.note = Some(why.into());
    }

    /// Records that the tunnel was ended because of its first bytes.
    pub(super) fn tunnel_denied(&mut self, why: String) {
        self.refused = Some(("access", "server_name"));
        self.note = Some(why.into());
    }

    /// Counts the request, and writes its entry and its trace span.
    pub(super) fn finish(self, session: &Session) {
        let snapshot = &session.worker.snapshot;
        snapshot.metrics.ended(self.status, self.refused);
        if !self.logged {
            return;
        }
        self.export_trace(session);
        if !snapshot.log.is_on() {
            return;
        }
        snapshot.log.write(AccessLogEntry {
            peer: session.peer.ip(),
            user: self.user,
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
        });
    }
}

impl RequestLog {
    /// Exports the trace span.
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
            peer: session.peer.ip(),
            status: self.status,
            limits: self.limits.clone(),
            refused: self.refused,
        });
    }
}

/// Path of a target, without authority and query.
fn path_of(target: &str) -> &str {
    let path = target.split_once("://").map_or(target, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    path.split(['?', '#']).next().unwrap_or_default()
}

/// Target as received; inside an intercepted tunnel completed with the tunnel's origin.
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

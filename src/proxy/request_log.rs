//! What is known of one exchange for the access log, from its start to its end.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::access::Admitted;
use super::access_log::Record;
use super::body::Body;
use super::claims::Claims;
use super::connection::Caller;
use super::refusal::Refusal;
use super::trace::{Span, TraceContext};
use crate::gate::Permit;
use crate::time::Time;

/// The status that nginx made known for a caller that hung up before its answer.
const CALLER_LEFT: u16 = 499;

/// How much of the request's body has been taken from the caller.
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

/// Gathered on the way of a request; written once, at its end.
#[derive(Default)]
pub(super) struct Story {
    pub(super) started: Time,
    pub(super) waited: Duration,
    pub(super) waited_since: Option<Time>,
    /// Where it stands, if it is traced.
    pub(super) trace: Option<TraceContext>,
    pub(super) status: u16,
    /// A connection whose request was read to its end can carry another.
    pub(super) body: BodyRead,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// How often it was sent again because the origin pushed back.
    pub(super) resent: u8,
    user: Option<Arc<str>>,
    limits: Vec<Arc<str>>,
    /// Who refused it, and the reason in a word.
    refused: Option<(&'static str, &'static str)>,
    overruled: Option<(Arc<str>, Duration)>,
    note: Option<Cow<'static, str>>,
    logged: bool,
}

impl Story {
    pub(super) fn begin(caller: &Caller) -> Story {
        let proxy = &caller.worker.proxy;
        let trace = proxy.tracer.as_ref().and_then(|tracer| tracer.sample(&caller.head));
        let logged = proxy.log.is_on() || trace.is_some();
        Story { started: proxy.gate.clock().now(), logged, trace, ..Story::default() }
    }

    pub(super) fn admitted(&mut self, admitted: &Admitted) {
        self.user.clone_from(&admitted.user);
    }

    pub(super) fn claimed(&mut self, caller: &Caller, claims: &Claims) {
        if self.logged {
            let rules = &caller.worker.proxy.rules;
            self.limits = claims.limits().map(|limit| Arc::clone(&rules.rule(limit).name)).collect();
        }
    }

    /// A limit in `dry_run` has something to say of the permit.
    pub(super) fn permitted(&mut self, caller: &Caller, permit: &Permit) {
        if self.logged
            && let Some((limit, wait)) = permit.overruled()
        {
            self.overruled = Some((Arc::clone(&caller.worker.proxy.rules.rule(limit).name), wait));
        }
    }

    pub(super) fn refused(&mut self, refusal: &Refusal) {
        self.status = refusal.status();
        self.refused = Some((refusal.who(), refusal.note()));
        self.note = Some(refusal.note().into());
    }

    /// The caller hung up.
    pub(super) fn left(&mut self) {
        self.status = CALLER_LEFT;
        self.note = Some("the caller hung up".into());
    }

    /// The response broke off on its way.
    pub(super) fn broken(&mut self) {
        self.note = Some("the response broke off".into());
    }

    /// The tunnel is looked into.
    pub(super) fn opened(&mut self) {
        self.note = Some("opened".into());
    }

    /// The tunnel could not be looked into, and has ended.
    pub(super) fn unopened(&mut self, why: String) {
        self.note = Some(why.into());
    }

    /// The tunnel was ended because of its first bytes.
    pub(super) fn barred(&mut self, why: String) {
        self.refused = Some(("access", "server_name"));
        self.note = Some(why.into());
    }

    /// Counts it, and writes the record.
    pub(super) fn end(self, caller: &Caller) {
        let proxy = &caller.worker.proxy;
        proxy.metrics.ended(self.status, self.refused);
        if !self.logged {
            return;
        }
        self.tell(caller);
        if !proxy.log.is_on() {
            return;
        }
        proxy.log.write(Record {
            peer: caller.peer.ip(),
            user: self.user,
            method: caller.head.method().to_owned(),
            target: target(caller),
            limits: self.limits,
            waited: self.waited,
            status: self.status,
            refused_by: self.refused.map(|(who, _)| who),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            took: proxy.gate.clock().now().since(self.started),
            overruled: self.overruled,
            note: self.note,
        });
    }
}

impl Story {
    /// Tells of it whoever collects traces.
    fn tell(&self, caller: &Caller) {
        let proxy = &caller.worker.proxy;
        let (Some(context), Some(tracer)) = (self.trace, &proxy.tracer) else { return };
        let target = target(caller);
        tracer.export(Span {
            context,
            started: self.started,
            ended: proxy.gate.clock().now(),
            waited: self.waited_since.map(|since| (since, self.waited)),
            method: caller.head.method().to_owned(),
            path: path_of(&target).to_owned(),
            peer: caller.peer.ip(),
            status: self.status,
            limits: self.limits.clone(),
            refused: self.refused,
        });
    }
}

/// The path of a target, without authority and query.
fn path_of(target: &str) -> &str {
    let path = target.split_once("://").map_or(target, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    path.split(['?', '#']).next().unwrap_or_default()
}

/// The target as received; inside an opened tunnel with the origin that it leaves unsaid.
fn target(caller: &Caller) -> String {
    let target = caller.head.target();
    match caller.within.as_deref() {
        Some(within) if target.starts_with('/') => {
            let mut url = format!("{}://", within.origin.scheme.name()).into_bytes();
            within.origin.write_authority(&mut url);
            url.extend_from_slice(target.as_bytes());
            String::from_utf8_lossy(&url).into_owned()
        }
        Some(_) | None => target.to_owned(),
    }
}

//! THE straight line: one request, from its head to its permit; `attempts` and `pass` take it from there.

use std::time::Duration;

use super::access::Admitted;
use super::attempt::Late;
use super::claims::Claims;
use super::connection::Caller;
use super::header_rules::{self, Outgoing};
use super::intercept::Opening;
use super::named_hosts::Named;
use super::pool::{DialPlan, Fresh, Want};
use super::refusal::Refusal;
use super::request_log::Story;
use super::send::Ready;
use super::server_name::Guard;
use super::target::{Form, Scheme, Target};
use super::tunnel::Tunnel;
use super::upstream::Upstream;
use super::{acquire, attempt, capabilities, local_response, pinned, wait, wait_prefs};
use crate::gate::{Answer, Permit, Refused};
use crate::locker::AskKind;
use crate::net::dial::DialStrategy;
use crate::time::Time;
use crate::tls::verify::Offer;
use crate::wire::{ConnectionOptions, Length, Name, RequestHead, framing, http2};

/// What becomes of the caller's connection.
pub(super) enum Outcome {
    /// It can carry another request.
    Keep,
    /// It ends, once all is written.
    Close,
    /// It ends visibly broken: what the caller has of the response is not all of it.
    Abort,
    /// Its bytes now go both ways.
    Tunnel(Box<Tunnel>),
    /// What it says from here on is for one origin, and is looked at.
    Opened(Box<Opening>),
}

/// Why a request did not come to its response.
pub(super) enum End {
    /// The caller gets an answer of ours.
    Refused(Refusal),
    /// There is no caller any more.
    Left,
    /// The response broke off after its start had been passed on.
    Broken,
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> End {
        End::Refused(refusal)
    }
}

/// What is known of a request before it is sent.
pub(super) struct Plan {
    pub(super) target: Target,
    pub(super) upstream: Upstream,
    pub(super) admitted: Admitted,
    pub(super) claims: Claims,
    pub(super) outgoing: Outgoing,
    /// The versions that may be spoken to the origin.
    offer: Offer,
    pub(super) arrived: Time,
    /// The time by which it must have a connection: of its last permit, whose slot is not to be used later than that.
    connected_by: Time,
}

impl Plan {
    /// A connection that will do for the first sending.
    pub(super) fn want(&self) -> Want {
        // A tunnel begins where its connection begins, not behind other requests on it.
        let fresh = if self.is_tunnel() { Fresh::Since(self.arrived) } else { Fresh::No };
        Want { fresh, offer: self.offer }
    }

    /// The way a new connection to its origin is made.
    pub(super) fn dialling(&self) -> DialPlan {
        self.dialling_until(self.connected_by)
    }

    /// The same for a connection that is made ready before there is a permit.
    pub(super) fn dialling_until(&self, until: Time) -> DialPlan {
        // Of a tunnel the origin counts the connection.
        let is_counted = self.is_tunnel() && !self.claims.claims.is_empty();
        let attempts = if is_counted { DialStrategy::Sequential } else { DialStrategy::HappyEyeballs };
        DialPlan { caller: self.admitted.caller, attempts, until }
    }

    /// True if it asks for a connection rather than for an answer.
    pub(super) fn is_tunnel(&self) -> bool {
        self.target.form == Form::Authority
    }

    /// Which of the caller's own connections is for it.
    pub(super) fn key(&self, caller: &Caller) -> pinned::PinKey {
        let upstream = self.upstream.clone();
        pinned::PinKey { upstream, caller: self.admitted.caller, version: caller.worker.version() }
    }

    /// The limits were read again: which of them it must pass is found anew.
    fn claim_anew(&mut self, caller: &mut Caller, story: &mut Story) -> Result<(), Refusal> {
        caller.worker.refresh();
        let proxy = &caller.worker.proxy;
        self.admitted = proxy.access.anew(caller.peer.ip(), &self.admitted);
        self.claims = proxy.rules.find(&self.target, &caller.head, &self.admitted, caller.peer.ip())?;
        story.claimed(caller, &self.claims);
        Ok(())
    }
}

/// Carries one request: `caller.head` has been read, its body has not.
pub(super) async fn run(caller: &mut Caller) -> Outcome {
    let mut story = Story::begin(caller);
    let gone = go(caller, &mut story).await;
    caller.alarm.cap(None);
    match gone {
        Ok(Outcome::Tunnel(mut tunnel)) => {
            tunnel.story = Some(story);
            Outcome::Tunnel(tunnel)
        }
        Ok(Outcome::Opened(mut opening)) => {
            opening.story = Some(story);
            Outcome::Opened(opening)
        }
        Ok(outcome) => {
            story.end(caller);
            outcome
        }
        Err(End::Refused(refusal)) => {
            let outcome = local_response::refuse(caller, &mut story, &refusal).await;
            story.end(caller);
            outcome
        }
        Err(End::Left) => {
            story.left();
            story.end(caller);
            Outcome::Abort
        }
        Err(End::Broken) => {
            story.broken();
            story.end(caller);
            Outcome::Abort
        }
    }
}

async fn go(caller: &mut Caller, story: &mut Story) -> Result<Outcome, End> {
    if let Some(asked) = acquire::asked(caller) {
        // Boxed, so that a connection whose requests ask for something else does not carry its memory.
        return Box::pin(acquire::grant(caller, story, asked)).await;
    }
    let (target, admitted, length) = admit(caller, story).await?;
    if let Some(outcome) = local_response::own(caller, story).await {
        return Ok(outcome);
    }
    let tunnel = target.form == Form::Authority;
    if tunnel {
        let proxy = &caller.worker.proxy;
        if proxy.intercepts(&target.origin) {
            return Ok(local_response::opened(caller, story, Opening::new(target.origin, admitted)));
        }
        proxy.access.admit_opaque(proxy.named_hosts.look_up(&target))?;
    }
    let mut plan = plan(caller, story, target, admitted, length)?;
    let want = plan.want();
    let (mut permit, mut held) = permit(caller, story, &mut plan, None, want).await?;
    if tunnel {
        let proxy = &caller.worker.proxy;
        proxy.opaque.tell(&plan.target.origin, &proxy.rules, &plan.claims);
        let mut ready = attempt::connection(caller, &plan, held, want).await?;
        let mut late = Late::default();
        while permit.is_late() {
            late.note(caller)?;
            (permit, held) = attempt::ask_anew(caller, story, &mut plan, permit, ready, want).await?;
            ready = attempt::connection(caller, &plan, held, want).await?;
        }
        attempt::still_good(&permit)?;
        let Plan { target, admitted, claims, .. } = plan;
        let guard = Guard::new(&caller.worker.proxy, target.origin, admitted, claims);
        return Ok(local_response::tunnel(caller, story, Tunnel::open(ready, permit, guard)));
    }
    attempt::run(caller, story, &mut plan, permit, held).await
}

/// Where to, and whether that is allowed.
async fn admit(caller: &mut Caller, story: &mut Story) -> Result<(Target, Admitted, Length), End> {
    let proxy = &caller.worker.proxy;
    let head = &caller.head;
    let length = framing::of_request(head).map_err(|error| Refusal::Malformed(error.0))?;
    if header_rules::has_too_many_options(head) {
        return Err(Refusal::Malformed("Connection has more members than make sense").into());
    }
    if header_rules::stolen_field(head).is_some() {
        return Err(Refusal::Malformed("Connection names a field that is meant for the origin").into());
    }
    if header_rules::expects_the_unknown(head) {
        return Err(Refusal::Expectation.into());
    }
    if super::target::too_many_hops(head) {
        return Err(Refusal::Loop.into());
    }
    let within = caller.within.as_deref();
    let target = proxy.targets.find(head, &caller.came())?;
    if target.form == Form::Authority && length != Length::Empty {
        return Err(Refusal::Malformed("CONNECT has no body").into());
    }
    let admitted = match within {
        // Whoever was let into the tunnel is let through it.
        Some(within) => proxy.access.anew(caller.peer.ip(), &within.admitted),
        None => {
            let named = proxy.named_hosts.look_up(&target);
            // No host is called: the gateway answers this by itself.
            let named = Named { listed: named.listed || capabilities::is_asked(head), ..named };
            proxy.access.admit(caller.peer.ip(), head, &target, named, proxy.gate.clock()).await?
        }
    };
    story.admitted(&admitted);
    if let Some(first) = &caller.first_admission {
        first.set();
    }
    Ok((target, admitted, length))
}

/// Which windows it takes, and how it is passed on.
fn plan(
    caller: &Caller,
    story: &mut Story,
    target: Target,
    admitted: Admitted,
    length: Length,
) -> Result<Plan, Refusal> {
    let head = &caller.head;
    let claims = caller.worker.proxy.rules.find(&target, head, &admitted, caller.peer.ip())?;
    story.claimed(caller, &claims);
    let options = ConnectionOptions::of(head.all(Name::Connection).chain(head.all(Name::ProxyConnection)));
    let access = &caller.worker.proxy.access;
    let upgrade = header_rules::wants_upgrade(head, options, length, |protocol| access.may_upgrade_to(protocol));
    let outgoing = Outgoing { length, options, upgrade, trace: story.trace };
    let upstream = Upstream { origin: target.origin.clone(), reach: admitted.reach };
    let offer = offer(&target, head, upgrade);
    Ok(Plan {
        target,
        upstream,
        admitted,
        claims,
        outgoing,
        offer,
        arrived: story.started,
        connected_by: story.started,
    })
}

/// The versions that may be spoken to the origin for this request.
fn offer(target: &Target, head: &RequestHead, upgrade: bool) -> Offer {
    // Only HTTP/1.1 has a connection that can change its protocol, or that can be logged in.
    let needs_http1 = upgrade
        || header_rules::logs_in(head)
        || target.origin.scheme == Scheme::Https && !http2::can_carry_path(&target.path(head));
    if needs_http1 { Offer::Http1 } else { Offer::Http2 }
}

/// One permit, after a wait if need be.
pub(super) async fn permit(
    caller: &mut Caller,
    story: &mut Story,
    plan: &mut Plan,
    again: Option<Time>,
    want: Want,
) -> Result<(Permit, Option<Ready>), End> {
    let mut patience = wait_prefs::of(&caller.head);
    if let Some(arrived) = again {
        (patience.arrived, patience.kind) = (Some(arrived), AskKind::Retry);
    }
    let (permit, held) = loop {
        let proxy = &caller.worker.proxy;
        patience.revision = plan.claims.revision;
        match proxy.gate.ask(&plan.claims.claims, plan.admitted.caller, patience) {
            Answer::Go(permit) => {
                proxy.rules.metrics(&plan.claims).for_each(|counters| counters.permit(Duration::ZERO));
                break (permit, None);
            }
            // The limits were read again since its claims were found.
            Answer::Sorry(Refused::Anew) => plan.claim_anew(caller, story)?,
            Answer::Sorry(refused) => return Err(proxy.refusal(refused).into()),
            Answer::Wait(waiting) => {
                // Boxed, so that a connection whose requests never wait does not carry the memory of a wait.
                let asked = proxy.gate.clock().now();
                plan.admitted.meet(&proxy.metrics);
                let turn = Box::pin(wait::wait(caller, waiting, plan, want)).await;
                story.waited_since.get_or_insert(asked);
                story.waited += caller.worker.proxy.gate.clock().now().since(asked);
                if let Some(gone) = turn? {
                    break gone;
                }
                plan.claim_anew(caller, story)?;
                patience.arrived = Some(plan.arrived);
                patience.kind = AskKind::SentBack { retry: again.is_some() };
            }
        }
    };
    story.permitted(caller, &permit);
    let timeouts = &caller.worker.proxy.timeouts;
    plan.connected_by = permit.granted_at() + timeouts.connect;
    caller.alarm.cap(timeouts.request.map(|request| permit.granted_at() + request));
    Ok((permit, held))
}

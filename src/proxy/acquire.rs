//! A permit for something that is no HTTP request: `POST /v1/limits/NAME/acquire`, from the same windows and in the same
//! line as requests.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use serde_json::json;

use super::access::Admitted;
use super::attempt::Late;
use super::connection::Caller;
use super::exchange::{End, Outcome};
use super::host::Authority;
use super::query::{decode, parameter, parameters};
use super::refusal::Refusal;
use super::request_log::Story;
use super::retry::seconds;
use super::wait_prefs;
use super::{attempt, local_response};
use crate::gate::{Answer, Permit, Refused, Waiting};
use crate::locker::AskKind;
use crate::time::Time;
use crate::wire::Name;
use crate::wire::cross_site::{is_cross_site, may_be_rebound};

const BEFORE: &str = "/v1/limits/";
const BEHIND: &str = "/acquire";

/// What is asked for: the limit's name, as in the target, and the query.
pub(super) struct Asked {
    name: String,
    query: String,
}

/// Whether a request asks for a permit and for nothing else. Routes go first.
pub(super) fn asked(caller: &Caller) -> Option<Asked> {
    let head = &caller.head;
    let (path, query) = head.target().split_once('?').unwrap_or((head.target(), ""));
    let name = path.strip_prefix(BEFORE)?.strip_suffix(BEHIND)?;
    if name.contains('/') || head.method() != "POST" || caller.within.is_some() {
        return None;
    }
    let routed = caller.worker.proxy.targets.find(head, &caller.came());
    matches!(routed, Err(Refusal::NoRoute)).then(|| Asked { name: name.to_owned(), query: query.to_owned() })
}

/// Grants a permit to somebody who asks for nothing else.
pub(super) async fn grant(caller: &mut Caller, story: &mut Story, asked: Asked) -> Result<Outcome, End> {
    let proxy = &caller.worker.proxy;
    check_site(caller)?;
    let mut admitted = proxy.access.know(caller.peer.ip(), &caller.head, proxy.gate.clock()).await?;
    story.admitted(&admitted);
    let mut permit = wait(caller, story, &asked, &mut admitted, None).await?;
    let mut late = Late::default();
    while permit.is_late() {
        drop(permit);
        late.note(caller)?;
        permit = wait(caller, story, &asked, &mut admitted, Some(story.started)).await?;
    }
    attempt::still_good(&permit)?;
    // Whatever it is for happens from here on; nobody tells when it ends.
    let mut flight = permit.depart();
    flight.sent();
    flight.answered();
    drop(flight);
    let body = json!({ "verdict": "go", "waited_ms": story.waited.as_micros() as f64 / 1e3 });
    Ok(local_response::json(caller, story, &body.to_string()).await)
}

/// Slots are for programs: no web page takes them.
fn check_site(caller: &Caller) -> Result<(), Refusal> {
    let head = &caller.head;
    let host = head.get(Name::Host);
    if is_cross_site(head.find("sec-fetch-site"), head.find("origin"), host) {
        return Err(Refusal::Denied("a web page of another site asks for it, and permits are for programs"));
    }
    let name = host.and_then(|host| std::str::from_utf8(host).ok()).and_then(|host| Authority::read(host).ok());
    if caller.loopback
        && !caller.worker.proxy.access.asks_for_passwords()
        && name.is_some_and(|name| may_be_rebound(&name.host()))
    {
        return Err(Refusal::Misdirected(
            "on loopback, permits are asked for at an address or localhost alone, so that no web page gets here by a \
             name that leads here (DNS rebinding)",
        ));
    }
    Ok(())
}

/// A permit, after a wait if need be. `again`: since when, if one came too late.
async fn wait(
    caller: &mut Caller,
    story: &mut Story,
    asked: &Asked,
    admitted: &mut Admitted,
    again: Option<Time>,
) -> Result<Permit, End> {
    let values: Vec<_> = parameters(&asked.query, "key").collect();
    let cost = parameter(&asked.query, "cost");
    let name = String::from_utf8_lossy(&decode(&asked.name)).into_owned();
    let mut patience = wait_prefs::of(&caller.head);
    if let Some(arrived) = again {
        (patience.arrived, patience.kind) = (Some(arrived), AskKind::Retry);
    }
    if let Some(stated) = parameter(&asked.query, "wait") {
        let stated = seconds(&stated).ok_or(Refusal::BadTarget("wait is not a number of seconds"))?;
        patience.max_wait = Some(patience.max_wait.map_or(stated, |before| before.min(stated)));
    }
    loop {
        let proxy = &caller.worker.proxy;
        let claims = proxy.rules.claim(&name, &values, cost.as_deref(), admitted)?;
        story.claimed(caller, &claims);
        patience.revision = claims.revision;
        let waiting = match proxy.gate.ask(&claims.claims, admitted.caller, patience) {
            Answer::Go(permit) => {
                proxy.rules.metrics(&claims).for_each(|counters| counters.permit(story.waited));
                return Ok(permit);
            }
            // The limits were read again since its claims were found.
            Answer::Sorry(Refused::Anew) => {
                caller.worker.refresh();
                continue;
            }
            Answer::Sorry(refused) => return Err(proxy.refusal(refused).into()),
            Answer::Wait(waiting) => waiting,
        };
        admitted.meet(&proxy.metrics);
        let since = proxy.gate.clock().now();
        let verdict = in_line(caller, waiting).await;
        let proxy = &caller.worker.proxy;
        story.waited_since.get_or_insert(since);
        story.waited += proxy.gate.clock().now().since(since);
        match verdict {
            None => {
                proxy.rules.metrics(&claims).for_each(|counters| counters.left.add_one());
                return Err(End::Left);
            }
            Some(Ok(permit)) => {
                proxy.rules.metrics(&claims).for_each(|counters| counters.permit(story.waited));
                return Ok(permit);
            }
            Some(Err(Refused::Anew)) => {
                caller.worker.refresh();
                *admitted = caller.worker.proxy.access.anew(caller.peer.ip(), admitted);
                patience.arrived = Some(story.started);
                patience.kind = AskKind::SentBack { retry: again.is_some() };
            }
            Some(Err(refused)) => return Err(proxy.refusal(refused).into()),
        }
    }
}

/// `None`: the caller hung up.
async fn in_line(caller: &mut Caller, mut waiting: Waiting) -> Option<Result<Permit, Refused>> {
    poll_fn(|cx| {
        if let Poll::Ready(verdict) = Pin::new(&mut waiting).poll(cx) {
            return Poll::Ready(Some(verdict));
        }
        caller.conn.stream.poll_hangup(cx).map(|_| None)
    })
    .await
}

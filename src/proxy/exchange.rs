//! Exchange: carries one request from its head to the end of its response, in four steps.
//!
//! The steps: admission, permit, attempt, response; a request that is answered here or intercepted
//! leaves after the first, a tunnel after the third. Each step returns its result or a [`Failure`]; this is the only place
//! that turns a failure into a response or a reset.

use super::admit::{self, Admission};
use super::attempt;
use super::forward_response;
use super::local_request;
use super::local_response::{establish, refuse};
use super::outcome::{Failure, Outcome, Tunnel};
use super::parent_fault::ParentFault;
use super::permit_request;
use super::refusal::Refusal;
use super::request_log::RequestLog;
use super::session::{InterceptedTunnel, Session};
use crate::locker::AskKind;

/// Carries one request: its head is in the session, its body has not been read. Returns the outcome for the connection,
/// and the log entry, which is complete but for a tunnel.
///
/// # Cancel safety
/// If the future is dropped, the request ends as if the caller had hung up; its slots are settled or given back.
pub(super) async fn run(session: &mut Session) -> (Outcome, RequestLog) {
    let note = session.find_caller();
    let mut log = RequestLog::begin(session);
    log.caller_not_told(note);
    let result = carry(session, &mut log).await;
    let result = result.map_err(|failure| named(failure, session, &log));
    session.deadline.uncap();
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(Failure::Refused(refusal)) => refuse(session, &mut log, &refusal).await,
        Err(Failure::CallerGone) => {
            log.caller_gone();
            Outcome::Abort
        }
        Err(Failure::LeftQueue) => {
            log.left_queue();
            Outcome::Abort
        }
        Err(Failure::Truncated) => {
            log.truncated();
            Outcome::Abort
        }
        Err(Failure::Stalled) => {
            log.stalled(session.deadline.timeout());
            Outcome::Abort
        }
    };
    (outcome, log)
}

/// Connects a tunnel that has turned out to be opaque after its 200 was sent: the head of its CONNECT
/// is in the session still.
///
/// # Errors
/// Those of the steps; no response can be sent for them.
pub(super) async fn connect_late(
    session: &mut Session,
    log: &mut RequestLog,
    tunnel: InterceptedTunnel,
) -> Result<Tunnel, Failure> {
    let connected = async {
        let mut plan = admit::late_plan(session, log, tunnel)?;
        let granted = permit_request::obtain(session, log, &mut plan, AskKind::New).await?;
        attempt::connect(session, log, &mut plan, granted).await
    };
    let connected = connected.await.map_err(|failure| named(failure, session, log));
    session.deadline.uncap();
    connected
}

/// Adds the timeout to a refusal that one has caused.
fn named(failure: Failure, session: &Session, log: &RequestLog) -> Failure {
    let timeout = match &failure {
        Failure::Refused(Refusal::ConnectTimeout | Refusal::DnsTimeout) => log.connect.as_ref(),
        Failure::Refused(Refusal::Parent(fault)) if matches!(**fault, ParentFault::Late { .. }) => log.connect.as_ref(),
        Failure::Refused(Refusal::AnswerTimeout | Refusal::BodyTimeout) => session.deadline.timeout(),
        Failure::Refused(_) | Failure::CallerGone | Failure::LeftQueue | Failure::Truncated | Failure::Stalled => None,
    };
    match (failure, timeout) {
        (Failure::Refused(refusal), Some(timeout)) => refusal.of_timeout(timeout.clone()).into(),
        (failure, _) => failure,
    }
}

/// Takes the four steps.
async fn carry(session: &mut Session, log: &mut RequestLog) -> Result<Outcome, Failure> {
    let mut plan = match admit::admit(session, log).await? {
        Admission::Forward(plan) => plan,
        Admission::Local(request) => return local_request::answer(session, log, request).await,
        Admission::Intercept(tunnel) => {
            establish(session, log);
            return Ok(Outcome::Intercept(tunnel));
        }
    };
    let granted = permit_request::obtain(session, log, &mut plan, AskKind::New).await?;
    if plan.is_tunnel() {
        let tunnel = attempt::connect(session, log, &mut plan, granted).await?;
        establish(session, log);
        return Ok(Outcome::Tunnel(Box::new(tunnel)));
    }
    let answered = attempt::run(session, log, &mut plan, granted).await?;
    forward_response::run(session, log, &plan, answered).await
}

//! Permit step: asks the limiter for all claims of a request, waits if necessary, and asks again
//! after a reload.
//!
//! The answer of the gate is one of three: a permit at once, a place in the queue, or a refusal.
//! After a reload the gate answers `Reask` to claims of an earlier revision; the claims are then
//! found again and asked for at once, with the time of arrival kept, so that the request does not
//! lose its turn.
//!
//! For requests that are forwarded; permits alone are obtained by [`bare_permit`](super::bare_permit).

use std::time::Duration;

use smallvec::SmallVec;

use super::outcome::Failure;
use super::plan::Plan;
use super::refusal::Refusal;
use super::request_log::RequestLog;
use super::send::OriginConn;
use super::session::Session;
use super::snapshot::ConfigSnapshot;
use super::upstream::Way;
use super::wait::{self, Granted};
use super::wait_prefs;
use crate::gate::{Answer, Patience, Permit, Refused};
use crate::locker::{AskKind, Claim, RefusalReason, Sorry};
use crate::time::Time;

/// Most permits of one request that may come too late. The request has its connection by then, so
/// each takes 250 ms of delay elsewhere: in the store, in the gateway, or in an origin that breaks
/// every connection before it is used.
const MAX_LATE: u32 = 8;

/// Obtains a permit for a request that is forwarded. `kind`: `New`, or `Retry` if the request had a
/// permit before.
///
/// Sets two deadlines that run from the grant: `connect` of the request's timeouts for the connection, and
/// `[timeouts] request`, if it is set, for the head of the response.
///
/// # Errors
/// The limiter's refusal; [`Failure::LeftQueue`]; [`Failure::CallerGone`].
pub(super) async fn obtain(
    session: &mut Session,
    log: &mut RequestLog,
    plan: &mut Plan,
    kind: AskKind,
) -> Result<Granted, Failure> {
    let rules = &session.worker.snapshot.rules;
    let rules = plan.claims.limits().map(|limit| rules.rule(limit));
    let prefs = Patience { kind, ..wait_prefs::under(&session.head, rules) };
    let granted = ask(session, log, plan, prefs).await?;
    let granted_at = granted.permit.granted_at();
    log.granted(session, &granted.permit);
    plan.connected_by = granted_at + plan.timeouts.connect.value;
    session.deadline.cap(plan.timeouts.request.clone(), granted_at);
    log.connect = Some(plan.timeouts.connect.clone());
    Ok(granted)
}

/// Asks the limiter until it decides; waits in between.
///
/// A permit granted at once counts as a wait of zero in the histogram of its limits.
///
/// # Errors
/// The limiter's refusal; [`Failure::LeftQueue`]; [`Failure::CallerGone`].
///
/// # Cancel safety
/// Dropping the future takes the request out of the queue. A permit that was granted in the
/// meantime gives its slots back.
async fn ask(
    session: &mut Session,
    log: &mut RequestLog,
    plan: &mut Plan,
    mut prefs: Patience,
) -> Result<Granted, Failure> {
    let retry = prefs.kind == AskKind::Retry;
    if retry {
        prefs.arrived = Some(log.started);
    }
    loop {
        let snapshot = &session.worker.snapshot;
        prefs.revision = plan.claims.revision;
        let pauses = snapshot.pauses.changes();
        let asked = claims_in_force(session, plan);
        match snapshot.gate.ask(&asked, plan.admitted.caller, prefs) {
            Answer::Go(permit) => {
                snapshot.rules.metrics(&plan.claims).for_each(|limit| limit.permit(Duration::ZERO));
                return Ok(Granted { permit, held: None });
            }
            // The limits have changed since the claims were found.
            Answer::Sorry(Refused::Reask) => plan.claim_again(session, log)?,
            Answer::Sorry(refused) => return Err(snapshot.refusal(refused).into()),
            Answer::Wait(waiting) => {
                let asked_at = snapshot.gate.clock().now();
                plan.admitted.remember_name(&snapshot.metrics);
                // Boxed, so that a connection on which no request waits does not hold the memory of a wait.
                let decided = Box::pin(wait::wait(session, waiting, plan)).await;
                log.add_wait(asked_at, session.worker.snapshot.gate.clock().now());
                match decided? {
                    // A pause of its credential began meanwhile: it waits for that, too, from its old place.
                    Ok(_) if is_outdated(session, plan, &asked, pauses) => {
                        if let Some(refused) = pause_beyond_wait(session, plan, prefs, log.started) {
                            return Err(session.worker.snapshot.refusal(refused).into());
                        }
                    }
                    Ok(granted) => return Ok(granted),
                    Err(Refused::Reask) => plan.claim_again(session, log)?,
                    Err(refused) => return Err(session.worker.snapshot.refusal(refused).into()),
                }
                prefs.arrived = Some(log.started);
                prefs.kind = AskKind::Reask { retry };
            }
        }
    }
}

/// Claims of a request, with the windows of its credential that pause now.
fn claims_in_force(session: &Session, plan: &Plan) -> SmallVec<[Claim; 2]> {
    let found = &plan.claims.claims;
    let snapshot = &session.worker.snapshot;
    let clock = snapshot.gate.clock();
    if !snapshot.pauses.is_active(|| clock.now()) {
        return found.clone();
    }
    let now = clock.now();
    let mut claims = SmallVec::new();
    for of_one in found.chunk_by(|one, next| one.limit == next.limit) {
        claims.extend_from_slice(of_one);
        claims.extend(of_one.iter().filter_map(|claim| {
            let credential = || plan.credential(session, claim);
            let (key, _) = snapshot.pauses.paused_credential(claim.limit, claim.key, now, credential)?;
            Some(Claim { key, ..*claim })
        }));
    }
    claims
}

/// True if a request had to wait for another window than it was granted: its credential pauses since
/// `pauses`, the number of changes of the pauses when it asked.
fn is_outdated(session: &Session, plan: &Plan, asked: &[Claim], pauses: u64) -> bool {
    let is_changed = session.worker.snapshot.pauses.changes() != pauses;
    is_changed && claims_in_force(session, plan).iter().any(|claim| !asked.contains(claim))
}

/// Refusal of a request that has waited since `arrived`, and whose credential now pauses for longer than
/// it may wait. `None`: it can go in time.
///
/// A request that asks for the first time is refused by its forecast; the gate lets one that has
/// waited stay to the end of its time.
fn pause_beyond_wait(session: &Session, plan: &Plan, prefs: Patience, arrived: Time) -> Option<Refused> {
    let snapshot = &session.worker.snapshot;
    let (now, limits) = (snapshot.gate.clock().now(), snapshot.gate.limits());
    plan.claims.claims.iter().find_map(|claim| {
        let limit = limits.get(claim.limit.0 as usize).filter(|limit| !limit.dry_run)?;
        let credential = || plan.credential(session, claim);
        let (_, until) = snapshot.pauses.paused_credential(claim.limit, claim.key, now, credential)?;
        let longest = prefs.max_wait.map_or(limit.max_wait, |own| own.min(limit.max_wait));
        let sorry = Sorry { reason: RefusalReason::TooLong, limit: claim.limit, until, exact: false };
        (until > arrived + longest).then_some(Refused::Sorry(sorry))
    })
}

/// Obtains another permit after one that came too late to be used; the request keeps its place in
/// the queue. `ready`: its connection, kept for the next permit unless a reload leads to another way.
///
/// # Errors
/// As [`obtain`].
pub(super) async fn obtain_again(
    session: &mut Session,
    log: &mut RequestLog,
    plan: &mut Plan,
    late: Permit,
    ready: Box<OriginConn>,
) -> Result<Granted, Failure> {
    drop(late);
    let ready = if ready.pinned {
        // Pinned: the next attempt finds it there. No other connection replaces it, because the login is on this one.
        session.pinned.keep(plan.pin_key(session), ready, session.worker.snapshot.gate.clock().now());
        None
    } else {
        Some(ready)
    };
    let (way, version) = (plan.upstream.way, session.worker.version());
    let Granted { permit, held } = obtain(session, log, plan, AskKind::Retry).await?;
    // After a reload the way through a parent proxy may be another one, whatever its number.
    let is_on_way = session.worker.version() == version || way == Way::Direct && plan.upstream.way == Way::Direct;
    Ok(Granted { permit, held: held.or(ready.filter(|_| is_on_way)) })
}

/// Number of a request's permits that came too late to be used.
///
/// One for each request: waits of different requests do not add up.
#[derive(Default)]
pub(super) struct LatePermits(u32);

impl LatePermits {
    /// Counts one more.
    ///
    /// Also counts in the metrics of the store, if limits are shared with other gateways; only
    /// those permits can be late.
    ///
    /// # Errors
    /// 503 after [`MAX_LATE`] of them.
    pub(super) fn add_one(&mut self, snapshot: &ConfigSnapshot) -> Result<(), Refusal> {
        if let Some(status) = snapshot.gate.store_status() {
            status.count_late_permit();
        }
        self.0 += 1;
        if self.0 > MAX_LATE { Err(Refusal::LatePermit) } else { Ok(()) }
    }
}

/// Checks that a permit is still valid.
///
/// Called right before each sending.
///
/// # Errors
/// 503 if not: the process that granted it has ended, or the permit is late.
pub(super) fn check(permit: &Permit) -> Result<(), Failure> {
    if permit.is_good() { Ok(()) } else { Err(Refusal::Closing { retry_after: Duration::ZERO }.into()) }
}

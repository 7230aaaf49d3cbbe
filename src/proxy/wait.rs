//! Wait for a permit: ends when the limiter decides or the caller hangs up; dials a connection shortly before the turn.
//!
//! Three events are awaited at once: the decision of the limiter, the end of the caller's
//! connection, and the time to dial. The dial begins 300 ms before the forecast turn and never
//! delays the decision: if it has failed by then, the request dials again within its slot.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::claims::Claims;
use super::outcome::Failure;
use super::plan::Plan;
use super::pool::{OriginPool, PreconnectSlot};
use super::refusal::Refusal;
use super::send::OriginConn;
use super::session::Session;
use super::snapshot::ConfigSnapshot;
use crate::gate::clock::Clock;
use crate::gate::{Permit, Refused, Waiting};
use crate::locker::{Caller, LimitId};

/// Time before a waiter's turn at which its connection is dialled: a TCP handshake across a continent, and a TLS
/// handshake on top.
const LEAD: Duration = Duration::from_millis(300);

/// A permit, with the connection that was dialled during the wait.
///
/// Order of use: the connection is checked out first, the permit is consumed by the sending.
pub(super) struct Granted {
    /// Right to send once; gives its slots back when dropped.
    pub(super) permit: Permit,
    /// Connection that was dialled during the wait.
    ///
    /// `None` if none was dialled, or its dial failed.
    pub(super) held: Option<Box<OriginConn>>,
}

/// Waits for the limiter's decision, and counts it in the metrics of the limits. `plan`: plan of the request, whose
/// connection is dialled before the turn.
///
/// The inner result is the decision: a permit, or the gate's reason against one.
///
/// # Errors
/// [`Failure::LeftQueue`]; or, with a permit granted, [`Failure::CallerGone`] or the refusal of a dial that failed.
///
/// # Cancel safety
/// If the future is dropped, the request leaves the queue.
pub(super) async fn wait(
    session: &mut Session,
    mut waiting: Waiting,
    plan: &Plan,
) -> Result<Result<Granted, Refused>, Failure> {
    let clock = session.worker.snapshot.gate.clock();
    let since = clock.now();
    let mut preconnect = Preconnect::new(session, plan, &waiting);
    let decision = poll_fn(|cx| {
        if let Poll::Ready(decision) = Pin::new(&mut waiting).poll(cx) {
            return Poll::Ready(Some(decision));
        }
        if session.conn.stream.poll_hangup(cx).is_ready() {
            return Poll::Ready(None);
        }
        preconnect.poll(cx);
        Poll::Pending
    })
    .await;
    let waited = clock.now().since(since);
    match &decision {
        Some(Ok(_)) => session.worker.snapshot.rules.metrics(&plan.claims).for_each(|limit| limit.permit(waited)),
        None => count_hang_up(&session.worker.snapshot, &plan.claims, plan.admitted.caller, waited),
        Some(Err(_)) => {}
    }
    match (decision, preconnect.stage) {
        (Some(Ok(permit)), PreconnectState::Connected(ready)) => Ok(Ok(Granted { permit, held: Some(ready) })),
        // The permit was granted before the connection was ready: the dial continues, and the slot is taken until the
        // head is out.
        (Some(Ok(permit)), PreconnectState::Dialling(dialling)) => {
            let ready = session.unless_gone(dialling).await.ok_or(Failure::CallerGone)??;
            Ok(Ok(Granted { permit, held: Some(ready) }))
        }
        (Some(Ok(permit)), PreconnectState::Later(_) | PreconnectState::Nothing) => {
            Ok(Ok(Granted { permit, held: None }))
        }
        (decision, unused) => {
            if let PreconnectState::Connected(ready) = unused {
                session.worker.pool.keep(&plan.upstream, ready);
            }
            match decision {
                Some(Err(refused)) => Ok(Err(refused)),
                Some(Ok(_)) | None => Err(Failure::LeftQueue),
            }
        }
    }
}

/// Counts a hang-up in the queue at each limit. Once a minute, logs that callers seem to have a time-out that is shorter
/// than the wait of the limit with the shortest one.
pub(super) fn count_hang_up(snapshot: &ConfigSnapshot, claims: &Claims, caller: Caller, waited: Duration) {
    let (limits, now) = (snapshot.gate.limits(), snapshot.gate.clock().now());
    let max_wait = |limit: &LimitId| limits[limit.0 as usize].max_wait;
    let holds = |limit: &LimitId| !snapshot.rules.rule(*limit).dry_run;
    let shortest = claims.limits().filter(holds).min_by_key(max_wait);
    for limit in claims.limits() {
        let found = snapshot.rules.metrics_of(limit).hang_up(waited, caller, now);
        let Some(found) = found.filter(|_| shortest == Some(limit)) else { continue };
        let name = found.caller.map(|caller| snapshot.metrics.caller(caller));
        if let Some(advice) = found.advice(&snapshot.rules.rule(limit).name, max_wait(&limit), name.as_deref()) {
            tracing::warn!("{advice}");
        }
    }
}

/// Dials a connection for a waiter, [`LEAD`] before its turn.
struct Preconnect<'p> {
    stage: PreconnectState,
    /// `None` if no connection is needed.
    plan: Option<&'p Plan>,
    /// True if the session has a pinned connection for the request, which needs that one.
    is_pinned: bool,
    origins: Arc<OriginPool>,
    clock: Clock,
    /// Time that DNS, TCP and TLS may take.
    timeout: Duration,
    /// Right to dial ahead, which bounds the number of such dials.
    place: Option<PreconnectSlot>,
}

/// State of a waiter's connection.
enum PreconnectState {
    /// The turn is far away: nothing is dialled.
    Later(Pin<Box<Sleep>>),
    /// A dial under way, which may take `timeout` from its begin.
    Dialling(Pin<Box<dyn Future<Output = Result<Box<OriginConn>, Refusal>> + Send>>),
    /// Ready for the sending, or an idle one taken from the pool.
    Connected(Box<OriginConn>),
    /// The dial failed, or no connection is needed before the turn.
    Nothing,
}

impl<'p> Preconnect<'p> {
    fn new(session: &Session, plan: &'p Plan, waiting: &Waiting) -> Preconnect<'p> {
        let clock = session.worker.snapshot.gate.clock();
        // The origin counts the connection of a tunnel, so it is dialled within the slot.
        let plan = (!plan.is_tunnel()).then_some(plan);
        let stage = match plan {
            None => PreconnectState::Nothing,
            Some(_) => {
                // Without a forecast the turn could come at any moment.
                let begin = waiting.forecast().map_or_else(|| clock.now(), |turn| turn - LEAD);
                PreconnectState::Later(Box::pin(sleep_until(Instant::from_std(clock.instant(begin)))))
            }
        };
        let has_pin = |plan: &Plan| session.pinned.has(&plan.pin_key(session));
        Preconnect {
            stage,
            plan,
            is_pinned: !session.pinned.is_empty() && plan.is_some_and(has_pin),
            origins: Arc::clone(&session.worker.pool),
            clock,
            timeout: plan.map_or(Duration::ZERO, |plan| plan.timeouts.connect.value),
            place: None,
        }
    }

    /// Polls the connection.
    fn poll(&mut self, cx: &mut Context<'_>) {
        if let PreconnectState::Later(sleep) = &mut self.stage {
            if sleep.as_mut().poll(cx).is_pending() {
                return;
            }
            self.stage = self.begin();
        }
        if let PreconnectState::Dialling(dialling) = &mut self.stage {
            match dialling.as_mut().poll(cx) {
                Poll::Ready(Ok(ready)) => self.stage = PreconnectState::Connected(ready),
                // A failed dial refuses the request only if the origin cannot be reached at its turn either.
                Poll::Ready(Err(_)) => self.stage = PreconnectState::Nothing,
                Poll::Pending => {}
            }
        }
    }

    /// Takes an idle connection or starts to dial, if the number of dials ahead allows it and no connection is pinned.
    ///
    /// At most 32 waiters of one origin and runtime dial ahead at one time; the others use
    /// connections that earlier requests return.
    fn begin(&mut self) -> PreconnectState {
        let Some(plan) = self.plan.filter(|_| !self.is_pinned) else { return PreconnectState::Nothing };
        self.place = self.origins.preconnect_slot(&plan.upstream);
        if self.place.is_none() {
            return PreconnectState::Nothing;
        }
        match self.origins.idle(&plan.upstream, plan.want) {
            Some(ready) => PreconnectState::Connected(ready),
            None => {
                let (how, want) = (plan.dialling_until(self.clock.now() + self.timeout), plan.want);
                let (origins, upstream) = (Arc::clone(&self.origins), plan.upstream.clone());
                PreconnectState::Dialling(Box::pin(async move { origins.dial(&upstream, how, want).await }))
            }
        }
    }
}

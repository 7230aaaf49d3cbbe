//! Bare permit: a permit without a request to forward. Asks the limiter for the slots of one limit, waits if necessary,
//! and asks again after a reload.
//!
//! Used by programs whose resource is not HTTP: through `/acquire`, and by listeners that speak other protocols. Nothing
//! is dialled, and no pause of a credential applies, as no request states one. The slots settle when the permit is
//! granted, because the end of the program's work is not reported: a window of `in_flight` is free again at once.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::claims::Claims;
use super::outcome::Failure;
use super::permit_request::{LatePermits, check};
use super::refusal::Refusal;
use super::snapshot::ConfigSnapshot;
use super::wait::count_hang_up;
use crate::gate::{Answer, Patience, Permit, Refused, Waiting};
use crate::locker::{AskKind, Caller};
use crate::time::Time;

/// A program that asks for a permit, and its connection.
pub(super) trait BareAsk {
    /// Configuration that its claims were found under.
    fn snapshot(&self) -> &Arc<ConfigSnapshot>;

    /// Claims that must be granted, all at one moment.
    fn claims(&self) -> &Claims;

    /// Caller that takes the turn.
    fn caller(&self) -> Caller;

    /// Time at which it asked first, which decides its place in the queue.
    fn arrived(&self) -> Time;

    /// Ready once its connection has ended.
    fn poll_hang_up(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Records that a wait begins: the dashboard shows the caller by its name from here on.
    fn begin_wait(&mut self);

    /// Records a wait, from `asked` to `now`.
    fn add_wait(&mut self, asked: Time, now: Time);

    /// Finds the claims again under the configuration in force, after a reload has replaced the one that they were found
    /// under.
    ///
    /// # Errors
    /// If the ask cannot be counted, see [`Rules::claim`](super::claims::Rules::claim).
    fn claim_again(&mut self) -> Result<(), Refusal>;
}

/// Obtains a permit, and settles its slots at once.
///
/// # Errors
/// The limiter's refusal; [`Failure::LeftQueue`] after a hang-up.
///
/// # Cancel safety
/// Dropping the future takes the ask out of the queue. A permit that was granted in the meantime gives its slots back.
pub(super) async fn obtain(ask: &mut impl BareAsk, prefs: Patience) -> Result<(), Failure> {
    let mut late = LatePermits::default();
    let mut permit = request(ask, prefs).await?;
    while permit.is_late() {
        drop(permit);
        late.add_one(ask.snapshot())?;
        permit = request(ask, Patience { kind: AskKind::Retry, ..prefs }).await?;
    }
    check(&permit)?;
    let mut flight = permit.depart();
    flight.sent();
    flight.answered();
    Ok(())
}

/// Asks the limiter until it decides; waits in between.
///
/// A permit granted at once counts as a wait of zero in the histogram of its limit.
async fn request(ask: &mut impl BareAsk, mut prefs: Patience) -> Result<Permit, Failure> {
    let retry = prefs.kind == AskKind::Retry;
    if retry {
        prefs.arrived = Some(ask.arrived());
    }
    loop {
        let snapshot = Arc::clone(ask.snapshot());
        prefs.revision = ask.claims().revision;
        match snapshot.gate.ask(&ask.claims().claims, ask.caller(), prefs) {
            Answer::Go(permit) => {
                snapshot.rules.metrics(ask.claims()).for_each(|limit| limit.permit(Duration::ZERO));
                return Ok(permit);
            }
            // The limits have changed since the claims were found.
            Answer::Sorry(Refused::Reask) => ask.claim_again()?,
            Answer::Sorry(refused) => return Err(snapshot.refusal(refused).into()),
            Answer::Wait(waiting) => {
                let asked_at = snapshot.gate.clock().now();
                ask.begin_wait();
                let decided = Box::pin(wait(ask, &snapshot, waiting, asked_at)).await;
                ask.add_wait(asked_at, snapshot.gate.clock().now());
                match decided? {
                    Ok(permit) => return Ok(permit),
                    Err(Refused::Reask) => ask.claim_again()?,
                    Err(refused) => return Err(ask.snapshot().refusal(refused).into()),
                }
                prefs.arrived = Some(ask.arrived());
                prefs.kind = AskKind::Reask { retry };
            }
        }
    }
}

/// Waits for the limiter's decision, and counts it in the metrics of the limit. The inner result is the decision.
///
/// # Errors
/// [`Failure::LeftQueue`] after a hang-up.
async fn wait(
    ask: &mut impl BareAsk,
    snapshot: &ConfigSnapshot,
    mut waiting: Waiting,
    since: Time,
) -> Result<Result<Permit, Refused>, Failure> {
    let decision = poll_fn(|cx| {
        if let Poll::Ready(decision) = Pin::new(&mut waiting).poll(cx) {
            return Poll::Ready(Some(decision));
        }
        ask.poll_hang_up(cx).map(|()| None)
    })
    .await;
    let waited = snapshot.gate.clock().now().since(since);
    match decision {
        Some(Ok(permit)) => {
            snapshot.rules.metrics(ask.claims()).for_each(|limit| limit.permit(waited));
            Ok(Ok(permit))
        }
        Some(Err(refused)) => Ok(Err(refused)),
        None => {
            count_hang_up(snapshot, ask.claims(), ask.caller(), waited);
            Err(Failure::LeftQueue)
        }
    }
}

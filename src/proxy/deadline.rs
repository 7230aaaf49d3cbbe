//! Deadline timer: one per connection, for every timeout of its life.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::coop::{has_budget_remaining, unconstrained};
use tokio::time::{Instant, Sleep, sleep_until};

use super::timeouts::Timeout;
use crate::gate::clock::{Clock, TICK};
use crate::time::Time;

/// A deadline that moves with every request.
///
/// Deadlines nearly always move later. The timer below is therefore left alone, and compared with
/// the deadline only when it fires: moving a deadline costs one clock reading.
#[derive(Debug)]
pub(super) struct Deadline {
    clock: Clock,
    /// Timer of the runtime; fires at or before `due`.
    sleep: Pin<Box<Sleep>>,
    /// Time of expiry.
    due: Instant,
    /// Timeout that `due` was set by, if it has a name.
    armed: Option<Timeout>,
    /// Latest time of expiry, whatever is set, and the timeout that it is of.
    cap: Option<(Instant, Timeout)>,
}

impl Deadline {
    /// Expires `after` from now.
    pub(super) fn new(clock: Clock, after: Duration) -> Deadline {
        let due = Self::at(clock, after);
        Deadline { clock, sleep: Box::pin(sleep_until(due)), due, armed: None, cap: None }
    }

    /// Moves the deadline to `after` from now.
    pub(super) fn set(&mut self, after: Duration) {
        let due = Self::at(self.clock, after);
        self.due = self.cap.as_ref().map_or(due, |(cap, _)| due.min(*cap));
        self.armed = None;
        if self.due < self.sleep.deadline() {
            self.sleep.as_mut().reset(self.due);
        }
    }

    /// Moves the deadline to the end of a timeout that begins now; it is the one to be named at the
    /// expiry.
    pub(super) fn arm(&mut self, timeout: &Timeout) {
        self.set(timeout.value);
        self.armed = Some(timeout.clone());
    }

    /// Bounds every later `set` by the end of a timeout that began at `since`; `None` removes the
    /// bound.
    pub(super) fn cap(&mut self, timeout: Option<Timeout>, since: Time) {
        self.cap = timeout.map(|timeout| (Instant::from_std(self.clock.instant(since + timeout.value)), timeout));
    }

    /// Removes the bound of [`Deadline::cap`].
    pub(super) fn uncap(&mut self) {
        self.cap = None;
    }

    /// Timeout that ends with the deadline, if it has a name.
    pub(super) fn timeout(&self) -> Option<&Timeout> {
        match &self.cap {
            Some((cap, timeout)) if *cap == self.due => Some(timeout),
            Some(_) | None => self.armed.as_ref(),
        }
    }

    /// Polls the timer. Timers use the budget of their task, and are pending without any: then it is polled once more
    /// outside of it, which costs more than most polls need.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.sleep.as_mut().poll(cx);
        if polled.is_ready() || has_budget_remaining() {
            return polled;
        }
        pin!(unconstrained(self.sleep.as_mut())).poll(cx)
    }

    /// Ready once the deadline has passed, also for a task without budget: the work before it may use up
    /// all of it at every poll.
    pub(super) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.poll_timer(cx).is_ready() {
            if self.due <= self.sleep.deadline() {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(self.due);
        }
        Poll::Pending
    }

    /// Runs `work` until the deadline expires; returns `None` if it does.
    pub(super) async fn run<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => self.poll_expired(cx).map(|()| None),
        })
        .await
    }

    /// End of a duration that begins now; up to a tick late, never early. Set several times for each request.
    fn at(clock: Clock, after: Duration) -> Instant {
        Instant::from_std(clock.instant(clock.recent() + TICK + after))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::super::timeouts::TimeoutKey;
    use super::*;

    #[tokio::test]
    async fn it_expires_for_a_task_that_has_used_up_its_budget_too() {
        let mut deadline = Deadline::new(Clock::start(), Duration::ZERO);
        poll_fn(|cx| deadline.poll_expired(cx)).await;
        let mut cx = Context::from_waker(Waker::noop());
        while has_budget_remaining() {
            assert!(pin!(tokio::task::coop::consume_budget()).poll(&mut cx).is_ready());
        }
        assert!(deadline.poll_expired(&mut cx).is_ready());
    }

    #[tokio::test]
    async fn it_never_rings_early() {
        let clock = Clock::start();
        for _ in 0..100 {
            let before = clock.instant(clock.now());
            let deadline = Deadline::new(clock, Duration::from_secs(1));
            assert!(deadline.due.into_std() >= before + Duration::from_secs(1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_rings_at_the_last_deadline_it_was_given_whether_later_or_earlier() {
        let start = Instant::now();
        let mut alarm = Deadline {
            clock: Clock::start(),
            sleep: Box::pin(sleep_until(start + Duration::from_secs(1))),
            due: start,
            armed: None,
            cap: None,
        };
        alarm.due = start + Duration::from_secs(3);
        poll_fn(|cx| alarm.poll_expired(cx)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        alarm.set(Duration::from_secs(100));
        assert!(alarm.poll_expired(&mut Context::from_waker(Waker::noop())).is_pending());
        alarm.set(Duration::from_secs(1));
        assert!(alarm.sleep.deadline() < start + Duration::from_secs(90));
    }

    #[tokio::test(start_paused = true)]
    async fn it_rings_at_its_cap_however_often_it_is_set_to_later() {
        let (clock, hand) = Clock::manual();
        let mut alarm = Deadline::new(clock, Duration::from_secs(1));
        let timeout = |key, secs| Timeout { key, value: Duration::from_secs(secs), section: None };
        let (request, body) = (timeout(TimeoutKey::Request, 3), timeout(TimeoutKey::BodyIdle, 90));
        alarm.cap(Some(request.clone()), clock.now());
        for _ in 0..5 {
            alarm.arm(&body);
            hand.pass(Duration::from_millis(500));
        }
        assert_eq!(alarm.timeout(), Some(&request));
        assert_eq!(alarm.due, Instant::from_std(clock.instant(Time::START + Duration::from_secs(3))));
        alarm.uncap();
        alarm.arm(&body);
        assert_eq!((alarm.due, alarm.timeout()), (Deadline::at(clock, Duration::from_secs(90)), Some(&body)));
        alarm.set(Duration::from_secs(1));
        assert_eq!(alarm.timeout(), None, "a bound without a name");
    }
}

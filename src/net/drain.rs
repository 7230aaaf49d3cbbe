//! Who is still running; when to stop waiting.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::Notify;

use super::entrance::Entrance;

/// The end of the process: whether it has begun, and what it still waits for. One for the process; clone it for every
/// holder.
#[derive(Clone, Default)]
pub struct Drain {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    running: AtomicUsize,
    present: AtomicUsize,
    phase: AtomicU8,
    left: AtomicBool,
    entrances: Mutex<Vec<Arc<Entrance>>>,
    changed: Notify,
}

/// How far the end has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
enum Phase {
    Running,
    /// What is there ends with what it does next.
    Leaving,
    /// What does nothing ends at once.
    Ending,
}

/// Held by everything that must be waited for: a connection with a request, a tunnel.
#[must_use = "nobody is waited for without it"]
pub struct Busy {
    shared: Arc<Shared>,
}

/// Held by everything that is there, whether it does anything or not: a connection.
#[must_use = "nobody is there without it"]
pub struct Present {
    shared: Arc<Shared>,
    by: Option<Arc<Entrance>>,
}

/// The beginning of the end, for somebody who asks for it again and again.
pub struct Stopping {
    drain: Drain,
    /// Made when it is first asked for; with what it waits for.
    reached: Option<(Phase, Reached)>,
}

type Reached = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Stopping {
    /// Ready once [`Drain::start`] has been called, and from then on.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_phase(Phase::Ending, cx)
    }

    /// Ready once [`Drain::leave`] or [`Drain::start`] has been called, and from then on.
    pub fn poll_leaving(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_phase(Phase::Leaving, cx)
    }

    fn poll_phase(&mut self, phase: Phase, cx: &mut Context<'_>) -> Poll<()> {
        if self.drain.shared.phase() >= phase {
            return Poll::Ready(());
        }
        if self.reached.as_ref().is_none_or(|(waits_for, _)| *waits_for != phase) {
            let drain = self.drain.clone();
            let reached = async move { drain.until(|shared| shared.phase() >= phase).await };
            self.reached = Some((phase, Box::pin(reached)));
        }
        match &mut self.reached {
            Some((_, reached)) => reached.as_mut().poll(cx),
            None => unreachable!("it was made just now"),
        }
    }
}

impl Shared {
    fn entrances(&self) -> MutexGuard<'_, Vec<Arc<Entrance>>> {
        self.entrances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Running,
            1 => Phase::Leaving,
            _ => Phase::Ending,
        }
    }
}

impl Drain {
    /// Nobody is busy, and the end is not in sight.
    pub fn new() -> Drain {
        Drain::default()
    }

    /// One more that must be waited for, until the guard is dropped. Also while draining: what was begun goes on.
    pub fn busy(&self) -> Busy {
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        Busy { shared: Arc::clone(&self.shared) }
    }

    /// One more that is there, until the guard is dropped.
    pub fn present(&self) -> Present {
        self.shared.present.fetch_add(1, Ordering::SeqCst);
        Present { shared: Arc::clone(&self.shared), by: None }
    }

    /// One more that is there, having come in by this listener.
    pub fn present_by(&self, entrance: &Arc<Entrance>) -> Present {
        entrance.come();
        let mut present = self.present();
        present.by = Some(Arc::clone(entrance));
        present
    }

    /// A listener, by which others come in.
    pub fn entrance(&self, address: SocketAddr) -> Arc<Entrance> {
        let entrance = Arc::new(Entrance::new(address));
        self.shared.entrances().push(Arc::clone(&entrance));
        entrance
    }

    /// The listeners that are open, or by which somebody came in who is still there.
    pub fn entrances(&self) -> Vec<Arc<Entrance>> {
        let mut entrances = self.shared.entrances();
        entrances.retain(|entrance| !entrance.is_over());
        entrances.clone()
    }

    /// Another process is there for new work: connections end with the next thing that they do, and not before.
    pub fn leave(&self) {
        self.shared.left.store(true, Ordering::SeqCst);
        self.begin(Phase::Leaving);
    }

    /// No new work from here on: what does nothing ends at once.
    pub fn start(&self) {
        self.begin(Phase::Ending);
    }

    fn begin(&self, phase: Phase) {
        self.shared.phase.fetch_max(phase as u8, Ordering::SeqCst);
        self.shared.changed.notify_waiters();
    }

    /// Whether `start` has been called.
    pub fn is_ending(&self) -> bool {
        self.shared.phase() == Phase::Ending
    }

    /// Whether `leave` has been called.
    pub fn was_left(&self) -> bool {
        self.shared.left.load(Ordering::SeqCst)
    }

    /// Whether `leave` or `start` has been called. Cheap: one atomic load.
    pub fn is_draining(&self) -> bool {
        self.shared.phase() > Phase::Running
    }

    /// Whoever may ask more than once whether the end has begun.
    pub fn stopping(&self) -> Stopping {
        Stopping { drain: self.clone(), reached: None }
    }

    /// Ends when draining and nobody is busy.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn idle(&self) {
        // The phase is read first: a guard dropped before it was set has then been counted, and one dropped later
        // notifies.
        self.until(|shared| shared.phase() > Phase::Running && shared.running.load(Ordering::SeqCst) == 0).await;
    }

    /// Ends when draining and nobody is there.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn empty(&self) {
        let none = |shared: &Shared| shared.running.load(Ordering::SeqCst) + shared.present.load(Ordering::SeqCst) == 0;
        self.until(|shared| shared.phase() > Phase::Running && none(shared)).await;
    }

    /// How many are busy.
    pub fn running(&self) -> usize {
        self.shared.running.load(Ordering::SeqCst)
    }

    /// How many are there.
    pub fn there(&self) -> usize {
        self.shared.present.load(Ordering::SeqCst)
    }

    async fn until(&self, reached: impl Fn(&Shared) -> bool) {
        while !reached(&self.shared) {
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            // In line before looking again, so that no change falls between the look and the wait.
            changed.as_mut().enable();
            if reached(&self.shared) {
                return;
            }
            changed.await;
        }
    }
}

impl Shared {
    /// One of so many is gone.
    fn part(&self, count: &AtomicUsize) {
        let before = count.fetch_sub(1, Ordering::SeqCst);
        debug_assert!(before > 0, "every guard was counted when it was made");
        if before == 1 && self.phase() > Phase::Running {
            self.changed.notify_waiters();
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.shared.part(&self.shared.running);
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        if let Some(entrance) = &self.by {
            entrance.part();
        }
        self.shared.part(&self.shared.present);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn is_ready(future: std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    #[test]
    fn it_is_idle_when_it_drains_and_the_last_guard_is_gone() {
        let drain = Drain::new();
        let (first, second) = (drain.busy(), drain.busy());
        let mut idle = pin!(drain.idle());
        assert_eq!(drain.running(), 2);
        assert!(!is_ready(idle.as_mut()));
        drain.start();
        assert!(!is_ready(idle.as_mut()));
        drop(first);
        assert!(!is_ready(idle.as_mut()));
        drop(second);
        assert!(is_ready(idle.as_mut()));
        assert_eq!(drain.running(), 0);
    }

    #[test]
    fn it_is_not_idle_before_it_drains_though_nobody_is_busy() {
        let drain = Drain::new();
        let mut idle = pin!(drain.idle());
        assert!(!is_ready(idle.as_mut()));
        drop(drain.busy());
        assert!(!is_ready(idle.as_mut()));
        drain.start();
        assert!(is_ready(idle.as_mut()));
    }

    #[test]
    fn all_clones_see_the_start() {
        let drain = Drain::new();
        let other = drain.clone();
        let mut stopping = other.stopping();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(stopping.poll(&mut cx).is_pending());
        assert!(!other.is_draining());
        drain.start();
        assert!(other.is_draining());
        assert!(stopping.poll(&mut cx).is_ready());
        assert!(other.stopping().poll(&mut cx).is_ready());
    }

    #[test]
    fn who_leaves_lets_those_be_that_do_nothing() {
        let drain = Drain::new();
        let (mut idle, mut leaving) = (drain.stopping(), drain.stopping());
        let mut cx = Context::from_waker(Waker::noop());
        let there = drain.present();
        assert!(leaving.poll_leaving(&mut cx).is_pending());
        drain.leave();
        assert!(drain.is_draining());
        assert!(idle.poll(&mut cx).is_pending() && leaving.poll_leaving(&mut cx).is_ready());
        let mut empty = pin!(drain.empty());
        assert!(!is_ready(empty.as_mut()));
        drop(there);
        assert!(is_ready(empty.as_mut()));
        drain.start();
        drain.leave();
        assert!(idle.poll(&mut cx).is_ready(), "the end does not become a leaving again");
    }

    #[test]
    fn the_start_can_be_asked_for_again_after_it_was_told() {
        let drain = Drain::new();
        let (mut early, mut late) = (drain.stopping(), drain.stopping());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(early.poll(&mut cx).is_pending());
        drain.start();
        for _ in 0..2 {
            assert!(early.poll(&mut cx).is_ready());
            assert!(late.poll(&mut cx).is_ready());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_end_is_missed_when_guards_are_dropped_by_another_thread() {
        for _ in 0..500 {
            let drain = Drain::new();
            let guards = [drain.busy(), drain.busy()];
            let other = drain.clone();
            let dropping = tokio::spawn(async move {
                other.start();
                drop(guards);
            });
            let idle = tokio::time::timeout(std::time::Duration::from_secs(30), drain.idle());
            assert!(idle.await.is_ok(), "the end was missed");
            dropping.await.unwrap();
        }
    }
}

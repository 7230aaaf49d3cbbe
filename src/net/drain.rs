//! Who is still running; when to stop waiting.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;

/// The end of the process: whether it has begun, and what it still waits for. One for the process; clone it for every
/// holder.
#[derive(Clone, Default)]
pub struct Drain {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    running: AtomicUsize,
    draining: AtomicBool,
    changed: Notify,
}

/// Held by everything that must be waited for: a connection with a request, a tunnel.
#[must_use = "nobody is waited for without it"]
pub struct Busy {
    shared: Arc<Shared>,
}

/// The beginning of the end, for somebody who asks for it again and again.
pub struct Stopping {
    drain: Drain,
    /// Made when it is first asked for.
    started: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Stopping {
    /// Ready once [`Drain::start`] has been called, and from then on.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.drain.is_draining() {
            return Poll::Ready(());
        }
        let started = self.started.get_or_insert_with(|| {
            let drain = self.drain.clone();
            Box::pin(async move { drain.started().await })
        });
        started.as_mut().poll(cx)
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

    /// No new work from here on.
    pub fn start(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
        self.shared.changed.notify_waiters();
    }

    /// Whether `start` has been called. Cheap: one atomic load.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::SeqCst)
    }

    /// Ends when `start` has been called.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn started(&self) {
        self.until(|shared| shared.draining.load(Ordering::SeqCst)).await;
    }

    /// [`Drain::started`], to be asked for more than once.
    pub fn stopping(&self) -> Stopping {
        Stopping { drain: self.clone(), started: None }
    }

    /// Ends when draining and nobody is busy.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn idle(&self) {
        // `draining` is read first: a guard dropped before it was set has then been counted, and one dropped later
        // notifies.
        self.until(|shared| shared.draining.load(Ordering::SeqCst) && shared.running.load(Ordering::SeqCst) == 0).await;
    }

    /// How many guards are held.
    pub fn running(&self) -> usize {
        self.shared.running.load(Ordering::SeqCst)
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

impl Drop for Busy {
    fn drop(&mut self) {
        let before = self.shared.running.fetch_sub(1, Ordering::SeqCst);
        debug_assert!(before > 0, "every guard was counted when it was made");
        if before == 1 && self.shared.draining.load(Ordering::SeqCst) {
            self.shared.changed.notify_waiters();
        }
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
        let mut started = pin!(other.started());
        assert!(!is_ready(started.as_mut()));
        assert!(!other.is_draining());
        drain.start();
        assert!(other.is_draining());
        assert!(is_ready(started.as_mut()));
        assert!(is_ready(pin!(other.started())));
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

//! Who is still running; when to stop waiting.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::Notify;

use super::listener_stats::ListenerStats;

/// The end of the process: whether it has begun, and what it still waits for. One for the process; clone it for every
/// holder.
#[derive(Clone, Default)]
pub struct Drain {
    shared: Arc<DrainState>,
}

#[derive(Default)]
struct DrainState {
    requests: AtomicUsize,
    connections: AtomicUsize,
    phase: AtomicU8,
    lame_duck: AtomicBool,
    listeners: Mutex<Vec<Arc<ListenerStats>>>,
    changed: Notify,
}

/// How far the end has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
enum Phase {
    Running,
    /// What is there ends with what it does next.
    LameDuck,
    /// What does nothing ends at once.
    Stopping,
}

/// Held by everything that must be waited for: a connection with a request, a tunnel.
#[must_use = "nobody is waited for without it"]
pub struct RequestGuard {
    shared: Arc<DrainState>,
}

/// Held by everything that is there, whether it does anything or not: a connection.
#[must_use = "nobody is there without it"]
pub struct ConnGuard {
    shared: Arc<DrainState>,
    listener: Option<Arc<ListenerStats>>,
}

/// The beginning of the end, for somebody who asks for it again and again.
pub struct ShutdownWatch {
    drain: Drain,
    /// Made when it is first asked for; with what it waits for.
    reached: Option<(Phase, Reached)>,
}

type Reached = Pin<Box<dyn Future<Output = ()> + Send>>;

impl ShutdownWatch {
    /// Ready once [`Drain::start`] has been called, and from then on.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_phase(Phase::Stopping, cx)
    }

    /// Ready once [`Drain::start_lame_duck`] or [`Drain::start`] has been called, and from then on.
    pub fn poll_lame_duck(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_phase(Phase::LameDuck, cx)
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

impl DrainState {
    fn listeners(&self) -> MutexGuard<'_, Vec<Arc<ListenerStats>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Running,
            1 => Phase::LameDuck,
            _ => Phase::Stopping,
        }
    }
}

impl Drain {
    /// Nobody is busy, and the end is not in sight.
    pub fn new() -> Drain {
        Drain::default()
    }

    /// One more that must be waited for, until the guard is dropped. Also while draining: what was begun goes on.
    pub fn request_guard(&self) -> RequestGuard {
        self.shared.requests.fetch_add(1, Ordering::SeqCst);
        RequestGuard { shared: Arc::clone(&self.shared) }
    }

    /// One more that is there, until the guard is dropped.
    pub fn conn_guard(&self) -> ConnGuard {
        self.shared.connections.fetch_add(1, Ordering::SeqCst);
        ConnGuard { shared: Arc::clone(&self.shared), listener: None }
    }

    /// One more that is there, having come in by this listener.
    pub fn conn_guard_by(&self, listener: &Arc<ListenerStats>) -> ConnGuard {
        listener.connection_opened();
        let mut guard = self.conn_guard();
        guard.listener = Some(Arc::clone(listener));
        guard
    }

    /// A listener, by which others come in.
    pub fn add_listener(&self, address: SocketAddr) -> Arc<ListenerStats> {
        let listener = Arc::new(ListenerStats::new(address));
        self.shared.listeners().push(Arc::clone(&listener));
        listener
    }

    /// The listeners that are open, or by which somebody came in who is still there.
    pub fn listeners(&self) -> Vec<Arc<ListenerStats>> {
        let mut listeners = self.shared.listeners();
        listeners.retain(|listener| !listener.is_finished());
        listeners.clone()
    }

    /// Another process is there for new work: connections end with the next thing that they do, and not before.
    pub fn start_lame_duck(&self) {
        self.shared.lame_duck.store(true, Ordering::SeqCst);
        self.begin(Phase::LameDuck);
    }

    /// No new work from here on: what does nothing ends at once.
    pub fn start(&self) {
        self.begin(Phase::Stopping);
    }

    fn begin(&self, phase: Phase) {
        self.shared.phase.fetch_max(phase as u8, Ordering::SeqCst);
        self.shared.changed.notify_waiters();
    }

    /// Whether `start` has been called.
    pub fn is_stopping(&self) -> bool {
        self.shared.phase() == Phase::Stopping
    }

    /// Whether `leave` has been called.
    pub fn entered_lame_duck(&self) -> bool {
        self.shared.lame_duck.load(Ordering::SeqCst)
    }

    /// Whether `leave` or `start` has been called. Cheap: one atomic load.
    pub fn is_draining(&self) -> bool {
        self.shared.phase() > Phase::Running
    }

    /// Whoever may ask more than once whether the end has begun.
    pub fn watch(&self) -> ShutdownWatch {
        ShutdownWatch { drain: self.clone(), reached: None }
    }

    /// Ends when draining and nobody is busy.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_idle(&self) {
        // The phase is read first: a guard dropped before it was set has then been counted, and one dropped later
        // notifies.
        self.until(|shared| shared.phase() > Phase::Running && shared.requests.load(Ordering::SeqCst) == 0).await;
    }

    /// Ends when draining and nobody is there.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_closed(&self) {
        let none = |shared: &DrainState| {
            shared.requests.load(Ordering::SeqCst) + shared.connections.load(Ordering::SeqCst) == 0
        };
        self.until(|shared| shared.phase() > Phase::Running && none(shared)).await;
    }

    /// How many are busy.
    pub fn running_requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// How many are there.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    async fn until(&self, reached: impl Fn(&DrainState) -> bool) {
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

impl DrainState {
    /// One of so many is gone.
    fn release(&self, count: &AtomicUsize) {
        let before = count.fetch_sub(1, Ordering::SeqCst);
        debug_assert!(before > 0, "every guard was counted when it was made");
        if before == 1 && self.phase() > Phase::Running {
            self.changed.notify_waiters();
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.shared.release(&self.shared.requests);
    }
}

impl Drop for ConnGuard {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.connection_closed();
        }
        self.shared.release(&self.shared.connections);
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
        let (first, second) = (drain.request_guard(), drain.request_guard());
        let mut idle = pin!(drain.wait_idle());
        assert_eq!(drain.running_requests(), 2);
        assert!(!is_ready(idle.as_mut()));
        drain.start();
        assert!(!is_ready(idle.as_mut()));
        drop(first);
        assert!(!is_ready(idle.as_mut()));
        drop(second);
        assert!(is_ready(idle.as_mut()));
        assert_eq!(drain.running_requests(), 0);
    }

    #[test]
    fn it_is_not_idle_before_it_drains_though_nobody_is_busy() {
        let drain = Drain::new();
        let mut idle = pin!(drain.wait_idle());
        assert!(!is_ready(idle.as_mut()));
        drop(drain.request_guard());
        assert!(!is_ready(idle.as_mut()));
        drain.start();
        assert!(is_ready(idle.as_mut()));
    }

    #[test]
    fn all_clones_see_the_start() {
        let drain = Drain::new();
        let other = drain.clone();
        let mut stopping = other.watch();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(stopping.poll(&mut cx).is_pending());
        assert!(!other.is_draining());
        drain.start();
        assert!(other.is_draining());
        assert!(stopping.poll(&mut cx).is_ready());
        assert!(other.watch().poll(&mut cx).is_ready());
    }

    #[test]
    fn who_leaves_lets_those_be_that_do_nothing() {
        let drain = Drain::new();
        let (mut idle, mut leaving) = (drain.watch(), drain.watch());
        let mut cx = Context::from_waker(Waker::noop());
        let there = drain.conn_guard();
        assert!(leaving.poll_lame_duck(&mut cx).is_pending());
        drain.start_lame_duck();
        assert!(drain.is_draining());
        assert!(idle.poll(&mut cx).is_pending() && leaving.poll_lame_duck(&mut cx).is_ready());
        let mut empty = pin!(drain.wait_closed());
        assert!(!is_ready(empty.as_mut()));
        drop(there);
        assert!(is_ready(empty.as_mut()));
        drain.start();
        drain.start_lame_duck();
        assert!(idle.poll(&mut cx).is_ready(), "the end does not become a leaving again");
    }

    #[test]
    fn the_start_can_be_asked_for_again_after_it_was_told() {
        let drain = Drain::new();
        let (mut early, mut late) = (drain.watch(), drain.watch());
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
            let guards = [drain.request_guard(), drain.request_guard()];
            let other = drain.clone();
            let dropping = tokio::spawn(async move {
                other.start();
                drop(guards);
            });
            let idle = tokio::time::timeout(std::time::Duration::from_secs(30), drain.wait_idle());
            assert!(idle.await.is_ok(), "the end was missed");
            dropping.await.unwrap();
        }
    }
}

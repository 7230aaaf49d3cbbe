//! Graceful shutdown: counts running requests and open connections, and tells both when to end.
//!
//! Two ways lead to the end. [`Drain::start`]: no new work; idle connections close at once, running
//! requests end.
//! [`Drain::start_lame_duck`]: another process accepts new connections; those that are open here close after their next
//! request.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::Notify;

use super::listen::ListenAddress;
use super::listener_stats::ListenerStats;

/// Shutdown state of the process, with the number of requests and connections that it waits for.
/// One for the process; clones share it.
#[derive(Clone, Default)]
pub struct Drain {
    shared: Arc<DrainState>,
}

/// State shared by a [`Drain`], its clones and its guards.
#[derive(Default)]
struct DrainState {
    /// Number of [`RequestGuard`]s.
    requests: AtomicUsize,
    /// Number of [`ConnGuard`]s.
    connections: AtomicUsize,
    /// Number of those that stand for another process.
    processes: AtomicUsize,
    /// A [`Phase`]; it only grows.
    phase: AtomicU8,
    /// True from [`Drain::start_lame_duck`] on, also after [`Drain::start`].
    lame_duck: AtomicBool,
    /// Counters of listeners that are open or have connections left, one for each address.
    listeners: Mutex<Vec<Arc<ListenerStats>>>,
    /// Notified when the phase changes, and when a count reaches zero while draining.
    changed: Notify,
}

/// Progress of the shutdown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
enum Phase {
    /// Requests and connections are accepted.
    Running,
    /// Connections close after their next request.
    LameDuck,
    /// Idle connections close at once.
    Stopping,
}

/// Guard of a request or tunnel; the shutdown waits until it is dropped.
#[must_use = "the shutdown waits only while the guard is held"]
pub struct RequestGuard {
    shared: Arc<DrainState>,
}

/// Guard of an open connection, idle or not.
#[must_use = "the connection is counted only while the guard is held"]
pub struct ConnGuard {
    shared: Arc<DrainState>,
    /// The listener that accepted the connection; `None` for another process of the gateway.
    listener: Option<Arc<ListenerStats>>,
}

/// Watch for the begin of the shutdown, for repeated polling by one task.
pub struct ShutdownWatch {
    drain: Drain,
    /// The phase that was polled last, and a future that ends when it is reached. Created by the
    /// first poll.
    reached: Option<(Phase, PhaseReached)>,
}

/// Future that ends when a phase is reached.
type PhaseReached = Pin<Box<dyn Future<Output = ()> + Send>>;

impl ShutdownWatch {
    /// Ready after [`Drain::start`], at every poll.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_phase(Phase::Stopping, cx)
    }

    /// Ready after [`Drain::start_lame_duck`] or [`Drain::start`], at every poll.
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

impl Drain {
    /// Neither draining nor waiting for anything.
    pub fn new() -> Drain {
        Drain::default()
    }

    /// Counts a request or tunnel until the guard is dropped. Allowed while draining: a connection
    /// may finish what it began.
    ///
    /// Never refuses: the decision whether a request may begin is the caller's, by
    /// [`Drain::is_draining`].
    pub fn request_guard(&self) -> RequestGuard {
        self.shared.requests.fetch_add(1, Ordering::SeqCst);
        RequestGuard { shared: Arc::clone(&self.shared) }
    }

    /// Counts another process of the gateway, which has requests of its own, until the guard is dropped.
    pub fn process_guard(&self) -> ConnGuard {
        self.shared.connections.fetch_add(1, Ordering::SeqCst);
        self.shared.processes.fetch_add(1, Ordering::SeqCst);
        ConnGuard { shared: Arc::clone(&self.shared), listener: None }
    }

    /// Counts a connection that `listener` accepted, here and there, until the guard is dropped.
    pub fn conn_guard_by(&self, listener: &Arc<ListenerStats>) -> ConnGuard {
        listener.connection_opened();
        self.shared.connections.fetch_add(1, Ordering::SeqCst);
        ConnGuard { shared: Arc::clone(&self.shared), listener: Some(Arc::clone(listener)) }
    }

    /// Adds counters for a listener that is opened; those of its address go on, so that each address has one set.
    pub fn add_listener(&self, listener: ListenAddress) -> Arc<ListenerStats> {
        let mut listeners = self.shared.listeners();
        let known = listeners.iter_mut().find(|known| known.address == listener.address);
        let added = Arc::new(ListenerStats::new(listener, known.as_deref().map(AsRef::as_ref)));
        match known {
            Some(known) => *known = Arc::clone(&added),
            None => listeners.push(Arc::clone(&added)),
        }
        added
    }

    /// Counters of the listeners that are open, or closed with connections left.
    pub fn listeners(&self) -> Vec<Arc<ListenerStats>> {
        let mut listeners = self.shared.listeners();
        listeners.retain(|listener| !listener.is_finished());
        listeners.clone()
    }

    /// Begins the lame-duck phase: another process accepts new connections, and those of this one
    /// close after their next request. No effect after [`Drain::start`], but for
    /// [`Drain::entered_lame_duck`].
    pub fn start_lame_duck(&self) {
        self.shared.lame_duck.store(true, Ordering::SeqCst);
        self.begin(Phase::LameDuck);
    }

    /// Begins to drain: no new work, idle connections close at once.
    pub fn start(&self) {
        self.begin(Phase::Stopping);
    }

    /// Advances to `phase`, never back, and wakes every watch.
    fn begin(&self, phase: Phase) {
        self.shared.phase.fetch_max(phase as u8, Ordering::SeqCst);
        self.shared.changed.notify_waiters();
    }

    /// True after [`Drain::start`].
    pub fn is_stopping(&self) -> bool {
        self.shared.phase() == Phase::Stopping
    }

    /// True after [`Drain::start_lame_duck`].
    pub fn entered_lame_duck(&self) -> bool {
        self.shared.lame_duck.load(Ordering::SeqCst)
    }

    /// True after [`Drain::start_lame_duck`] or [`Drain::start`]. Cheap: one atomic load.
    pub fn is_draining(&self) -> bool {
        self.shared.phase() > Phase::Running
    }

    /// A watch for the begin of the shutdown.
    pub fn watch(&self) -> ShutdownWatch {
        ShutdownWatch { drain: self.clone(), reached: None }
    }

    /// Ends when draining and no request is running, here or in another process that this one counts.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_idle(&self) {
        // The phase is read first: a guard dropped before it was set has then been counted, and one dropped later
        // notifies.
        let none =
            |shared: &DrainState| shared.requests.load(Ordering::SeqCst) + shared.processes.load(Ordering::SeqCst) == 0;
        self.until(|shared| shared.phase() > Phase::Running && none(shared)).await;
    }

    /// Ends when draining, no request is running and no connection is open.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_closed(&self) {
        let none = |shared: &DrainState| {
            shared.requests.load(Ordering::SeqCst) + shared.connections.load(Ordering::SeqCst) == 0
        };
        self.until(|shared| shared.phase() > Phase::Running && none(shared)).await;
    }

    /// Number of running requests and tunnels.
    pub fn running_requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Number of open connections.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Ends when `reached` is true; it is checked after every change of phase or last guard.
    async fn until(&self, reached: impl Fn(&DrainState) -> bool) {
        while !reached(&self.shared) {
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            // Registered before the condition is read again, so that no change falls between the read and the wait.
            changed.as_mut().enable();
            if reached(&self.shared) {
                return;
            }
            changed.await;
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

    /// Decrements a count of guards, and notifies when the last one is dropped while draining.
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
        match &self.listener {
            Some(listener) => listener.connection_closed(),
            None => self.shared.release(&self.shared.processes),
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
        let there = drain.process_guard();
        assert!(leaving.poll_lame_duck(&mut cx).is_pending());
        drain.start_lame_duck();
        assert!(drain.is_draining());
        assert!(idle.poll(&mut cx).is_pending() && leaving.poll_lame_duck(&mut cx).is_ready());
        let (mut empty, mut unused) = (pin!(drain.wait_closed()), pin!(drain.wait_idle()));
        assert!(!is_ready(empty.as_mut()) && !is_ready(unused.as_mut()), "another process has requests of its own");
        drop(there);
        assert!(is_ready(empty.as_mut()) && is_ready(unused.as_mut()));
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

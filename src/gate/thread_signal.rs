//! Wake-up signals and life cycle of the gate's threads.
//!
//! Each thread has one signal, made before the thread and shared with the gate. Its life:
//!
//! 1. `DeferredThread::new` spawns it; it waits.
//! 2. `DeferredThread::start` lets it work, after the last step that can fail.
//! 3. `ThreadSignal::notify` wakes it whenever a step of the locker has left work for it.
//! 4. `ThreadSignal::stop` ends it, and returns after its `ExitGuard` was dropped.
//!
//! A notification carries no data: the thread takes its work out of the gate itself. So several
//! notifications before a wake-up count as one.

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::Notify;

use super::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc, thread};

/// Wake-up flag and shutdown flag of one thread.
#[derive(Default)]
pub(super) struct ThreadSignal {
    /// Flags, shared by the thread and its wakers.
    state: Mutex<SignalState>,
    /// Notified on each change of the flags.
    changed: Condvar,
}

/// Flags of a signal.
#[derive(Default)]
struct SignalState {
    /// There is new work since the thread last waited.
    /// Cleared by the wait that it ends.
    notified: bool,
    /// The thread must end.
    /// Never cleared.
    stopping: bool,
    /// The thread has ended.
    /// Never cleared.
    exited: bool,
}

impl ThreadSignal {
    /// Wakes the thread: there is new work.
    ///
    /// Not lost if the thread does not wait at the moment: its next wait returns at once.
    pub(super) fn notify(&self) {
        self.lock().notified = true;
        self.changed.notify_all();
    }

    /// Waits for a notification, at most for `within`. Returns `false` when the thread must end.
    ///
    /// `None`: no timeout. Also returns `true` after the timeout, so the thread looks for work
    /// itself. A spurious wake-up of a wait with a timeout ends it early.
    pub(super) fn wait(&self, within: Option<Duration>) -> bool {
        let mut state = self.lock();
        while !state.notified && !state.stopping {
            state = match within {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(within) => {
                    let (state, _timeout) =
                        self.changed.wait_timeout(state, within).unwrap_or_else(PoisonError::into_inner);
                    return !state.stopping;
                }
            };
        }
        state.notified = false;
        !state.stopping
    }

    /// Tells the thread to end, and blocks until it has.
    ///
    /// Waits forever for a thread that was never started, since no guard reports its end; call it
    /// only for a thread that runs.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        self.changed.notify_all();
        while !state.exited {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// True after the thread was told to end.
    ///
    /// Polled by threads between two pieces of long work.
    pub(super) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// Locks the flags. They are valid at any moment, so a poisoned lock is used on.
    fn lock(&self) -> MutexGuard<'_, SignalState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Thread that is spawned early and started later, so that everything that can fail is over before the point of no
/// return. Dropping it without a start ends the thread.
pub(super) struct DeferredThread(mpsc::Sender<()>);

impl DeferredThread {
    /// Spawns the thread, which waits for [`DeferredThread::start`].
    ///
    /// # Errors
    /// If the system provides no thread.
    pub(super) fn new(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<DeferredThread> {
        let (start, started) = mpsc::channel();
        #[cfg(test)]
        let work = crate::mutant::testing::carry(work);
        let work = move || {
            if started.recv().is_ok() {
                work();
            }
        };
        thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(DeferredThread(start))
    }

    /// Lets the thread begin its work.
    ///
    /// Cannot fail, and returns at once.
    pub(super) fn start(self) {
        // The thread has not ended: it waits for this message.
        self.0.send(()).ok();
    }
}

/// Drop guard that reports the end of a thread, also after a panic.
///
/// First value that the thread makes, so that it is dropped last.
pub(super) struct ExitGuard(Arc<ThreadSignal>);

impl ExitGuard {
    /// Guard for the thread that waits on `signal`.
    pub(super) fn new(signal: &Arc<ThreadSignal>) -> ExitGuard {
        ExitGuard(Arc::clone(signal))
    }
}

impl Drop for ExitGuard {
    /// Wakes the caller of [`ThreadSignal::stop`].
    fn drop(&mut self) {
        self.0.lock().exited = true;
        self.0.changed.notify_all();
    }
}

/// Signals of the gate's threads; empty for threads that do not run.
///
/// Each cell is set once, when its thread or task is made.
#[derive(Default)]
pub(super) struct ThreadSignals {
    /// Thread that writes the journal.
    pub(super) journal: OnceLock<Arc<ThreadSignal>>,
    /// Thread that sends events to the new process, after an upgrade.
    pub(super) new_process: OnceLock<Arc<ThreadSignal>>,
    /// Thread that sends verdicts to the old process, after an upgrade.
    pub(super) old_process: OnceLock<Arc<ThreadSignal>>,
    /// Task that talks to the store.
    pub(super) store: OnceLock<Arc<Notify>>,
}

/// Set of threads with work to do. In the gate's state: threads that were notified and have not read their queue since;
/// they are not notified again.
///
/// A flag is cleared when its thread takes its work, under the gate's lock, so no work is left
/// without a notification.
#[derive(Clone, Copy, Default)]
pub(super) struct PendingSignals {
    /// Windows to write.
    pub(super) journal: bool,
    /// Events for the new process.
    pub(super) new_process: bool,
    /// Verdicts for the old process.
    pub(super) old_process: bool,
    /// Messages for the store.
    pub(super) store: bool,
}

impl ThreadSignals {
    /// Notifies these threads, where they run.
    ///
    /// Called after the gate's lock is released. No effect for a thread that does not run.
    pub(super) fn notify(&self, which: PendingSignals) {
        let all = [
            (which.journal, &self.journal),
            (which.new_process, &self.new_process),
            (which.old_process, &self.old_process),
        ];
        for signal in all.into_iter().filter(|(pending, _)| *pending).filter_map(|(_, signal)| signal.get()) {
            signal.notify();
        }
        if let (true, Some(signal)) = (which.store, self.store.get()) {
            signal.notify_one();
        }
    }
}

//! A thread of its own is woken when there is something for it to do.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;

/// Wakes a thread that works for the gate.
#[derive(Default)]
pub(super) struct ThreadSignal {
    state: Mutex<SignalState>,
    changed: Condvar,
}

#[derive(Default)]
struct SignalState {
    notified: bool,
    stopping: bool,
    /// The thread has ended.
    exited: bool,
}

impl ThreadSignal {
    /// There is something to be done.
    pub(super) fn notify(&self) {
        self.lock().notified = true;
        self.changed.notify_all();
    }

    /// Waits until it is rung, or for so long; `false` at the end.
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

    /// Has the thread end, and waits for that.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        self.changed.notify_all();
        while !state.exited {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether the thread has been told to end.
    pub(super) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    fn lock(&self) -> MutexGuard<'_, SignalState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that waits for its work to begin, so that what may fail is over by then; without a beginning it just ends.
pub(super) struct DeferredThread(mpsc::Sender<()>);

impl DeferredThread {
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn new(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<DeferredThread> {
        let (start, started) = mpsc::channel();
        let work = move || {
            if started.recv().is_ok() {
                work();
            }
        };
        thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(DeferredThread(start))
    }

    pub(super) fn start(self) {
        // A thread that waits for it cannot have ended.
        self.0.send(()).ok();
    }
}

/// Says that the thread has ended, also by a panic.
pub(super) struct ExitGuard(Arc<ThreadSignal>);

impl ExitGuard {
    pub(super) fn new(signal: &Arc<ThreadSignal>) -> ExitGuard {
        ExitGuard(Arc::clone(signal))
    }
}

impl Drop for ExitGuard {
    fn drop(&mut self) {
        self.0.lock().exited = true;
        self.0.changed.notify_all();
    }
}

/// What wakes the threads that work for the gate, where there are such.
#[derive(Default)]
pub(super) struct ThreadSignals {
    pub(super) journal: OnceLock<Arc<ThreadSignal>>,
    /// The thread that tells the process that has the windows now.
    pub(super) next: OnceLock<Arc<ThreadSignal>>,
    /// The thread that tells the process that had the windows before.
    pub(super) before: OnceLock<Arc<ThreadSignal>>,
    /// The thread that speaks with the store.
    pub(super) store: OnceLock<Arc<Notify>>,
}

/// Which threads there is something to do for; a bell that was rung is not rung again until it was heard.
#[derive(Clone, Copy, Default)]
pub(super) struct PendingSignals {
    pub(super) journal: bool,
    pub(super) next: bool,
    pub(super) before: bool,
    pub(super) store: bool,
}

impl ThreadSignals {
    /// Rings those.
    pub(super) fn notify(&self, which: PendingSignals) {
        let all = [(which.journal, &self.journal), (which.next, &self.next), (which.before, &self.before)];
        for signal in all.into_iter().filter(|(pending, _)| *pending).filter_map(|(_, signal)| signal.get()) {
            signal.notify();
        }
        if let (true, Some(signal)) = (which.store, self.store.get()) {
            signal.notify_one();
        }
    }
}

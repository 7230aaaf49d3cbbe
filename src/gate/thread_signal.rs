//! A thread of its own is woken when there is something for it to do.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;

/// Wakes a thread that works for the gate.
#[derive(Default)]
pub(super) struct Bell {
    called: Mutex<Called>,
    changed: Condvar,
}

#[derive(Default)]
struct Called {
    rung: bool,
    over: bool,
    /// The thread has ended.
    left: bool,
}

impl Bell {
    /// There is something to be done.
    pub(super) fn ring(&self) {
        self.lock().rung = true;
        self.changed.notify_all();
    }

    /// Waits until it is rung, or for so long; `false` at the end.
    pub(super) fn hear(&self, within: Option<Duration>) -> bool {
        let mut called = self.lock();
        while !called.rung && !called.over {
            called = match within {
                None => self.changed.wait(called).unwrap_or_else(PoisonError::into_inner),
                Some(within) => {
                    let (called, _timeout) =
                        self.changed.wait_timeout(called, within).unwrap_or_else(PoisonError::into_inner);
                    return !called.over;
                }
            };
        }
        called.rung = false;
        !called.over
    }

    /// Has the thread end, and waits for that.
    pub(super) fn end(&self) {
        let mut called = self.lock();
        called.over = true;
        self.changed.notify_all();
        while !called.left {
            called = self.changed.wait(called).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether the thread has been told to end.
    pub(super) fn is_over(&self) -> bool {
        self.lock().over
    }

    fn lock(&self) -> MutexGuard<'_, Called> {
        self.called.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that waits for its work to begin, so that what may fail is over by then; without a beginning it just ends.
pub(super) struct Parked(mpsc::Sender<()>);

impl Parked {
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn new(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Parked> {
        let (begin, begins) = mpsc::channel();
        let work = move || {
            if begins.recv().is_ok() {
                work();
            }
        };
        thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(Parked(begin))
    }

    pub(super) fn begin(self) {
        // A thread that waits for it cannot have ended.
        self.0.send(()).ok();
    }
}

/// Says that the thread has ended, also by a panic.
pub(super) struct Leaving(Arc<Bell>);

impl Leaving {
    pub(super) fn at_the_end_of(bell: &Arc<Bell>) -> Leaving {
        Leaving(Arc::clone(bell))
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.lock().left = true;
        self.0.changed.notify_all();
    }
}

/// What wakes the threads that work for the gate, where there are such.
#[derive(Default)]
pub(super) struct Bells {
    pub(super) journal: OnceLock<Arc<Bell>>,
    /// The thread that tells the process that has the windows now.
    pub(super) next: OnceLock<Arc<Bell>>,
    /// The thread that tells the process that had the windows before.
    pub(super) before: OnceLock<Arc<Bell>>,
    /// The thread that speaks with the store.
    pub(super) store: OnceLock<Arc<Notify>>,
}

/// Which threads there is something to do for; a bell that was rung is not rung again until it was heard.
#[derive(Clone, Copy, Default)]
pub(super) struct Rung {
    pub(super) journal: bool,
    pub(super) next: bool,
    pub(super) before: bool,
    pub(super) store: bool,
}

impl Bells {
    /// Rings those.
    pub(super) fn ring(&self, which: Rung) {
        let all = [(which.journal, &self.journal), (which.next, &self.next), (which.before, &self.before)];
        for bell in all.into_iter().filter(|(rings, _)| *rings).filter_map(|(_, bell)| bell.get()) {
            bell.ring();
        }
        if let (true, Some(bell)) = (which.store, self.store.get()) {
            bell.notify_one();
        }
    }
}

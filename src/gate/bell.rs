//! A thread of its own is woken when there is something for it to do.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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

    fn lock(&self) -> MutexGuard<'_, Called> {
        self.called.lock().unwrap_or_else(PoisonError::into_inner)
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

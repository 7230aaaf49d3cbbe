//! First-admission signal: tells the task of an HTTP/2 connection that one of its requests may use the gateway.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

/// Flag with a waker, set by the first request of a connection that is admitted.
#[derive(Default)]
pub(super) struct FirstAdmission {
    happened: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl FirstAdmission {
    /// Records that a request was admitted.
    pub(super) fn set(&self) {
        if !self.happened.replace(true)
            && let Some(waker) = self.waiting.take()
        {
            waker.wake();
        }
    }

    /// Ready once a request was admitted. At most one task may wait.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.happened.get() {
            return Poll::Ready(());
        }
        *self.waiting.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

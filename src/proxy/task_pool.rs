//! Pool of reusable tasks: each does one piece of work after the other, and reuses its memory.
//!
//! Used where a task is large and its work short: connections of a worker, and requests of an
//! HTTP/2 connection. A task that ends its work takes the next from the queue or becomes idle;
//! beyond `max_idle` idle tasks it ends.
//!
//! ```text
//! if let Some(task) = pool.submit(work) { spawn(run(task)) }
//! // in the task:
//! while let Some(work) = poll_fn(|cx| pool.poll_take(task, cx)).await { … }
//! ```
//!
//! Single-threaded, so it has no lock.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

/// Tasks of one kind on one thread. The owner spawns them; each polls for its next work here.
pub struct TaskPool<W> {
    inner: RefCell<TaskPoolState<W>>,
    /// Most idle tasks that are kept.
    max_idle: usize,
}

/// Queue and idle tasks.
struct TaskPoolState<W> {
    /// Work that no task has taken yet.
    work: VecDeque<W>,
    /// Idle tasks, each once, with their numbers.
    idle: Vec<(u64, Waker)>,
    /// Number of tasks spawned so far.
    spawned: u64,
    /// No more work will be submitted.
    closed: bool,
}

/// Number of a task that the owner must spawn, because all others are busy.
#[must_use = "the work waits for it"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewTask(u64);

impl<W> TaskPool<W> {
    /// An empty pool, which keeps at most `max_idle` idle tasks.
    pub fn new(max_idle: usize) -> TaskPool<W> {
        let inner = TaskPoolState { work: VecDeque::new(), idle: Vec::new(), spawned: 0, closed: false };
        TaskPool { inner: RefCell::new(inner), max_idle }
    }

    /// Queues work and wakes an idle task; returns the number of a task to spawn if there is none.
    ///
    /// The woken task need not be the one that takes the work: a busy task that ends earlier does.
    /// The queue has no bound of its own; its users bound connections and streams.
    pub fn submit(&self, work: W) -> Option<NewTask> {
        let mut inner = self.inner.borrow_mut();
        inner.work.push_back(work);
        if let Some((_, waker)) = inner.idle.pop() {
            waker.wake();
            return None;
        }
        inner.spawned += 1;
        Some(NewTask(inner.spawned))
    }

    /// Next work for a task; `None` if the task must end: there is no work, and the pool has enough idle tasks or is
    /// closed.
    ///
    /// # Cancel safety
    /// Work is handed out only with `Ready`, so a dropped wait loses none. A task must not be
    /// dropped while it is idle: the next work may wait for it.
    pub fn poll_take(&self, task: NewTask, cx: &Context<'_>) -> Poll<Option<W>> {
        let mut inner = self.inner.borrow_mut();
        // Unregisters the task: it may have been polled for another reason, and a busy or ended task must not be woken
        // for work.
        inner.idle.retain(|(idle, _)| *idle != task.0);
        if let Some(work) = inner.work.pop_front() {
            return Poll::Ready(Some(work));
        }
        if inner.closed || inner.idle.len() >= self.max_idle {
            return Poll::Ready(None);
        }
        inner.idle.push((task.0, cx.waker().clone()));
        Poll::Pending
    }

    /// Closes the pool: idle tasks end, and busy ones do once no work is left.
    pub fn end(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.closed = true;
        inner.idle.drain(..).for_each(|(_, waker)| waker.wake());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_goes_to_the_idle_before_somebody_new_is_hired() {
        let pool = TaskPool::new(2);
        let cx = Context::from_waker(Waker::noop());
        let first = pool.submit("one").unwrap();
        assert_eq!(pool.poll_take(first, &cx), Poll::Ready(Some("one")));
        let second = pool.submit("two").unwrap();
        assert_eq!(pool.poll_take(first, &cx), Poll::Ready(Some("two")), "the first task to poll takes it");
        assert!(pool.poll_take(second, &cx).is_pending());
        assert_eq!(pool.submit("three"), None);
        assert_eq!(pool.poll_take(second, &cx), Poll::Ready(Some("three")));
    }

    #[test]
    fn no_more_are_kept_than_may_be_idle_and_none_after_the_end() {
        let pool = TaskPool::<()>::new(1);
        let cx = Context::from_waker(Waker::noop());
        assert!(pool.poll_take(NewTask(1), &cx).is_pending());
        assert!(pool.poll_take(NewTask(1), &cx).is_pending(), "a task that polls twice is registered once");
        assert_eq!(pool.poll_take(NewTask(2), &cx), Poll::Ready(None));
        pool.end();
        assert_eq!(pool.poll_take(NewTask(1), &cx), Poll::Ready(None));
    }
}

//! Tasks that stay: each does one piece of work after the other, with the memory of the one before.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

/// The tasks of one kind on one thread. The owner spawns them; each asks for its next work here.
pub struct TaskPool<W> {
    inner: RefCell<Inner<W>>,
    max_idle: usize,
}

struct Inner<W> {
    /// What nobody has taken yet.
    work: VecDeque<W>,
    /// Who has nothing to do, each by its number, once.
    idle: Vec<(u64, Waker)>,
    /// How many there have been.
    spawned: u64,
    /// Nothing comes any more.
    over: bool,
}

/// A task that is to be spawned, because all others are busy. Its number is its own.
#[must_use = "the work waits for it"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewTask(u64);

impl<W> TaskPool<W> {
    /// Nobody yet. Of those who have nothing to do at a time, `max_idle` are kept.
    pub fn new(max_idle: usize) -> TaskPool<W> {
        let inner = Inner { work: VecDeque::new(), idle: Vec::new(), spawned: 0, over: false };
        TaskPool { inner: RefCell::new(inner), max_idle }
    }

    /// Gives work to whoever has nothing to do, or asks for somebody new.
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

    /// The next work for somebody; `None` when there is none and nobody needs to wait for it.
    pub fn poll_take(&self, who: NewTask, cx: &Context<'_>) -> Poll<Option<W>> {
        let mut inner = self.inner.borrow_mut();
        // It may have been polled for another reason than work, and whoever is busy or gone must not be called.
        inner.idle.retain(|(idle, _)| *idle != who.0);
        if let Some(work) = inner.work.pop_front() {
            return Poll::Ready(Some(work));
        }
        if inner.over || inner.idle.len() >= self.max_idle {
            return Poll::Ready(None);
        }
        inner.idle.push((who.0, cx.waker().clone()));
        Poll::Pending
    }

    /// Lets those go who have nothing to do.
    pub fn end(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.over = true;
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
        assert_eq!(pool.poll_take(first, &cx), Poll::Ready(Some("two")), "whoever comes first takes it");
        assert!(pool.poll_take(second, &cx).is_pending());
        assert_eq!(pool.submit("three"), None);
        assert_eq!(pool.poll_take(second, &cx), Poll::Ready(Some("three")));
    }

    #[test]
    fn no_more_are_kept_than_may_be_idle_and_none_after_the_end() {
        let pool = TaskPool::<()>::new(1);
        let cx = Context::from_waker(Waker::noop());
        assert!(pool.poll_take(NewTask(1), &cx).is_pending());
        assert!(pool.poll_take(NewTask(1), &cx).is_pending(), "who asks twice is there once");
        assert_eq!(pool.poll_take(NewTask(2), &cx), Poll::Ready(None));
        pool.end();
        assert_eq!(pool.poll_take(NewTask(1), &cx), Poll::Ready(None));
    }
}

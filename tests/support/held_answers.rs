//! Answers of an origin that a test holds back, so that as many requests are under way as the gateways let through.

use std::sync::{Condvar, Mutex, MutexGuard};

/// The answers of one origin.
#[derive(Default)]
pub(crate) struct HeldAnswers {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Default)]
struct State {
    is_held: bool,
    /// Targets of the requests that are with the origin now.
    under_way: Vec<String>,
}

/// Lets the answers go when it is dropped.
pub(crate) struct Hold<'a>(&'a HeldAnswers);

impl HeldAnswers {
    /// Returns when the answer to a request may leave.
    pub(crate) fn wait(&self, target: &str) {
        let mut state = self.lock();
        state.under_way.push(target.to_owned());
        state = self.released.wait_while(state, |state| state.is_held).expect("no script panicked");
        let place = state.under_way.iter().position(|one| one == target).expect("it was put there");
        state.under_way.swap_remove(place);
    }

    pub(crate) fn hold(&self) -> Hold<'_> {
        self.lock().is_held = true;
        Hold(self)
    }

    /// Number of requests for these targets that are with the origin now.
    pub(crate) fn under_way(&self, targets: &[String]) -> usize {
        self.lock().under_way.iter().filter(|target| targets.contains(target)).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no script panicked")
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.lock().is_held = false;
        self.0.released.notify_all();
    }
}

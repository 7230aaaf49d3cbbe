//! Step budget: bounds the work of one call of the locker, however many waiters and windows an event concerns.
//!
//! All requests share the lock under which a call runs. What is left when the budget is used up stays in the locker's
//! work lists; `poll_timeout` then says "now", and the next call continues.

/// Units of a step. A unit is some 1 to 4 µs: one look at the head of a group, one grant, one window that is carried
/// over, one limit that changes. Measured with `benches/locker_scale`: a step takes at most 0.7 ms with a million keys,
/// 100 000 waiters and 1000 limits, but for one of 2 ms after a hold, in which 10 000 slots of one window open at once
/// (one core of a virtual AMD EPYC).
pub(super) const UNITS: u32 = 192;

/// Units of a refusal: most of its time goes into the forecast, which looks at up to 128 other waiters.
pub(super) const REFUSAL: u32 = 4;

/// Units left in the present step.
#[derive(Debug)]
pub(super) struct StepBudget {
    /// Units of each step.
    size: u32,
    /// Units not spent yet.
    left: u32,
}

impl StepBudget {
    /// A budget of `size` units per step, at least one.
    pub(super) fn new(size: u32) -> StepBudget {
        StepBudget { size: size.max(1), left: size.max(1) }
    }

    /// Begins a step.
    #[inline]
    pub(super) fn refill(&mut self) {
        self.left = self.size;
    }

    /// Spends units. The last piece of work of a step may cost more than is left.
    #[inline]
    pub(super) fn spend(&mut self, units: u32) {
        self.left = self.left.saturating_sub(units);
    }

    /// True if the step must end.
    #[inline]
    pub(super) fn is_spent(&self) -> bool {
        self.left == 0
    }
}

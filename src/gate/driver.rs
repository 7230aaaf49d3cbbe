//! Timer driver: wakes waiters when slots open. A timerfd, because tokio's own timer rounds to a millisecond.
//!
//! The timer is set by the thread that makes the next opening earlier, without a detour over the
//! driver's thread; the driver only waits for its firings. One timer serves all limits: it is set
//! to the earliest due time of the whole gate.
//!
//! Causes of a wake-up of the driver:
//!
//! - The timer has fired: a slot opens, a lease or the re-ask barrier ends, or the shutdown grace
//!   is over.
//! - The wall clock was set, or the machine resumed from suspend.
//! - The last handle of the gate was dropped, or a panic has poisoned its lock.

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Gate;
use super::clock_watch::ClockWatch;
use super::thread_signal::PendingSignals;
use crate::time::Time;

impl Gate {
    /// Runs the timer: wakes waiters as slots open, sweeps idle keys, follows the wall clock. Run it on one runtime,
    /// preferably on a mostly idle thread. Returns after all other handles of the gate are dropped.
    ///
    /// Order of its steps:
    ///
    /// 1. Lowers the timer slack of its thread from 50 µs to 1 ns. A failure is logged and ignored.
    /// 2. Registers the timerfd with the runtime's reactor.
    /// 3. Does the work that is due already.
    /// 4. Keeps only a weak handle, and waits for the timer or for a change of the wall clock.
    /// 5. Does the due work after each, as long as the gate exists.
    ///
    /// # Errors
    /// If the system provides no timer: out of file descriptors, or this runtime drives the gate already.
    ///
    /// # Panics
    /// After the locker has panicked, since its lock is poisoned then.
    ///
    /// # Cancel safety
    /// Dropping the future stops the timer. Waiters are then woken by other requests only, until the gate is driven
    /// again.
    pub async fn drive(self: Arc<Self>) -> io::Result<()> {
        // Without this, epoll's timeouts on this thread may be 50 µs late (prctl(2), PR_SET_TIMERSLACK).
        if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
            tracing::debug!(%error, "cannot lower the timer slack");
        }
        #[allow(
            deprecated,
            reason = "its successor is unsafe; an owned descriptor stays open, which is all that it asks for"
        )]
        let timer = AsyncFd::with_interest(self.timer.descriptor()?, Interest::READABLE)?;
        self.expire();
        let gate = Arc::downgrade(&self);
        drop(self);
        let watch = ClockWatch::new();
        loop {
            tokio::select! {
                ready = timer.readable() => {
                    let mut ready = ready?;
                    match rustix::io::read(timer.get_ref(), &mut [0; 8]) {
                        // Nothing to read: the timer was set anew after it had fired. The work that was due is still
                        // done now.
                        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                    // The timer is readable once for each firing.
                    ready.clear_ready();
                }
                () = watch.changed() => {}
            }
            let Some(gate) = gate.upgrade() else {
                return Ok(());
            };
            gate.expire();
        }
    }

    /// Does all work that is due now.
    ///
    /// Runs as one step of the locker, in this order: the ends of leases, the openings of windows,
    /// the end of the re-ask barrier, the end of the shutdown grace. A firing without due work
    /// changes nothing but the next setting of the timer.
    pub(super) fn expire(&self) {
        let follows_wall = self.follows_wall.load(Ordering::Relaxed);
        let now = self.clock.now();
        self.step(now, |state| {
            state.armed = Time::NEVER;
            if follows_wall {
                state.tick(now);
            }
            state.end_leases(now);
            state.locker.handle_timeout(now);
            state.end_reask_barrier(now);
            state.end_if_closed(now);
        });
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // The driver and the threads see that the gate is gone, and end.
        self.timer.fire_now();
        self.signals.notify(PendingSignals { journal: true, new_process: true, old_process: true, store: true });
    }
}

//! Growth of flow-control windows (RFC 9113 §5.2): an estimate of the bandwidth-delay product, as gRPC and hyper make.
//!
//! A sender cannot have more on the way than the receiver's window. A stream's window is therefore quadrupled when a
//! third of it was consumed within one round trip, which a PING measures: TCP's slow start doubles what is on the way
//! with each, so the wider window is there when it is needed. Consumed means read by the task that passes the bytes on;
//! a receiver on the other side that reads nothing widens nothing.
//!
//! `h2` sets the windows of all streams of a connection at one time (SETTINGS_INITIAL_WINDOW_SIZE). Memory stays
//! bounded all the same:
//!
//! - The window of the connection never changes. It holds all that its streams can hold together: a wider window is for
//!   fewer streams, and a stream that is not read never blocks another one.
//! - At most [`MAX_GROWN`] connections of the process have wider windows.
//! - A connection without streams returns to the first windows.
//!
//! A PING is sent only after DATA that came since the last one was answered: gRPC servers take others for an attack.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use super::limits::{CONNECTION_WINDOW, MAX_STREAM_WINDOW, MAX_STREAMS, STREAM_WINDOW};
use super::wire_state::WireState;

/// Most connections with wider windows than the first, in the whole process: together they can hold 512 MiB.
const MAX_GROWN: usize = 64;

/// Number of connections with wider windows.
static GROWN: AtomicUsize = AtomicUsize::new(0);

/// Bytes of a stream that are consumed before it widens the windows. A receiver with the standard window of 64 KiB that
/// reads nothing takes fewer, with the read buffer before it.
const FIRST_BYTES: u64 = 96 * 1024;

/// Least bytes of a stream for which a round trip is measured; most responses of an API have fewer.
const MIN_MEASURED: u64 = 16 * 1024;

/// Shortest time between two measurements. At a round trip of less, the first window does not slow anything down.
const MIN_PAUSE: Duration = Duration::from_millis(10);

/// Longest time between two measurements, reached by doubling after each that asks for no wider window.
const MAX_PAUSE: Duration = Duration::from_millis(250);

/// Time without streams after which a connection returns to the first windows.
const IDLE: Duration = Duration::from_secs(2);

/// Consumption of a connection's streams, written by them and read by the connection's driver.
#[derive(Default)]
pub(super) struct WindowMeter {
    /// Number of the current measurement; the time between two measurements has a number, too.
    epoch: AtomicU32,
    /// Most bytes that one stream has consumed in the current epoch.
    best: AtomicU64,
    /// The same, of streams that have consumed [`FIRST_BYTES`] in all.
    proven: AtomicU64,
    /// Number of streams.
    streams: AtomicUsize,
    /// Excess of the window over the first; 0 as a rule.
    excess: AtomicU32,
    /// Task that drives the connection, if it waits for the end of the last stream.
    driver: Mutex<Option<Waker>>,
}

impl WindowMeter {
    /// Most streams that the connection's window has room for.
    pub(super) fn most_streams(&self) -> usize {
        streams_of(STREAM_WINDOW + self.excess.load(Ordering::Relaxed))
    }

    /// Begins the next epoch; returns the most bytes that a proven stream has consumed in the last.
    fn next_epoch(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        self.best.store(0, Ordering::Relaxed);
        self.proven.swap(0, Ordering::Relaxed)
    }

    fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    fn driver(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        // The change is complete before anything can panic.
        self.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Number of streams of this window that the connection's window holds.
fn streams_of(window: u32) -> usize {
    (CONNECTION_WINDOW / window).min(MAX_STREAMS) as usize
}

/// Consumption of one stream, counted as one of the connection's until the drop.
pub(super) struct StreamMeter {
    meter: Arc<WindowMeter>,
    /// Epoch of `consumed`.
    epoch: u32,
    /// Bytes consumed in that epoch.
    consumed: u64,
    /// Bytes consumed in all.
    total: u64,
}

impl StreamMeter {
    /// A stream that begins.
    pub(super) fn new(meter: &Arc<WindowMeter>) -> StreamMeter {
        meter.streams.fetch_add(1, Ordering::Relaxed);
        StreamMeter { meter: Arc::clone(meter), epoch: 0, consumed: 0, total: 0 }
    }

    /// Counts bytes that were read from the stream, before they are returned to its window.
    pub(super) fn on_consumed(&mut self, bytes: usize) {
        let epoch = self.meter.epoch.load(Ordering::Relaxed);
        if self.epoch != epoch {
            (self.epoch, self.consumed) = (epoch, 0);
        }
        self.total += bytes as u64;
        self.consumed += bytes as u64;
        self.meter.best.fetch_max(self.consumed, Ordering::Relaxed);
        if self.total >= FIRST_BYTES {
            self.meter.proven.fetch_max(self.consumed, Ordering::Relaxed);
        }
    }
}

impl Drop for StreamMeter {
    fn drop(&mut self) {
        let before = self.meter.streams.fetch_sub(1, Ordering::Relaxed);
        if before == 1 && self.meter.excess.load(Ordering::Relaxed) > 0 {
            let driver = self.meter.driver().take();
            driver.into_iter().for_each(Waker::wake);
        }
    }
}

/// Policy of a peer for PINGs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PingPolicy {
    /// Answers any number.
    Patient,
    /// May close a connection with PINGs that follow each other without a message.
    Strict,
}

/// Windows of one connection, held by its driver.
pub(super) struct WindowGrowth {
    meter: Arc<WindowMeter>,
    wire: Arc<WireState>,
    policy: PingPolicy,
    /// Window of a stream, as last announced.
    window: u32,
    /// Number of the peer's acknowledgements of settings, from which the last announcement is in force.
    acks: u64,
    /// True while a PING measures a round trip.
    measures: bool,
    /// Messages received before the answer to the last PING.
    messages: u64,
    /// Pause before the next measurement.
    pause: Duration,
    /// Timer of the pause and of [`IDLE`], made at the first use.
    timer: Option<Interval>,
    /// True while the timer measures [`IDLE`].
    is_idle: bool,
    /// Share of [`MAX_GROWN`], while streams may have wider windows.
    share: Option<GrownShare>,
}

impl WindowGrowth {
    /// Windows of a connection whose first settings have been sent.
    pub(super) fn new(wire: Arc<WireState>, policy: PingPolicy) -> WindowGrowth {
        WindowGrowth {
            meter: Arc::default(),
            wire,
            policy,
            window: STREAM_WINDOW,
            acks: 1,
            measures: false,
            messages: 0,
            pause: MIN_PAUSE,
            timer: None,
            is_idle: false,
            share: None,
        }
    }

    /// Meter for the streams.
    pub(super) fn meter(&self) -> Arc<WindowMeter> {
        Arc::clone(&self.meter)
    }

    /// Narrows the windows if more streams are open than they are meant for, or none for a while. `announce` sets the
    /// window of all streams, and returns false if it could not.
    pub(super) fn narrow(&mut self, cx: &mut Context<'_>, announce: impl FnOnce(u32) -> bool) {
        if self.share.is_none() {
            return;
        }
        // Registered before the streams are counted, so that no end of the last one falls in between.
        *self.meter.driver() = Some(cx.waker().clone());
        let is_acknowledged = self.wire.settings_acks() >= self.acks;
        if self.window == STREAM_WINDOW {
            if is_acknowledged {
                self.meter.excess.store(0, Ordering::Relaxed);
                self.share = None;
            }
            return;
        }
        let streams = self.meter.streams();
        let is_unused = streams == 0 && self.poll_idle(cx).is_ready();
        self.is_idle &= streams == 0;
        if is_acknowledged && (is_unused || streams > streams_of(self.window)) && announce(STREAM_WINDOW) {
            (self.window, self.acks, self.is_idle) = (STREAM_WINDOW, self.wire.settings_acks() + 1, false);
        }
    }

    /// Ready after [`IDLE`] without streams.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(timer);
        if !self.is_idle {
            self.is_idle = true;
            timer.reset_after(IDLE);
        }
        timer.poll_tick(cx).map(drop)
    }

    /// Ready when a PING should be sent to measure a round trip; the measurement has begun then.
    pub(super) fn poll_measure(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Soon after the last measurement, as long as much comes: the measurement itself decides.
        let is_due = self.meter.best.load(Ordering::Relaxed) >= u64::from(self.window / 8).max(MIN_MEASURED)
            && !self.measures
            && self.next_window().is_some()
            && self.wire.settings_acks() >= self.acks
            && (self.policy == PingPolicy::Patient || self.wire.messages() != self.messages);
        if !is_due {
            return Poll::Pending;
        }
        ready!(self.timer.get_or_insert_with(timer).poll_tick(cx));
        self.meter.next_epoch();
        self.measures = true;
        Poll::Ready(())
    }

    /// Ends a measurement, and announces a wider window if it asks for one. `announce` as in [`WindowGrowth::narrow`].
    pub(super) fn on_pong(&mut self, announce: impl FnOnce(u32) -> bool) {
        self.messages = self.wire.messages();
        if !std::mem::take(&mut self.measures) {
            return;
        }
        let consumed = self.meter.next_epoch();
        let is_full = consumed * 3 >= u64::from(self.window);
        self.pause = if is_full { MIN_PAUSE } else { (self.pause * 2).min(MAX_PAUSE) };
        if let Some(timer) = &mut self.timer {
            timer.reset_after(self.pause);
        }
        let Some(next) = self.next_window().filter(|_| is_full) else { return };
        let Some(share) = self.share.take().or_else(GrownShare::take) else { return };
        // Set first, so that no stream is opened beyond the room that is left.
        let before = self.meter.excess.swap(next - STREAM_WINDOW, Ordering::Relaxed);
        if announce(next) {
            (self.window, self.acks) = (next, self.wire.settings_acks() + 1);
            self.share = Some(share);
        } else {
            self.meter.excess.store(before, Ordering::Relaxed);
            self.share = (before > 0).then_some(share);
        }
    }

    /// The next wider window that all streams together leave room for.
    fn next_window(&self) -> Option<u32> {
        let streams = self.meter.streams();
        let fits = |factor: &u32| {
            let next = self.window * factor;
            next <= MAX_STREAM_WINDOW && streams <= streams_of(next)
        };
        [4, 2].into_iter().find(fits).map(|factor| self.window * factor)
    }
}

/// A timer that is ready at once.
fn timer() -> Interval {
    let mut timer = interval(MIN_PAUSE);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

/// One of [`MAX_GROWN`] connections; returned on drop.
struct GrownShare;

impl GrownShare {
    fn take() -> Option<GrownShare> {
        if GROWN.fetch_add(1, Ordering::Relaxed) >= MAX_GROWN {
            GROWN.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(GrownShare)
    }
}

impl Drop for GrownShare {
    fn drop(&mut self) {
        GROWN.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;

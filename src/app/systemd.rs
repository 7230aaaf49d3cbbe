//! Service notifications to systemd, if it started this process: sd_notify(3).
//!
//! Without systemd every function does nothing. Messages are sent by a thread of their own, in
//! order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::net::drain::Drain;

/// Notifies that all listeners are open (`READY=1`), so that units ordered after this one start.
pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// As [`ready`], and names this process as the main one instead of the one that it took over from
/// (`MAINPID=`).
pub(super) fn taken_over() {
    notify(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
}

/// Notifies that a reload begins (`RELOADING=1`); [`ready`] ends it.
pub(super) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
}

/// Notifies that the shutdown has begun (`STOPPING=1`).
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Notifies periodically that this thread makes progress (`WATCHDOG=1`), if the unit has
/// `WatchdogSec=`. Stops when another process has taken over. Never returns.
pub(super) async fn watch(drain: Drain) {
    let Some(timeout) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    // Half of the timeout, as sd_watchdog_enabled(3) recommends.
    let mut due = tokio::time::interval((timeout / 2).max(Duration::from_millis(1)));
    loop {
        due.tick().await;
        if drain.entered_lame_duck() {
            return std::future::pending().await;
        }
        notify(&[NotifyState::Watchdog]);
    }
}

/// States that are sent in one datagram.
type Notification = Vec<NotifyState<'static>>;

/// Queue of a thread that sends notifications in order. The socket blocks as long as systemd does
/// not read, which must not block a thread that serves. `None`: systemd expects no notifications
/// (no `NOTIFY_SOCKET`), or there is no thread.
static SENDER: LazyLock<Option<mpsc::Sender<Notification>>> = LazyLock::new(|| {
    std::env::var_os("NOTIFY_SOCKET")?;
    let (sender, messages) = mpsc::channel::<Notification>();
    let send = move || {
        for message in messages {
            if let Err(error) = sd_notify::notify(&message) {
                tracing::debug!(%error, "systemd cannot be notified");
            }
            QUEUED.fetch_sub(1, Ordering::Relaxed);
        }
    };
    std::thread::Builder::new().name("systemd".to_owned()).spawn(send).ok()?;
    Some(sender)
});

/// Number of notifications in the queue.
static QUEUED: AtomicUsize = AtomicUsize::new(0);

/// Queues a notification. Drops `WATCHDOG=1` unless the queue is empty: the queue does not grow
/// while systemd does not read. Without systemd nothing happens.
fn notify(state: &[NotifyState<'static>]) {
    let Some(sender) = &*SENDER else { return };
    if matches!(state, [NotifyState::Watchdog]) && QUEUED.load(Ordering::Relaxed) > 0 {
        return;
    }
    QUEUED.fetch_add(1, Ordering::Relaxed);
    if sender.send(state.to_vec()).is_err() {
        tracing::debug!("systemd cannot be notified: its thread has ended");
    }
}

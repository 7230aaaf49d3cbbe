//! Notifications to systemd, if it started us: sd_notify(3).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::net::drain::Drain;

/// All addresses are open, and whoever waits for us need wait no longer.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// As [`ready`], of a process that has taken the place of the one that was told of before.
pub(super) fn taken_over() {
    tell(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
}

/// The file is read again; [`ready`] says when that is over.
pub(super) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// The end has begun.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says again and again that this thread is not held up, if systemd wants to know.
/// A process that has handed over says nothing any more.
pub(super) async fn watch(drain: Drain) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    // As sd_watchdog_enabled(3) recommends.
    let mut due = tokio::time::interval((patience / 2).max(Duration::from_millis(1)));
    loop {
        due.tick().await;
        if drain.entered_lame_duck() {
            return std::future::pending().await;
        }
        tell(&[NotifyState::Watchdog]);
    }
}

/// What one datagram says.
type Message = Vec<NotifyState<'static>>;

/// Sends messages one after the other, in the order in which they were queued. The socket blocks for as long as systemd
/// does not read, which must not hold up a thread that serves. `None`: there is no thread, or nobody to notify.
static SENDER: LazyLock<Option<mpsc::Sender<Message>>> = LazyLock::new(|| {
    std::env::var_os("NOTIFY_SOCKET")?;
    let (sender, messages) = mpsc::channel::<Message>();
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

/// How many messages are queued.
static QUEUED: AtomicUsize = AtomicUsize::new(0);

/// Queues a message; a sign of life only behind nothing else, so that the queue does not grow while systemd does not read.
fn tell(state: &[NotifyState<'static>]) {
    let Some(sender) = &*SENDER else { return };
    if matches!(state, [NotifyState::Watchdog]) && QUEUED.load(Ordering::Relaxed) > 0 {
        return;
    }
    QUEUED.fetch_add(1, Ordering::Relaxed);
    if sender.send(state.to_vec()).is_err() {
        tracing::debug!("systemd cannot be notified: its thread has ended");
    }
}

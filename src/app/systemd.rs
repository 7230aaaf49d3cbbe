//! What systemd is told, if it started us: sd_notify(3).

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
        if drain.was_left() {
            return std::future::pending().await;
        }
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd cannot be told");
    }
}

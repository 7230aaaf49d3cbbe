//! Unix signals that the gateway handles, and the action of each.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::audit::Author;

/// Exit code of a process that SIGINT has killed.
const INTERRUPTED: u8 = 128 + 2;
/// Exit code of a process that SIGTERM has killed.
const TERMINATED: u8 = 128 + 15;

/// Handlers of the signals; others keep their default action.
pub(super) struct UnixSignals {
    /// SIGTERM.
    terminate: Signal,
    /// SIGINT.
    interrupt: Signal,
    /// SIGHUP.
    hangup: Signal,
    /// SIGUSR2.
    user2: Signal,
}

/// Action that a signal requests.
pub(super) enum SignalAction {
    /// Stop (SIGTERM, SIGINT); with the exit code that shells give to a process killed by the signal: 128 + its number.
    Stop(u8),
    /// Read the configuration file again (SIGHUP).
    Reload,
    /// Start another process that takes over (SIGUSR2).
    Upgrade,
}

/// Author of a stop with this exit code.
pub(super) fn stop_author(code: u8) -> Author {
    Author::Signal(if code == INTERRUPTED { "SIGINT" } else { "SIGTERM" })
}

impl UnixSignals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// If the system refuses one.
    pub(super) fn new() -> io::Result<UnixSignals> {
        Ok(UnixSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next signal.
    ///
    /// # Cancel safety
    /// Cancel safe: no signal is lost.
    pub(super) async fn next(&mut self) -> SignalAction {
        tokio::select! {
            _ = self.terminate.recv() => SignalAction::Stop(TERMINATED),
            _ = self.interrupt.recv() => SignalAction::Stop(INTERRUPTED),
            _ = self.hangup.recv() => SignalAction::Reload,
            _ = self.user2.recv() => SignalAction::Upgrade,
        }
    }

    /// Waits for the next signal that requests a stop, and ignores others. Returns its exit code.
    pub(super) async fn next_stop(&mut self) -> u8 {
        loop {
            if let SignalAction::Stop(code) = self.next().await {
                return code;
            }
        }
    }
}

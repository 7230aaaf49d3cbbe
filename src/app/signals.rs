//! Unix signals that the gateway hears, and what each of them asks for.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that the gateway hears.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user2: Signal,
}

/// What a signal asks for.
pub(super) enum Asked {
    /// The end; with the exit code of a process that the signal ends.
    End(u8),
    /// That the file is read again.
    Reload,
    /// That another process takes over.
    HandOver,
}

impl Signals {
    pub(super) fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End(128 + 15),
            _ = self.interrupt.recv() => Asked::End(128 + 2),
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.user2.recv() => Asked::HandOver,
        }
    }

    /// The next signal that asks for the end.
    pub(super) async fn end(&mut self) -> u8 {
        loop {
            if let Asked::End(code) = self.next().await {
                return code;
            }
        }
    }
}

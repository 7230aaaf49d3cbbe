//! Tunnels that are not looked into (CONNECT): what the log says of them, once per host.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// How many hosts are named in the log; a stranger can ask for any number of names.
const MOST_TOLD: usize = 1024;

/// The hosts of which the log has said that their tunnels are counted as a whole.
#[derive(Default)]
pub(super) struct Opaque {
    told: Mutex<HashSet<Box<str>>>,
}

impl Opaque {
    /// Says once per host that a limit counts its tunnels, not what goes through them: it is less than the limit's
    /// owner may think.
    pub(super) fn tell(&self, host: &str, counted: bool) {
        if !counted {
            return;
        }
        // A panic elsewhere cannot leave the set half changed.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MOST_TOLD && !told.contains(host) {
            told.insert(host.into());
            tracing::warn!(host, "a limit counts its tunnels, not the requests in them; [tls] intercept opens them");
        }
    }
}

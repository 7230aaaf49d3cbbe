//! Tunnels that are not looked into (CONNECT): what the log says of them, once per host.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use super::server_name::Unfit;

/// How many hosts are named in the log; a stranger can ask for any number of names.
const MOST_TOLD: usize = 1024;

/// What was said of which hosts.
#[derive(Default)]
pub(super) struct Opaque {
    counted: Told,
    ended: Told,
}

impl Opaque {
    /// Says once per host that a limit counts its tunnels, not what goes through them: it is less than the limit's
    /// owner may think.
    pub(super) fn tell(&self, host: &str, counted: bool) {
        if counted && self.counted.is_new(host) {
            tracing::warn!(host, "a limit counts its tunnels, not the requests in them; [tls] intercept opens them");
        }
    }

    /// Says once per host that a tunnel to it was ended for what its caller said first.
    pub(super) fn tell_end(&self, host: &str, why: &Unfit) {
        let asked_for = match why {
            Unfit::Name { name, .. } => name,
            Unfit::Unreadable => host,
        };
        if self.ended.is_new(asked_for) {
            tracing::warn!(host, %why, "what a caller said in a tunnel was not passed on");
        }
    }
}

/// The hosts that were told of.
#[derive(Default)]
struct Told(Mutex<HashSet<Box<str>>>);

impl Told {
    fn is_new(&self, host: &str) -> bool {
        // A panic elsewhere cannot leave the set half changed.
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < MOST_TOLD && !told.contains(host) && told.insert(host.into())
    }
}

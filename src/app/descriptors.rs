//! File descriptors: raises the limit of open files (RLIMIT_NOFILE), and derives the default of
//! `max_connections` from it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::net::connection_limit::ConnectionLimit;

/// Descriptors reserved for other uses than connections of callers and to origins: the 64
/// connections of the admin listener, the listeners, the state folder, the store, and the poll
/// descriptors of the runtimes. Rounded up.
const RESERVED: u64 = 256;
/// Number to assume where the system sets no limit; so many idle connections take 2 GB.
const UNLIMITED: u64 = 1 << 20;

/// Raises the soft limit of open files to the hard limit: each request takes two descriptors.
pub(super) fn raise() {
    let Rlimit { current: _, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, open_files = open_files(), "the limit of open files cannot be raised");
    }
}

/// Number of callers' connections that the descriptors suffice for, if each needs another
/// connection to an origin. HAProxy derives its `maxconn` from `ulimit -n` in the same way. No
/// request of an accepted connection lacks a descriptor then.
pub(super) fn connections() -> usize {
    let files = open_files();
    usize::try_from(files.saturating_sub(RESERVED).max(files / 2) / 2).unwrap_or(usize::MAX).max(1)
}

/// Warns if `max_connections` exceeds the limit of open files.
pub(super) fn check(limit: &ConnectionLimit) {
    let (total, files) = (limit.max_total(), open_files());
    if total as u64 > files {
        tracing::warn!(
            max_connections = total,
            open_files = files,
            "max_connections exceeds the limit of open files: raise that limit (LimitNOFILE, ulimit -n)"
        );
    }
}

/// The limit of open files.
fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED).min(UNLIMITED)
}

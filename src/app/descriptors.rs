//! File descriptors: as many open files as the system lets us have (RLIMIT_NOFILE), and for how many connections they do.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::net::connection_limit::ConnectionLimit;

/// Descriptors that are neither a caller's nor an origin's: the admin listener's 64 connections, listeners, the state
/// folder, the store, and what each runtime polls with.
const OTHERS: u64 = 256;
/// As if there were so many where there is no limit; 2 GB of idle connections.
const UNLIMITED: u64 = 1 << 20;

/// Allows as many descriptors as the system lets us have: each request takes two.
pub(super) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, ?current, "the limit of open files stays as it was");
    }
}

/// For how many connections of callers there are descriptors, if each may need another to its origin, as HAProxy reckons
/// its `maxconn` from `ulimit -n`: then no request that was let in fails for want of one.
pub(super) fn connections() -> usize {
    let files = open_files();
    usize::try_from(files.saturating_sub(OTHERS).max(files / 2) / 2).unwrap_or(usize::MAX).max(1)
}

/// Tells of a limit that the descriptors cannot keep.
pub(super) fn check(limit: &ConnectionLimit) {
    let (total, files) = (limit.max_total(), open_files());
    if total as u64 > files {
        tracing::warn!(
            max_connections = total,
            open_files = files,
            "there are fewer descriptors than connections may be: raise the limit of open files (LimitNOFILE, ulimit -n)"
        );
    }
}

fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED).min(UNLIMITED)
}

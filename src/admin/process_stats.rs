//! Statistics of this process from /proc: processor time, memory, file descriptors, threads, and the time of its start.

use std::fs;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use crate::gate::clock::Clock;

/// Milliseconds of a tick, the unit of the times in /proc/self/stat (USER_HZ): the same on every architecture that has
/// Linux and Rust's standard library.
const TICK_MS: u64 = 10;

/// Statistics of this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ProcessStats {
    /// Processor time used, in user and in kernel mode.
    pub(super) cpu: Duration,
    /// Resident set size, in bytes.
    pub(super) resident_bytes: u64,
    /// Size of the address space, in bytes.
    pub(super) virtual_bytes: u64,
    /// Number of threads.
    pub(super) threads: u64,
    /// Time of the start since the machine booted, suspends included.
    pub(super) started: Duration,
}

impl ProcessStats {
    /// Reads /proc; `None` if it is not mounted or cannot be read.
    pub(super) fn read() -> Option<ProcessStats> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let status = fs::read_to_string("/proc/self/status").ok()?;
        ProcessStats::parse(&stat, &status)
    }

    /// Parses the texts of /proc/self/stat and /proc/self/status, see proc_pid_stat(5) and proc_pid_status(5).
    fn parse(stat: &str, status: &str) -> Option<ProcessStats> {
        // The second field, the name in parentheses, may contain spaces and parentheses. The next one is number 3.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let ticks = |number: usize| {
            let ticks: u64 = fields.get(number - 3)?.parse().ok()?;
            Some(Duration::from_millis(ticks.saturating_mul(TICK_MS)))
        };
        let bytes = |key: &str| Some(value(status, key)?.strip_suffix(" kB")?.parse::<u64>().ok()? * 1024);
        Some(ProcessStats {
            cpu: ticks(14)? + ticks(15)?,
            resident_bytes: bytes("VmRSS")?,
            virtual_bytes: bytes("VmSize")?,
            threads: value(status, "Threads")?.parse().ok()?,
            started: ticks(22)?,
        })
    }
}

/// Age of a process that was started at this time since the machine booted.
pub(super) fn age(started: Duration, clock: Clock) -> Duration {
    Duration::from_nanos(clock.since_boot_nanos()).saturating_sub(started)
}

/// Value of a line `key:<tab>value` of /proc/self/status.
fn value<'s>(status: &'s str, key: &str) -> Option<&'s str> {
    status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
}

/// Number of open file descriptors; `None` if /proc cannot be read.
pub(super) fn open_fds() -> Option<u64> {
    let entries = fs::read_dir("/proc/self/fd").ok()?;
    // One of them is that of the folder itself.
    Some((entries.count() as u64).saturating_sub(1))
}

/// Maximum number of open file descriptors (`ulimit -n`); `None`: unlimited.
pub(super) fn max_fds() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_moves_no_field() {
        let stat =
            "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 9 9 20 0 5 0 12345 1000000 300 18446744073709551615";
        let status = "Name:\ta) b (c\nVmPeak:\t    2000 kB\nVmSize:\t    1000 kB\nVmRSS:\t     512 kB\nThreads:\t5\n";
        let expected = ProcessStats {
            cpu: Duration::from_secs(2),
            resident_bytes: 512 * 1024,
            virtual_bytes: 1000 * 1024,
            threads: 5,
            started: Duration::from_millis(123_450),
        };
        assert_eq!(ProcessStats::parse(stat, status), Some(expected));
        assert_eq!(ProcessStats::parse("7 (a) S 1", status), None);
    }

    #[test]
    fn the_process_was_started_a_while_ago() {
        let stats = ProcessStats::read().expect("tests run where /proc is mounted");
        assert!(age(stats.started, Clock::start()) < Duration::from_secs(86_400), "{stats:?}");
        assert!(stats.resident_bytes > 0 && stats.virtual_bytes > stats.resident_bytes && stats.threads > 0);
        assert!(open_fds() > Some(2) && max_fds().is_none_or(|most| Some(most) >= open_fds()));
    }
}

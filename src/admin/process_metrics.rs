//! Metrics of the process (`process_*`), with the names that all Prometheus clients give them.

use std::time::Duration;

use super::metric_family::{Families, FamilyUnit, counter, gauge};
use super::process_stats::{ProcessStats, age, max_fds, open_fds};
use crate::gate::clock::Clock;

/// Reads /proc. A figure that cannot be read is left out.
pub(super) fn read(families: &mut Families, clock: Clock) {
    let stats = ProcessStats::read();
    let resident = gauge("process_resident_memory", "Memory of the process that is in RAM").in_unit(FamilyUnit::Bytes);
    let virtual_size = gauge("process_virtual_memory", "Size of the address space of the process");
    for (metric, value) in [
        (gauge("process_open_fds", "Open file descriptors"), open_fds()),
        (gauge("process_max_fds", "Maximum number of open file descriptors"), max_fds()),
        (gauge("process_threads", "Threads of the process"), stats.map(|stats| stats.threads)),
        (resident, stats.map(|stats| stats.resident_bytes)),
        (virtual_size.in_unit(FamilyUnit::Bytes), stats.map(|stats| stats.virtual_bytes)),
    ] {
        if let Some(value) = value {
            families.add_one(metric, value);
        }
    }
    let Some(stats) = stats else { return };
    let cpu = counter("process_cpu", "Processor time used, in user and in kernel mode").in_unit(FamilyUnit::Seconds);
    families.add_one(cpu, stats.cpu.as_secs_f64());
    let start = gauge("process_start_time", "Time of the start, since 1970").in_unit(FamilyUnit::Seconds);
    // Follows a wall clock that was set after the start, as the kernel's own time of boot does.
    let now = Duration::from_nanos(u64::try_from(clock.wall_unix_nanos()).unwrap_or(0));
    families.add_one(start, now.saturating_sub(age(stats.started, clock)).as_secs_f64());
}

//! Metrics of the process (`process_*`), with the names that all Prometheus clients give them.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::metric_family::{Metric, begin, gauge};
use super::process_stats::{ProcessStats, age, max_fds, open_fds};
use crate::gate::clock::Clock;

/// One scrape of the process: reads /proc when it is encoded. A figure that cannot be read is left out.
#[derive(Debug)]
pub(super) struct ProcessCollector(pub(super) Clock);

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let bytes = |name, help| Metric { name, help, unit: Some(Unit::Bytes), kind: MetricType::Gauge };
        let mut one = |metric: Metric, value: Option<u64>| match value {
            Some(value) => begin(&mut encoder, &metric)?.encode_gauge(&value),
            None => Ok(()),
        };
        let stats = ProcessStats::read();
        one(gauge("process_open_fds", "Open file descriptors"), open_fds())?;
        one(gauge("process_max_fds", "Maximum number of open file descriptors"), max_fds())?;
        one(gauge("process_threads", "Threads of the process"), stats.map(|stats| stats.threads))?;
        let resident = stats.map(|stats| stats.resident_bytes);
        one(bytes("process_resident_memory", "Memory of the process that is in RAM"), resident)?;
        let address_space = stats.map(|stats| stats.virtual_bytes);
        one(bytes("process_virtual_memory", "Size of the address space of the process"), address_space)?;
        let Some(stats) = stats else { return Ok(()) };
        let seconds = |name, help, kind| Metric { name, help, unit: Some(Unit::Seconds), kind };
        let cpu = seconds("process_cpu", "Processor time used, in user and in kernel mode", MetricType::Counter);
        begin(&mut encoder, &cpu)?.encode_counter::<NoLabelSet, f64, u64>(&stats.cpu.as_secs_f64(), None)?;
        let start = seconds("process_start_time", "Time of the start, since 1970", MetricType::Gauge);
        // Follows a wall clock that was set after the start, as the kernel's own time of boot does.
        let now = Duration::from_nanos(u64::try_from(self.0.wall_unix_nanos()).unwrap_or(0));
        begin(&mut encoder, &start)?.encode_gauge(&now.saturating_sub(age(stats.started, self.0)).as_secs_f64())
    }
}

//! Metrics of requests by the host of their origin.
//!
//! Hosts are told apart by the names in the configuration: those of limits, routes, `[tls] intercept` and
//! `[[timeouts.for]]`. All others count together, so that the number of series is bounded whatever callers ask for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::histogram::{Count, Histogram, HistogramValues};
use super::pattern::HostPattern;

/// Name of all hosts that the configuration does not name. If it names a host `other`, that counts with them.
const OTHER: &str = "other";

/// Metrics of the requests to one host, or to the hosts of one pattern.
#[derive(Default, Debug)]
pub struct HostMetrics {
    /// Finished requests, by the first digit of the status.
    requests: [Count; 6],
    /// Durations of requests.
    durations: Histogram,
}

impl HostMetrics {
    /// Counts a request that has ended with this status. `duration`: its time in the gateway; `None` for a tunnel or a
    /// connection that changed its protocol, which last as long as their peers like.
    pub(super) fn ended(&self, status: u16, duration: Option<Duration>) {
        if let Some(count) = self.requests.get(usize::from(status / 100)) {
            count.add_one();
        }
        if let Some(duration) = duration {
            self.durations.observe(duration);
        }
    }

    /// Number of requests that have ended, by the first digit of their status.
    pub fn requests(&self) -> impl Iterator<Item = (usize, u64)> {
        self.requests.iter().enumerate().map(|(digit, count)| (digit, count.get())).skip(1)
    }

    /// Histogram of the durations of requests, from the head of the request to the end of the response, queue included.
    pub fn durations(&self) -> HistogramValues {
        self.durations.values()
    }
}

/// Finds the metrics of a host, in a time that does not grow with the number of names.
#[derive(Debug)]
pub(super) struct HostTable {
    /// By host.
    exact: HashMap<Box<str>, ByPort>,
    /// By suffix, which begins with a dot.
    below: HashMap<Box<str>, ByPort>,
    /// Metrics of all other hosts.
    other: Arc<HostMetrics>,
}

/// Metrics of the patterns that differ only in their port.
#[derive(Default, Debug)]
struct ByPort {
    /// Of the pattern without a port.
    any: Option<Arc<HostMetrics>>,
    /// Of those with one.
    ports: Vec<(u16, Arc<HostMetrics>)>,
}

impl ByPort {
    fn get(&self, port: u16) -> Option<&Arc<HostMetrics>> {
        let own = self.ports.iter().find(|(own, _)| *own == port).map(|(_, metrics)| metrics);
        own.or(self.any.as_ref())
    }
}

impl HostTable {
    /// Prepares the patterns for lookups; `*` singles no host out, and is left out. `metrics`: metrics of the process,
    /// in which hosts are found by name.
    pub(super) fn new(
        patterns: impl Iterator<Item = HostPattern>,
        metrics: impl Fn(&str) -> Arc<HostMetrics>,
    ) -> HostTable {
        let mut table = HostTable { exact: HashMap::new(), below: HashMap::new(), other: metrics(OTHER) };
        for pattern in patterns {
            let by_port = match (pattern.exact(), pattern.suffix()) {
                (Some(host), _) => table.exact.entry(host.into()).or_default(),
                (None, Some(suffix)) => table.below.entry(suffix.into()).or_default(),
                (None, None) => continue,
            };
            let of_pattern = metrics(&pattern.to_string());
            match pattern.port() {
                None => by_port.any = Some(of_pattern),
                Some(port) if by_port.ports.iter().all(|(own, _)| *own != port) => {
                    by_port.ports.push((port, of_pattern));
                }
                Some(_) => {}
            }
        }
        table
    }

    /// Metrics of an origin: of its own name, else of the longest pattern that matches; a pattern with its port goes
    /// before one without.
    pub(super) fn find(&self, host: &str, port: u16) -> &Arc<HostMetrics> {
        let own = self.exact.get(host).and_then(|by_port| by_port.get(port));
        own.or_else(|| self.find_suffix(host, port)).unwrap_or(&self.other)
    }

    /// Metrics of the longest suffix of a host that a pattern has.
    fn find_suffix(&self, host: &str, port: u16) -> Option<&Arc<HostMetrics>> {
        if self.below.is_empty() {
            return None;
        }
        // A pattern matches hosts that are longer than its suffix.
        let dots = host.char_indices().filter(|(at, letter)| *letter == '.' && *at > 0);
        dots.filter_map(|(at, _)| self.below.get(&host[at..])).find_map(|by_port| by_port.get(port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name of the metrics that a request to an origin counts in, if these patterns are in the configuration.
    fn name_of(patterns: &[&str], host: &str, port: u16) -> String {
        let known = std::cell::RefCell::new(HashMap::<String, Arc<HostMetrics>>::new());
        let metrics = |name: &str| Arc::clone(known.borrow_mut().entry(name.to_owned()).or_default());
        let patterns = patterns.iter().map(|pattern| HostPattern::parse(pattern).expect(pattern));
        let table = HostTable::new(patterns, metrics);
        let found = table.find(host, port);
        known.borrow().iter().find(|(_, one)| Arc::ptr_eq(one, found)).expect("it was made above").0.clone()
    }

    #[test]
    fn the_closest_name_of_the_configuration_counts_a_host() {
        let named = ["*", "*:25", "api.example", "api.example:8443", "*.example", "*.far.example", "[::1]:80"];
        for (host, port, name) in [
            ("api.example", 443, "api.example"),
            ("api.example", 8443, "api.example:8443"),
            ("x.example", 443, "*.example"),
            ("a.b.far.example", 80, "*.far.example"),
            ("far.example", 80, "*.example"),
            ("::1", 80, "[::1]:80"),
            ("::1", 81, "other"),
            ("example", 443, "other"),
            ("mail.test", 25, "other"),
            ("évil.test", 443, "other"),
        ] {
            assert_eq!(name_of(&named, host, port), name, "{host}:{port}");
        }
    }

    #[test]
    fn a_tunnel_has_a_status_and_no_duration() {
        let metrics = HostMetrics::default();
        metrics.ended(200, Some(Duration::from_millis(3)));
        metrics.ended(200, None);
        metrics.ended(502, Some(Duration::from_secs(2)));
        metrics.ended(999, None);
        assert_eq!(metrics.requests().collect::<Vec<_>>(), [(1, 0), (2, 2), (3, 0), (4, 0), (5, 1)]);
        assert_eq!(metrics.durations().buckets.iter().map(|(_, count)| count).sum::<u64>(), 2);
    }
}

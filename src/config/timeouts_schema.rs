//! Schema of `[timeouts]` and `[[timeouts.for]]`, and the checks of the latter.

use std::time::Duration;

use super::duration;
use super::report::Reports;
use super::toml_table::TomlTable;
use super::toml_value::{Setting, SourceSpan, Spanned};
use super::value_parsers::{TextPattern, host, path_pattern};
use crate::proxy::Timeouts;
use crate::proxy::pattern::{HostPattern, PathPattern};
use crate::proxy::timeouts::TimeoutOverride;

/// Lower bound of `drain`: a stop that waits for no request.
const NONE: Duration = Duration::ZERO;
/// Lower bound of all other timeouts. Zero would make each request fail.
const MS: Duration = Duration::from_millis(1);
/// Upper bound of `drain`. A choice: a stop that takes longer is hardly intended.
const HOUR: Duration = Duration::from_secs(3_600);
/// Upper bound of all other timeouts.
const DAY: Duration = Duration::from_secs(86_400);

/// `[timeouts]` and `[[timeouts.for]]`.
#[derive(Debug)]
pub(super) struct TimeoutsSection {
    /// `[timeouts]`, with all defaults applied; the overrides are made by [`TimeoutsSection::check`].
    pub(super) common: Timeouts,
    /// `[[timeouts.for]]`, in the order of the file.
    pub(super) overrides: Vec<TimeoutsForSection>,
}

/// `[[timeouts.for]]`: timeouts of the requests to some hosts.
#[derive(Debug)]
pub(super) struct TimeoutsForSection {
    /// Place of its header, for mistakes that concern no key of it.
    pub(super) span: SourceSpan,
    /// Hosts; needed.
    pub(super) hosts: Setting<Vec<Spanned<TextPattern<HostPattern>>>>,
    /// Paths. Default: every request to the hosts, tunnels included.
    pub(super) paths: Vec<Spanned<TextPattern<PathPattern>>>,
    /// Time for a connection.
    pub(super) connect: Setting<Duration>,
    /// Time for the head of a response.
    pub(super) answer: Setting<Duration>,
    /// Time that content may stand still.
    pub(super) body_idle: Setting<Duration>,
    /// Time that a tunnel may be silent.
    pub(super) tunnel_idle: Setting<Duration>,
}

impl TimeoutsSection {
    /// Reads `[timeouts]`.
    ///
    /// Keys and defaults: `head` 10 s, `connect` 5 s, `answer` 60 s, `idle` 90 s, `body_idle` 5 min,
    /// `tunnel_idle` 10 min, `drain` 30 s. `request` has no default: a request may take any time
    /// while its content makes progress. Ranges: 1 ms to 1 day, of `drain` 0 to 1 h.
    pub(super) fn read(table: &mut TomlTable<'_>) -> TimeoutsSection {
        let request = table.get("request", |v| v.duration(MS..=DAY)).get().map(|at| at.value);
        let mut wait = |key, default| table.get(key, |v| v.duration(MS..=DAY)).or(default);
        let common = Timeouts {
            head: wait("head", secs(10)),
            connect: wait("connect", secs(5)),
            answer: wait("answer", secs(60)),
            request,
            idle: wait("idle", secs(90)),
            body_idle: wait("body_idle", secs(300)),
            tunnel_idle: wait("tunnel_idle", secs(600)),
            drain: table.get("drain", |v| v.duration(NONE..=HOUR)).or(secs(30)),
            overrides: Vec::new(),
        };
        TimeoutsSection { common, overrides: table.sections("for", "[[timeouts.for]]", TimeoutsForSection::read) }
    }

    /// Checks `[[timeouts.for]]`, and builds the timeouts.
    pub(super) fn check(self, reports: &Reports<'_>) -> Timeouts {
        let common = &self.common;
        for (at, section) in self.overrides.iter().enumerate() {
            section.check(common, &self.overrides[..at], reports);
        }
        let overrides = self.overrides.iter().filter_map(TimeoutsForSection::build).collect();
        Timeouts { overrides, ..self.common }
    }
}

impl TimeoutsForSection {
    fn read(table: &mut TomlTable<'_>) -> TimeoutsForSection {
        table.suggest(&[("idle", "body_idle"), ("hosts", "host"), ("paths", "path")], &[]);
        let span = table.span();
        let mut wait = |key| table.get(key, |v| v.duration(MS..=DAY));
        let (connect, answer) = (wait("connect"), wait("answer"));
        let (body_idle, tunnel_idle) = (wait("body_idle"), wait("tunnel_idle"));
        let mut section = TimeoutsForSection {
            span,
            hosts: table.get("host", |v| v.non_empty_list(host)),
            paths: table.get("path", |v| v.non_empty_list(path_pattern)).or(Vec::new()),
            connect,
            answer,
            body_idle,
            tunnel_idle,
        };
        for key in table.misspelt_keys() {
            match key {
                "host" => section.hosts.mark_misspelt(),
                "connect" => section.connect.mark_misspelt(),
                "answer" => section.answer.mark_misspelt(),
                "body_idle" => section.body_idle.mark_misspelt(),
                "tunnel_idle" => section.tunnel_idle.mark_misspelt(),
                _ => {}
            }
        }
        section
    }

    /// Timeouts of the section, with their keys.
    fn timeouts(&self) -> [(&'static str, &Setting<Duration>); 4] {
        [
            ("connect", &self.connect),
            ("answer", &self.answer),
            ("body_idle", &self.body_idle),
            ("tunnel_idle", &self.tunnel_idle),
        ]
    }

    /// Reports what the section lacks, and what never holds. `earlier`: the sections before it.
    fn check(&self, common: &Timeouts, earlier: &[TimeoutsForSection], reports: &Reports<'_>) {
        if self.hosts.is_absent() {
            let advice = "add host = \"api.example.com\"; for all hosts write the keys below [timeouts]";
            reports.error(&self.span, "`host` is missing", advice);
        }
        if self.timeouts().iter().all(|(_, timeout)| timeout.is_absent()) {
            let advice = "add answer = \"10m\", or connect, body_idle or tunnel_idle";
            reports.error(&self.span, "this section sets no timeout", advice);
        }
        if let (Some(answer), Some(request)) = (self.answer.get(), common.request)
            && answer.value > request
        {
            let message =
                format!("`answer` never ends: [timeouts] request = {} comes first", duration::format(request));
            reports.warn(&answer.span, message, "make request longer, or leave it out");
        }
        let Some(hosts) = self.hosts.get() else { return };
        for (key, timeout) in self.timeouts() {
            let Some(at) = timeout.get() else { continue };
            let hides = |other: &&TimeoutsForSection| {
                let sets = other.timeouts().iter().any(|(name, timeout)| *name == key && timeout.get().is_some());
                sets && other.paths.is_empty() && hosts.value.iter().all(|host| other.covers(&host.value.pattern))
            };
            if let Some(other) = earlier.iter().find(hides) {
                let message = format!("`{key}` never holds: an earlier section sets it for {}", other.name());
                reports.warn(&at.span, message, "move this section before that one, or leave it out");
            }
        }
    }

    /// True if one of its hosts stands for all hosts of the pattern, at every port.
    fn covers(&self, hosts: &HostPattern) -> bool {
        let own = self.hosts.get().map(|list| list.value.as_slice()).unwrap_or_default();
        own.iter().any(|at| {
            let fits = at.value.pattern.port().is_none() || at.value.pattern.port() == hosts.port();
            fits && at.value.pattern.covers(hosts, hosts.port().unwrap_or(443))
        })
    }

    /// Hosts and paths as written: `api.example.com /v1/**`.
    fn name(&self) -> String {
        let hosts = self.hosts.get().map(|list| list.value.as_slice()).unwrap_or_default();
        let hosts = hosts.iter().map(|at| at.value.text.as_str()).collect::<Vec<_>>().join(",");
        let paths = self.paths.iter().map(|at| at.value.text.as_str()).collect::<Vec<_>>().join(",");
        if paths.is_empty() { hosts } else { format!("{hosts} {paths}") }
    }

    fn build(&self) -> Option<TimeoutOverride> {
        let value = |timeout: &Setting<Duration>| timeout.get().map(|at| at.value);
        Some(TimeoutOverride {
            hosts: self.hosts.get()?.value.iter().map(|at| at.value.pattern.clone()).collect(),
            paths: self.paths.iter().map(|at| at.value.pattern.clone()).collect(),
            name: self.name().into(),
            connect: value(&self.connect),
            answer: value(&self.answer),
            body_idle: value(&self.body_idle),
            tunnel_idle: value(&self.tunnel_idle),
        })
    }

    /// The section in a sentence: `requests to api.example.com for /v1/**: answer 10m, body_idle 1h`.
    pub(super) fn explain(&self) -> String {
        let hosts = self.hosts.get().map(|list| list.value.as_slice()).unwrap_or_default();
        let one_of = |words: Vec<&str>| words.join(" or ");
        let hosts = one_of(hosts.iter().map(|at| at.value.text.as_str()).collect());
        let paths = one_of(self.paths.iter().map(|at| at.value.text.as_str()).collect());
        let paths = if paths.is_empty() { String::new() } else { format!(" for {paths}") };
        let set = self.timeouts();
        let set =
            set.iter().filter_map(|(key, timeout)| Some(format!("{key} {}", duration::format(timeout.get()?.value))));
        format!("timeouts of requests to {hosts}{paths}: {}", set.collect::<Vec<_>>().join(", "))
    }
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

//! Timeouts: `[timeouts]` of the configuration, and `[[timeouts.for]]` for the requests to some hosts.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::path::Path;
use super::pattern::{HostPattern, PathPattern};

/// Timeouts of the gateway.
#[derive(Clone, PartialEq, Debug)]
pub struct Timeouts {
    /// A caller's request head, from its first byte; the first head of a connection, from the
    /// accept.
    pub head: Duration,
    /// DNS, TCP and TLS to an origin.
    pub connect: Duration,
    /// An origin's response head, from the end of the request.
    pub answer: Duration,
    /// A request from its permit to the head of its response, content included; `None`: unlimited
    /// while its content makes progress.
    pub request: Option<Duration>,
    /// A kept connection without a request.
    pub idle: Duration,
    /// The content of a request or a response without progress.
    pub body_idle: Duration,
    /// A tunnel without progress.
    pub tunnel_idle: Duration,
    /// Requests that still run after a stop signal.
    pub drain: Duration,
    /// Timeouts of some requests, in the order of the file. The first that matches a request and
    /// has a timeout counts for it.
    pub overrides: Vec<TimeoutOverride>,
}

/// Timeouts of the requests to some hosts: `[[timeouts.for]]` of the configuration file.
#[derive(Clone, PartialEq, Debug)]
pub struct TimeoutOverride {
    /// Hosts, at least one.
    pub hosts: Vec<HostPattern>,
    /// Paths; empty: every request to the hosts, tunnels included.
    pub paths: Vec<PathPattern>,
    /// Hosts and paths as written, for messages.
    pub name: Arc<str>,
    /// See [`Timeouts::connect`].
    pub connect: Option<Duration>,
    /// See [`Timeouts::answer`].
    pub answer: Option<Duration>,
    /// See [`Timeouts::body_idle`].
    pub body_idle: Option<Duration>,
    /// See [`Timeouts::tunnel_idle`].
    pub tunnel_idle: Option<Duration>,
}

/// Key of a timeout in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeoutKey {
    /// `head`
    Head,
    /// `connect`
    Connect,
    /// `answer`
    Answer,
    /// `request`
    Request,
    /// `body_idle`
    BodyIdle,
    /// `tunnel_idle`
    TunnelIdle,
}

/// A timeout with its place in the file. Displayed as `[timeouts] answer = 60s`, or `answer = 10m of
/// [[timeouts.for]] api.example`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timeout {
    /// Key of it.
    pub key: TimeoutKey,
    /// Length of it.
    pub value: Duration,
    /// Name of its override; `None`: it is of `[timeouts]`.
    pub section: Option<Arc<str>>,
}

/// Timeouts of one request.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct RequestTimeouts {
    pub(super) connect: Timeout,
    pub(super) answer: Timeout,
    pub(super) request: Option<Timeout>,
    pub(super) body_idle: Timeout,
    pub(super) tunnel_idle: Timeout,
}

impl Timeouts {
    /// Timeouts of a request to this host for this path, with those of `[[timeouts.for]]`; the path of a tunnel is empty.
    fn of(&self, host: &str, port: u16, path: &str) -> RequestTimeouts {
        let path = path.split('?').next().unwrap_or_default();
        // A path with too many readings matches none.
        let read = Path::read(path).ok();
        let chosen = self.overrides.iter().filter(|one| one.matches(host, port, read.as_ref()));
        self.overridden(&chosen.collect::<Vec<_>>())
    }

    /// Timeouts of a request that these overrides match.
    fn overridden(&self, chosen: &[&TimeoutOverride]) -> RequestTimeouts {
        let pick = |key, common, of: fn(&TimeoutOverride) -> Option<Duration>| {
            let own = chosen.iter().find_map(|one| Some((of(one)?, Arc::clone(&one.name))));
            own.map_or(Timeout { key, value: common, section: None }, |(value, name)| Timeout {
                key,
                value,
                section: Some(name),
            })
        };
        RequestTimeouts {
            connect: pick(TimeoutKey::Connect, self.connect, |one| one.connect),
            answer: pick(TimeoutKey::Answer, self.answer, |one| one.answer),
            request: self.request.map(|value| Timeout { key: TimeoutKey::Request, value, section: None }),
            body_idle: pick(TimeoutKey::BodyIdle, self.body_idle, |one| one.body_idle),
            tunnel_idle: pick(TimeoutKey::TunnelIdle, self.tunnel_idle, |one| one.tunnel_idle),
        }
    }

    /// `[timeouts] head`, for messages.
    pub(super) fn of_head(&self) -> Timeout {
        Timeout { key: TimeoutKey::Head, value: self.head, section: None }
    }

    /// `[timeouts] body_idle`, for requests without an origin.
    pub(super) fn of_content(&self) -> Timeout {
        Timeout { key: TimeoutKey::BodyIdle, value: self.body_idle, section: None }
    }

    /// Longest time from a permit to the head of a response, of a request without content.
    pub fn longest_answer(&self) -> Duration {
        self.longest(self.connect, |one| one.connect) + self.longest(self.answer, |one| one.answer)
    }

    fn longest(&self, common: Duration, of: fn(&TimeoutOverride) -> Option<Duration>) -> Duration {
        self.overrides.iter().filter_map(of).fold(common, Duration::max)
    }
}

/// Timeouts of a configuration, with the common ones ready for the requests that no override is for.
#[derive(Debug)]
pub(super) struct TimeoutTable {
    timeouts: Timeouts,
    common: Arc<RequestTimeouts>,
}

impl TimeoutTable {
    pub(super) fn new(timeouts: Timeouts) -> TimeoutTable {
        TimeoutTable { common: Arc::new(timeouts.overridden(&[])), timeouts }
    }

    /// Timeouts of a request to this host for this path; the path of a tunnel is empty.
    pub(super) fn find<'p>(&self, host: &str, port: u16, path: impl FnOnce() -> Cow<'p, str>) -> Arc<RequestTimeouts> {
        if self.timeouts.overrides.is_empty() {
            return Arc::clone(&self.common);
        }
        Arc::new(self.timeouts.of(host, port, &path()))
    }
}

impl Deref for TimeoutTable {
    type Target = Timeouts;

    fn deref(&self) -> &Timeouts {
        &self.timeouts
    }
}

impl TimeoutOverride {
    /// `path`: its readings; `None` if there are too many.
    fn matches(&self, host: &str, port: u16, path: Option<&Path<'_>>) -> bool {
        let has_path = || path.is_some_and(|path| self.paths.iter().any(|pattern| pattern.matches(path)));
        self.hosts.iter().any(|pattern| pattern.matches(host, port)) && (self.paths.is_empty() || has_path())
    }
}

impl Timeout {
    /// Form of the access log: `timeouts.answer=60s`, `timeouts.for[api.example].answer=10m`.
    pub(super) fn log_form(&self) -> String {
        let (key, value) = (self.key, Short(self.value));
        match &self.section {
            None => format!("timeouts.{key}={value}"),
            Some(name) => format!("timeouts.for[{name}].{key}={value}"),
        }
    }
}

impl fmt::Display for TimeoutKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            TimeoutKey::Head => "head",
            TimeoutKey::Connect => "connect",
            TimeoutKey::Answer => "answer",
            TimeoutKey::Request => "request",
            TimeoutKey::BodyIdle => "body_idle",
            TimeoutKey::TunnelIdle => "tunnel_idle",
        })
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.section {
            None => write!(out, "[timeouts] {} = {}", self.key, Short(self.value)),
            Some(name) => write!(out, "{} = {} of [[timeouts.for]] {name}", self.key, Short(self.value)),
        }
    }
}

/// A duration in the longest unit that divides it, from two of it on: `90s`, `10m`, `250ms`.
pub(super) struct Short(pub(super) Duration);

impl fmt::Display for Short {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        let fits = |(unit, _): &&(u128, &str)| ms.is_multiple_of(*unit) && ms >= 2 * unit;
        match units.iter().find(fits) {
            Some((unit, name)) => write!(out, "{}{name}", ms / unit),
            None if ms == 1000 => out.write_str("1s"),
            None => write!(out, "{ms}ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn override_of(host: &str, path: Option<&str>) -> TimeoutOverride {
        TimeoutOverride {
            hosts: vec![HostPattern::parse(host).unwrap()],
            paths: path.map(|path| PathPattern::parse(path).unwrap()).into_iter().collect(),
            name: host.into(),
            connect: None,
            answer: None,
            body_idle: None,
            tunnel_idle: None,
        }
    }

    fn timeouts(overrides: Vec<TimeoutOverride>) -> Timeouts {
        Timeouts {
            head: SECOND,
            connect: 5 * SECOND,
            answer: 60 * SECOND,
            request: None,
            idle: 90 * SECOND,
            body_idle: 300 * SECOND,
            tunnel_idle: 600 * SECOND,
            drain: 30 * SECOND,
            overrides,
        }
    }

    #[test]
    fn the_first_section_that_has_a_timeout_for_a_request_counts() {
        let all = timeouts(vec![
            TimeoutOverride { answer: Some(7 * SECOND), ..override_of("api.example", Some("/slow/**")) },
            TimeoutOverride { answer: Some(8 * SECOND), body_idle: Some(9 * SECOND), ..override_of("*.example", None) },
        ]);
        let seconds = |host, path| {
            let found = all.of(host, 443, path);
            (found.answer.value.as_secs(), found.body_idle.value.as_secs(), found.connect.value.as_secs())
        };
        assert_eq!(seconds("api.example", "/slow/x?y"), (7, 9, 5));
        assert_eq!(seconds("api.example", "/x/../slow"), (7, 9, 5));
        assert_eq!(seconds("api.example", "/fast"), (8, 9, 5));
        assert_eq!(seconds("api.example", ""), (8, 9, 5), "a tunnel has no path");
        assert_eq!(seconds("other.net", "/slow/x"), (60, 300, 5));
        assert_eq!(all.longest_answer(), 65 * SECOND);
    }

    #[test]
    fn a_timeout_is_named_with_its_place_and_its_value() {
        let all = timeouts(vec![TimeoutOverride { answer: Some(600 * SECOND), ..override_of("api.example", None) }]);
        let own = all.of("api.example", 443, "/").answer;
        assert_eq!(own.to_string(), "answer = 10m of [[timeouts.for]] api.example");
        assert_eq!(own.log_form(), "timeouts.for[api.example].answer=10m");
        let common = all.of("other.net", 443, "/").answer;
        assert_eq!(
            (common.to_string(), common.log_form()),
            ("[timeouts] answer = 60s".into(), "timeouts.answer=60s".into())
        );
        let short = |ms| Short(Duration::from_millis(ms)).to_string();
        assert_eq!([1, 1000, 1500, 90_000, 120_000, 7_200_000].map(short), ["1ms", "1s", "1500ms", "90s", "2m", "2h"]);
    }
}

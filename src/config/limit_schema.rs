//! Schema of `[[limit]]`: every key, its form and its default.
//!
//! A limit with every key of a rate:
//!
//! ```text
//! [[limit]]
//! name     = "search"
//! match    = { host = "api.example.com", path = "/v1/**", method = "GET" }
//! requests = 5
//! per      = "1s"
//! key      = ["caller", "header:x-tenant"]
//! max_wait = "10s"
//! ```
//!
//! `limit_check` decides if the keys fit together, and builds the limit from them.

use std::time::Duration;

use jiff::tz::TimeZone;

use super::toml_table::TomlTable;
use super::toml_value::{Setting, SourceSpan, Spanned, TomlValue};
use super::value_parsers::{
    MOST_SLOTS, TextPattern, cost, credential_part, failure_status, field_name, host, key_part, method, name,
    path_pattern, zone,
};
use crate::locker::{Counts, Priority, ShareBy, WhenFull};
use crate::proxy::claims::{Cost, Pushback};
use crate::proxy::key::KeyPart;
use crate::proxy::pattern::{HostPattern, PathPattern};

/// Lower bound of `guard` and `max_wait`; a `max_wait` of zero refuses instead of waiting.
const NONE: Duration = Duration::ZERO;
/// Lower bound of `per`.
const MS: Duration = Duration::from_millis(1);
/// Upper bound of `guard` and `max_backoff`.
const HOUR: Duration = Duration::from_secs(3_600);
/// Longest window, and longest wait: a leap year.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);
/// Default of `max_wait`: half of the minute after which proxies and load balancers commonly give up (nginx
/// `proxy_read_timeout`, AWS ELB: 60 s).
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Default of `max_backoff`: an origin that names no time is asked once a minute at the least.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// Highest `retry`: an origin that refuses a sixth time is not helped by a seventh request.
const MOST_RETRIES: u32 = 5;

/// `[[limit]]`
///
/// Keys are [`Setting`]s where their absence has a meaning or their span is needed for a report,
/// and plain values otherwise.
#[derive(Debug)]
pub(super) struct LimitSection {
    /// SourceSpan of its header, for mistakes that concern no key of it.
    pub(super) span: SourceSpan,
    /// Name in logs, metrics and the admin API. Default: made from the host.
    pub(super) name: Setting<String>,
    /// Conditions of `match`; all of them must hold.
    pub(super) matching: MatchTable,
    /// N: requests in any span of `per`, 1 to 10 000 000. Absent if only `in_flight` limits.
    pub(super) requests: Setting<u32>,
    /// T: length of the window, 1 ms to 366 days.
    pub(super) per: Setting<Duration>,
    /// Parts of a request that have a window each. Empty: one window for all.
    ///
    /// Of several parts, each combination of values has a window.
    pub(super) key: Vec<Spanned<KeyPart>>,
    /// Default: letter case of paths and query names matters.
    pub(super) ignore_case: Setting<bool>,
    /// Default: sliding.
    pub(super) window: Setting<WindowKind>,
    /// Time zone of a calendar window. Default: UTC.
    pub(super) zone: Setting<TimeZone>,
    /// Slots of a smooth window that open without spacing. Default: 1.
    ///
    /// From 1 to `requests`.
    pub(super) burst: Setting<u32>,
    /// Moment at which a slot settles. Default: sent.
    pub(super) counts: Setting<Counts>,
    /// Time for which a slot stays taken beyond `per`, up to 1 h. Default: none.
    ///
    /// It covers the jitter of network and clocks between this gateway and the origin.
    pub(super) guard: Setting<Duration>,
    /// Slots that a request takes. Default: 1.
    ///
    /// A number from 1, or a header field that holds one.
    pub(super) cost: Setting<Cost>,
    /// Requests between their start and the end of their response, at one time.
    ///
    /// From 1 to 10 000 000; absent: any number.
    pub(super) in_flight: Setting<u32>,
    /// Fate of a request that finds the window full. Default: wait.
    pub(super) when_full: WhenFull,
    /// Longest wait; a request with a longer predicted wait is refused at once.
    ///
    /// From 0 to 366 days. Default: [`MAX_WAIT`].
    pub(super) max_wait: Duration,
    /// `Prefer: wait` of a request shortens its longest wait. Default: true.
    pub(super) obey_prefer: bool,
    /// Fields that state how long their caller waits for a response. Default: none.
    pub(super) deadline: Vec<Spanned<String>>,
    /// Waiters in one window. Default: 1000.
    ///
    /// A request beyond is refused at once.
    pub(super) max_waiting: u32,
    /// Order of the waiters of different callers. Default: the callers take turns.
    pub(super) share_by: ShareBy,
    /// Use of the urgency that a request states (RFC 9218). Default: among one caller's requests.
    pub(super) priority: Priority,
    /// Effect of an origin's 429, or of another refusal or failure that names a time. Default: the window pauses.
    pub(super) pushback: Pushback,
    /// Statuses that are pushbacks, from 400 to 599. Default: all of them.
    pub(super) pushback_on: Vec<Spanned<u16>>,
    /// Parts of a request that a pause belongs to. Default: its Authorization; nothing for a shared
    /// limit, of whose pauses the gateways tell each other by window.
    pub(super) pushback_key: Setting<Vec<Spanned<KeyPart>>>,
    /// Longest pause after a 429 that names no time, from 1 ms to an hour. Default: [`MAX_BACKOFF`].
    pub(super) max_backoff: Duration,
    /// Times that a request is sent again after pushback, 0 to 5. Default: 0.
    ///
    /// Each time needs a new permit.
    pub(super) retry: u8,
    /// Default: the limit is enforced.
    ///
    /// True: it decides, counts and logs alone.
    pub(super) dry_run: Setting<bool>,
    /// Default: each gateway counts for itself.
    ///
    /// True: all gateways of `[store]` count together.
    pub(super) shared: Setting<bool>,
    /// Windows alive at one time. Default: 1 000 000.
    ///
    /// Bounds the memory for keys that callers choose, from 1 to 10 000 000.
    pub(super) max_keys: u32,
}

/// `match` of a limit: conditions for a request to count. An empty list holds for every request.
#[derive(Debug)]
pub(super) struct MatchTable {
    /// Patterns such as `*.example.com:8080`, in lower case.
    pub(super) hosts: Vec<Spanned<TextPattern<HostPattern>>>,
    /// Patterns such as `/v1/**`.
    pub(super) paths: Vec<Spanned<TextPattern<PathPattern>>>,
    /// Methods in upper case; `CONNECT` counts tunnels.
    pub(super) methods: Vec<Spanned<String>>,
}

/// `window` of a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WindowKind {
    /// `sliding`: at most N in any span of T.
    Sliding,
    /// `fixed`: T from the first request on, then the next one.
    Fixed,
    /// `calendar`: the minutes, hours or days of a time zone.
    Calendar,
    /// `smooth`: spaced evenly after `burst`.
    Smooth,
}

impl LimitSection {
    /// Reads the keys in the order of the documentation. A key that is most likely misspelt counts
    /// as invalid and not as absent, so that a missing `requests` is no second report beside
    /// `request`.
    pub(super) fn read(table: &mut TomlTable<'_>) -> LimitSection {
        let mut limit = LimitSection {
            span: table.span(),
            name: table.get("name", name),
            matching: table.inline_table("match", "{ host = \"api.example.com\" }", MatchTable::read),
            requests: table.get("requests", |v| v.number(1..=MOST_SLOTS)),
            per: table.get("per", |v| v.duration(MS..=LONGEST)),
            key: table.get("key", |v| v.list(key_part)).or(Vec::new()),
            ignore_case: table.get("ignore_case", TomlValue::boolean),
            window: table.get("window", |v| v.keyword(&WINDOWS)),
            zone: table.get("zone", zone),
            burst: table.get("burst", |v| v.number(1..=MOST_SLOTS)),
            counts: table.get("counts", |v| v.keyword(&[("sent", Counts::Sent), ("answered", Counts::Answered)])),
            guard: table.get("guard", |v| v.duration(NONE..=HOUR)),
            cost: table.get("cost", cost),
            in_flight: table.get("in_flight", |v| v.number(1..=MOST_SLOTS)),
            when_full: table
                .get("when_full", |v| v.keyword(&[("wait", WhenFull::Wait), ("refuse", WhenFull::Refuse)]))
                .or(WhenFull::Wait),
            max_wait: table.get("max_wait", |v| v.duration(NONE..=LONGEST)).or(MAX_WAIT),
            obey_prefer: table.get("obey_prefer", TomlValue::boolean).or(true),
            deadline: table.get("deadline", |v| v.list(field_name)).or(Vec::new()),
            max_waiting: table.get("max_waiting", |v| v.number(1..=MOST_SLOTS)).or(1_000),
            share_by: table
                .get("share_by", |v| v.keyword(&[("caller", ShareBy::Caller), ("none", ShareBy::Nobody)]))
                .or(ShareBy::Caller),
            priority: table.get("priority", |v| v.keyword(&PRIORITIES)).or(Priority::WithinCaller),
            pushback: table
                .get("pushback", |v| v.keyword(&[("pause", Pushback::Pause), ("ignore", Pushback::Ignore)]))
                .or(Pushback::Pause),
            pushback_on: table.get("pushback_on", |v| v.non_empty_list(failure_status)).or(Vec::new()),
            pushback_key: table.get("pushback_key", |v| v.list(credential_part)),
            max_backoff: table.get("max_backoff", |v| v.duration(MS..=HOUR)).or(MAX_BACKOFF),
            retry: table.get("retry", |v| v.number(0..=MOST_RETRIES).and_then(|n| u8::try_from(n).ok())).or(0),
            dry_run: table.get("dry_run", TomlValue::boolean),
            shared: table.get("shared", TomlValue::boolean),
            max_keys: table.get("max_keys", |v| v.number(1..=MOST_SLOTS)).or(1_000_000),
        };
        table.suggest(&SYNONYMS, &NESTED);
        for key in table.misspelt_keys() {
            match key {
                "requests" => limit.requests.mark_misspelt(),
                "per" => limit.per.mark_misspelt(),
                "in_flight" => limit.in_flight.mark_misspelt(),
                "window" => limit.window.mark_misspelt(),
                _ => {}
            }
        }
        limit
    }
}

/// Names that other rate limiters and queues use for keys of a limit.
const SYNONYMS: [(&str, &str); 8] = [
    ("max_queue", "max_waiting"),
    ("queue_size", "max_waiting"),
    ("timeout", "max_wait"),
    ("interval", "per"),
    ("period", "per"),
    ("rate", "requests"),
    ("concurrency", "in_flight"),
    ("max_concurrency", "in_flight"),
];

/// Keys of `match` that are often written into `[[limit]]` itself.
const NESTED: [(&str, &str); 3] = [("host", "match"), ("path", "match"), ("method", "match")];

/// Keywords of `priority`.
const PRIORITIES: [(&str, Priority); 3] =
    [("within-caller", Priority::WithinCaller), ("strict", Priority::Strict), ("none", Priority::None)];

/// Keywords of `window`.
const WINDOWS: [(&str, WindowKind); 4] = [
    ("sliding", WindowKind::Sliding),
    ("fixed", WindowKind::Fixed),
    ("calendar", WindowKind::Calendar),
    ("smooth", WindowKind::Smooth),
];

impl LimitSection {
    /// True if it only decides, counts and logs, and delays or refuses nothing.
    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run.get().is_some_and(|at| at.value)
    }

    /// True if all gateways of the store count its requests together.
    pub(super) fn is_shared(&self) -> bool {
        self.shared.get().is_some_and(|at| at.value)
    }

    /// True if letter case makes no difference in its paths and query names.
    pub(super) fn ignores_case(&self) -> bool {
        self.ignore_case.get().is_some_and(|at| at.value)
    }
}

impl MatchTable {
    /// Absent keys become empty lists, which match every request.
    fn read(table: &mut TomlTable<'_>) -> MatchTable {
        MatchTable {
            hosts: table.get("host", |v| v.non_empty_list(host)).or(Vec::new()),
            paths: table.get("path", |v| v.non_empty_list(path_pattern)).or(Vec::new()),
            methods: table.get("method", |v| v.non_empty_list(method)).or(Vec::new()),
        }
    }
}

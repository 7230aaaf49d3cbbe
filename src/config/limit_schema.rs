//! The shape of a `[[limit]]`: every key, how its value is written, and its default.

use std::time::Duration;

use jiff::tz::TimeZone;

use super::toml_table::TomlTable;
use super::toml_value::{Setting, Span, Spanned, TomlValue};
use super::value_parsers::{MOST_SLOTS, TextPattern, cost, host, key_part, method, name, path_pattern, zone};
use crate::locker::{Counts, Priority, ShareBy, WhenFull};
use crate::proxy::claims::{Cost, Pushback};
use crate::proxy::key::KeyPart;
use crate::proxy::pattern::{HostPattern, PathPattern};

const NONE: Duration = Duration::ZERO;
const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);
/// The longest window, and so the longest that anything is worth waiting for.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);
/// How long a request waits unless the file says otherwise.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// The most times that one request may be sent again.
const MOST_RETRIES: u32 = 5;

/// `[[limit]]`
#[derive(Debug)]
pub(super) struct LimitSection {
    pub(super) span: Span,
    pub(super) name: Setting<String>,
    pub(super) matching: MatchTable,
    pub(super) requests: Setting<u32>,
    pub(super) per: Setting<Duration>,
    pub(super) key: Vec<Spanned<KeyPart>>,
    pub(super) ignore_case: Setting<bool>,
    pub(super) window: Setting<WindowKind>,
    pub(super) zone: Setting<TimeZone>,
    pub(super) burst: Setting<u32>,
    pub(super) counts: Setting<Counts>,
    pub(super) guard: Setting<Duration>,
    pub(super) cost: Setting<Cost>,
    pub(super) in_flight: Setting<u32>,
    pub(super) when_full: WhenFull,
    pub(super) max_wait: Duration,
    pub(super) max_waiting: u32,
    pub(super) share_by: ShareBy,
    pub(super) priority: Priority,
    pub(super) pushback: Pushback,
    pub(super) retry: u8,
    pub(super) dry_run: Setting<bool>,
    pub(super) shared: Setting<bool>,
    pub(super) max_keys: u32,
}

/// `match` of a limit: what a request must be to count. An empty list is met by everything.
#[derive(Debug)]
pub(super) struct MatchTable {
    pub(super) hosts: Vec<Spanned<TextPattern<HostPattern>>>,
    pub(super) paths: Vec<Spanned<TextPattern<PathPattern>>>,
    pub(super) methods: Vec<Spanned<String>>,
}

/// `window` of a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WindowKind {
    Sliding,
    Fixed,
    Calendar,
    Smooth,
}

impl LimitSection {
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
            max_waiting: table.get("max_waiting", |v| v.number(1..=MOST_SLOTS)).or(1_000),
            share_by: table
                .get("share_by", |v| v.keyword(&[("caller", ShareBy::Caller), ("none", ShareBy::Nobody)]))
                .or(ShareBy::Caller),
            priority: table.get("priority", |v| v.keyword(&PRIORITIES)).or(Priority::WithinCaller),
            pushback: table
                .get("pushback", |v| v.keyword(&[("pause", Pushback::Pause), ("ignore", Pushback::Ignore)]))
                .or(Pushback::Pause),
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

/// Names that nginx, Envoy and queues in other programs have for keys of a limit.
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

/// Keys of `match`, which belong into its braces.
const NESTED: [(&str, &str); 3] = [("host", "match"), ("path", "match"), ("method", "match")];

const PRIORITIES: [(&str, Priority); 3] =
    [("within-caller", Priority::WithinCaller), ("strict", Priority::Strict), ("none", Priority::None)];

const WINDOWS: [(&str, WindowKind); 4] = [
    ("sliding", WindowKind::Sliding),
    ("fixed", WindowKind::Fixed),
    ("calendar", WindowKind::Calendar),
    ("smooth", WindowKind::Smooth),
];

impl LimitSection {
    /// True if it only decides, counts and logs.
    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run.get().is_some_and(|at| at.value)
    }

    /// True if all gateways of the store count it together.
    pub(super) fn is_shared(&self) -> bool {
        self.shared.get().is_some_and(|at| at.value)
    }

    /// True if letter case makes no difference in its paths and query names.
    pub(super) fn ignores_case(&self) -> bool {
        self.ignore_case.get().is_some_and(|at| at.value)
    }
}

impl MatchTable {
    fn read(table: &mut TomlTable<'_>) -> MatchTable {
        MatchTable {
            hosts: table.get("host", |v| v.non_empty_list(host)).or(Vec::new()),
            paths: table.get("path", |v| v.non_empty_list(path_pattern)).or(Vec::new()),
            methods: table.get("method", |v| v.non_empty_list(method)).or(Vec::new()),
        }
    }
}

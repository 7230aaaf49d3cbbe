//! The shape of a `[[limit]]`: every key, how its value is written, and its default.

use std::time::Duration;

use jiff::tz::TimeZone;

use super::item::{At, Item, Place, Written};
use super::value::{MOST_SLOTS, Pattern, cost, host, key_part, method, name, path_pattern, zone};
use super::walk::Table;
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
pub(super) struct Limit {
    pub(super) place: Place,
    pub(super) name: Written<String>,
    pub(super) matching: Match,
    pub(super) requests: Written<u32>,
    pub(super) per: Written<Duration>,
    pub(super) key: Vec<At<KeyPart>>,
    pub(super) ignore_case: Written<bool>,
    pub(super) window: Written<Window>,
    pub(super) zone: Written<TimeZone>,
    pub(super) burst: Written<u32>,
    pub(super) counts: Written<Counts>,
    pub(super) guard: Written<Duration>,
    pub(super) cost: Written<Cost>,
    pub(super) in_flight: Written<u32>,
    pub(super) when_full: WhenFull,
    pub(super) max_wait: Duration,
    pub(super) max_waiting: u32,
    pub(super) share_by: ShareBy,
    pub(super) priority: Priority,
    pub(super) pushback: Pushback,
    pub(super) retry: u8,
    pub(super) dry_run: Written<bool>,
    pub(super) shared: Written<bool>,
    pub(super) max_keys: u32,
}

/// `match` of a limit: what a request must be to count. An empty list is met by everything.
#[derive(Debug)]
pub(super) struct Match {
    pub(super) hosts: Vec<At<Pattern<HostPattern>>>,
    pub(super) paths: Vec<At<Pattern<PathPattern>>>,
    pub(super) methods: Vec<At<String>>,
}

/// `window` of a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Window {
    Sliding,
    Fixed,
    Calendar,
    Smooth,
}

impl Limit {
    pub(super) fn read(table: &mut Table<'_>) -> Limit {
        let mut limit = Limit {
            place: table.place(),
            name: table.get("name", name),
            matching: table.inline("match", "{ host = \"api.example.com\" }", Match::read),
            requests: table.get("requests", |v| v.number(1..=MOST_SLOTS)),
            per: table.get("per", |v| v.duration(MS..=LONGEST)),
            key: table.get("key", |v| v.each(key_part)).or(Vec::new()),
            ignore_case: table.get("ignore_case", Item::flag),
            window: table.get("window", |v| v.word(&WINDOWS)),
            zone: table.get("zone", zone),
            burst: table.get("burst", |v| v.number(1..=MOST_SLOTS)),
            counts: table.get("counts", |v| v.word(&[("sent", Counts::Sent), ("answered", Counts::Answered)])),
            guard: table.get("guard", |v| v.duration(NONE..=HOUR)),
            cost: table.get("cost", cost),
            in_flight: table.get("in_flight", |v| v.number(1..=MOST_SLOTS)),
            when_full: table
                .get("when_full", |v| v.word(&[("wait", WhenFull::Wait), ("refuse", WhenFull::Refuse)]))
                .or(WhenFull::Wait),
            max_wait: table.get("max_wait", |v| v.duration(NONE..=LONGEST)).or(MAX_WAIT),
            max_waiting: table.get("max_waiting", |v| v.number(1..=MOST_SLOTS)).or(1_000),
            share_by: table
                .get("share_by", |v| v.word(&[("caller", ShareBy::Caller), ("none", ShareBy::Nobody)]))
                .or(ShareBy::Caller),
            priority: table.get("priority", |v| v.word(&PRIORITIES)).or(Priority::WithinCaller),
            pushback: table
                .get("pushback", |v| v.word(&[("pause", Pushback::Pause), ("ignore", Pushback::Ignore)]))
                .or(Pushback::Pause),
            retry: table.get("retry", |v| v.number(0..=MOST_RETRIES).and_then(|n| u8::try_from(n).ok())).or(0),
            dry_run: table.get("dry_run", Item::flag),
            shared: table.get("shared", Item::flag),
            max_keys: table.get("max_keys", |v| v.number(1..=MOST_SLOTS)).or(1_000_000),
        };
        for key in table.meant() {
            match key {
                "requests" => limit.requests.misspelt(),
                "per" => limit.per.misspelt(),
                "in_flight" => limit.in_flight.misspelt(),
                "window" => limit.window.misspelt(),
                _ => {}
            }
        }
        limit
    }
}

const PRIORITIES: [(&str, Priority); 3] =
    [("within-caller", Priority::WithinCaller), ("strict", Priority::Strict), ("none", Priority::None)];

const WINDOWS: [(&str, Window); 4] = [
    ("sliding", Window::Sliding),
    ("fixed", Window::Fixed),
    ("calendar", Window::Calendar),
    ("smooth", Window::Smooth),
];

impl Limit {
    /// True if it only decides, counts and logs.
    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run.get().is_some_and(|at| at.value)
    }
}

impl Match {
    fn read(table: &mut Table<'_>) -> Match {
        Match {
            hosts: table.get("host", |v| v.some(host)).or(Vec::new()),
            paths: table.get("path", |v| v.some(path_pattern)).or(Vec::new()),
            methods: table.get("method", |v| v.some(method)).or(Vec::new()),
        }
    }
}

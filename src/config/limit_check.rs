//! Checks of a `[[limit]]`: builds the limit for the locker and the matching rule for the proxy.
//!
//! The order of limits is kept: limit number N of the file has the settings number N of the locker
//! and the rule number N of the proxy. Mistakes are reported, and the build goes on with defaults,
//! so that all mistakes of a file come at once.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::duration;
use super::explain;
use super::limit_schema::{LimitSection, WindowKind};
use super::report::Reports;
use super::toml_value::{Setting, SourceSpan, Spanned};
use crate::locker::{Counts, Kind, Limit, Rate, Unit};
use crate::net::prefix::Ipv6Prefix;
use crate::proxy::claims::{Cost, Rule};
use crate::proxy::key::KeyPart;

/// A checked limit, for each module that needs a part of it.
pub(super) struct CheckedLimit {
    /// Rate, slots in flight, queue: the locker's part.
    pub(super) limit: Limit,
    /// Conditions, key and cost: the proxy's part. Its name is that of `limit`.
    pub(super) rule: Rule,
    /// The limit in a sentence.
    pub(super) explanation: String,
    /// True if it may count requests to this machine itself.
    pub(super) counts_loopback: bool,
    /// SourceSpan of its `shared = true`, if it has that.
    pub(super) shared: Option<SourceSpan>,
}

/// Settings outside of the limits that their keys depend on.
///
/// A change of either gives the keys of limits another meaning, so both are part of `keyed_by`.
pub(super) struct KeyContext {
    /// Seed for hashing the keys of shared limits: the same in all gateways of a group.
    pub(super) shared_seed: [u8; 16],
    /// Prefix length of the IPv6 blocks that count as one caller; `None`: callers are told apart by
    /// their user names.
    pub(super) callers: Option<Ipv6Prefix>,
}

/// Checks all limits of the file. Each has a name of its own afterwards.
///
/// `name` is the only key that is checked across limits.
pub(super) fn check_limits(limits: Vec<LimitSection>, keying: &KeyContext, reports: &Reports<'_>) -> Vec<CheckedLimit> {
    let names = names(&limits, reports);
    limits.into_iter().zip(names).map(|(limit, name)| check(limit, name, keying, reports)).collect()
}

/// Names of the limits: as written, else made from their hosts, else `limit-1`.
///
/// Counts belong to a name, over reloads and restarts. Of limits with one name made for them the later ones get `-2`,
/// `-3` and so on, and a warning: it depends on the others which counts they have.
fn names(limits: &[LimitSection], reports: &Reports<'_>) -> Vec<Arc<str>> {
    let mut taken = HashSet::new();
    for at in limits.iter().filter_map(|limit| limit.name.get()) {
        if !taken.insert(at.value.clone()) {
            let message = format!("a limit named {:?} exists already", at.value);
            reports.error(&at.span, message, "each limit has a name of its own");
        }
    }
    let name = |limit: &LimitSection| -> Arc<str> {
        if let Some(at) = limit.name.get() {
            return at.value.as_str().into();
        }
        let host = host_name(limit);
        let base = host.as_deref().unwrap_or("limit");
        let wish = host.clone().unwrap_or_else(|| format!("{base}-1"));
        let mut name = wish.clone();
        for number in 2.. {
            if taken.insert(name.clone()) {
                break;
            }
            name = format!("{base}-{number}");
        }
        if name != wish {
            let message = format!(
                "another limit is named {wish:?}, so this one is named {name:?} by its place in the file; if the other is \
                 removed, it takes over that name with its counts"
            );
            reports.warn(&limit.span, message, "give this limit a name");
        }
        name.into()
    };
    limits.iter().map(name).collect()
}

/// Name for a limit from its host, if it has one alone.
///
/// A host drops `*.` and writes `-` for the colon of a port: `*.example.com:8080` becomes `example.com-8080`.
/// `None` if it has characters that no name may have, or more than 60: a number at its end must fit into the
/// 64 of a name.
fn host_name(limit: &LimitSection) -> Option<String> {
    let [host] = limit.matching.hosts.as_slice() else { return None };
    let plain = host.value.text.trim_start_matches("*.").replace(':', "-");
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    ((1..=60).contains(&plain.len()) && plain.chars().all(fits)).then_some(plain)
}

/// Checks one limit, and builds its settings for locker and proxy.
///
/// Order: purpose and window, the rate, then guard, cost and key, the explanation, and last the
/// parts for proxy and locker, which take the section's values over. `max_cost` is `requests`, or 1
/// without a rate.
fn check(limit: LimitSection, name: Arc<str>, keying: &KeyContext, reports: &Reports<'_>) -> CheckedLimit {
    check_purpose(&limit, reports);
    let shared = limit.shared.get().filter(|at| at.value).map(|at| at.span.clone());
    if let (Some(span), true) = (&shared, limit.is_dry_run()) {
        reports.warn(span, "as long as it is a dry run, this gateway counts it alone", "leave one of them out");
    }
    let kind = window_kind(&limit, reports);
    let rate = match (limit.requests.get(), limit.per.get()) {
        (Some(requests), Some(per)) => Some(Rate {
            requests: requests.value,
            per: per.value,
            guard: limit.guard.get().map_or(Duration::ZERO, |at| at.value),
            kind,
            counts: limit.counts.get().map_or(Counts::Sent, |at| at.value),
        }),
        _ => None,
    };
    if let Some(Rate { kind: Kind::Calendar { .. }, per, .. }) = &rate {
        check_calendar_guard(&limit, *per, reports);
    }
    let max_cost = limit.requests.get().map_or(1, |at| at.value);
    check_cost(&limit, max_cost, reports);
    check_key(&limit.key, reports);
    let ignore_case = ignore_case(&limit, reports);
    let explanation = explain::explain(&name, &limit, rate.as_ref());
    let counts_loopback = counts_loopback(&limit);
    let keyed_by = keyed_by(&limit, keying);
    let dry_run = limit.is_dry_run();
    let pushback_key = pushback_key(&limit);
    let rule = Rule {
        name: Arc::clone(&name),
        hosts: limit.matching.hosts.into_iter().map(|at| at.value.pattern).collect(),
        paths: limit
            .matching
            .paths
            .into_iter()
            .map(|at| if ignore_case { at.value.pattern.ignoring_case() } else { at.value.pattern })
            .collect(),
        methods: limit.matching.methods.into_iter().map(|at| at.value).collect(),
        key: limit.key.into_iter().map(|at| at.value).collect(),
        ignore_case,
        obey_prefer: limit.obey_prefer,
        deadline: limit.deadline.iter().map(|at| at.value.clone()).collect(),
        cost: limit.cost.or(Cost::Fixed(1)),
        max_cost,
        pushback: limit.pushback,
        pushback_on: limit.pushback_on.iter().map(|at| at.value).collect(),
        pushback_key,
        max_backoff: limit.max_backoff,
        retry: limit.retry,
        dry_run,
        shared_seed: shared.is_some().then_some(keying.shared_seed),
    };
    let limit = Limit {
        name,
        keyed_by: keyed_by.into(),
        rate,
        in_flight: limit.in_flight.get().map(|at| at.value),
        when_full: limit.when_full,
        max_wait: limit.max_wait,
        max_waiting: limit.max_waiting as usize,
        share_by: limit.share_by,
        priority: limit.priority,
        max_keys: limit.max_keys as usize,
        dry_run,
        shared: shared.is_some(),
    };
    CheckedLimit { limit, rule, explanation, counts_loopback, shared }
}

/// Parts of a request that the limit's pauses belong to.
///
/// None for a limit whose windows are as narrow anyway. None by default for a shared limit: the
/// gateways tell each other of pauses by window, and all of them must pause.
fn pushback_key(limit: &LimitSection) -> Vec<KeyPart> {
    let parts: Vec<KeyPart> = match limit.pushback_key.get() {
        Some(at) => at.value.iter().map(|at| at.value.clone()).collect(),
        None if limit.is_shared() => Vec::new(),
        None => vec![KeyPart::Header("authorization".to_owned())],
    };
    let is_keyed_by = |part: &KeyPart| limit.key.iter().any(|at| at.value == *part);
    if parts.iter().all(is_keyed_by) { Vec::new() } else { parts }
}

/// Text that identifies the parts of a limit's key. A reload that changes it drops the limit's
/// windows, since their keys mean something else afterwards.
fn keyed_by(limit: &LimitSection, keying: &KeyContext) -> String {
    let part = |part: &KeyPart| match part {
        KeyPart::Caller => keying.callers.map_or(part.to_string(), |Ipv6Prefix(bits)| format!("{part}/{bits}")),
        KeyPart::Path(_) | KeyPart::Query(_) if limit.ignores_case() => format!("{part} in any case"),
        KeyPart::Host | KeyPart::Path(_) | KeyPart::Header(_) | KeyPart::Query(_) | KeyPart::Method => part.to_string(),
    };
    let parts = limit.key.iter().map(|at| part(&at.value)).collect::<Vec<_>>().join(", ");
    // Keys of shared limits are hashed with another seed.
    if limit.is_shared() && !parts.is_empty() { parts + "; shared" } else { parts }
}

/// Reports limits that limit nothing, and keys without effect.
fn check_purpose(limit: &LimitSection, reports: &Reports<'_>) {
    match (&limit.requests, &limit.per) {
        (Setting::Value(requests), Setting::Absent) => {
            reports.error(&requests.span, "`requests` without `per`", "add in what time, such as per = \"1s\"");
        }
        (Setting::Absent, Setting::Value(per)) => {
            reports.error(&per.span, "`per` without `requests`", "add how many, such as requests = 10");
        }
        (Setting::Absent, Setting::Absent) => {
            if limit.in_flight.is_absent() {
                let advice = "add how many in what time, such as requests = 10 and per = \"1s\", or in_flight = 10";
                reports.error(&limit.span, "this limit limits nothing", advice);
            }
            let idle = [
                ("window", limit.window.get().map(|at| &at.span)),
                ("zone", limit.zone.get().map(|at| &at.span)),
                ("burst", limit.burst.get().map(|at| &at.span)),
                ("counts", limit.counts.get().map(|at| &at.span)),
                ("guard", limit.guard.get().map(|at| &at.span)),
                ("cost", limit.cost.get().map(|at| &at.span)),
            ];
            for (key, span) in idle {
                if let Some(span) = span {
                    let message = format!("`{key}` has no effect without `requests` and `per`");
                    reports.error(span, message, "add them, or leave this out");
                }
            }
        }
        _ => {}
    }
}

/// Builds the window kind, and reports keys that belong to another kind.
///
/// The kind is sliding if `window` is absent or invalid.
fn window_kind(limit: &LimitSection, reports: &Reports<'_>) -> Kind {
    let window = limit.window.get().map_or(WindowKind::Sliding, |at| at.value);
    // A misspelt window may stand for the kind that these keys belong to.
    let known = !matches!(limit.window, Setting::Invalid);
    if let (Some(zone), true) = (limit.zone.get(), known && window != WindowKind::Calendar) {
        reports.error(&zone.span, "`zone` is for calendar windows", "add window = \"calendar\", or leave this out");
    }
    if let (Some(burst), true) = (limit.burst.get(), known && window != WindowKind::Smooth) {
        reports.error(&burst.span, "`burst` is for smooth windows", "add window = \"smooth\", or leave this out");
    }
    match window {
        WindowKind::Sliding => Kind::Sliding,
        WindowKind::Fixed => Kind::Fixed,
        WindowKind::Calendar => Kind::Calendar {
            unit: unit(limit.per.get(), reports),
            zone: limit.zone.get().map_or(TimeZone::UTC, |at| at.value.clone()),
        },
        WindowKind::Smooth => Kind::Smooth { burst: burst(limit, reports) },
    }
}

/// The calendar unit that `per` stands for. Reports any other duration.
///
/// Returns `Day` after a report, and for an absent `per`, which is reported elsewhere.
fn unit(per: Option<&Spanned<Duration>>, reports: &Reports<'_>) -> Unit {
    let Some(per) = per else { return Unit::Day };
    match per.value.as_secs() {
        60 if per.value.subsec_nanos() == 0 => Unit::Minute,
        3_600 if per.value.subsec_nanos() == 0 => Unit::Hour,
        86_400 if per.value.subsec_nanos() == 0 => Unit::Day,
        _ => {
            let message = format!("no calendar window is {} long", duration::format(per.value));
            reports.error(&per.span, message, "\"1m\", \"1h\" or \"1d\"");
            Unit::Day
        }
    }
}

/// Checks the guard of a calendar window: it applies at both ends of a period, and the store keeps
/// none.
///
/// A guard counts requests near a boundary in both periods; twice the guard must leave some time of
/// `per`.
fn check_calendar_guard(limit: &LimitSection, per: Duration, reports: &Reports<'_>) {
    let Some(guard) = limit.guard.get().filter(|guard| !guard.value.is_zero()) else { return };
    if limit.is_shared() {
        let message = "`guard` has no effect on a calendar window that is shared";
        reports.error(&guard.span, message, "leave it out; its periods begin and end by the store's clock");
    } else if guard.value * 2 >= per {
        let message = format!(
            "a guard of {} at both ends leaves nothing of {}",
            duration::format(guard.value),
            duration::format(per)
        );
        reports.error(&guard.span, message, "less than half of `per`");
    }
}

/// The burst of a smooth window; reports one above `requests`.
fn burst(limit: &LimitSection, reports: &Reports<'_>) -> u32 {
    let Some(burst) = limit.burst.get() else {
        return 1;
    };
    if let Some(requests) = limit.requests.get().filter(|requests| burst.value > requests.value) {
        let message = format!("a burst of {} can never be granted", burst.value);
        reports.error(&burst.span, message, format!("at most {}, as `requests` says", requests.value));
    }
    burst.value
}

/// Reports a fixed cost above `requests`.
fn check_cost(limit: &LimitSection, max_cost: u32, reports: &Reports<'_>) {
    let Some(at) = limit.cost.get() else { return };
    let Cost::Fixed(cost) = at.value else { return };
    if cost > max_cost && limit.requests.get().is_some() {
        let message = format!("a request that costs {cost} can never be granted");
        reports.error(&at.span, message, format!("at most {max_cost}, as `requests` says"));
    }
}

/// Reports parts that a key has twice.
fn check_key(key: &[Spanned<KeyPart>], reports: &Reports<'_>) {
    for (index, part) in key.iter().enumerate() {
        if key[..index].iter().any(|other| other.value == part.value) {
            reports.error(&part.span, "the key has this part already", "leave it out");
        }
    }
}

/// Reports `ignore_case` without effect: it concerns paths and the names of query parameters alone.
///
/// Returns the value of the key, false by default.
fn ignore_case(limit: &LimitSection, reports: &Reports<'_>) -> bool {
    let Some(at) = limit.ignore_case.get().filter(|at| at.value) else { return false };
    let has_letters = |part: &KeyPart| matches!(part, KeyPart::Path(_) | KeyPart::Query(_));
    if limit.matching.paths.is_empty() && !limit.key.iter().any(|part| has_letters(&part.value)) {
        let message =
            "`ignore_case` has no effect without a path in `match`, or \"path[N]\" or \"query:NAME\" in `key`";
        reports.error(&at.span, message, "add one of them, or leave this out");
    }
    true
}

/// True if a host of the limit may be this machine.
///
/// Holds for a limit of all hosts, `localhost`, `::1`, and names that begin with `127.`.
fn counts_loopback(limit: &LimitSection) -> bool {
    let hosts = &limit.matching.hosts;
    let loopback = |text: &str| {
        let name = text.rsplit_once(':').map_or(text, |(name, _)| name);
        matches!(name, "*" | "localhost" | "[::1]" | ":") || text == "::1" || name.starts_with("127.")
    };
    hosts.is_empty() || hosts.iter().any(|at| loopback(&at.value.text))
}

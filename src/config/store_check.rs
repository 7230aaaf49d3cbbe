//! Checks of `[store]`: builds the settings of the store in which several gateways count shared
//! limits together.
//!
//! Answers that depend on the store alone, such as a wrong password, come only when the gateway
//! connects: a check needs no network.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::limit_check::CheckedLimit;
use super::report::Reports;
use super::store_schema::{LostPolicy, StoreSection};
use super::toml_value::{Setting, Spanned};
use crate::gate::store::{Settings, StorePassword, WhenLost};
use crate::locker::Counts;

/// Default of `share_for`: time for an operator to bring the store back.
///
/// A choice: an hour.
const SHARE_FOR: Duration = Duration::from_secs(3600);

/// Checks `[store]` together with the limits that are counted there; `None` if no store is
/// configured or needed. `request`: the longest time that a request may take up to its response, if
/// that is bounded.
///
/// Reads the password file. All URLs must agree in TLS, in being Sentinels, and in their path.
pub(super) fn check(
    written: &StoreSection,
    limits: &[CheckedLimit],
    request: Option<Duration>,
    folder: &Path,
    reports: &Reports<'_>,
) -> Option<Settings> {
    let shared: Vec<&CheckedLimit> = limits.iter().filter(|limit| limit.limit.shared).collect();
    if !written.is_present {
        if let Some(span) = shared.first().and_then(|limit| limit.shared.as_ref()) {
            let advice = "add [store] with url = \"redis://127.0.0.1:6379\"";
            reports.error(span, "`shared` needs a [store]", advice);
        }
        return None;
    }
    if written.url.is_absent() {
        reports.error(&written.span, "`url` is missing", "add url = \"redis://127.0.0.1:6379\"");
    }
    if shared.is_empty() && !limits.is_empty() {
        reports.warn(&written.span, "no limit is counted in the store", "add shared = true to a limit");
    }
    let when_lost = when_lost(written, &shared, request, reports);
    let password = written.password_file.get().and_then(|at| password(at, folder, reports));
    let urls = &written.url.get()?.value;
    let first = &urls.first()?.value;
    for at in urls {
        let one = &at.value;
        if (one.tls, one.is_sentinel, &one.path) != (first.tls, first.is_sentinel, &first.path) {
            let advice = "several are the nodes of one Cluster, or the Sentinels of one store: all of one kind";
            reports.error(&at.span, "this is a URL of another kind than the first", advice);
        }
    }
    Some(Settings {
        nodes: urls.iter().map(|at| (at.value.host.clone(), at.value.port)).collect(),
        sentinel: first.is_sentinel.then(|| first.path.clone()),
        tls: first.tls,
        user: written.user.get().map(|at| at.value.clone()),
        password,
        database: if first.is_sentinel { 0 } else { first.path.parse().unwrap_or(0) },
        group: written.group.clone(),
        when_lost,
        trusts_empty: written.trusts_empty,
        confirm: written.confirm,
    })
}

/// Seed for hashing the keys of shared limits, from the group's name.
///
/// Gateways of one group thus write the same key for the same value.
pub(super) fn seed(written: &StoreSection) -> [u8; 16] {
    crate::gate::store::seed(&written.group)
}

/// Builds the fallback for a lost store; reports missing keys and keys without effect, and warns of
/// limits without shares.
///
/// Limits without shares are those whose slots may settle at any time: with `in_flight`, or counted
/// from the response while a request's time is unbounded. They refuse while the store is lost. A
/// share is `requests` divided by `gateways`; less than one lets nothing pass.
fn when_lost(
    written: &StoreSection,
    shared: &[&CheckedLimit],
    request: Option<Duration>,
    reports: &Reports<'_>,
) -> WhenLost {
    let lost = written.lost.get();
    if lost.is_none_or(|lost| lost.value != LostPolicy::Share) {
        let idle = [
            ("gateways", written.gateways.get().map(|at| &at.span)),
            ("name", written.name.get().map(|at| &at.span)),
            ("share_for", written.share_for.get().map(|at| &at.span)),
        ];
        for (key, span) in idle {
            if let (Some(span), false) = (span, matches!(written.lost, Setting::Invalid)) {
                let message = format!("`{key}` has no effect without if_store_is_lost = \"share\"");
                reports.error(span, message, "add it, or leave this out");
            }
        }
        return if lost.is_some_and(|lost| lost.value == LostPolicy::Allow) {
            WhenLost::Allow
        } else {
            WhenLost::Refuse
        };
    }
    let span = lost.map_or(&written.span, |lost| &lost.span);
    if written.gateways.is_absent() {
        reports.error(span, "`gateways` is missing", "add gateways = 3, or as many as there are");
    }
    if written.name.is_absent() {
        let advice = "add name = \"gw-1\", another one for each gateway, which it keeps over restarts";
        reports.error(span, "`name` is missing", advice);
    }
    let gateways = written.gateways.get().and_then(|at| NonZeroU32::new(at.value)).unwrap_or(NonZeroU32::MIN);
    for limit in shared {
        let Some(span) = &limit.shared else { continue };
        let answered = limit.limit.rate.as_ref().is_some_and(|rate| rate.counts == Counts::Answered);
        if limit.limit.in_flight.is_some() {
            let message = "its responses may take any time, so it has no shares: it refuses while the store is lost";
            reports.warn(span, message, "leave out in_flight if it must go on then");
            continue;
        }
        if answered && request.is_none() {
            let message = "a request may take any time up to its response, so it has no shares: it refuses while the store is lost";
            reports.warn(
                span,
                message,
                "add request = \"1m\" to [timeouts], or as long as a request may take with its content",
            );
            continue;
        }
        let least = limit.limit.rate.as_ref().map(|rate| rate.requests);
        if let Some(least) = least.filter(|least| *least < gateways.get()) {
            let message = format!("a share of {least} for each of {gateways} gateways is less than one");
            reports.warn(span, message, "no request passes this limit while the store is lost");
        }
    }
    WhenLost::Share {
        gateways,
        name: written.name.get().map_or_else(String::new, |at| at.value.clone()),
        share_for: written.share_for.get().map_or(SHARE_FOR, |at| at.value),
    }
}

/// Reads the password file, without the end of its line.
///
/// A line end at the end of the file is no part of it. Permissions of the file are not checked.
fn password(at: &Spanned<PathBuf>, folder: &Path, reports: &Reports<'_>) -> Option<StorePassword> {
    let path = folder.join(&at.value);
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim_end_matches(['\r', '\n']).is_empty() => {
            Some(StorePassword::new(text.trim_end_matches(['\r', '\n']).to_owned()))
        }
        Ok(_) => {
            reports.error(&at.span, format_args!("{} is empty", path.display()), "write the password into it");
            None
        }
        Err(error) => {
            let message = format!("cannot read {}: {}", path.display(), error.kind());
            reports.error(&at.span, message, "a file that holds the password and nothing else");
            None
        }
    }
}

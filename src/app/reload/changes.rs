//! Log lines of a reload: one for each limit and each section of the file that has changed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::config::{Admin, Locks, Settings, changed_limits};
use crate::gate::Gate;
use crate::locker::{LimitId, ReloadSummary};
use crate::proxy::claims::Rule;
use crate::tls::identity::Identity;

/// Result of a reload.
pub(in crate::app) struct AppliedChanges {
    /// A line for each limit and each section that has changed.
    pub(in crate::app) lines: Vec<String>,
    /// A line for each section that is not in force as the file has it.
    pub(in crate::app) pending: Vec<String>,
}

/// Sections that differ from those in force, and that no reload changes.
pub(super) fn pending_sections(before: &Settings, after: &Settings) -> Vec<&'static str> {
    let sections = [
        ("[state]", before.gate.state != after.gate.state),
        ("[store]", before.gate.store != after.gate.store),
        ("[admin]", before.admin.as_ref().map(Admin::fixed) != after.admin.as_ref().map(Admin::fixed)),
        ("[locks]", before.locks.as_ref().map(Locks::fixed) != after.locks.as_ref().map(Locks::fixed)),
        ("[zmq] listen", before.zmq != after.zmq),
    ];
    sections.into_iter().filter(|(_, is_changed)| *is_changed).map(|(section, _)| section).collect()
}

/// Returns a line for each of these sections, with the command that changes it.
pub(super) fn pending_lines(sections: &[&str]) -> Vec<String> {
    let command = format!("kill -USR2 {}", std::process::id());
    let line = |section: &&str| {
        format!("{section} stays as it was: {command} lets a new process take over with it, without losing a request")
    };
    sections.iter().map(line).collect()
}

/// Returns a line for each limit that has changed, then one for each section. `reload`: changes that the locker found.
/// `others`: the rest.
pub(super) fn log_lines(gate: &Gate, reload: &ReloadSummary, others: OtherChanges) -> Vec<String> {
    let limits = gate.limits();
    let limits = &*limits;
    let changed: Vec<_> = reload.changed.iter().filter(|id| !reload.rekeyed.contains(id)).copied().collect();
    let messages: [(&[LimitId], &str); 5] = [
        (&reload.removed, "is removed; its counts are kept until they expire"),
        (&reload.added, "is new; its windows are empty"),
        (&reload.returned, "is back, with its earlier counts"),
        (&changed, CHANGED),
        (&reload.rekeyed, "has another key; its windows are full until earlier requests no longer count"),
    ];
    let named = messages.iter().flat_map(|(ids, what)| ids.iter().map(move |id| (&*limits[id.0 as usize].name, *what)));
    let named: Vec<(&str, &str)> = named.collect();
    let known: HashSet<&str> = named.iter().map(|(name, _)| *name).collect();
    let rest = others.rules.iter().map(|rule| &**rule).filter(|rule| !known.contains(rule));
    let rest = rest.map(|rule| (rule, CHANGED));
    let all = named.iter().copied().chain(rest).map(|(name, what)| format!("limit {name:?} {what}"));
    all.chain(others.sections.iter().map(|section| format!("{section} is changed"))).collect()
}

/// Changes for an audit line: the keys of limits with their values, and other sections by name alone, as their values may
/// be secret.
pub(super) fn audit_summary(before: &Settings, after: &Settings, sections: &[&str], pending: &[&str]) -> String {
    let sections = sections.iter().map(|section| (*section).to_owned());
    let pending = pending.iter().map(|section| format!("{section} after a restart"));
    let all: Vec<String> = changed_limits(before, after).into_iter().chain(sections).chain(pending).collect();
    if all.is_empty() { "none".to_owned() } else { all.join("; ") }
}

/// Text of a line about a limit that keeps its windows.
const CHANGED: &str = "is changed; its counts are kept";

/// Changes that the locker does not see.
pub(super) struct OtherChanges {
    /// Names of limits that apply to other requests than before, or treat them differently.
    rules: Vec<Arc<str>>,
    /// Sections of the file that have changed.
    sections: Vec<&'static str>,
}

/// True if an open listener gets another certificate, the first one, or none. `renewed`: see
/// [`Settings::renewed_admin_tls`].
fn is_renewed(before: Option<&Option<Identity>>, renewed: Option<Option<Identity>>) -> bool {
    renewed.is_some_and(|renewed| before != Some(&renewed))
}

impl OtherChanges {
    /// Sections of the file that have changed.
    pub(super) fn sections(&self) -> &[&'static str] {
        &self.sections
    }

    /// Compares two configurations, both with the listen addresses as written.
    pub(super) fn between(before: &Settings, after: &Settings) -> OtherChanges {
        let known: HashMap<&str, &Rule> = before.proxy.rules.iter().map(|rule| (&*rule.name, rule)).collect();
        let is_other = |rule: &&Rule| known.get(&*rule.name).is_some_and(|before| before != rule);
        let rules = after.proxy.rules.iter().filter(is_other).map(|rule| Arc::clone(&rule.name));
        let (old, new) = (&before.proxy, &after.proxy);
        let sections = [
            (
                "[listen]",
                before.listen != after.listen
                    || before.transparent != after.transparent
                    || old.mismatch != new.mismatch
                    || old.identity != new.identity
                    || old.balancers != new.balancers
                    || before.connections != after.connections,
            ),
            ("[[route]]", old.routes != new.routes),
            ("[[parent]]", old.parents != new.parents),
            (
                "[tls]",
                old.tls != new.tls
                    || old.identities != new.identities
                    || old.intercept != new.intercept
                    || old.authority != new.authority,
            ),
            (
                "[access]",
                old.access != new.access || old.dial.deny != new.dial.deny || old.dial.allow != new.dial.allow,
            ),
            ("[timeouts]", old.timeouts != new.timeouts),
            ("[http]", old.pool.response_head != new.pool.response_head || old.via_to_origins != new.via_to_origins),
            ("[admin] tls", is_renewed(before.admin.as_ref().map(|admin| &admin.tls), after.renewed_admin_tls(before))),
            ("[locks] tls", is_renewed(before.locks.as_ref().map(|locks| &locks.tls), after.renewed_locks_tls(before))),
            ("[zmq]", old.asks != new.asks),
            ("[trace]", old.trace != new.trace || before.metrics_export != after.metrics_export),
            ("[log]", before.log != after.log || old.access_log != new.access_log),
            ("[config]", before.watch != after.watch),
        ];
        let sections = sections.into_iter().filter(|(_, is_other)| *is_other).map(|(section, _)| section);
        OtherChanges { rules: rules.collect(), sections: sections.collect() }
    }
}

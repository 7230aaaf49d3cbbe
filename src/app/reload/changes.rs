//! Log lines of a reload: each limit and each section that it has changed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::config::Settings;
use crate::gate::Gate;
use crate::locker::{LimitId, ReloadSummary};
use crate::proxy::claims::Rule;

/// One line for each limit that has changed, then one for each section.
pub(super) fn lines(gate: &Gate, reload: &ReloadSummary, others: Others) -> Vec<String> {
    let limits = gate.limits();
    let limits = &*limits;
    let changed: Vec<_> = reload.changed.iter().filter(|id| !reload.rekeyed.contains(id)).copied().collect();
    let told: [(&[LimitId], &str); 5] = [
        (&reload.removed, "is gone; what it has counted is kept until it no longer counts"),
        (&reload.added, "is new; it has counted nothing yet"),
        (&reload.returned, "is back, with what it had counted"),
        (&changed, CHANGED),
        (&reload.rekeyed, "has another key; its windows are full until what went before no longer counts"),
    ];
    let named = told.iter().flat_map(|(ids, what)| ids.iter().map(move |id| (&*limits[id.0 as usize].name, *what)));
    let named: Vec<(&str, &str)> = named.collect();
    let known: HashSet<&str> = named.iter().map(|(name, _)| *name).collect();
    let rest = others.rules.iter().map(|rule| &**rule).filter(|rule| !known.contains(rule));
    let rest = rest.map(|rule| (rule, CHANGED));
    let all = named.iter().copied().chain(rest).map(|(name, what)| format!("limit {name:?} {what}"));
    all.chain(others.sections.iter().map(|section| format!("{section} is changed"))).collect()
}

const CHANGED: &str = "is changed; what it has counted counts on";

/// Changes that the locker does not know of.
pub(super) struct Others {
    /// The names of limits that count other requests, or do something else with them.
    rules: Vec<Arc<str>>,
    sections: Vec<&'static str>,
}

impl Others {
    /// Compares two readings of the file, both with the listen addresses as they are written.
    pub(super) fn between(before: &Settings, after: &Settings) -> Others {
        let known: HashMap<&str, &Rule> = before.proxy.rules.iter().map(|rule| (&*rule.name, rule)).collect();
        let is_other = |rule: &&Rule| known.get(&*rule.name).is_some_and(|before| before != rule);
        let rules = after.proxy.rules.iter().filter(is_other).map(|rule| Arc::clone(&rule.name));
        let (old, new) = (&before.proxy, &after.proxy);
        let sections = [
            (
                "[listen]",
                before.listen != after.listen
                    || old.identity != new.identity
                    || before.connections != after.connections,
            ),
            ("[[route]]", old.routes != new.routes),
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
            ("[trace]", old.trace != new.trace),
            ("[log]", before.log != after.log || old.access_log != new.access_log),
            ("[config]", before.watch != after.watch),
        ];
        let sections = sections.into_iter().filter(|(_, is_other)| *is_other).map(|(section, _)| section);
        Others { rules: rules.collect(), sections: sections.collect() }
    }
}

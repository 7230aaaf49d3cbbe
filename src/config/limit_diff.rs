//! Difference between the limits of two configurations, key by key as the file writes them, for the audit lines.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::checked_settings::Settings;

/// Most limits that are listed: a line of the log is no place for thousands.
const MAX_LIMITS: usize = 50;
/// Most characters of a value: a list of hosts may be long.
const MAX_VALUE: usize = 100;
/// Word for a key that a limit does not have.
const DEFAULT: &str = "default";

/// Keys of a limit with their values; those of a table within it as `match.host`.
type LimitKeys = BTreeMap<String, String>;

/// Lists the limits that differ, with their keys: `limit api: requests 5 -> 50, per default -> 1s`, `limit old:
/// removed`, `limit new: added, requests 1, per 1s`. In the order of the file; removed ones come last.
pub fn changed_limits(before: &Settings, after: &Settings) -> Vec<String> {
    if before.text == after.text {
        return Vec::new();
    }
    let (old, new) = (limits(before), limits(after));
    let find = |limits: &[(Arc<str>, LimitKeys)], name: &Arc<str>| limits.iter().position(|(other, _)| other == name);
    let kept_or_added = new.iter().filter_map(|(name, keys)| match find(&old, name) {
        Some(at) => changes(name, &old[at].1, keys),
        None => Some(addition(name, keys)),
    });
    let is_removed = |(name, _): &&(Arc<str>, LimitKeys)| find(&new, name).is_none();
    let removed = old.iter().filter(is_removed).map(|(name, _)| format!("limit {name}: removed"));
    let mut all: Vec<String> = kept_or_added.chain(removed).collect();
    if all.len() > MAX_LIMITS {
        let more = all.len() - MAX_LIMITS;
        all.truncate(MAX_LIMITS);
        all.push(format!("{more} more limits"));
    }
    all
}

/// Changes of a limit that stays; `None` if it has none.
fn changes(name: &str, old: &LimitKeys, new: &LimitKeys) -> Option<String> {
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let of = |keys: &LimitKeys, key: &str| keys.get(key).map_or_else(|| DEFAULT.to_owned(), |value| shortened(value));
    let changed: Vec<String> = keys
        .into_iter()
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| format!("{key} {} -> {}", of(old, key), of(new, key)))
        .collect();
    (!changed.is_empty()).then(|| format!("limit {name}: {}", changed.join(", ")))
}

fn addition(name: &str, keys: &LimitKeys) -> String {
    let keys = keys.iter().map(|(key, value)| format!(", {key} {}", shortened(value)));
    format!("limit {name}: added{}", keys.collect::<String>())
}

fn shortened(value: &str) -> String {
    match value.char_indices().nth(MAX_VALUE) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

/// Limits with their names, of which some are not in the text, and their keys but `name`.
fn limits(settings: &Settings) -> Vec<(Arc<str>, LimitKeys)> {
    // The text was read before, when the settings were made from it.
    let Ok(document) = DeTable::parse(&settings.text) else { return Vec::new() };
    let Some(DeValue::Array(limits)) = document.get_ref().get("limit").map(|limits| limits.get_ref()) else {
        return Vec::new();
    };
    let names = settings.gate.limits.iter().map(|limit| Arc::clone(&limit.name));
    let keys_of = |(name, limit): (Arc<str>, &toml::Spanned<DeValue<'_>>)| {
        let mut keys = LimitKeys::new();
        if let Some(table) = limit.get_ref().as_table() {
            flatten("", table, &mut keys);
        }
        keys.remove("name");
        (name, keys)
    };
    names.zip(limits.iter()).map(keys_of).collect()
}

/// Adds the keys of a table, and of those within it, each with this text before it.
fn flatten(before: &str, table: &DeTable<'_>, keys: &mut LimitKeys) {
    for (key, value) in table {
        let key = format!("{before}{}", key.get_ref());
        match value.get_ref().as_table() {
            Some(inner) => flatten(&format!("{key}."), inner, keys),
            None => drop(keys.insert(key, shown(value.get_ref()))),
        }
    }
}

/// A value for people: a string without its quotes.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(list) => {
            format!("[{}]", list.iter().map(|one| shown(one.get_ref())).collect::<Vec<_>>().join(", "))
        }
        DeValue::Table(table) => {
            let pairs = table.iter().map(|(key, value)| format!("{} = {}", key.get_ref(), shown(value.get_ref())));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::read_text;

    fn settings(text: &str) -> Settings {
        read_text(Path::new("proxy.toml"), text.to_owned()).unwrap()
    }

    #[test]
    fn each_key_that_differs_is_listed_with_both_values() {
        let before = settings(
            "[[limit]]\nmatch = { host = \"a.example\" }\nrequests = 5\nper = \"1s\"\n\n[[limit]]\nname = \"gone\"\nrequests = 1\nper = \"1s\"\n",
        );
        let after = settings(
            "[[limit]]\nname = \"new\"\nrequests = 0x2\nper = '1m'\n\n[[limit]]\nper = '1s'\nmax_wait = \"5s\"\nrequests = 50 # more\n[limit.match]\nhost = [\n  \"a.example\",\n]\n",
        );
        let wanted = [
            "limit new: added, per 1m, requests 0x2",
            "limit a.example: match.host a.example -> [a.example], max_wait default -> 5s, requests 5 -> 50",
            "limit gone: removed",
        ];
        assert_eq!(changed_limits(&before, &after), wanted);
        assert!(changed_limits(&before, &before.clone()).is_empty());
    }

    #[test]
    fn long_lists_and_long_values_are_cut() {
        let limit = |at: usize, more: &str| format!("[[limit]]\nname = \"l{at}\"\nrequests = 1\nper = \"1s\"\n{more}");
        let few = settings(&limit(0, ""));
        let host = format!("match = {{ host = \"{}.example\" }}\n", ["a".repeat(50), "b".repeat(50)].join("."));
        let many = settings(&(0..60).map(|at| limit(at, &host)).collect::<String>());
        let listed = changed_limits(&few, &many);
        assert_eq!((listed.len(), listed.last().map(String::as_str)), (51, Some("10 more limits")));
        assert!(
            listed[0].starts_with("limit l0: match.host default -> aaa") && listed[0].ends_with("bbb…"),
            "{}",
            listed[0]
        );
    }
}

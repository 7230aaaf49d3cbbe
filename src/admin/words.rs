//! Words of the admin API and of metrics: states, and the reasons for which a limit refuses, with explanations for people.

use crate::gate::journal::JournalHealth;
use crate::gate::store;

/// State of the state folder, see [`persistence_word`].
pub(super) const STATES: [(&str, &str); 4] = [
    ("off", "There is no state folder: a restart forgets all counts."),
    ("ok", "Counts are written to the state folder."),
    ("degraded", "The state folder cannot be written. A crash now would close long windows for their whole period."),
    (
        "blocked",
        "The state folder can be neither written nor marked as incomplete: limits with a long period wait for it.",
    ),
];

/// State of the store of shared limits, see [`store_word`].
pub(super) const STORES: [(&str, &str); 5] = [
    ("off", "No limit is shared with other gateways."),
    ("up", "The store of shared limits answers."),
    ("down", "The store of shared limits cannot be reached: no request passes these limits."),
    ("fraction", "The store of shared limits cannot be reached: this gateway uses its fraction of each."),
    ("standalone", "The store of shared limits cannot be reached: this gateway uses each as if it were alone."),
];

/// Condition of a limit, the one that needs attention most first, with its name on the dashboard.
pub(super) const CONDITIONS: [(&str, &str); 5] =
    [("refusing", "Refusing"), ("waiting", "Waiting"), ("full", "Full"), ("ok", "OK"), ("idle", "Idle")];

/// Reasons for which a limit refuses a request, in the words of the metrics, with an explanation.
pub(super) const REASONS: [(&str, &str); 8] = [
    ("full", "No slot was free, and the limit does not queue requests (when_full = \"refuse\")."),
    ("too_long", "The wait would have been longer than max_wait, or than the caller waits (Prefer: wait)."),
    ("queue_full", "As many requests waited as max_waiting allows."),
    ("timed_out", "The request was queued for max_wait, or for as long as its caller waits, and no slot opened."),
    ("too_many_keys", "The limit had as many keys in use as max_keys allows, and the request's key was a new one."),
    ("cost_too_high", "The request costs more slots than the limit has."),
    ("store_lost", "The store of shared limits could not be reached (if_store_is_lost = \"refuse\")."),
    ("unwritten", "The state folder could not be written, and a limit with a long period waits for that."),
];

/// State of the persistence of counters, as a word of the admin API and of metrics.
///
/// `off`: nothing is written; `ok`: every counter is on disk before it is used; `degraded`: the
/// state folder cannot be written; `blocked`: it cannot be marked as incomplete, either, and limits
/// with a long period wait.
pub(super) fn persistence_word(health: JournalHealth) -> &'static str {
    match health {
        JournalHealth::Off => "off",
        JournalHealth::Ok => "ok",
        JournalHealth::Degraded => "degraded",
        JournalHealth::Blocked => "blocked",
    }
}

/// State of the store of shared limits, as a word of the admin API and of metrics.
///
/// `off`: no limit is shared; `up`: the store decides; `down`: it is unreachable, and shared limits
/// let nothing pass; `fraction`: it is unreachable, and this gateway uses its fraction of each
/// limit; `standalone`: it is unreachable, and this gateway uses each limit as if it were the only
/// one.
pub(super) fn store_word(health: store::Health) -> &'static str {
    match health {
        store::Health::Off => "off",
        store::Health::Up => "up",
        store::Health::Down => "down",
        store::Health::Fraction => "fraction",
        store::Health::Standalone => "standalone",
    }
}

/// Explanation of a code in one of these lists; the code itself if it is in none.
pub(super) fn explain<'w>(words: &[(&str, &'w str)], code: &'w str) -> &'w str {
    words.iter().find(|(known, _)| *known == code).map_or(code, |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::store::Health::{Down, Fraction, Off, Standalone, Up};
    use crate::proxy::metrics;

    #[test]
    fn every_code_that_the_page_may_show_is_explained() {
        let codes = |list: &[(&str, &str)]| list.iter().map(|(code, _)| (*code).to_owned()).collect::<Vec<_>>();
        assert_eq!(codes(&REASONS), metrics::REASONS.map(|(_, code)| code));
        let states = [JournalHealth::Off, JournalHealth::Ok, JournalHealth::Degraded, JournalHealth::Blocked];
        assert_eq!(codes(&STATES), states.map(persistence_word));
        assert_eq!(codes(&STORES), [Off, Up, Down, Fraction, Standalone].map(store_word));
        assert_eq!(explain(&STATES, "ok"), "Counts are written to the state folder.");
        let described = include_str!("openapi.json");
        for code in [codes(&STATES), codes(&STORES), codes(&CONDITIONS)].concat() {
            assert!(described.contains(&format!("\"{code}\"")), "{code}");
        }
    }
}

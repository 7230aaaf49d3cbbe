//! Rule of a limit: conditions on the requests that it counts, their key and their cost.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::key::KeyPart;
use super::key_field;
use super::path;
use super::pattern::{HostPattern, PathPattern};
use super::query;
use super::refusal::Refusal;

/// Most windows of one limit that one request counts in: each costs a look-up, and real requests have one or two.
pub(super) const MAX_KEYS: usize = 16;

/// The part of a limit that concerns requests: conditions, key, cost, and the effect of pushbacks.
#[derive(Clone, PartialEq, Debug)]
pub struct Rule {
    /// Name of the limit.
    pub name: Arc<str>,
    /// Hosts, any of which matches; empty: all hosts.
    pub hosts: Vec<HostPattern>,
    /// Paths, any of which matches; empty: all paths, and tunnels. A rule with paths never counts a tunnel, which has
    /// none.
    pub paths: Vec<PathPattern>,
    /// Methods, any of which matches in this letter case; empty: all methods. That of a tunnel is CONNECT.
    pub methods: Vec<String>,
    /// Parts of the key. Each combination of values has a window of its own; empty: one window for all requests that
    /// match.
    pub key: Vec<KeyPart>,
    /// True if letter case makes no difference in paths and in names of query parameters; `paths` are in lower case
    /// then.
    pub ignore_case: bool,
    /// True if a request's `Prefer: wait` shortens its longest wait.
    pub obey_prefer: bool,
    /// Names of fields that state the time that its caller waits for a response, in lower case.
    pub deadline: Vec<String>,
    /// Number of slots that a request takes.
    pub cost: Cost,
    /// Highest cost, N of the limit; more is answered with 400.
    pub max_cost: u32,
    /// Effect of a pushback (429, or another refusal or failure that names a time) on the window.
    pub pushback: Pushback,
    /// Statuses that are pushbacks, each from 400 to 599; empty: all of these.
    pub pushback_on: Vec<u16>,
    /// Parts of the request that stand for its credential: a pause holds for requests with the same
    /// values, see `PauseLog`. Without readings; empty: it holds for the whole window.
    pub pushback_key: Vec<KeyPart>,
    /// Longest pause after a 429 that names no time.
    pub max_backoff: Duration,
    /// Most times that a request is sent again after a pushback.
    pub retry: u8,
    /// True if the limit lets every request pass, even those that it cannot count.
    pub dry_run: bool,
    /// Seed of the key hash if other gateways must compute the same keys; `None`: the gate's own seed.
    pub shared_seed: Option<[u8; 16]>,
}

/// Number of slots that a request takes.
#[derive(Clone, PartialEq, Debug)]
pub enum Cost {
    /// Always this number.
    Fixed(u32),
    /// Value of the header field of that name; 1 without it.
    Header(String),
}

/// Effect of an origin's pushback on a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushback {
    /// The window pauses until the time that the origin names, for the request's credential.
    Pause,
    /// No effect.
    Ignore,
}

impl Rule {
    /// A rule that counts every request in one window, for tests.
    #[cfg(test)]
    pub(crate) fn for_test() -> Rule {
        Rule {
            name: "a".into(),
            hosts: Vec::new(),
            paths: Vec::new(),
            methods: Vec::new(),
            key: Vec::new(),
            ignore_case: false,
            obey_prefer: true,
            deadline: Vec::new(),
            cost: Cost::Fixed(1),
            max_cost: 5,
            pushback: Pushback::Pause,
            pushback_on: Vec::new(),
            pushback_key: Vec::new(),
            max_backoff: Duration::from_secs(60),
            retry: 0,
            dry_run: false,
            shared_seed: None,
        }
    }

    /// True if a response with this status can be a pushback for this limit.
    pub(super) fn listens_to(&self, status: u16) -> bool {
        self.pushback_on.is_empty() || self.pushback_on.contains(&status)
    }

    /// True if the rule names the host by a pattern other than `*`.
    pub(super) fn names(&self, host: &str, port: u16) -> bool {
        self.hosts.iter().any(|pattern| pattern.is_specific() && pattern.matches(host, port))
    }

    /// Function that folds a letter of a parameter's name as the rule requires.
    pub(super) fn letter(&self) -> fn(u8) -> u8 {
        if self.ignore_case { |letter| letter.to_ascii_lowercase() } else { |letter| letter }
    }

    /// Refusal of a request that servers may read in several ways.
    pub(super) fn ambiguous(&self, why: String) -> Refusal {
        Refusal::Ambiguous { limit: Arc::clone(&self.name), why }
    }

    /// Refusal of a request with more than [`MAX_KEYS`] keys.
    pub(super) fn too_many_keys(&self) -> Refusal {
        self.ambiguous(format!("its path and parameters name more than {MAX_KEYS} keys"))
    }

    /// Canonical form of a part of a key that a caller states.
    pub(super) fn spell<'v>(&self, part: &KeyPart, value: &'v [u8]) -> Result<Cow<'v, [u8]>, Refusal> {
        match part {
            KeyPart::Path(_) => {
                let segment = path::spell_segment(value);
                let segment = if self.ignore_case { segment.to_ascii_lowercase() } else { segment };
                Ok(segment.into_bytes().into())
            }
            KeyPart::Header(name) => key_field::spell(name, value).map_err(|_| Refusal::BadKey),
            KeyPart::Query(_) => Ok(query::plain(value.into())),
            KeyPart::Host | KeyPart::Caller | KeyPart::Method => Ok(value.into()),
        }
    }

    /// Parses a cost that a request states.
    ///
    /// # Errors
    /// 400 if it is not a whole number from 1 to N.
    pub(super) fn stated_cost(&self, value: &[u8]) -> Result<u32, Refusal> {
        // `parse` alone would accept a plus sign.
        let digits = value.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(value).ok()).flatten();
        let cost = digits.and_then(|digits| digits.parse().ok()).filter(|cost| (1..=self.max_cost).contains(cost));
        cost.ok_or_else(|| Refusal::BadCost { limit: Arc::clone(&self.name), most: self.max_cost })
    }
}

//! The rule of a limit: which requests it counts, under which key, at what cost.

use std::borrow::Cow;
use std::sync::Arc;

use super::key::KeyPart;
use super::key_field;
use super::path;
use super::pattern::{HostPattern, PathPattern};
use super::query;
use super::refusal::Refusal;

/// The most windows of one limit that one request counts in.
pub(super) const MAX_KEYS: usize = 16;

/// What of a limit concerns requests: which it counts, under which key, at what cost, and what an origin's pushback does.
#[derive(Clone, PartialEq, Debug)]
pub struct Rule {
    /// The limit's name.
    pub name: Arc<str>,
    /// Any of these; empty: all hosts.
    pub hosts: Vec<HostPattern>,
    /// Any of these; empty: all paths, and tunnels. A rule with paths never counts a tunnel, which has none.
    pub paths: Vec<PathPattern>,
    /// Any of these, letter case included; empty: all methods. A tunnel's is CONNECT.
    pub methods: Vec<String>,
    /// One window per value of these together; empty: one window for all that matches.
    pub key: Vec<KeyPart>,
    /// Letter case makes no difference in paths and in the names of query parameters; `paths` are of that kind.
    pub ignore_case: bool,
    /// How many slots a request takes.
    pub cost: Cost,
    /// A cost above this is a 400: N of the limit.
    pub max_cost: u32,
    /// What an origin's 429, or its 503 with Retry-After, does to the window.
    pub pushback: Pushback,
    /// How often a request that was pushed back is sent again.
    pub retry: u8,
    /// It lets everything go, also what it cannot count.
    pub dry_run: bool,
    /// What keys are hashed with if other gateways must come to the same; `None`: with the gate's seed.
    pub shared_seed: Option<[u8; 16]>,
}

/// How many slots a request takes.
#[derive(Clone, PartialEq, Debug)]
pub enum Cost {
    /// Always so many.
    Fixed(u32),
    /// As many as the field of that name says; 1 without it.
    Header(String),
}

/// What an origin's pushback does to a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushback {
    /// Nothing goes out until the time that the origin names is over.
    Pause,
    /// Nothing.
    Ignore,
}

impl Rule {
    /// True if it names the host, by a pattern that is not just `*`.
    pub(super) fn names(&self, host: &str, port: u16) -> bool {
        self.hosts.iter().any(|pattern| pattern.is_specific() && pattern.matches(host, port))
    }

    /// Folds a letter of a parameter's name as the rule does.
    pub(super) fn letter(&self) -> fn(u8) -> u8 {
        if self.ignore_case { |letter| letter.to_ascii_lowercase() } else { |letter| letter }
    }

    pub(super) fn ambiguous(&self, why: String) -> Refusal {
        Refusal::Ambiguous { limit: Arc::clone(&self.name), why }
    }

    pub(super) fn too_many_keys(&self) -> Refusal {
        self.ambiguous(format!("its path and parameters name more than {MAX_KEYS} keys"))
    }

    /// A part of a key that a caller states, in the one spelling that requests are read in.
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

    /// A cost that a request states.
    ///
    /// # Errors
    /// 400 if it is not a whole number from 1 to N.
    pub(super) fn stated_cost(&self, value: &[u8]) -> Result<u32, Refusal> {
        // `parse` alone would take a plus sign.
        let digits = value.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(value).ok()).flatten();
        let cost = digits.and_then(|digits| digits.parse().ok()).filter(|cost| (1..=self.max_cost).contains(cost));
        cost.ok_or_else(|| Refusal::BadCost { limit: Arc::clone(&self.name), most: self.max_cost })
    }
}

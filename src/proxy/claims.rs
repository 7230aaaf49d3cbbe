//! Which windows a request must pass, under which keys, at what cost.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::access::Admitted;
use super::key::{KeyHasher, KeyPart};
use super::path::{Path, segment};
use super::pattern::{HostPattern, PathPattern};
use super::query::parameter;
use super::refusal::Refusal;
use super::tally::Tally;
use super::target::Target;
use crate::locker::{Claim, Key, LimitId};
use crate::wire::RequestHead;

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

/// What one request claims.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// The broadest limit (the one with the fewest key parts) first.
    pub claims: SmallVec<[Claim; 2]>,
    /// The largest `retry` of the limits that match.
    pub retry: u8,
}

/// All rules, ready to be searched.
#[derive(Debug)]
pub struct Rules {
    /// The broadest first, then as in the file.
    rules: Vec<(LimitId, Rule)>,
    /// What became of the requests of each, in the same order.
    tallies: Vec<Arc<Tally>>,
    /// Where in `rules` each limit is, by `LimitId`; no limit need have a rule here.
    places: Vec<Option<usize>>,
    /// What keys are hashed with.
    seed: [u8; 16],
}

impl Rules {
    /// `rules`: in the order of the file, and the limits that they are of. `seed`: what keys are hashed with. `tally`: where
    /// the requests of a limit with that name are counted.
    pub fn new(rules: Vec<Rule>, limits: &[LimitId], seed: [u8; 16], tally: impl Fn(&Arc<str>) -> Arc<Tally>) -> Rules {
        let mut rules: Vec<_> = limits.iter().copied().zip(rules).collect();
        rules.sort_by_key(|(_, rule)| rule.key.len());
        let mut places = vec![None; limits.iter().map(|id| id.0 as usize + 1).max().unwrap_or(0)];
        for (place, (id, _)) in rules.iter().enumerate() {
            places[id.0 as usize] = Some(place);
        }
        let tallies = rules.iter().map(|(_, rule)| tally(&rule.name)).collect();
        Rules { rules, tallies, places, seed }
    }

    /// Finds what a request must be granted.
    ///
    /// # Errors
    /// 400 if it states a cost that is not a whole number from 1 to the limit's N, or if its path has too many readings.
    pub fn find(
        &self,
        target: &Target,
        head: &RequestHead,
        admitted: &Admitted,
        peer: IpAddr,
    ) -> Result<Claims, Refusal> {
        let whole_path = target.path(head);
        let (path, query) = whole_path.split_once('?').unwrap_or((&whole_path, ""));
        let mut request = Request { target, head, admitted, peer, path, query, read: None, folded: None };
        let mut found = Claims::default();
        for (id, rule) in &self.rules {
            if !request.matches(rule)? {
                continue;
            }
            found.claims.push(Claim { limit: *id, key: request.key(rule, &self.seed)?, cost: request.cost(rule)? });
            found.retry = found.retry.max(rule.retry);
        }
        Ok(found)
    }

    /// The rule of a limit.
    ///
    /// # Panics
    /// If there is none: whoever knows the limit has it from [`Rules::find`].
    pub fn rule(&self, limit: LimitId) -> &Rule {
        &self.rules[self.place(limit)].1
    }

    /// What somebody claims who names the limit: `values`, one for each part of its key but the caller; `cost`, or what
    /// the limit says.
    ///
    /// # Errors
    /// 404 if there is no such limit; 400 if these are not its key's parts, or the cost is not a whole number from 1 to N.
    pub(super) fn claim(
        &self,
        name: &str,
        values: &[Cow<'_, [u8]>],
        cost: Option<&[u8]>,
        admitted: &Admitted,
        peer: IpAddr,
    ) -> Result<Claims, Refusal> {
        let found = self.rules.iter().find(|(_, rule)| *rule.name == *name);
        let (limit, rule) = found.ok_or(Refusal::NoLimit)?;
        let mut values = values.iter();
        let mut key = KeyHasher::new(rule.shared_seed.as_ref(), &self.seed);
        for part in &rule.key {
            match part {
                KeyPart::Caller => key.add_caller(admitted, peer),
                KeyPart::Host | KeyPart::Path(_) | KeyPart::Header(_) | KeyPart::Query(_) | KeyPart::Method => {
                    key.add(Some(values.next().ok_or(Refusal::BadKey)?));
                }
            }
        }
        if values.next().is_some() {
            return Err(Refusal::BadKey);
        }
        let key = if rule.key.is_empty() { Key::WHOLE } else { key.finish() };
        let cost = match (cost, &rule.cost) {
            (Some(stated), _) => rule.stated_cost(stated)?,
            (None, Cost::Fixed(cost)) => *cost,
            (None, Cost::Header(_)) => 1,
        };
        let claims = std::iter::once(Claim { limit: *limit, key, cost }).collect();
        Ok(Claims { claims, retry: 0 })
    }

    /// What became of the requests of each of these limits.
    pub(super) fn tallies(&self, claims: &Claims) -> impl Iterator<Item = &Tally> {
        claims.claims.iter().map(|claim| &*self.tallies[self.place(claim.limit)])
    }

    fn place(&self, limit: LimitId) -> usize {
        let place = self.places.get(limit.0 as usize).copied().flatten();
        place.expect("a claim is of a limit that has a rule here")
    }
}

impl Rule {
    fn stated_cost(&self, value: &[u8]) -> Result<u32, Refusal> {
        // `parse` alone would take a plus sign.
        let digits = value.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(value).ok()).flatten();
        let cost = digits.and_then(|digits| digits.parse().ok()).filter(|cost| (1..=self.max_cost).contains(cost));
        cost.ok_or_else(|| Refusal::BadCost { limit: Arc::clone(&self.name), most: self.max_cost })
    }
}

/// A request as rules see it.
struct Request<'a> {
    target: &'a Target,
    head: &'a RequestHead,
    admitted: &'a Admitted,
    peer: IpAddr,
    /// As the origin will get it; empty for a tunnel.
    path: &'a str,
    query: &'a str,
    /// Made from `path` by the first rule that needs it.
    read: Option<Path<'a>>,
    /// As `read`, without letter case.
    folded: Option<Path<'a>>,
}

impl<'a> Request<'a> {
    fn matches(&mut self, rule: &Rule) -> Result<bool, Refusal> {
        let origin = &self.target.origin;
        let fits = (rule.hosts.is_empty()
            || rule.hosts.iter().any(|pattern| pattern.matches(&origin.host, origin.port)))
            && (rule.methods.is_empty() || rule.methods.iter().any(|method| method == self.head.method()));
        if !fits || rule.paths.is_empty() {
            return Ok(fits);
        }
        let path = self.path(rule)?;
        Ok(rule.paths.iter().any(|pattern| pattern.matches(path)))
    }

    /// The path, as the rule reads it.
    fn path(&mut self, rule: &Rule) -> Result<&Path<'a>, Refusal> {
        let read = match self.read.take() {
            Some(read) => read,
            None => Path::read(self.path)?,
        };
        let read = self.read.insert(read);
        Ok(if rule.ignore_case { self.folded.get_or_insert_with(|| read.ignoring_case()) } else { read })
    }

    fn key(&mut self, rule: &Rule, seed: &[u8; 16]) -> Result<Key, Refusal> {
        if rule.key.is_empty() {
            return Ok(Key::WHOLE);
        }
        let mut key = KeyHasher::new(rule.shared_seed.as_ref(), seed);
        for part in &rule.key {
            match part {
                KeyPart::Host => key.add(Some(self.target.origin.host.as_bytes())),
                KeyPart::Caller => key.add_caller(self.admitted, self.peer),
                KeyPart::Path(index) => {
                    let reading = self.path(rule)?.readings().next();
                    key.add(reading.and_then(|reading| segment(reading, *index)).map(str::as_bytes));
                }
                KeyPart::Header(name) => key.add(self.head.find(name)),
                KeyPart::Query(name) => key.add(parameter(self.query, name).as_deref()),
                KeyPart::Method => key.add(Some(self.head.method().as_bytes())),
            }
        }
        Ok(key.finish())
    }

    fn cost(&self, rule: &Rule) -> Result<u32, Refusal> {
        let name = match &rule.cost {
            Cost::Fixed(cost) => return Ok(*cost),
            Cost::Header(name) => name,
        };
        let Some(value) = self.head.find(name) else { return Ok(1) };
        rule.stated_cost(value).inspect_err(|_| {
            tracing::debug!(limit = &*rule.name, peer = %self.peer, "a request states no valid cost");
        })
    }
}

#[cfg(test)]
mod tests;

//! Which windows a request must pass, under which keys, at what cost.

use std::borrow::Cow;
use std::fmt;
use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::Arc;

use siphasher::sip128::{Hasher128, SipHasher13};
use smallvec::SmallVec;

use super::access::Admitted;
use super::path::{Path, segment};
use super::pattern::{HostPattern, PathPattern};
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

/// A part of a key. What a request does not have counts as a value of its own, so that leaving it out gives one
/// window, not none. Shown as it is written in `proxy.toml`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyPart {
    /// The origin's host, without the port.
    Host,
    /// The caller's user name, else its address.
    Caller,
    /// A segment of the path; 1 is the first.
    Path(usize),
    /// The first field of that name.
    Header(String),
    /// The first query parameter of that name, decoded.
    Query(String),
    /// The method.
    Method,
}

impl fmt::Display for KeyPart {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyPart::Host => formatter.write_str("host"),
            KeyPart::Caller => formatter.write_str("caller"),
            KeyPart::Path(index) => write!(formatter, "path[{index}]"),
            KeyPart::Header(name) => write!(formatter, "header:{name}"),
            KeyPart::Query(name) => write!(formatter, "query:{name}"),
            KeyPart::Method => formatter.write_str("method"),
        }
    }
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
        let mut request = Request { target, head, admitted, peer, path, query, read: None };
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
        let mut key = KeyHasher::new(rule.shared_seed.as_ref().unwrap_or(&self.seed));
        for part in &rule.key {
            match part {
                KeyPart::Caller => key.add_caller(rule, admitted, peer),
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
        let path = self.read_path()?;
        Ok(rule.paths.iter().any(|pattern| pattern.matches(path)))
    }

    fn read_path(&mut self) -> Result<&Path<'a>, Refusal> {
        let read = match self.read.take() {
            Some(read) => read,
            None => Path::read(self.path)?,
        };
        Ok(self.read.insert(read))
    }

    fn key(&mut self, rule: &Rule, seed: &[u8; 16]) -> Result<Key, Refusal> {
        if rule.key.is_empty() {
            return Ok(Key::WHOLE);
        }
        let mut key = KeyHasher::new(rule.shared_seed.as_ref().unwrap_or(seed));
        for part in &rule.key {
            match part {
                KeyPart::Host => key.add(Some(self.target.origin.host.as_bytes())),
                KeyPart::Caller => key.add_caller(rule, self.admitted, self.peer),
                KeyPart::Path(index) => {
                    let reading = self.read_path()?.readings().next();
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

/// 128 bits of keyed hash over a key's parts. The seed is random, so that no caller can make two keys meet; and the gate's,
/// so that windows keep their keys when the rules are read again, and when the gateway is started again. Only what several
/// gateways count together has a seed that can be known, because they must all have it.
struct KeyHasher(SipHasher13);

impl KeyHasher {
    fn new(seed: &[u8; 16]) -> KeyHasher {
        KeyHasher(SipHasher13::new_with_key(seed))
    }

    /// The number of a caller is this gateway's own; others know it by its name or address.
    fn add_caller(&mut self, rule: &Rule, admitted: &Admitted, peer: IpAddr) {
        match (rule.shared_seed, &admitted.user) {
            (None, _) => self.add(Some(&admitted.caller.0.to_le_bytes())),
            (Some(_), Some(user)) => self.add(Some(format!("user {user}").as_bytes())),
            (Some(_), None) => self.add(Some(format!("address {}", peer.to_canonical()).as_bytes())),
        }
    }

    /// Each part goes in with its length, so that ("ab", "c") and ("a", "bc") differ; so do no part and an empty one.
    fn add(&mut self, part: Option<&[u8]>) {
        self.0.write(&part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
        self.0.write(part.unwrap_or_default());
    }

    fn finish(&self) -> Key {
        Key(self.0.finish128().as_u128())
    }
}

/// The first parameter of that name in a query. Name and value are decoded, so that `api%5Fkey=%41` is `api_key=A`:
/// another spelling gets no window of its own.
pub(super) fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    parameters(query, name).next()
}

/// All parameters of that name in a query, decoded.
pub(super) fn parameters<'a>(query: &'a str, name: &str) -> impl Iterator<Item = Cow<'a, [u8]>> {
    query.split('&').filter_map(move |pair| {
        let (given, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*decode(given) == *name.as_bytes()).then(|| decode(value))
    })
}

/// Undoes the encoding of HTML forms: `%XX` and `+`. What is no such thing stays.
pub(super) fn decode(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if memchr::memchr2(b'%', b'+', bytes).is_none() {
        return bytes.into();
    }
    let digit = |at: usize| {
        bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16)).and_then(|digit| u8::try_from(digit).ok())
    };
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                plain.push(high << 4 | low);
                at += 3;
                continue;
            }
            (b'+', ..) => plain.push(b' '),
            _ => plain.push(*byte),
        }
        at += 1;
    }
    plain.into()
}

#[cfg(test)]
mod tests;

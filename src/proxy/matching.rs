//! Request matching: decides whether a rule counts a request, and computes its keys and cost.

use std::borrow::Cow;
use std::net::IpAddr;

use smallvec::{SmallVec, smallvec};

use super::access::Admitted;
use super::key::{KeyHasher, KeyPart};
use super::key_field;
use super::path::{Path, TooManyReadings, segment};
use super::query;
use super::refusal::Refusal;
use super::rule::{Cost, MAX_KEYS, Rule};
use super::target::Target;
use crate::locker::Key;
use crate::wire::RequestHead;

/// Segments that are part of a key, in one reading of a path.
type Segments<'r> = SmallVec<[Option<&'r str>; 2]>;

/// Keys and cost of a request under one rule.
pub(super) struct RuleMatch {
    /// Slots that the request takes in each window.
    pub(super) cost: u32,
    /// At least one; all differ.
    pub(super) keys: SmallVec<[Key; 1]>,
}

/// A request as rules see it.
pub(super) struct Request<'a> {
    target: &'a Target,
    head: &'a RequestHead,
    admitted: &'a Admitted,
    peer: IpAddr,
    /// Path as the origin receives it; empty for a tunnel.
    path: &'a str,
    query: &'a str,
    /// Readings of `path`, made by the first rule that needs them.
    read: Option<Path<'a>>,
    /// As `read`, in lower case.
    folded: Option<Path<'a>>,
}

impl<'a> Request<'a> {
    pub(super) fn new(
        target: &'a Target,
        head: &'a RequestHead,
        admitted: &'a Admitted,
        peer: IpAddr,
        whole_path: &'a str,
    ) -> Request<'a> {
        let (path, query) = whole_path.split_once('?').unwrap_or((whole_path, ""));
        Request { target, head, admitted, peer, path, query, read: None, folded: None }
    }

    /// Matches the request against the rule; `None`: the rule does not count it.
    ///
    /// # Errors
    /// 400 if the request states a cost that is not a whole number from 1 to N, if a field that the rule counts by has
    /// several values, or if its path or its parameters have too many.
    pub(super) fn match_rule(&mut self, rule: &Rule, seed: &[u8; 16]) -> Result<Option<RuleMatch>, Refusal> {
        if !self.matches(rule)? {
            return Ok(None);
        }
        Ok(Some(RuleMatch { cost: self.cost(rule)?, keys: self.keys(rule, seed)? }))
    }

    /// True if host, method and path match.
    fn matches(&mut self, rule: &Rule) -> Result<bool, Refusal> {
        let origin = &self.target.origin;
        let fits = (rule.hosts.is_empty()
            || rule.hosts.iter().any(|pattern| pattern.matches(&origin.host, origin.port)))
            && (rule.methods.is_empty() || rule.methods.iter().any(|method| method == self.head.method()));
        if !fits || rule.paths.is_empty() {
            return Ok(fits);
        }
        self.read_path(rule)?;
        let path = self.path(rule);
        Ok(path.is_some_and(|path| rule.paths.iter().any(|pattern| pattern.matches(path))))
    }

    /// Makes the readings of the path that the rule needs, unless that was done before.
    fn read_path(&mut self, rule: &Rule) -> Result<(), TooManyReadings> {
        let read = match self.read.take() {
            Some(read) => read,
            None => Path::read(self.path)?,
        };
        let read = self.read.insert(read);
        if rule.ignore_case {
            self.folded.get_or_insert_with(|| read.ignoring_case());
        }
        Ok(())
    }

    /// Readings of the path for the rule, once they were made.
    fn path(&self, rule: &Rule) -> Option<&Path<'a>> {
        if rule.ignore_case { self.folded.as_ref() } else { self.read.as_ref() }
    }

    /// Keys under which the request counts: one for each way to read its path and its parameters.
    fn keys(&mut self, rule: &Rule, seed: &[u8; 16]) -> Result<SmallVec<[Key; 1]>, Refusal> {
        if rule.key.is_empty() {
            return Ok(smallvec![Key::WHOLE]);
        }
        if !rule.key.iter().any(KeyPart::has_readings) {
            return Ok(smallvec![self.single_key(rule, seed)?]);
        }
        let mut parameters: SmallVec<[query::Values<'_>; 1]> = SmallVec::new();
        for part in &rule.key {
            match part {
                KeyPart::Path(_) => self.read_path(rule)?,
                KeyPart::Query(name) => parameters
                    .push(query::values(self.query, name, rule.letter(), MAX_KEYS).map_err(|_| rule.too_many_keys())?),
                KeyPart::Host | KeyPart::Caller | KeyPart::Header(_) | KeyPart::Method => {}
            }
        }
        let mut keys: SmallVec<[Key; 1]> = SmallVec::new();
        for segments in self.segments(rule) {
            keys.extend(self.keys_with(rule, seed, &segments, &parameters)?);
            if keys.len() > MAX_KEYS {
                return Err(rule.too_many_keys());
            }
        }
        Ok(keys)
    }

    /// Key of a rule without path and parameters: the other parts have one reading.
    fn single_key(&self, rule: &Rule, seed: &[u8; 16]) -> Result<Key, Refusal> {
        let mut key = KeyHasher::new(rule.shared_seed.as_ref(), seed);
        for part in &rule.key {
            self.add_part(rule, part, std::slice::from_mut(&mut key))?;
        }
        Ok(key.finish())
    }

    /// Key of the window that stands for the request's credential beside the window `key`; `None` if
    /// the rule tells no credentials apart, or servers could read several.
    pub(super) fn credential(&self, rule: &Rule, key: Key, seed: &[u8; 16]) -> Option<Key> {
        if rule.pushback_key.is_empty() {
            return None;
        }
        let mut hasher = KeyHasher::new(rule.shared_seed.as_ref(), seed);
        hasher.add(Some(b"credential"));
        hasher.add(Some(&key.0.to_le_bytes()));
        for part in &rule.pushback_key {
            self.add_part(rule, part, std::slice::from_mut(&mut hasher)).ok()?;
        }
        Some(hasher.finish())
    }

    /// Adds a part that has one reading to each of the keys.
    fn add_part(&self, rule: &Rule, part: &KeyPart, keys: &mut [KeyHasher]) -> Result<(), Refusal> {
        match part {
            KeyPart::Host => add_to_each(keys, Some(self.target.origin.host.as_bytes())),
            KeyPart::Caller => keys.iter_mut().for_each(|key| key.add_caller(self.admitted)),
            KeyPart::Header(name) => add_to_each(keys, self.field(rule, name)?.as_deref()),
            KeyPart::Method => add_to_each(keys, Some(self.head.method().as_bytes())),
            // The callers of this function add these parts, which have several readings.
            KeyPart::Path(_) | KeyPart::Query(_) => {}
        }
        Ok(())
    }

    /// Segments that are part of the key, once for each way to read them.
    fn segments(&self, rule: &Rule) -> SmallVec<[Segments<'_>; 1]> {
        let mut ways = SmallVec::new();
        let readings = self.path(rule).into_iter().flat_map(|path| path.readings()).map(Some);
        for reading in readings {
            let segments = segments_of(rule, reading);
            if !ways.contains(&segments) {
                ways.push(segments);
            }
        }
        if ways.is_empty() {
            ways.push(segments_of(rule, None));
        }
        ways
    }

    /// Keys under one reading of the path.
    fn keys_with(
        &self,
        rule: &Rule,
        seed: &[u8; 16],
        segments: &[Option<&str>],
        parameters: &[query::Values<'_>],
    ) -> Result<impl Iterator<Item = Key> + use<>, Refusal> {
        let mut keys: SmallVec<[KeyHasher; 1]> = smallvec![KeyHasher::new(rule.shared_seed.as_ref(), seed)];
        let (mut segments, mut parameters) = (segments.iter(), parameters.iter());
        for part in &rule.key {
            match part {
                KeyPart::Path(_) => add_to_each(&mut keys, segments.next().copied().flatten().map(str::as_bytes)),
                KeyPart::Query(_) => {
                    let before = std::mem::take(&mut keys);
                    for value in parameters.next().into_iter().flatten() {
                        keys.extend(before.iter().map(|key| key.with(value.as_deref())));
                    }
                    if keys.len() > MAX_KEYS {
                        return Err(rule.too_many_keys());
                    }
                }
                KeyPart::Host | KeyPart::Caller | KeyPart::Header(_) | KeyPart::Method => {
                    self.add_part(rule, part, &mut keys)?;
                }
            }
        }
        Ok(keys.into_iter().map(|key| key.finish()))
    }

    /// Only value of a field that the rule counts by.
    fn field(&self, rule: &Rule, name: &str) -> Result<Option<Cow<'_, [u8]>>, Refusal> {
        key_field::value(self.head, name).map_err(|why| rule.ambiguous(why))
    }

    /// Number of slots that the request takes.
    fn cost(&self, rule: &Rule) -> Result<u32, Refusal> {
        let name = match &rule.cost {
            Cost::Fixed(cost) => return Ok(*cost),
            Cost::Header(name) => name,
        };
        let Some(value) = self.field(rule, name)? else { return Ok(1) };
        rule.stated_cost(&value).inspect_err(|_| {
            tracing::debug!(limit = &*rule.name, peer = %self.peer, "a request states an invalid cost");
        })
    }
}

fn add_to_each(keys: &mut [KeyHasher], value: Option<&[u8]>) {
    keys.iter_mut().for_each(|key| key.add(value));
}

/// Segments of a reading that are part of the key; a tunnel has none.
fn segments_of<'r>(rule: &Rule, reading: Option<&'r str>) -> Segments<'r> {
    let index = |part: &KeyPart| if let KeyPart::Path(index) = part { Some(*index) } else { None };
    rule.key.iter().filter_map(index).map(|index| segment(reading?, index)).collect()
}

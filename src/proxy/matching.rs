//! Request matching: whether a rule counts a request, under which key, at what cost.

use std::net::IpAddr;

use super::access::Admitted;
use super::key::{KeyHasher, KeyPart};
use super::path::{Path, segment};
use super::query::parameter;
use super::refusal::Refusal;
use super::rule::{Cost, Rule};
use super::target::Target;
use crate::locker::Key;
use crate::wire::RequestHead;

/// A request as rules see it.
pub(super) struct Request<'a> {
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

    pub(super) fn matches(&mut self, rule: &Rule) -> Result<bool, Refusal> {
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

    pub(super) fn key(&mut self, rule: &Rule, seed: &[u8; 16]) -> Result<Key, Refusal> {
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

    pub(super) fn cost(&self, rule: &Rule) -> Result<u32, Refusal> {
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

//! Rule lookup: finds the claims of a request, which are the windows that must grant it, with their
//! keys and costs.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::access::Admitted;
use super::key::{KeyHasher, KeyPart};
use super::matching::Request;
use super::metrics::LimitMetrics;
use super::refusal::Refusal;
pub use super::rule::{Cost, Pushback, Rule};
use super::target::Target;
use crate::gate::Revision;
use crate::locker::{Claim, Key, LimitId};
use crate::wire::RequestHead;

/// Claims of one request.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// Claims in the order of the rules: the broadest limit (the one with the fewest key parts)
    /// first; all keys of a limit in a row.
    pub claims: SmallVec<[Claim; 2]>,
    /// Largest `retry` of the limits that match.
    pub retry: u8,
    /// Revision of the rules that they were found by.
    pub revision: Revision,
}

impl Claims {
    /// Limits that the request counts in, each once.
    pub(super) fn limits(&self) -> impl Iterator<Item = LimitId> {
        self.claims.chunk_by(|one, next| one.limit == next.limit).map(|of_one| of_one[0].limit)
    }
}

/// All rules of a configuration, in the order of lookup.
#[derive(Debug)]
pub struct Rules {
    /// The broadest first, then as in the file.
    rules: Vec<(LimitId, Rule)>,
    /// Metrics of each rule's limit, in the same order.
    metrics: Vec<Arc<LimitMetrics>>,
    /// Index in `rules` of each limit, by `LimitId`; `None` for a limit without a rule here.
    places: Vec<Option<usize>>,
    /// Revision of the gate's limits that these rules belong to.
    revision: Revision,
    /// Seed of the key hash.
    seed: [u8; 16],
}

impl Rules {
    /// `rules`: in the order of the file; `limits`: the limit of each. `revision`: number by which
    /// the gate knows this set of limits. `seed`: seed of the key hash. `counters`: metrics of the
    /// process, in which limits are found by name.
    pub fn new(
        rules: Vec<Rule>,
        limits: &[LimitId],
        revision: Revision,
        seed: [u8; 16],
        counters: impl Fn(&Arc<str>) -> Arc<LimitMetrics>,
    ) -> Rules {
        let mut rules: Vec<_> = limits.iter().copied().zip(rules).collect();
        rules.sort_by_key(|(_, rule)| rule.key.len());
        let mut places = vec![None; limits.iter().map(|id| id.0 as usize + 1).max().unwrap_or(0)];
        for (place, (id, _)) in rules.iter().enumerate() {
            places[id.0 as usize] = Some(place);
        }
        let metrics = rules.iter().map(|(_, rule)| counters(&rule.name)).collect();
        Rules { rules, metrics, places, revision, seed }
    }

    /// Finds the claims of a request.
    ///
    /// # Errors
    /// 400 if it states a cost that is not a whole number from 1 to the limit's N, if a field that
    /// a limit counts by has several values, or if its path or its parameters have too many.
    pub fn find(
        &self,
        target: &Target,
        head: &RequestHead,
        admitted: &Admitted,
        peer: IpAddr,
    ) -> Result<Claims, Refusal> {
        let whole_path = target.path(head);
        let mut request = Request::new(target, head, admitted, peer, &whole_path);
        let mut found = Claims { revision: self.revision, ..Claims::default() };
        for (id, rule) in &self.rules {
            let counted = match request.match_rule(rule, &self.seed) {
                Ok(Some(counted)) => counted,
                Ok(None) => continue,
                Err(refusal) if rule.dry_run => {
                    tracing::debug!(limit = &*rule.name, %peer, reason = refusal.note(), "a limit in dry_run cannot count a request");
                    continue;
                }
                Err(refusal) => return Err(refusal),
            };
            found.claims.extend(counted.keys.into_iter().map(|key| Claim { limit: *id, key, cost: counted.cost }));
            found.retry = found.retry.max(rule.retry);
        }
        Ok(found)
    }

    /// Window that stands for a request's credential beside the window of a claim, see
    /// [`PauseLog`](super::pushback::pause_log::PauseLog).
    pub(super) fn credential(
        &self,
        claim: &Claim,
        target: &Target,
        head: &RequestHead,
        admitted: &Admitted,
        peer: IpAddr,
    ) -> Option<Key> {
        // No part of such a key depends on the path.
        Request::new(target, head, admitted, peer, "").credential(self.rule(claim.limit), claim.key, &self.seed)
    }

    /// Name of a limit that names the host but has no window among the claims.
    pub(super) fn uncounted_limit(&self, host: &str, port: u16, claims: &Claims) -> Option<&str> {
        let is_claimed = |id| claims.claims.iter().any(|claim| claim.limit == id);
        let mut passed = self.rules.iter().filter(|(id, rule)| rule.names(host, port) && !is_claimed(*id));
        passed.next().map(|(_, rule)| &*rule.name)
    }

    /// Rule of a limit.
    ///
    /// # Panics
    /// If the limit has no rule; limits found by [`Rules::find`] have one.
    pub fn rule(&self, limit: LimitId) -> &Rule {
        &self.rules[self.place(limit)].1
    }

    /// Claims of a caller that names the limit. `values`: one for each part of its key but the
    /// caller; `cost`: number of slots, `None` for the limit's own.
    ///
    /// # Errors
    /// 404 if there is no such limit; 400 if the values do not fit the parts of its key, or the
    /// cost is not a whole number from 1 to N.
    pub(super) fn claim(
        &self,
        name: &str,
        values: &[Cow<'_, [u8]>],
        cost: Option<&[u8]>,
        admitted: &Admitted,
    ) -> Result<Claims, Refusal> {
        let found = self.rules.iter().find(|(_, rule)| *rule.name == *name);
        let (limit, rule) = found.ok_or(Refusal::NoLimit)?;
        let mut values = values.iter();
        let mut key = KeyHasher::new(rule.shared_seed.as_ref(), &self.seed);
        for part in &rule.key {
            match part {
                KeyPart::Caller => key.add_caller(admitted),
                KeyPart::Host | KeyPart::Path(_) | KeyPart::Header(_) | KeyPart::Query(_) | KeyPart::Method => {
                    let value = values.next().ok_or(Refusal::BadKey)?;
                    key.add(Some(&rule.spell(part, value)?));
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
        Ok(Claims { claims, retry: 0, revision: self.revision })
    }

    /// Metrics of the limits in these claims.
    pub(super) fn metrics(&self, claims: &Claims) -> impl Iterator<Item = &LimitMetrics> {
        claims.limits().map(|limit| &*self.metrics[self.place(limit)])
    }

    /// Metrics of a limit.
    ///
    /// # Panics
    /// If the limit has no rule, as [`Rules::rule`].
    pub(super) fn metrics_of(&self, limit: LimitId) -> &LimitMetrics {
        &self.metrics[self.place(limit)]
    }

    /// Index of a limit's rule.
    fn place(&self, limit: LimitId) -> usize {
        let place = self.places.get(limit.0 as usize).copied().flatten();
        place.expect("a claim is of a limit that has a rule here")
    }
}

#[cfg(test)]
mod tests;

//! Proxy passwords (RFC 7617): looked at once, remembered when right, slowed down when wrong.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use ipnet::IpNet;
use smallvec::SmallVec;
use tokio::sync::Semaphore;

use super::refusal::Refusal;
use crate::gate::clock::Clock;
use crate::net::prefix::Ipv6Prefix;
use crate::time::Time;

/// How many wrong passwords an address may send within [`SPAN`], and as many more as are looked at in one moment.
/// More than a person mistypes, too few to guess one.
const MAX_WRONG: usize = 5;

/// For how long a wrong password is held against its address.
const SPAN: Duration = Duration::from_secs(60);

/// How many addresses are watched. When as many send wrong passwords, one of them begins anew.
const MAX_PLACES: usize = 4096;

/// How many passwords are looked at in one moment, at most. bcrypt is slow on purpose: a tenth of a second and more of
/// a processor.
const MAX_LOOKING: usize = 4;

/// How many passwords may wait to be looked at. Each wait holds a caller's connection.
const MAX_WAITING: usize = 1024;

/// The longest credentials that are looked at, in bytes.
const MAX_CREDENTIALS: usize = 1024;

/// The bytes of a password that bcrypt looks at.
const BCRYPT_KEY: usize = 72;

/// Padding or not: what a caller means is clear either way.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Knows credentials again without keeping them: 128 bits of a hash whose seeds nobody knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Print(u64, u64);

/// The users, and what has been learnt of who sends what.
#[derive(Debug)]
pub struct Passwords {
    /// By name.
    users: HashMap<Arc<str>, Arc<str>>,
    /// What a password of an unknown user is compared with, so that it takes as long as a wrong one.
    decoy: Option<Arc<str>>,
    ipv6_prefix: Ipv6Prefix,
    seeds: [RandomState; 2],
    learnt: Arc<Learnt>,
    looking: Arc<Semaphore>,
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct Learnt {
    /// By the user's name: there are no more of them than users.
    right: RwLock<HashMap<Arc<str>, Print>>,
    wrong: Mutex<Wrong>,
}

impl Passwords {
    /// `users`: names and bcrypt hashes; of equal names the first counts. `ipv6_prefix`: which IPv6 addresses are one
    /// guesser; as many as one holder has at least ([`Ipv6Prefix::default`]) always are.
    pub fn new(users: Vec<(String, String)>, ipv6_prefix: Ipv6Prefix) -> Passwords {
        let cost = |hash: &str| hash.split('$').nth(2).and_then(|cost| cost.parse::<u32>().ok());
        let decoy = users.iter().map(|(_, hash)| hash.as_str()).max_by_key(|hash| cost(hash)).map(Arc::from);
        let mut by_name = HashMap::new();
        for (name, hash) in users {
            by_name.entry(Arc::from(name)).or_insert_with(|| Arc::from(hash));
        }
        // Half of the processors stay with those who have been let in.
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Passwords {
            users: by_name,
            decoy,
            ipv6_prefix: Ipv6Prefix(ipv6_prefix.0.min(Ipv6Prefix::default().0)),
            seeds: [RandomState::new(), RandomState::new()],
            learnt: Arc::default(),
            looking: Arc::new(Semaphore::new(processors.div_ceil(2).min(MAX_LOOKING))),
            waiting: AtomicUsize::new(0),
        }
    }

    /// The user whose credentials these are: the value of a Proxy-Authorization or Authorization field.
    ///
    /// # Errors
    /// 407 if they are nobody's; 429 after too many wrong ones from this address; 503 if too many wait to be looked at.
    ///
    /// # Cancel safety
    /// What is being looked at is looked at to the end, and remembered.
    pub async fn check(&self, peer: IpAddr, field: &[u8], clock: Clock) -> Result<Arc<str>, Refusal> {
        let (name, password) = decode(field).ok_or(Refusal::Unauthorized)?;
        // Of what was decoded: other spellings of the same credentials are not looked at again.
        let meant = (&name, bcrypt_key(&password));
        let print = Print(self.seeds[0].hash_one(meant), self.seeds[1].hash_one(meant));
        if let Some(user) = self.learnt.user(&name, print) {
            return Ok(user);
        }
        let place = self.ipv6_prefix.block(peer);
        self.learnt.wrong().may_try(place, print, clock.now())?;
        let permit = {
            let _waiting = Waiting::begin(&self.waiting).ok_or(Refusal::Exhausted)?;
            Arc::clone(&self.looking).acquire_owned().await.map_err(|_| Refusal::Exhausted)?
        };
        // A fleet that starts sends the same credentials a thousand times; the first answer is everybody's.
        if let Some(user) = self.learnt.user(&name, print) {
            return Ok(user);
        }
        self.learnt.wrong().may_try(place, print, clock.now())?;
        let known = std::str::from_utf8(&name).ok().and_then(|name| self.users.get_key_value(name));
        let user = known.map(|(name, _)| Arc::clone(name));
        let hash = known.map(|(_, hash)| hash).or(self.decoy.as_ref()).map(Arc::clone).ok_or(Refusal::Unauthorized)?;
        let learnt = Arc::clone(&self.learnt);
        let looked_at = tokio::task::spawn_blocking(move || {
            let is_right = bcrypt::verify(&password, &hash).unwrap_or(false);
            let user = user.filter(|_| is_right);
            learnt.learn(place, print, user.as_ref(), clock.now());
            // Held until here, so that the bound holds even if the caller has left.
            drop(permit);
            user
        });
        looked_at.await.ok().flatten().ok_or(Refusal::Unauthorized)
    }
}

impl Learnt {
    fn user(&self, name: &[u8], print: Print) -> Option<Arc<str>> {
        let name = std::str::from_utf8(name).ok()?;
        let right = self.right.read().unwrap_or_else(PoisonError::into_inner);
        right.get_key_value(name).filter(|(_, right)| **right == print).map(|(user, _)| Arc::clone(user))
    }

    fn wrong(&self) -> MutexGuard<'_, Wrong> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, place: IpNet, print: Print, user: Option<&Arc<str>>, now: Time) {
        let Some(user) = user else { return self.wrong().add(place, print, now) };
        self.right.write().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(user), print);
    }
}

/// One of those who wait to be looked at.
struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn begin(count: &AtomicUsize) -> Option<Waiting<'_>> {
        let place = Waiting(count);
        (count.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Name and password of `Basic` credentials; the name ends at the first colon.
fn decode(field: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let space = field.iter().position(u8::is_ascii_whitespace).filter(|_| field.len() <= MAX_CREDENTIALS)?;
    let (scheme, encoded) = field.split_at(space);
    if !scheme.eq_ignore_ascii_case(b"Basic") {
        return None;
    }
    let mut name = BASE64.decode(encoded.trim_ascii()).ok()?;
    let colon = name.iter().position(|byte| *byte == b':')?;
    let password = name.split_off(colon + 1);
    name.truncate(colon);
    Some((name, password))
}

/// A password as bcrypt reads it: with a NUL behind it, again and again, up to 72 bytes. Passwords that agree in these are
/// one password.
fn bcrypt_key(password: &[u8]) -> [u8; BCRYPT_KEY] {
    let mut bytes = password.iter().chain(&[0]).cycle();
    std::array::from_fn(|_| bytes.next().copied().unwrap_or(0))
}

/// The wrong passwords of late.
#[derive(Debug, Default)]
struct Wrong {
    /// By the address, or the block of IPv6 addresses, that they came from.
    by_place: HashMap<IpNet, SmallVec<[(Print, Time); MAX_WRONG]>>,
}

impl Wrong {
    /// Whether a look at these credentials is worth it. The same wrong ones again are no new guess: a program that is
    /// set up wrongly does not keep the others at its address from getting in.
    fn may_try(&mut self, place: IpNet, print: Print, now: Time) -> Result<(), Refusal> {
        let Some(tries) = self.by_place.get_mut(&place) else { return Ok(()) };
        tries.retain(|(_, at)| now.since(*at) < SPAN);
        if tries.iter().any(|(wrong, _)| *wrong == print) {
            return Err(Refusal::Unauthorized);
        }
        // The next try is due when fewer than MAX_WRONG are left.
        match tries.len().checked_sub(MAX_WRONG).and_then(|index| tries.get(index)) {
            Some((_, at)) => Err(Refusal::TooManyTries { retry_after: (*at + SPAN).since(now) }),
            None => Ok(()),
        }
    }

    fn add(&mut self, place: IpNet, print: Print, now: Time) {
        if self.by_place.len() >= MAX_PLACES {
            self.by_place.retain(|_, tries| tries.last().is_some_and(|(_, at)| now.since(*at) < SPAN));
        }
        if self.by_place.len() >= MAX_PLACES
            && let Some(any) = self.by_place.keys().next().copied()
        {
            self.by_place.remove(&any);
        }
        let tries = self.by_place.entry(place).or_default();
        if tries.iter().all(|(wrong, _)| *wrong != print) {
            tries.push((print, now));
        }
    }
}

#[cfg(test)]
mod tests;

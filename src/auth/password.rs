//! Password verification (RFC 7617, bcrypt): a cache of right credentials, and a rate limit on
//! wrong ones.
//!
//! Order of one check, cheapest step first:
//!
//! 1. decoding of the field: at most 1024 bytes, scheme `Basic`;
//! 2. look-up in the cache of right credentials;
//! 3. rate limit on wrong passwords of the address;
//! 4. wait for one of the few slots in which bcrypt runs, and steps 2 and 3 once more;
//! 5. bcrypt on a blocking thread, and an entry in the cache or in the failures.
//!
//! Bounds: one cache entry per user, 4096 addresses with failures, 1024 waiting passwords. Plain
//! passwords are dropped after their verification; the cache holds hashes only.

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

use super::charset::to_utf8;
use crate::net::prefix::Ipv6Prefix;
use crate::time::Time;

/// Number of wrong passwords that an address may send within [`FAILURE_SPAN`]; those verified at
/// the same moment come on top. More than a person mistypes, too few to guess one.
const MAX_FAILURES: usize = 5;

/// Time for which a wrong password counts against its address.
const FAILURE_SPAN: Duration = Duration::from_secs(60);

/// Number of addresses with remembered failures, below a MiB together. When more send wrong
/// passwords, an arbitrary one of them is forgotten.
const MAX_ADDRESSES: usize = 4096;

/// Most passwords verified at one time. bcrypt is slow on purpose: one verification takes a tenth
/// of a second and more of a processor.
const MAX_IN_PROGRESS: usize = 4;

/// Most passwords that may wait for their verification. Each wait holds a caller's connection.
const MAX_WAITING: usize = 1024;

/// Longest credentials that are decoded, in bytes.
///
/// Counts the whole field, scheme and base64 included: `Basic YW5uYTpzZWNyZXQ=` has 22.
const MAX_CREDENTIALS: usize = 1024;

/// Number of bytes of a password that bcrypt reads.
///
/// Two passwords with equal first 72 bytes are one password to bcrypt, and so to the cache.
const BCRYPT_KEY_BYTES: usize = 72;

/// Base64 with or without padding, which means the same.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Hash that recognises credentials without storing them: 128 bits, with random seeds.
///
/// Covers the user name and the bytes that bcrypt reads of the password. A collision would let a
/// wrong password pass, hence 128 bits; the seeds are new for each process, so none can be
/// computed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct CredHash(u64, u64);

/// Reason for which credentials are not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LoginError {
    /// Credentials are missing, malformed or wrong. The proxy answers 407, the admin API and the
    /// lock service 401.
    #[error("wrong or missing credentials")]
    InvalidCredentials,
    /// Too many wrong passwords came from the caller's address.
    #[error("too many wrong passwords from this address")]
    TooManyFailures {
        /// Time until the next password of this address is verified.
        ///
        /// At most 60 seconds: the oldest failure that counts ends then.
        retry_after: Duration,
    },
    /// Too many passwords wait for their verification. Temporary: each verification takes a
    /// fraction of a second. The proxy answers 503.
    #[error("too many passwords wait for verification")]
    Overloaded,
}

/// Users with their bcrypt hashes, and the cache of credentials seen so far.
///
/// `A`: account, which a login returns for its user; by default the name alone.
#[derive(Debug)]
pub struct Passwords<A = Arc<str>> {
    /// Accounts and bcrypt hashes by user name.
    ///
    /// A hash is in modular crypt format: `$2b$12$` and 53 further characters. One that bcrypt
    /// cannot read never matches.
    users: HashMap<Arc<str>, (A, Arc<str>)>,
    /// Hash that the password of an unknown user is compared with, so that the response takes as
    /// long as for a wrong password.
    ///
    /// The one with the highest cost of all users; `None` if there are no users.
    decoy: Option<Arc<str>>,
    /// Length in bits of the IPv6 blocks in which failures count together.
    ipv6_prefix: Ipv6Prefix,
    /// Random seeds of the two halves of a [`CredHash`].
    seeds: [RandomState; 2],
    /// Shared with running verifications, which outlive the caller's request.
    cache: Arc<AuthCache<A>>,
    /// Slots for verifications that run.
    ///
    /// Half of the processors rounded up, and never more than [`MAX_IN_PROGRESS`].
    in_progress: Arc<Semaphore>,
    /// Number of verifications that wait for a slot, at most [`MAX_WAITING`].
    waiting: AtomicUsize,
}

/// Results of earlier verifications.
#[derive(Debug)]
struct AuthCache<A> {
    /// Right credentials by user name, with the user's account; at most one entry per user.
    ///
    /// An entry never expires: a removed user or a new hash comes with a new [`Passwords`].
    right: RwLock<HashMap<Arc<str>, (CredHash, A)>>,
    /// Wrong credentials by address.
    ///
    /// Never locked during a verification.
    failures: Mutex<Failures>,
}

impl Passwords {
    /// Prepares the verification for accounts that are names alone; see [`Passwords::with_accounts`].
    pub fn new(users: Vec<(String, String)>, ipv6_prefix: Ipv6Prefix) -> Passwords {
        Passwords::with_accounts(users, ipv6_prefix, Arc::clone)
    }
}

impl<A: Clone + Send + Sync + 'static> Passwords<A> {
    /// Prepares the verification. `users`: names and bcrypt hashes; of equal names the first
    /// counts. `ipv6_prefix`: length in bits of the IPv6 blocks in which failures count together;
    /// never longer than [`Ipv6Prefix::default`], the smallest block that one holder has.
    /// `account`: makes the account of a name.
    ///
    /// Verifies no hash: a malformed one is found when its user logs in, as a wrong password.
    pub fn with_accounts(
        users: Vec<(String, String)>,
        ipv6_prefix: Ipv6Prefix,
        account: impl Fn(&Arc<str>) -> A,
    ) -> Passwords<A> {
        let cost = |hash: &str| hash.split('$').nth(2).and_then(|cost| cost.parse::<u32>().ok());
        let decoy = users.iter().map(|(_, hash)| hash.as_str()).max_by_key(|hash| cost(hash)).map(Arc::from);
        let mut by_name = HashMap::new();
        for (name, hash) in users {
            let name: Arc<str> = name.into();
            by_name.entry(Arc::clone(&name)).or_insert_with(|| (account(&name), hash.into()));
        }
        // Half of the processors stay free for the traffic of callers that have logged in.
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Passwords {
            users: by_name,
            decoy,
            ipv6_prefix: Ipv6Prefix(ipv6_prefix.0.min(Ipv6Prefix::default().0)),
            seeds: [RandomState::new(), RandomState::new()],
            cache: Arc::new(AuthCache { right: RwLock::default(), failures: Mutex::default() }),
            in_progress: Arc::new(Semaphore::new(processors.div_ceil(2).min(MAX_IN_PROGRESS))),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Returns the account of the user that the credentials belong to. `field`: value of a
    /// Proxy-Authorization or Authorization field. `now`: reads the clock; a verification takes
    /// long enough for the time to change.
    ///
    /// Example: `Basic YW5uYTpzZWNyZXQ=` are the credentials of `anna` with the password `secret`;
    /// the result is the account of `anna`.
    ///
    /// Takes microseconds for credentials that were right before. A new wrong password takes
    /// bcrypt's time for unknown names too, so that the time does not tell them from known ones.
    ///
    /// # Errors
    /// See [`LoginError`].
    ///
    /// # Cancel safety
    /// A verification that has begun runs to its end, and its result is cached.
    pub async fn check(
        &self,
        peer: IpAddr,
        field: &[u8],
        now: impl Fn() -> Time + Send + 'static,
    ) -> Result<A, LoginError> {
        let (name, password) = decode(field).ok_or(LoginError::InvalidCredentials)?;
        self.check_login(peer, name, password, now).await
    }

    /// Account of the user of this name, if there is one.
    pub fn account(&self, name: &str) -> Option<&A> {
        self.users.get(name).map(|(account, _)| account)
    }

    /// Accounts of all users, in no order.
    pub fn accounts(&self) -> impl Iterator<Item = &A> {
        self.users.values().map(|(account, _)| account)
    }

    /// The same as [`Passwords::check`] for a name and a password that are not in a field.
    ///
    /// # Errors
    /// See [`LoginError`].
    ///
    /// # Cancel safety
    /// As [`Passwords::check`].
    pub async fn check_login(
        &self,
        peer: IpAddr,
        name: Vec<u8>,
        password: Vec<u8>,
        now: impl Fn() -> Time + Send + 'static,
    ) -> Result<A, LoginError> {
        // Hash of the decoded credentials: another spelling of the same ones is not verified again.
        let decoded = (&name, bcrypt_key(&password));
        let cred = CredHash(self.seeds[0].hash_one(decoded), self.seeds[1].hash_one(decoded));
        if let Some(user) = self.cache.user(&name, cred) {
            return Ok(user);
        }
        let addr: AddrKey = self.ipv6_prefix.block(peer);
        self.cache.failures().check(addr, cred, now())?;
        let permit = {
            let _waiting = QueuedVerification::begin(&self.waiting).ok_or(LoginError::Overloaded)?;
            Arc::clone(&self.in_progress).acquire_owned().await.map_err(|_| LoginError::Overloaded)?
        };
        // A fleet of callers that starts sends the same credentials a thousand times; the first result is valid for all
        // of them.
        if let Some(user) = self.cache.user(&name, cred) {
            return Ok(user);
        }
        self.cache.failures().check(addr, cred, now())?;
        let known = std::str::from_utf8(&name).ok().and_then(|name| self.users.get_key_value(name));
        let user = known.map(|(name, (account, _))| (Arc::clone(name), account.clone()));
        let hash = known.map(|(_, (_, hash))| hash).or(self.decoy.as_ref()).map(Arc::clone);
        let hash = hash.ok_or(LoginError::InvalidCredentials)?;
        let cache = Arc::clone(&self.cache);
        let verification = tokio::task::spawn_blocking(move || {
            let is_right = bcrypt::verify(&password, &hash).unwrap_or(false);
            let user = user.filter(|_| is_right);
            cache.record(addr, cred, user.as_ref(), now());
            // Held until here, so that the bound holds even after the caller has hung up.
            drop(permit);
            user.map(|(_, account)| account)
        });
        verification.await.ok().flatten().ok_or(LoginError::InvalidCredentials)
    }
}

impl<A: Clone> AuthCache<A> {
    /// Account of the user with these credentials, if they were verified before.
    fn user(&self, name: &[u8], cred: CredHash) -> Option<A> {
        let name = std::str::from_utf8(name).ok()?;
        let right = self.right.read().unwrap_or_else(PoisonError::into_inner);
        right.get(name).filter(|(right, _)| *right == cred).map(|(_, account)| account.clone())
    }

    /// Locks the failures. A panic elsewhere leaves them usable: each change is one call.
    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores the result of a verification; `user`: name and account, `None` if the credentials were wrong.
    ///
    /// Right credentials replace those that the user had in the cache; they do not clear the
    /// failures of the address.
    fn record(&self, addr: AddrKey, cred: CredHash, user: Option<&(Arc<str>, A)>, now: Time) {
        let Some((name, account)) = user else { return self.failures().add(addr, cred, now) };
        let mut right = self.right.write().unwrap_or_else(PoisonError::into_inner);
        right.insert(Arc::clone(name), (cred, account.clone()));
    }
}

/// Counts one password that waits for its verification.
///
/// Counts from the call of `begin` until the slot was acquired, or the caller has hung up.
struct QueuedVerification<'a>(&'a AtomicUsize);

impl QueuedVerification<'_> {
    /// Returns `None` if [`MAX_WAITING`] wait already.
    ///
    /// The guard is made before the check, so that a refused password is taken off the count too.
    fn begin(count: &AtomicUsize) -> Option<QueuedVerification<'_>> {
        let guard = QueuedVerification(count);
        (count.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(guard)
    }
}

impl Drop for QueuedVerification<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Decodes `Basic` credentials into name and password; the name ends at the first colon (RFC 7617
/// §2).
///
/// A password may hold colons, and may be empty. Both parts are in UTF-8, also if the program sent
/// them in ISO-8859-1.
fn decode(field: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let space = field.iter().position(u8::is_ascii_whitespace).filter(|_| field.len() <= MAX_CREDENTIALS)?;
    let (scheme, encoded) = field.split_at(space);
    if !scheme.eq_ignore_ascii_case(b"Basic") {
        return None;
    }
    let mut name = to_utf8(&BASE64.decode(encoded.trim_ascii()).ok()?).into_owned();
    let colon = name.iter().position(|byte| *byte == b':')?;
    let password = name.split_off(colon + 1);
    name.truncate(colon);
    Some((name, password))
}

/// Password as bcrypt reads it: with a NUL behind it, repeated up to 72 bytes. Passwords that agree
/// in these are equal.
///
/// Example: `ab` becomes `ab\0ab\0ab\0…`, as does the password `ab\0ab`.
fn bcrypt_key(password: &[u8]) -> [u8; BCRYPT_KEY_BYTES] {
    let mut bytes = password.iter().chain(&[0]).cycle();
    std::array::from_fn(|_| bytes.next().copied().unwrap_or(0))
}

/// Address that failures count against: one of IPv4, or a block of IPv6.
type AddrKey = IpNet;

/// Wrong passwords of the last [`FAILURE_SPAN`].
#[derive(Debug, Default)]
struct Failures {
    /// Failures by address, the oldest first.
    ///
    /// At most [`MAX_ADDRESSES`] entries. A list can be longer than [`MAX_FAILURES`] by the
    /// passwords that were verified at one moment; it then moves to the heap.
    by_addr: HashMap<AddrKey, SmallVec<[(CredHash, Time); MAX_FAILURES]>>,
}

impl Failures {
    /// Checks that credentials may be verified. Wrong ones that are repeated are not another
    /// failure: a program with an old password does not lock out the others at its address.
    ///
    /// # Errors
    /// - `InvalidCredentials` if the same credentials were wrong within the last [`FAILURE_SPAN`]:
    ///   bcrypt need not run again.
    /// - `TooManyFailures` if [`MAX_FAILURES`] other ones were.
    fn check(&mut self, addr: AddrKey, cred: CredHash, now: Time) -> Result<(), LoginError> {
        let Some(failures) = self.by_addr.get_mut(&addr) else { return Ok(()) };
        failures.retain(|(_, at)| now.since(*at) < FAILURE_SPAN);
        if failures.iter().any(|(wrong, _)| *wrong == cred) {
            return Err(LoginError::InvalidCredentials);
        }
        // The next attempt is due when fewer than MAX_FAILURES are left.
        match failures.len().checked_sub(MAX_FAILURES).and_then(|index| failures.get(index)) {
            Some((_, at)) => Err(LoginError::TooManyFailures { retry_after: (*at + FAILURE_SPAN).since(now) }),
            None => Ok(()),
        }
    }

    /// Adds a failure, and makes room for its address if necessary. Equal credentials count once.
    fn add(&mut self, addr: AddrKey, cred: CredHash, now: Time) {
        if self.by_addr.len() >= MAX_ADDRESSES {
            self.by_addr.retain(|_, failures| failures.last().is_some_and(|(_, at)| now.since(*at) < FAILURE_SPAN));
        }
        if self.by_addr.len() >= MAX_ADDRESSES
            && let Some(any) = self.by_addr.keys().next().copied()
        {
            self.by_addr.remove(&any);
        }
        let failures = self.by_addr.entry(addr).or_default();
        if failures.iter().all(|(wrong, _)| *wrong != cred) {
            failures.push((cred, now));
        }
    }
}

#[cfg(test)]
mod tests;

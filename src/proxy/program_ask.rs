//! Asks of programs over other protocols than HTTP: a peer with its identity, one ask with its claims, the decision, and
//! its line in the access log.
//!
//! A listener (module `zmq`) reads the asks of its protocol and writes the decisions; everything between is here, and is
//! that of `/acquire`. A peer without a user name takes turns as the connection that it is, since all such peers come
//! from this machine; windows that are counted per caller still count it by its address.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use super::access::Admitted;
use super::access_log::AccessLogEntry;
use super::account::{Account, RequestFigures};
use super::bare_permit::{self, BareAsk};
use super::claims::Claims;
use super::outcome::Failure;
use super::pushback::reset_time::{duration, seconds};
use super::refusal::{Refusal, millis_up};
use super::snapshot::ConfigSnapshot;
use super::wait::count_hang_up;
use super::worker::CurrentSnapshot;
use crate::auth::LoginError;
use crate::gate::Patience;
use crate::locker::Caller;
use crate::net::drain::RequestGuard;
use crate::time::Time;

/// Status in the access log of an ask whose peer has hung up; nginx introduced it.
const PEER_GONE: u16 = 499;

/// An ask, as a program states it. The default asks for one slot of the listener's limit.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ProgramAsk {
    /// Name of the limit; `None`: that of [`AskDefaults`](super::AskDefaults).
    pub limit: Option<String>,
    /// Values for the parts of the limit's key but `caller`, in the order of the file.
    pub keys: Vec<String>,
    /// Number of slots in decimal digits; `None`: the limit's own cost.
    pub cost: Option<String>,
    /// Longest wait; `None`: that of [`AskDefaults`](super::AskDefaults).
    pub wait: Option<Duration>,
    /// Bytes of the message, for the access log.
    pub bytes: u64,
}

/// Decision on an ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AskDecision {
    /// Name of the limit.
    pub limit: String,
    /// Time that the ask has waited.
    pub waited: Duration,
    pub verdict: AskVerdict,
}

/// Verdict on an ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AskVerdict {
    /// The slots are taken, and have settled.
    Go,
    /// There are no slots within the wait.
    Sorry {
        /// Milliseconds until the same ask can be granted, at least 1; `None` if that is unknown.
        retry_after_ms: Option<u64>,
        /// Reason in a word, as in the access log.
        reason: &'static str,
    },
    /// The ask does not fit the configuration; the text says why and what would.
    Invalid(String),
}

/// Parses the longest wait of an ask: seconds such as `0.5`, or a duration such as `500ms`.
pub fn parse_wait(text: &str) -> Option<Duration> {
    seconds(text.as_bytes()).or_else(|| duration(text.as_bytes()))
}

/// A connected program.
pub struct ProgramPeer {
    /// Configuration in force.
    current: Arc<CurrentSnapshot>,
    address: SocketAddr,
    /// Name by which it logged in; empty if it has not.
    user: OnceLock<Arc<str>>,
    /// Word for the protocol in the access log, in place of a method.
    protocol: &'static str,
}

impl ProgramPeer {
    /// A peer that has not logged in. `protocol`: word for the access log.
    pub fn new(current: Arc<CurrentSnapshot>, address: SocketAddr, protocol: &'static str) -> ProgramPeer {
        ProgramPeer { current, address, user: OnceLock::new(), protocol }
    }

    /// Address of the peer's end of the connection.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Verifies the password of a user of `[access] users`, and takes the peer for that user
    /// from here on.
    ///
    /// # Errors
    /// See [`LoginError`]; `InvalidCredentials` also if there are no users.
    ///
    /// # Cancel safety
    /// A verification that has begun runs to its end, and its result is cached.
    pub async fn login(&self, name: Vec<u8>, password: Vec<u8>) -> Result<(), LoginError> {
        let snapshot = self.current.snapshot();
        let clock = snapshot.gate.clock();
        let user = snapshot.access.login(self.address.ip(), name, password, clock).await?;
        // The first login stays.
        self.user.set(Arc::clone(user.name())).ok();
        Ok(())
    }

    /// Decides on an ask, after a wait if necessary, counts it, and writes its line in the access log. The guard keeps
    /// the shutdown waiting until the answer is sent.
    ///
    /// # Cancel safety
    /// Dropping the future takes the ask out of the queue, as a hang-up of its peer, which is counted and logged.
    pub async fn decide(self: Arc<ProgramPeer>, ask: ProgramAsk) -> (AskDecision, RequestGuard) {
        let running = self.current.snapshot().drain.request_guard();
        let mut pending = PendingAsk::new(&self, ask);
        let decided = pending.run().await;
        (pending.finish(decided), running)
    }
}

/// An ask of which the decision is pending.
struct PendingAsk<'p> {
    peer: &'p ProgramPeer,
    ask: ProgramAsk,
    /// Name of the limit under the configuration in force.
    limit: Arc<str>,
    snapshot: Arc<ConfigSnapshot>,
    claims: Claims,
    /// Identity that takes turns.
    caller: Caller,
    /// Account of its user; `None` if no passwords are required.
    account: Option<Arc<Account>>,
    started: Time,
    waited: Duration,
    /// Start of the present wait.
    waits_since: Option<Time>,
}

impl<'p> PendingAsk<'p> {
    /// Counts the ask as received.
    fn new(peer: &'p ProgramPeer, ask: ProgramAsk) -> PendingAsk<'p> {
        let snapshot = peer.current.snapshot();
        snapshot.metrics.received.add_one();
        let started = snapshot.gate.clock().now();
        PendingAsk {
            peer,
            ask,
            limit: "".into(),
            snapshot,
            claims: Claims::default(),
            caller: Caller(0),
            account: None,
            started,
            waited: Duration::ZERO,
            waits_since: None,
        }
    }

    /// Finds the claims, and obtains their permit.
    async fn run(&mut self) -> Result<(), Failure> {
        self.claim()?;
        let wait = self.ask.wait.or(self.snapshot.asks.as_ref().map(|asks| asks.wait)).unwrap_or_default();
        bare_permit::obtain(self, Patience { max_wait: Some(wait), ..Patience::default() }).await
    }

    /// Finds limit, caller and claims under the snapshot.
    ///
    /// # Errors
    /// 403 and 407 for a peer that the configuration in force does not admit any more; those of
    /// [`Rules::claim`](super::claims::Rules::claim).
    fn claim(&mut self) -> Result<(), Refusal> {
        let (access, peer) = (&self.snapshot.access, self.peer);
        let named = self.ask.limit.as_deref().map(Arc::from);
        let default = || self.snapshot.asks.as_ref().map(|asks| Arc::clone(&asks.limit));
        self.limit = named.or_else(default).ok_or(Refusal::NoLimit)?;
        let admitted: Admitted = access.admit_program(peer.address.ip(), peer.user.get().map(|user| &**user))?;
        self.caller = access.turn_of(&admitted, peer.address.port());
        self.account.clone_from(&admitted.user);
        let values: Vec<_> = self.ask.keys.iter().map(|key| Cow::Borrowed(key.as_bytes())).collect();
        let cost = self.ask.cost.as_deref().map(str::as_bytes);
        self.claims = self.snapshot.rules.claim(&self.limit, &values, cost, &admitted)?;
        Ok(())
    }

    /// Turns the end of the ask into a decision, counts it, and logs it.
    fn finish(mut self, decided: Result<(), Failure>) -> AskDecision {
        self.waits_since = None;
        let refusal = match decided {
            Ok(()) => None,
            Err(Failure::Refused(refusal)) => Some(refusal),
            // No request is forwarded, and hang-ups drop the ask: only the shutdown is left.
            Err(Failure::CallerGone | Failure::LeftQueue | Failure::Truncated | Failure::Stalled) => {
                Some(Refusal::Closing { retry_after: Duration::ZERO })
            }
        };
        self.log(refusal.as_ref().map_or(200, Refusal::status), refusal.as_ref());
        let verdict = refusal.map_or(AskVerdict::Go, |refusal| verdict(&refusal));
        AskDecision { limit: self.limit.to_string(), waited: self.waited, verdict }
    }

    /// Counts the ask by its status, and writes its line in the access log.
    fn log(&self, status: u16, refusal: Option<&Refusal>) {
        let refused = refusal.map(|refusal| (refusal.refused_by(), refusal.note()));
        self.snapshot.metrics.ended(status, refused);
        if let Some(account) = &self.account {
            let (bytes_in, refused_by) = (self.ask.bytes, refused.map(|(party, _)| party));
            account.waited(self.waited);
            account.ended(RequestFigures { status, refused_by, bytes_in, bytes_out: 0 });
        }
        if !self.snapshot.log.is_on() {
            return;
        }
        let gone = (status == PEER_GONE).then_some(Cow::Borrowed("hung_up_in_queue"));
        self.snapshot.log.write(AccessLogEntry {
            peer: self.peer.address.ip(),
            user: self.peer.user.get().cloned(),
            method: self.peer.protocol.to_owned(),
            target: self.limit.to_string(),
            limits: self.claims.limits().map(|limit| Arc::clone(&self.snapshot.rules.rule(limit).name)).collect(),
            waited: self.waited,
            status,
            refused_by: refused.map(|(party, _)| party),
            bytes_in: self.ask.bytes,
            bytes_out: 0,
            took: self.snapshot.gate.clock().now().since(self.started),
            dry_run_delay: None,
            note: refusal.map(Refusal::log_note).or(gone),
            timeout: None,
        });
    }
}

/// Verdict of a refusal: `Sorry` where asking again can help, else `Invalid`.
fn verdict(refusal: &Refusal) -> AskVerdict {
    if refusal.status() == 429 || refusal.status() == 503 {
        let retry_after = refusal.retry_after().filter(|_| !matches!(refusal, Refusal::Closing { .. }));
        let retry_after_ms = retry_after.map(|wait| u64::try_from(millis_up(wait)).unwrap_or(u64::MAX));
        return AskVerdict::Sorry { retry_after_ms, reason: refusal.note() };
    }
    AskVerdict::Invalid(refusal.detail().into_owned())
}

impl Drop for PendingAsk<'_> {
    /// Counts and logs an ask that is dropped while it waits: its peer has hung up.
    fn drop(&mut self) {
        let Some(since) = self.waits_since.take() else { return };
        let waited = self.snapshot.gate.clock().now().since(since);
        self.waited += waited;
        count_hang_up(&self.snapshot, &self.claims, self.caller, waited);
        self.log(PEER_GONE, None);
    }
}

impl BareAsk for PendingAsk<'_> {
    fn snapshot(&self) -> &Arc<ConfigSnapshot> {
        &self.snapshot
    }

    fn claims(&self) -> &Claims {
        &self.claims
    }

    fn caller(&self) -> Caller {
        self.caller
    }

    fn arrived(&self) -> Time {
        self.started
    }

    /// Never ready: a hang-up drops the ask.
    fn poll_hang_up(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn begin_wait(&mut self) {
        self.waits_since = Some(self.snapshot.gate.clock().now());
        let peer = self.peer;
        let name = || peer.user.get().map_or_else(|| peer.address.to_string(), |user| user.to_string());
        self.snapshot.metrics.remember_name(self.caller, name);
    }

    fn add_wait(&mut self, asked: Time, now: Time) {
        self.waits_since = None;
        self.waited += now.since(asked);
    }

    fn claim_again(&mut self) -> Result<(), Refusal> {
        self.snapshot = self.peer.current.snapshot();
        self.claim()
    }
}

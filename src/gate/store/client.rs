//! The thread that speaks with the store, and what holds while it cannot.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::runtime::Builder;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsConnector;

use super::clock_jump::{Sample, clock_jump};
use super::fallback::{describe, fallback_mode};
use super::last_contact::LastContact;
use super::mismatch_log::MismatchLog;
use super::script_call::{self, ClientId, Command, ScriptReply};
use super::store_conn::StoreConn;
use super::{Error, Health, Settings, Status, WhenLost};
use crate::gate::Gate;
use crate::gate::clock::Clock;
use crate::locker::{LimitId, SharingMode, SyncRequest};
use crate::time::Time;

/// How often the store is told that this gateway is there, if nothing else is told.
const HEARTBEAT: Duration = Duration::from_millis(150);
/// How long an answer may take. With a beat it is how soon a loss is noticed: in less than half a second.
const CALL_TIMEOUT: Duration = Duration::from_millis(250);
/// How soon it is tried again to reach it.
const RETRY: Duration = Duration::from_millis(100);
/// How soon it is looked whether a limit is shared by now.
const IDLE: Duration = Duration::from_secs(1);
/// The thread that speaks with the store.
pub struct Store {
    status: Arc<Status>,
    over: watch::Sender<bool>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    first: Mutex<Receiver<()>>,
}

/// Starts to speak with the store. `under_way`: how long a request may take from its permit to its settle at most; `None`: any
/// time.
///
/// # Errors
/// If the system gives no thread, no poll or no random numbers.
pub fn start(
    gate: &Arc<Gate>,
    settings: Settings,
    tls: Option<TlsConnector>,
    under_way: Option<Duration>,
) -> io::Result<Arc<Store>> {
    let mut process = [0; 8];
    let random = SystemRandom::new().fill(&mut process);
    random.map_err(|_| io::Error::other("the system has no random numbers"))?;
    let (over, is_over) = watch::channel(false);
    let (tried, first) = sync_channel(1);
    let mut client = Client::new(gate, settings, under_way, is_over, tried);
    client.process = process.iter().map(|byte| format!("{byte:02x}")).collect();
    client.tls = tls;
    let (status, signal) = (Arc::clone(&client.status), Arc::clone(&client.signal));
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let thread = thread::Builder::new().name("store".to_owned()).spawn(move || runtime.block_on(client.run()))?;
    let store = Arc::new(Store { status, over, thread: Mutex::new(Some(thread)), first: Mutex::new(first) });
    gate.attach_store(&store, signal);
    Ok(store)
}

impl Store {
    /// How it stands with the store.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// Waits until it was tried to reach the store, or for so long. Blocks the thread.
    pub fn wait_for_first_try(&self, within: Duration) {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        // Whether it has ended or the time is over makes no difference.
        first.recv_timeout(within).ok();
    }

    /// Tells the store all that is left to be told. Blocks the thread.
    pub(in crate::gate) fn stop(&self) {
        self.over.send_replace(true);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that speaks with the store has panicked");
        }
    }
}

struct Client {
    gate: Weak<Gate>,
    clock: Clock,
    settings: Settings,
    tls: Option<TlsConnector>,
    status: Arc<Status>,
    signal: Arc<Notify>,
    over: watch::Receiver<bool>,
    tried: SyncSender<()>,
    process: String,
    epochs: u64,
    under_way: Option<Duration>,
    contact: LastContact,
    /// What was said to the locker while the store cannot be asked.
    modes: HashMap<LimitId, SharingMode>,
    suspect_epoch: Option<i64>,
    sample: Option<Sample>,
    /// What was logged last of why it cannot be asked.
    last_error: Option<String>,
    mismatch_log: MismatchLog,
}

/// Why it is not spoken with the store any more.
enum SessionEnd {
    /// The gateway ends, or another process counts.
    Over,
    Lost(Error),
}

impl From<Error> for SessionEnd {
    fn from(error: Error) -> SessionEnd {
        SessionEnd::Lost(error)
    }
}

impl Client {
    fn new(
        gate: &Arc<Gate>,
        settings: Settings,
        under_way: Option<Duration>,
        over: watch::Receiver<bool>,
        tried: SyncSender<()>,
    ) -> Client {
        Client {
            gate: Arc::downgrade(gate),
            clock: gate.clock(),
            settings,
            tls: None,
            status: Arc::new(Status::new()),
            signal: Arc::new(Notify::new()),
            over,
            tried,
            process: String::new(),
            epochs: 0,
            under_way,
            contact: LastContact::default(),
            modes: HashMap::new(),
            suspect_epoch: None,
            sample: None,
            last_error: None,
            mismatch_log: MismatchLog::default(),
        }
    }

    async fn run(mut self) {
        loop {
            let Some(gate) = self.gate.upgrade().filter(|gate| !gate.is_handed_over()) else { return };
            if *self.over.borrow() {
                return;
            }
            let shares = gate.shares();
            drop(gate);
            if !shares {
                self.status.set(Health::Off, None);
                self.pause(IDLE).await;
                continue;
            }
            match self.session().await {
                Err(SessionEnd::Over) => return,
                Err(SessionEnd::Lost(error)) => self.on_session_lost(&error),
                Ok(never) => match never {},
            }
            self.tried.try_send(()).ok();
            self.update_fallbacks();
            self.pause(RETRY).await;
        }
    }

    /// Waits for so long, or until the gateway ends.
    async fn pause(&mut self, time: Duration) {
        // Either is a reason to look again.
        timeout(time, self.over.changed()).await.ok();
    }

    fn gate(&self) -> Result<Arc<Gate>, SessionEnd> {
        self.gate.upgrade().filter(|gate| !gate.is_handed_over()).ok_or(SessionEnd::Over)
    }

    /// Speaks with the store as long as that can be done.
    async fn session(&mut self) -> Result<std::convert::Infallible, SessionEnd> {
        let mut conn = self.connect().await?;
        self.hello(&mut conn).await?;
        self.find(&conn);
        let mut heartbeats = interval(HEARTBEAT);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_heartbeat = tokio::select! {
                biased;
                _ = self.over.changed() => {
                    let sign_off = self.gate()?.sign_off();
                    self.sync(&mut conn, Command::Bye, sign_off).await?;
                    return Err(SessionEnd::Over);
                }
                _ = heartbeats.tick() => true,
                () = self.signal.notified() => false,
            };
            let sync = self.gate()?.take_sync(is_heartbeat);
            if sync.renew_id {
                self.hello(&mut conn).await?;
                continue;
            }
            if is_heartbeat || !sync.windows.is_empty() {
                self.sync(&mut conn, Command::Tell, sync).await?;
            }
        }
    }

    /// Has the store know this gateway by another name.
    async fn hello(&mut self, conn: &mut StoreConn) -> Result<(), SessionEnd> {
        self.epochs += 1;
        self.sync(conn, Command::Hello, SyncRequest::default()).await?;
        self.suspect_epoch = None;
        self.gate()?.open_sharing();
        Ok(())
    }

    /// Connects, and sees to what holds meanwhile.
    async fn connect(&mut self) -> Result<StoreConn, SessionEnd> {
        let (settings, tls) = (self.settings.clone(), self.tls.clone());
        let mut opening = std::pin::pin!(StoreConn::open(&settings, tls.as_ref()));
        loop {
            match timeout(RETRY, &mut opening).await {
                Ok(opened) => return Ok(opened?),
                Err(_elapsed) => self.update_fallbacks(),
            }
            if *self.over.borrow() {
                return Err(SessionEnd::Over);
            }
        }
    }

    async fn sync(&mut self, conn: &mut StoreConn, command: Command, sync: SyncRequest) -> Result<(), SessionEnd> {
        let gate = self.gate()?;
        let limits = gate.limits();
        let (keys, client_id) = (script_call::keys(&self.settings.group, &sync, &limits), self.client_id(conn));
        let began = self.clock.now();
        let write = |cmd: &mut redis::Cmd| script_call::write(cmd, &client_id, command, &sync, &limits, began);
        let answer = conn.call(&keys, self.settings.confirm, CALL_TIMEOUT, write).await;
        let ended = self.clock.now();
        let answer = answer.and_then(|value| script_call::read(&value, &sync));
        match answer.and_then(|answer| self.verify(&conn.id, answer, began, ended)) {
            Ok(answer) => {
                self.contact.answered(command, ended);
                self.status.count_response(u64::try_from(ended.since(began).as_micros()).unwrap_or(u64::MAX));
                self.mismatch_log.report(&answer, &sync, &limits, &self.status, ended);
                if !answer.mismatches.is_empty() {
                    gate.set_reported_spans(&answer.spans(&sync));
                }
                gate.sync_answered(&sync, &answer.taken, began, ended);
                Ok(())
            }
            Err(error) => {
                gate.sync_lost(sync);
                Err(error.into())
            }
        }
    }

    fn client_id(&self, conn: &StoreConn) -> ClientId {
        let shares = match &self.settings.when_lost {
            WhenLost::Share { gateways, name, share_for } => Some((name.clone(), gateways.get(), *share_for)),
            WhenLost::Refuse | WhenLost::Allow => None,
        };
        ClientId {
            id: conn.id.clone(),
            process: self.process.clone(),
            epoch: format!("{}.{}", self.process, self.epochs),
            suspect_epoch: self.suspect_epoch,
            trusts_empty: self.settings.trusts_empty,
            shares,
            clock: None,
        }
    }

    /// Whether the store's clock has gone as ours has since the last answer.
    fn verify(&mut self, id: &str, answer: ScriptReply, began: Time, ended: Time) -> Result<ScriptReply, Error> {
        if self.gate.upgrade().is_some_and(|gate| gate.has_woken()) {
            return Err(Error::Slept);
        }
        let sample = Sample { id: id.to_owned(), now: answer.now, began, ended };
        let before = self.sample.replace(sample.clone()).filter(|before| before.id == id);
        let off = before.map_or(0, |before| clock_jump(&before, &sample));
        if off == 0 {
            return Ok(answer);
        }
        self.suspect_epoch = Some(answer.born);
        self.status.count_clock_step();
        Err(Error::Clock(off / 1000))
    }

    /// The store can be asked.
    fn find(&mut self, conn: &StoreConn) {
        self.modes.clear();
        if self.status.set(Health::Asked, None) {
            tracing::info!(store = conn.address, "the store of shared limits is asked");
        }
        self.last_error = None;
        self.tried.try_send(()).ok();
    }

    /// The store cannot be asked.
    fn on_session_lost(&mut self, error: &Error) {
        let (health, _) = self.status.health();
        if health == Health::Asked || health == Health::Off {
            self.status.count_outage();
            self.close();
            self.status.set(Health::Lost, Some(error.to_string()));
        }
        self.look_for_suspend();
        let last_error = error.to_string();
        if self.last_error.as_ref() != Some(&last_error) {
            let then = match &self.settings.when_lost {
                WhenLost::Refuse => "nobody passes a shared limit until it answers",
                WhenLost::Share { .. } => "as soon as that is safe this gateway goes on with its part of each limit",
                WhenLost::Allow => "shared limits are kept by each gateway for itself, and so exceeded by all together",
            };
            tracing::error!("{last_error}; {then}");
            self.status.set(self.status.health().0, Some(last_error.clone()));
            self.last_error = Some(last_error);
        }
    }

    /// From here on nothing passes a shared limit.
    fn close(&mut self) {
        if let Ok(gate) = self.gate() {
            gate.close_sharing();
        }
        self.modes.clear();
    }

    /// After a suspend what the store had granted is others', and nobody knows whether this gateway still has a part.
    fn look_for_suspend(&mut self) {
        if let Ok(gate) = self.gate()
            && gate.has_woken()
        {
            self.close();
            self.contact.forget();
            self.sample = None;
            gate.note_wake();
        }
    }

    /// Sees to what holds while the store cannot be asked: that changes with time.
    fn update_fallbacks(&mut self) {
        let (health, why) = self.status.health();
        let (Ok(gate), false) = (self.gate(), health == Health::Asked) else { return };
        self.look_for_suspend();
        let now = self.clock.now();
        let limits = gate.limits();
        for id in gate.shared_limits() {
            let Some(limit) = limits.get(id.0 as usize) else { continue };
            let fallback_mode =
                fallback_mode(&self.settings.when_lost, limit, self.contact.last(), self.under_way, now);
            let before = self.modes.insert(id, fallback_mode).unwrap_or(SharingMode::Blocked);
            if before != fallback_mode {
                tracing::warn!(limit = &*limit.name, "{}", describe(fallback_mode));
                gate.set_sharing_mode(id, fallback_mode);
            }
        }
        let any = |of: fn(&SharingMode) -> bool| self.modes.values().any(of);
        let health = if any(|fallback_mode| matches!(fallback_mode, SharingMode::Fraction { .. })) {
            Health::Shared
        } else if any(|fallback_mode| *fallback_mode == SharingMode::Standalone) {
            Health::Alone
        } else {
            Health::Lost
        };
        self.status.set(health, why);
    }
}

#[cfg(test)]
mod tests;

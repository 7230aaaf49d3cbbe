//! Store thread: opens sessions with the store, sends heartbeats and reports, and applies the fallback during outages.

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
use super::fallback::{announce, describe, fallback_mode};
use super::last_contact::LastContact;
use super::mismatch_log::MismatchLog;
use super::script_call::{self, ClientId, Command, ScriptReply};
use super::store_conn::StoreConn;
use super::{Error, Health, Settings, Status, WhenLost};
use crate::gate::Gate;
use crate::gate::clock::Clock;
use crate::locker::{LimitId, SharingMode, SyncRequest, SyncTrigger};
use crate::time::Time;

/// Interval of heartbeats: calls without anything to report. Several fit into [`PRESENCE`](super::PRESENCE), so that a
/// late one does no harm.
const HEARTBEAT: Duration = Duration::from_millis(150);
/// Time limit of a call. Together with a heartbeat it bounds the time until an outage is noticed: less than half a
/// second.
const CALL_TIMEOUT: Duration = Duration::from_millis(250);
/// Interval of connection attempts. A choice: short, as shared limits may be blocked meanwhile.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Interval of checks for shared limits while there are none. A choice: bounds the delay after a reload that adds one.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// Handle of the store thread.
pub struct Store {
    status: Arc<Status>,
    shutdown: watch::Sender<bool>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    /// Receives a message after the first attempt to reach the store.
    first_try: Mutex<Receiver<()>>,
}

/// Starts the store thread and attaches it to the gate. `max_settle_time`: longest time from a permit to its settle;
/// `None`: no bound.
///
/// # Errors
/// The system provides no thread, no poll or no random numbers.
pub fn start(
    gate: &Arc<Gate>,
    settings: Settings,
    tls: Option<TlsConnector>,
    max_settle_time: Option<Duration>,
) -> io::Result<Arc<Store>> {
    let mut process = [0; 8];
    let random = SystemRandom::new().fill(&mut process);
    random.map_err(|_| io::Error::other("the system has no random numbers"))?;
    let (shutdown, is_shutdown) = watch::channel(false);
    let (tried, first_try) = sync_channel(1);
    let mut client = Client::new(gate, settings, max_settle_time, is_shutdown, tried);
    client.process = process.iter().map(|byte| format!("{byte:02x}")).collect();
    client.tls = tls;
    let (status, signal) = (Arc::clone(&client.status), Arc::clone(&client.signal));
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let thread = thread::Builder::new().name("store".to_owned()).spawn(move || runtime.block_on(client.run()))?;
    let store =
        Arc::new(Store { status, shutdown, thread: Mutex::new(Some(thread)), first_try: Mutex::new(first_try) });
    gate.attach_store(&store, signal);
    Ok(store)
}

impl Store {
    /// Status and counters.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// Waits for the end of the first attempt to reach the store, or for `within`. Blocks the thread.
    pub fn wait_for_first_try(&self, within: Duration) {
        let first_try = self.first_try.lock().unwrap_or_else(PoisonError::into_inner);
        // A timeout is no error: the start goes on without the store.
        first_try.recv_timeout(within).ok();
    }

    /// Sends the last reports, signs off and ends the store thread. Blocks the thread.
    pub(in crate::gate) fn stop(&self) {
        self.shutdown.send_replace(true);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store thread has panicked");
        }
    }
}

/// State of the store thread.
struct Client {
    gate: Weak<Gate>,
    clock: Clock,
    settings: Settings,
    tls: Option<TlsConnector>,
    status: Arc<Status>,
    signal: Arc<Notify>,
    /// Becomes true when the gateway shuts down.
    shutdown: watch::Receiver<bool>,
    /// Reports the end of the first attempt to reach the store.
    tried: SyncSender<()>,
    /// Random ID of this process, in hexadecimal digits.
    process: String,
    /// Number of hellos so far: part of the session name.
    sessions: u64,
    /// Longest time from a permit to its settle; `None`: no bound.
    max_settle_time: Option<Duration>,
    contact: LastContact,
    /// Fallback of each limit, as last set in the locker during an outage.
    modes: HashMap<LimitId, SharingMode>,
    /// Start of the store's epoch that is not trusted after a clock jump; sent with the next hello.
    suspect_epoch: Option<i64>,
    /// Last reading of the store's clock.
    sample: Option<Sample>,
    /// Error that was logged last: equal ones in a row are logged once.
    last_error: Option<String>,
    mismatch_log: MismatchLog,
}

/// Reason of a session's end.
enum SessionEnd {
    /// The gateway shuts down, or its counters were handed to another process.
    Shutdown,
    /// The store is unreachable or unusable.
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
        max_settle_time: Option<Duration>,
        shutdown: watch::Receiver<bool>,
        tried: SyncSender<()>,
    ) -> Client {
        Client {
            gate: Arc::downgrade(gate),
            clock: gate.clock(),
            settings,
            tls: None,
            status: Arc::new(Status::new()),
            signal: Arc::new(Notify::new()),
            shutdown,
            tried,
            process: String::new(),
            sessions: 0,
            max_settle_time,
            contact: LastContact::default(),
            modes: HashMap::new(),
            suspect_epoch: None,
            sample: None,
            last_error: None,
            mismatch_log: MismatchLog::default(),
        }
    }

    /// Opens one session after the other until the gateway shuts down.
    async fn run(mut self) {
        loop {
            let Some(gate) = self.gate.upgrade().filter(|gate| !gate.is_handed_over()) else { return };
            if *self.shutdown.borrow() {
                return;
            }
            let shares = gate.shares();
            drop(gate);
            if !shares {
                self.status.set(Health::Off, None);
                self.sleep(IDLE_INTERVAL).await;
                continue;
            }
            match self.run_session().await {
                Err(SessionEnd::Shutdown) => return,
                Err(SessionEnd::Lost(error)) => self.on_session_lost(&error),
                Ok(never) => match never {},
            }
            self.tried.try_send(()).ok();
            self.update_fallbacks();
            self.sleep(RETRY_INTERVAL).await;
        }
    }

    /// Sleeps for `time`, or until the gateway shuts down.
    async fn sleep(&mut self, time: Duration) {
        // The caller checks for a shutdown.
        timeout(time, self.shutdown.changed()).await.ok();
    }

    /// The gate, as long as this process counts.
    fn gate(&self) -> Result<Arc<Gate>, SessionEnd> {
        self.gate.upgrade().filter(|gate| !gate.is_handed_over()).ok_or(SessionEnd::Shutdown)
    }

    /// Connects, says hello and exchanges reports for grants until the session ends.
    async fn run_session(&mut self) -> Result<std::convert::Infallible, SessionEnd> {
        let mut conn = self.connect().await?;
        self.hello(&mut conn).await?;
        self.on_session_open(&conn);
        let mut heartbeats = interval(HEARTBEAT);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let trigger = tokio::select! {
                biased;
                _ = self.shutdown.changed() => {
                    let sign_off = self.gate()?.sign_off();
                    self.sync(&mut conn, Command::Bye, sign_off).await?;
                    return Err(SessionEnd::Shutdown);
                }
                _ = heartbeats.tick() => SyncTrigger::Heartbeat,
                () = self.signal.notified() => SyncTrigger::Due,
            };
            let sync = self.gate()?.take_sync(trigger);
            if sync.renew_id {
                self.hello(&mut conn).await?;
                continue;
            }
            if trigger == SyncTrigger::Heartbeat || !sync.windows.is_empty() {
                self.sync(&mut conn, Command::Sync, sync).await?;
            }
        }
    }

    /// Introduces this gateway to the store under a new session name, and lets the store decide about shared limits.
    async fn hello(&mut self, conn: &mut StoreConn) -> Result<(), SessionEnd> {
        self.sessions += 1;
        self.sync(conn, Command::Hello, SyncRequest::default()).await?;
        self.suspect_epoch = None;
        self.gate()?.open_sharing();
        Ok(())
    }

    /// Connects; updates the fallbacks meanwhile, as these change with time.
    async fn connect(&mut self) -> Result<StoreConn, SessionEnd> {
        let (settings, tls) = (self.settings.clone(), self.tls.clone());
        let mut opening = std::pin::pin!(StoreConn::open(&settings, tls.as_ref()));
        loop {
            match timeout(RETRY_INTERVAL, &mut opening).await {
                Ok(opened) => return Ok(opened?),
                Err(_elapsed) => self.update_fallbacks(),
            }
            if *self.shutdown.borrow() {
                return Err(SessionEnd::Shutdown);
            }
        }
    }

    /// Makes one call and applies its reply, or takes back its content.
    async fn sync(&mut self, conn: &mut StoreConn, command: Command, sync: SyncRequest) -> Result<(), SessionEnd> {
        let gate = self.gate()?;
        let limits = gate.limits();
        let (keys, client_id) = (script_call::keys(&self.settings.group, &sync, &limits), self.client_id(conn));
        let began = self.clock.now();
        let write = |cmd: &mut redis::Cmd| script_call::write(cmd, &client_id, command, &sync, &limits, began);
        let reply = conn.call(&keys, self.settings.confirm, CALL_TIMEOUT, write).await;
        let ended = self.clock.now();
        let reply = reply.and_then(|value| script_call::read(&value, &sync));
        match reply.and_then(|reply| self.verify(&conn.id, reply, began, ended)) {
            Ok(reply) => {
                self.contact.answered(command, ended);
                self.status.count_response(u64::try_from(ended.since(began).as_micros()).unwrap_or(u64::MAX));
                self.mismatch_log.record(&reply, &sync, &limits, &self.status, ended);
                if !reply.mismatches.is_empty() {
                    gate.set_reported_spans(&reply.spans(&sync));
                }
                gate.sync_answered(&sync, &reply.grants, began, ended);
                Ok(())
            }
            Err(error) => {
                gate.sync_lost(sync);
                Err(error.at(&conn.address).into())
            }
        }
    }

    /// Identity and settings of this gateway for a call over `conn`.
    fn client_id(&self, conn: &StoreConn) -> ClientId {
        let shares = match &self.settings.when_lost {
            WhenLost::Share { gateways, name, share_for } => Some((name.clone(), gateways.get(), *share_for)),
            WhenLost::Refuse | WhenLost::Allow => None,
        };
        ClientId {
            id: conn.id.clone(),
            process: self.process.clone(),
            session: format!("{}.{}", self.process, self.sessions),
            suspect_epoch: self.suspect_epoch,
            trusts_empty: self.settings.trusts_empty,
            shares,
            clock: None,
        }
    }

    /// Checks a reply: it is void after a suspend of this machine or a jump of the store's clock.
    fn verify(&mut self, id: &str, reply: ScriptReply, began: Time, ended: Time) -> Result<ScriptReply, Error> {
        if self.gate.upgrade().is_some_and(|gate| gate.has_woken()) {
            return Err(Error::Slept);
        }
        let sample = Sample { id: id.to_owned(), now: reply.now, began, ended };
        let before = self.sample.replace(sample.clone()).filter(|before| before.id == id);
        let jump_micros = before.map_or(0, |before| clock_jump(&before, &sample));
        if jump_micros == 0 {
            return Ok(reply);
        }
        self.suspect_epoch = Some(reply.epoch_start);
        self.status.count_clock_step();
        Err(Error::Clock(jump_micros / 1000))
    }

    /// Reports a new session: the store decides from here on.
    fn on_session_open(&mut self, conn: &StoreConn) {
        self.modes.clear();
        if self.status.set(Health::Up, None) {
            tracing::info!(store = conn.address, "connected to the store of shared limits");
        }
        self.last_error = None;
        self.tried.try_send(()).ok();
    }

    /// Reports the end of a session or of an attempt to open one, and blocks shared limits until the fallback applies.
    fn on_session_lost(&mut self, error: &Error) {
        let (health, _) = self.status.health();
        if health == Health::Up || health == Health::Off {
            self.status.count_outage();
            self.block_shared_limits();
            self.status.set(Health::Down, Some(error.to_string()));
        }
        self.check_for_suspend();
        let last_error = error.to_string();
        if self.last_error.as_ref() != Some(&last_error) {
            tracing::error!("{last_error}; {}", announce(&self.settings.when_lost));
            self.status.set(self.status.health().0, Some(last_error.clone()));
            self.last_error = Some(last_error);
        }
    }

    /// Blocks shared limits: no request passes them.
    fn block_shared_limits(&mut self) {
        if let Ok(gate) = self.gate() {
            gate.close_sharing();
        }
        self.modes.clear();
    }

    /// Drops all grants and the last contact after a suspend of the machine: the store may have given the slots, and
    /// this gateway's fraction, to others.
    fn check_for_suspend(&mut self) {
        if let Ok(gate) = self.gate()
            && gate.has_woken()
        {
            self.block_shared_limits();
            self.contact.forget();
            self.sample = None;
            gate.note_wake();
        }
    }

    /// Sets the fallback of each shared limit for the present time, and the health that follows. Does nothing while the
    /// store is up.
    fn update_fallbacks(&mut self) {
        let (health, why) = self.status.health();
        let (Ok(gate), false) = (self.gate(), health == Health::Up) else { return };
        self.check_for_suspend();
        let now = self.clock.now();
        let limits = gate.limits();
        for id in gate.shared_limits() {
            let Some(limit) = limits.get(id.0 as usize) else { continue };
            let mode = fallback_mode(&self.settings.when_lost, limit, self.contact.last(), self.max_settle_time, now);
            let before = self.modes.insert(id, mode).unwrap_or(SharingMode::Blocked);
            if before != mode {
                tracing::warn!(limit = &*limit.name, "{}", describe(mode));
                gate.set_sharing_mode(id, mode);
            }
        }
        let any = |of: fn(&SharingMode) -> bool| self.modes.values().any(of);
        let health = if any(|mode| matches!(mode, SharingMode::Fraction { .. })) {
            Health::Fraction
        } else if any(|mode| *mode == SharingMode::Standalone) {
            Health::Standalone
        } else {
            Health::Down
        };
        self.status.set(health, why);
    }
}

#[cfg(test)]
mod tests;

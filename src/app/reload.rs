//! The file is read again: all of it is in force afterwards, or nothing has changed.

mod changes;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use self::changes::Others;
use super::crew::Crew;
use super::doors::Doors;
use super::listen_error::ListenError;
use super::{causes, descriptors, systemd};
use crate::config::{self, Settings};
use crate::gate::InLine;
use crate::locker::{Limit, ReloadSummary};
use crate::proxy::claims::Rule;
use crate::proxy::{self, CurrentSnapshot, PreparedSnapshot, Shared};
use crate::{log, proxy::access_log};

/// Reads the file again when it is asked to.
pub(super) struct Reloader {
    path: PathBuf,
    current: Arc<CurrentSnapshot>,
    shared: Shared,
    doors: Doors,
    crew: Rc<Crew>,
    /// What is in force. Two readings never overlap, nor does a hand-over with either. `None`: another process is in force.
    pub(super) in_force: Mutex<Option<Settings>>,
    /// What the file said when it was read or written last.
    pub(super) on_disk: RefCell<Arc<str>>,
}

/// Why the file that was read is not in force; what was before it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read, or says what cannot be.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// One of its addresses cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Its certificates or keys cannot be used.
    #[error(transparent)]
    Proxy(#[from] proxy::Error),
    /// Another process has taken over.
    #[error("another process has taken over, and is to be asked")]
    HandedOver,
    /// A fault of the gateway's.
    #[error("the file could not be looked at: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

impl Reloader {
    pub(super) fn new(
        path: PathBuf,
        current: Arc<CurrentSnapshot>,
        shared: Shared,
        doors: Doors,
        crew: Rc<Crew>,
        in_force: Settings,
    ) -> Reloader {
        let on_disk = RefCell::new(Arc::clone(&in_force.text));
        Reloader { path, current, shared, doors, crew, in_force: Mutex::new(Some(in_force)), on_disk }
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where requests are noted.
    pub(super) fn log(&self) -> access_log::AccessLog {
        self.current.snapshot().log().clone()
    }

    /// Whether the file is to be read when it changes.
    pub(super) async fn watches(&self) -> bool {
        self.in_force.lock().await.as_ref().is_some_and(|settings| settings.watch)
    }

    /// Whether the file says what it said when it was read or written last.
    pub(super) fn is_as_read(&self) -> bool {
        std::fs::read(&self.path).is_ok_and(|text| text == self.on_disk.borrow().as_bytes())
    }

    /// Reads the file again, and logs what came of it.
    pub(super) async fn reload_aloud(self: Rc<Self>) -> Result<Vec<String>, String> {
        systemd::reloading();
        let reloaded = self.reload().await;
        systemd::ready();
        match reloaded {
            Ok(lines) => {
                lines.iter().for_each(|line| tracing::info!("{line}"));
                tracing::info!(file = %self.path.display(), changes = lines.len(), "reloaded");
                Ok(lines)
            }
            Err(error) => {
                let why = causes(&error);
                tracing::error!(file = %self.path.display(), "not reloaded, nothing has changed: {why}");
                Err(why)
            }
        }
    }

    /// The doors, to be closed at the end.
    pub(super) fn doors(&self) -> &Doors {
        &self.doors
    }

    /// How long a stop waits for what is running.
    pub(super) fn drain(&self) -> Duration {
        self.current.snapshot().timeouts().drain
    }

    /// Reads the file again, and says what is other than before, in one line for each limit.
    ///
    /// # Errors
    /// See [`Error`]; nothing has changed then.
    pub(super) async fn reload(&self) -> Result<Vec<String>, Error> {
        let mut place = self.in_force.lock().await;
        let path = self.path.clone();
        // Off the event loop: certificates are read, and the roots of the system.
        let settings = spawn_blocking(move || config::read(&path)).await??;
        let text = Arc::clone(&settings.text);
        let lines = self.put_in_force(&mut place, settings).await?;
        *self.on_disk.borrow_mut() = text;
        Ok(lines)
    }

    /// Puts these settings in the place of those in force, and says what is other than before.
    pub(super) async fn put_in_force(
        &self,
        place: &mut Option<Settings>,
        mut settings: Settings,
    ) -> Result<Vec<String>, Error> {
        let in_force = place.as_ref().ok_or(Error::HandedOver)?;
        settings.keep_overrides(in_force);
        let doors = self.doors.plan(&settings.listen)?;
        let asked = settings.listen.clone();
        settings.bound_to(&doors.bound());
        let parts = self.parts(&settings, in_force).await?;

        // From here on nothing can fail.
        settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        for (section, changed) in [
            ("[state]", settings.gate.state != in_force.gate.state),
            ("[store]", settings.gate.store != in_force.gate.store),
            ("[admin]", settings.admin != in_force.admin),
            ("[locks]", settings.locks != in_force.locks),
        ] {
            if changed {
                tracing::warn!("{section} is as it was: it changes with a restart, or with a new process (SIGUSR2)");
            }
        }
        settings.listen = asked;
        let others = Others::between(in_force, &settings);
        let in_line = in_line(in_force, &settings);
        let under_way = under_way(in_force).max(under_way(&settings));
        let publish = |reload: &ReloadSummary, revision| self.current.replace(parts.with(&reload.ids, revision));
        let reload = self.shared.gate.reload(settings.gate.limits.clone(), under_way, in_line, publish);
        self.doors.change(doors, &self.crew);
        self.shared.connections.update(settings.connections);
        descriptors::check(&self.shared.connections);
        log::set_level(settings.log);
        *place = Some(settings);
        Ok(changes::lines(&self.shared.gate, &reload, others))
    }

    /// Does what puts another process in the place of this one; no file is read meanwhile, nor afterwards if that is so.
    pub(super) async fn retire<T, E>(&self, hand_over: impl AsyncFnOnce(&Doors) -> Result<T, E>) -> Result<T, E> {
        let mut place = self.in_force.lock().await;
        let handed_over = hand_over(&self.doors).await?;
        *place = None;
        Ok(handed_over)
    }

    async fn parts(&self, settings: &Settings, before: &Settings) -> Result<PreparedSnapshot, Error> {
        let (settings, shared, current) = (settings.proxy.clone(), self.shared.clone(), self.current.snapshot());
        let format = (settings.access_log != before.proxy.access_log).then_some(settings.access_log);
        let parts = spawn_blocking(move || {
            let log = match format {
                Some(format) => access_log::AccessLog::new(format, Box::new(std::io::stdout()), shared.gate.clock()),
                None => current.log().clone(),
            };
            PreparedSnapshot::new(settings, shared, log, Some(&current))
        });
        Ok(parts.await??)
    }
}

/// Whether those in line must be asked anew which limits they have to pass.
fn in_line(before: &Settings, after: &Settings) -> InLine {
    let claimed = |rule: &Rule| {
        // A cost that is too high now is the locker's to find.
        let Rule {
            name,
            hosts,
            paths,
            methods,
            key,
            ignore_case,
            cost,
            shared_seed,
            max_cost: _,
            pushback: _,
            retry: _,
            dry_run: _,
        } = rule.clone();
        (name, hosts, paths, methods, key, ignore_case, cost, shared_seed)
    };
    // Keys and turns of callers without a name depend on it.
    let callers = |settings: &Settings| (settings.proxy.access.users.is_none(), settings.proxy.access.ipv6_prefix);
    let same = callers(before) == callers(after)
        && before.proxy.rules.iter().map(claimed).eq(after.proxy.rules.iter().map(claimed));
    if same { InLine::Stay } else { InLine::AskAnew }
}

/// How long a request may take from its permit to its settle at most; `None`: any time, because its content may.
pub(super) fn longest_under_way(settings: &Settings) -> Option<Duration> {
    settings.proxy.timeouts.request.map(|request| request + linger(settings))
}

/// The same, but of a request without content where nothing bounds the others.
pub(super) fn under_way(settings: &Settings) -> Duration {
    let timeouts = &settings.proxy.timeouts;
    longest_under_way(settings).unwrap_or(timeouts.connect + timeouts.answer + linger(settings))
}

fn linger(settings: &Settings) -> Duration {
    settings.gate.limits.iter().map(Limit::linger).max().unwrap_or_default()
}

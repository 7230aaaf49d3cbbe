//! Settings: the checked configuration, in the values from which the modules below are built.
//!
//! `validate` makes them from a file, `app` builds the gateway from them, and a reload compares
//! them with those in force. They change afterwards by [`Settings::set_quiet`] (command line),
//! [`Settings::bound_to`] (ports that the system chose) and [`Settings::keep_overrides`] (reload).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::report::Report;
use crate::net::connection_limit;
use crate::net::listen::{ListenAddress, ListenerKind};
use crate::proxy::access_log::Format;
use crate::proxy::trace::otlp_client::Collector;
use crate::tls::identity::Identity;
use crate::{gate, proxy};

/// The checked configuration. Nothing in it needs a further check.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Text of the file that they were read from.
    ///
    /// A change by the admin API edits this text, and a save writes it to the file.
    pub text: Arc<str>,
    /// Limits, state folder and store.
    ///
    /// The order of the limits is that of the file, and that of `proxy.rules`.
    pub gate: gate::Settings,
    /// Settings of the proxy: routes, access rules, timeouts, TLS.
    pub proxy: proxy::Settings,
    /// Listening addresses for callers, at least one. Port 0 stands for any free port.
    ///
    /// As written until [`Settings::bound_to`] replaces them.
    pub listen: Vec<SocketAddr>,
    /// Listening addresses for redirected connections; none by default.
    ///
    /// As [`Settings::listen`].
    pub transparent: Vec<SocketAddr>,
    /// Number of connections that callers may have.
    ///
    /// In all and for one address; absent bounds follow from the limit of open files.
    pub connections: connection_limit::Settings,
    /// Level of the log; `RUST_LOG` goes before it.
    pub log: LevelFilter,
    /// True if the file is read again when it changes.
    ///
    /// From `[config] watch`; false by default.
    pub watch: bool,
    /// True if the command line asked for quiet: no access log, and warnings alone.
    pub quiet: bool,
    /// Explanation of each limit in a sentence, in the order of the file.
    ///
    /// Shown by `lockgate check` and by the banner of `lockgate run`.
    pub explanations: Vec<String>,
    /// Sentence about hosts of whose https requests only the opaque tunnels are counted.
    ///
    /// Shown by `lockgate check` alone; the log of a running gateway says it at the first such tunnel.
    pub counted_tunnels: Option<String>,
    /// True if a limit may count requests to this machine itself: programs must send those through
    /// the gateway, too.
    ///
    /// `lockgate env` sets no default of `NO_PROXY` then, which would name this machine.
    pub counts_loopback: bool,
    /// The admin API; `None`: it is off.
    pub admin: Option<Admin>,
    /// The lock service; `None`: it is off.
    pub locks: Option<Locks>,
    /// Listening address of the ZeroMQ listener; `None`: it is off. `proxy.asks` has its limit.
    pub zmq: Option<SocketAddr>,
    /// Collector of metrics; `None`: they are not exported.
    pub metrics_export: Option<MetricsExport>,
    /// Bound address of the admin API. A reload does not change it.
    pub admin_bound: Option<SocketAddr>,
    /// Bound address of the lock service. A reload does not change it.
    pub locks_bound: Option<SocketAddr>,
    /// Bound address of the ZeroMQ listener. A reload does not change it.
    pub zmq_bound: Option<SocketAddr>,
    /// Settings that are allowed, but hardly intended.
    ///
    /// Printed at the start, logged by a reload, and shown by the dashboard.
    pub warnings: Vec<Report>,
    /// Warnings about folders that the user of this process cannot use. The gateway may run as
    /// another user.
    ///
    /// Shown by `lockgate check` alone.
    pub unusable: Vec<Report>,
}

/// `[admin]`: the admin API, with metrics and dashboard.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Listening address. Port 0 stands for any free port.
    pub listen: SocketAddr,
    /// User names and bcrypt hashes; `None`, which is allowed on loopback alone: no password is
    /// needed.
    pub users: Option<Vec<(String, String)>>,
    /// Certificate of the listener; `None`: it speaks plain HTTP.
    ///
    /// A reload replaces it, unless `listen` is another, and nothing else of the section.
    pub tls: Option<Identity>,
}

/// Export of metrics, `[trace] metrics`.
#[derive(Clone, PartialEq, Debug)]
pub struct MetricsExport {
    /// Collector that takes them.
    pub collector: Collector,
    /// Time between two exports.
    pub interval: Duration,
}

/// `[locks]`: the lock service.
#[derive(Clone, Debug)]
pub struct Locks {
    /// Listening address.
    pub listen: SocketAddr,
    /// User names and bcrypt hashes of those allowed to see and end the locks of others; `None`:
    /// there are none.
    ///
    /// The bcrypt hashes are those of the file that `[locks] users` names.
    pub users: Option<Vec<(String, String)>>,
    /// Addresses of allowed callers; `None`: all.
    ///
    /// A copy of `[access] allow_from`: the section has no such key of its own.
    pub allow_from: Option<Vec<ipnet::IpNet>>,
    /// State folder, in which the locks outlive a restart.
    pub dir: PathBuf,
    /// Certificate of the listener; as [`Admin::tls`].
    pub tls: Option<Identity>,
}

impl Admin {
    /// Parts that only a restart or an upgrade changes.
    pub fn fixed(&self) -> impl PartialEq + '_ {
        (self.listen, &self.users)
    }
}

impl Locks {
    /// Parts that only a restart or an upgrade changes.
    pub fn fixed(&self) -> impl PartialEq + '_ {
        (self.listen, &self.users, &self.allow_from, &self.dir)
    }
}

impl Settings {
    /// Sets warnings as the lowest level, and turns the access log off, whatever the file says.
    ///
    /// Used by `lockgate exec`, where the terminal belongs to the program. Calling it twice changes
    /// nothing more.
    pub fn set_quiet(&mut self) {
        self.quiet = true;
        self.proxy.access_log = Format::Off;
        self.log = self.log.min(LevelFilter::WARN);
    }

    /// Keeps the overrides of the command line over a reload, and the addresses that cannot change.
    /// `before`: the settings in force.
    pub fn keep_overrides(&mut self, before: &Settings) {
        if before.quiet {
            self.set_quiet();
        }
        (self.admin_bound, self.locks_bound) = (before.admin_bound, before.locks_bound);
        self.zmq_bound = before.zmq_bound;
    }

    /// Keeps what no reload changes. `before`: the settings in force.
    pub fn keep_fixed(&mut self, before: &Settings) {
        self.gate.state.clone_from(&before.gate.state);
        self.gate.store.clone_from(&before.gate.store);
        let tls = self.renewed_admin_tls(before);
        self.admin = before.admin.clone().map(|admin| Admin { tls: tls.unwrap_or(admin.tls), ..admin });
        let tls = self.renewed_locks_tls(before);
        self.locks = before.locks.clone().map(|locks| Locks { tls: tls.unwrap_or(locks.tls), ..locks });
        self.zmq.clone_from(&before.zmq);
    }

    /// `tls` for the admin listener that is open. `None`: these settings do not name it, and it keeps its own, as the
    /// `tls` of another address may be less than this one needs.
    pub fn renewed_admin_tls(&self, before: &Settings) -> Option<Option<Identity>> {
        let (admin, open) = self.admin.as_ref().zip(before.admin.as_ref())?;
        (admin.listen == open.listen).then(|| admin.tls.clone())
    }

    /// As [`Settings::renewed_admin_tls`], for the listener of the lock service.
    pub fn renewed_locks_tls(&self, before: &Settings) -> Option<Option<Identity>> {
        let (locks, open) = self.locks.as_ref().zip(before.locks.as_ref())?;
        (locks.listen == open.listen).then(|| locks.tls.clone())
    }

    /// Addresses to listen on for callers: those of the proxy, and then those for redirected connections.
    pub fn listeners(&self) -> Vec<ListenAddress> {
        let of_kind = |kind| move |address: &SocketAddr| ListenAddress { address: *address, kind };
        let proxy = self.listen.iter().map(of_kind(ListenerKind::Proxy));
        proxy.chain(self.transparent.iter().map(of_kind(ListenerKind::Transparent))).collect()
    }

    /// Replaces the configured listening addresses by the bound ones (port 0 is known only then).
    ///
    /// In the order of [`Settings::listeners`]; or those of the proxy alone. Also tells proxy and dialer the own addresses, so that no request is forwarded in a circle.
    pub fn bound_to(&mut self, addresses: &[SocketAddr]) {
        let proxies = addresses.len().checked_sub(self.transparent.len()).filter(|proxies| *proxies > 0);
        let (proxy, transparent) = addresses.split_at(proxies.unwrap_or(addresses.len()));
        (self.listen, self.transparent) = (proxy.to_vec(), transparent.to_vec());
        self.proxy.own = addresses.to_vec();
        // Callers do not reach these through the gateway: their requests would come from this machine.
        let others = [self.admin_bound, self.locks_bound, self.zmq_bound];
        self.proxy.dial.own = addresses.iter().copied().chain(others.into_iter().flatten()).collect();
    }
}

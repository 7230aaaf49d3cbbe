//! Settings: what `proxy.toml` means, in the values that the modules below are built from.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tracing::level_filters::LevelFilter;

use super::report::Report;
use crate::net::connection_limit;
use crate::proxy::record::Format;
use crate::{gate, proxy};

/// What `proxy.toml` means. Nothing in it needs to be checked again.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The text that they are from.
    pub text: Arc<str>,
    /// What decides and waits.
    pub gate: gate::Settings,
    /// What carries.
    pub proxy: proxy::Settings,
    /// Where callers connect to, at least one address. Port 0 means any free one.
    pub listen: Vec<SocketAddr>,
    /// How many connections callers may have.
    pub connections: connection_limit::Settings,
    /// What is logged, unless `RUST_LOG` says otherwise.
    pub log: LevelFilter,
    /// Whether the file is read again when it changes.
    pub watch: bool,
    /// What the command line has set aside of the file: no access log, and a lower level.
    pub quiet: bool,
    /// What each limit means, in a sentence.
    pub explanations: Vec<String>,
    /// Whether a limit may count requests to this machine itself, so that none may go past us.
    pub counts_loopback: bool,
    /// Where the gateway is watched and tuned; `None`: nowhere.
    pub admin: Option<Admin>,
    /// Where locks are given; `None`: nowhere.
    pub locks: Option<Locks>,
    /// Where the gateway can be watched; it stays there when the file is read again.
    pub admin_bound: Option<SocketAddr>,
    /// Where locks can be had; it stays there when the file is read again.
    pub locks_bound: Option<SocketAddr>,
    /// What is allowed, but hardly meant.
    pub warnings: Vec<Report>,
    /// Folders that the user of this process could not use; the gateway's may be another.
    pub unusable: Vec<Report>,
}

/// Where the gateway is watched and tuned; the `[admin]` of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admin {
    /// An address of its own.
    pub listen: SocketAddr,
    /// Names and bcrypt hashes of those who may; `None`, which is for loopback alone: whoever comes.
    pub users: Option<Vec<(String, String)>>,
}

/// Where locks are given; the `[locks]` of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Locks {
    /// An address of its own.
    pub listen: SocketAddr,
    /// Names and bcrypt hashes of those who may see and end other people's locks; `None`: nobody.
    pub users: Option<Vec<(String, String)>>,
    /// Who may come; `None`: everybody.
    pub allow_from: Option<Vec<ipnet::IpNet>>,
    /// The folder that holds what must outlive a restart.
    pub dir: PathBuf,
}

impl Settings {
    /// Logs warnings and nothing else, whatever the file says.
    pub fn set_quiet(&mut self) {
        self.quiet = true;
        self.proxy.access_log = Format::Off;
        self.log = self.log.min(LevelFilter::WARN);
    }

    /// What was set aside of the reading before is set aside of this one too, and what cannot change is as it was.
    pub fn keep_overrides(&mut self, before: &Settings) {
        if before.quiet {
            self.set_quiet();
        }
        (self.admin_bound, self.locks_bound) = (before.admin_bound, before.locks_bound);
    }

    /// Puts the addresses that were really bound in the place of those asked for (port 0).
    pub fn bound_to(&mut self, addresses: &[SocketAddr]) {
        self.listen = addresses.to_vec();
        self.proxy.own = addresses.to_vec();
        // No caller gets there by way of the gateway, where it would come from this machine.
        self.proxy.dial.own = addresses.iter().copied().chain(self.admin_bound).chain(self.locks_bound).collect();
    }
}

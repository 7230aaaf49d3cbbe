//! Store client: counts shared limits together with other gateways, in a Valkey or Redis server.
//!
//! The locker collects reports and slot requests. A thread of its own sends them, one call at a
//! time, so that all that accumulates during a call goes out with the next one. A Lua script in the
//! store (`script/`) decides, by the store's clock alone. While the store is unreachable, the
//! fallback follows from the time of the last contact and from `[store] if_store_is_lost`.
//!
//! This module never counts slots itself: that is done by the script, and by the locker for granted
//! slots.
//!
//! Life of a session with the store:
//!
//! 1. Connect: resolve, TCP, TLS, login, check of the server, load of the script (`store_conn`).
//! 2. Hello: introduces this gateway under a new session name.
//! 3. Calls: reports and slot requests as they are due, and a heartbeat at the latest (`client`).
//! 4. Bye: the last report, at a shutdown.
//!
//! Each error ends the session; shared limits are blocked until the next one, or until the fallback
//! is safe.

mod client;
mod clock_jump;
mod error;
mod fallback;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod gate_api;
mod last_contact;
mod mismatch_log;
mod script_call;
mod status;
mod store_conn;
pub(super) mod suspend;
#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

pub use self::client::{Store, start};
pub use self::error::Error;
pub use self::status::{Health, Status, StoreFigures};

/// Settings of the store of shared limits: the `[store]` table of the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Host and port of the server; with several: nodes of one Cluster, or Sentinels. They are
    /// tried in this order.
    pub nodes: Vec<(String, u16)>,
    /// Name of the primary at the Sentinels; `None` if `nodes` are the servers themselves. Asked
    /// for its address at each connect.
    pub sentinel: Option<String>,
    /// True if connections use TLS (`rediss://`).
    pub tls: bool,
    /// User of the login (`AUTH`); `None`: the server's default user.
    pub user: Option<String>,
    /// Password of the login; `None`: no login.
    pub password: Option<StorePassword>,
    /// Number of the database (`SELECT`).
    pub database: u32,
    /// Name of the gateways that count together; also the hash tag of all keys, so that a Cluster
    /// keeps them on one node. Part of the hash seed too, see [`seed`].
    pub group: String,
    /// Fallback while the store is unreachable.
    pub when_lost: WhenLost,
    /// True if a store without any data of this group is taken for a new one. Otherwise it may have
    /// lost its data, and its windows stay closed until lost counts no longer matter.
    pub trusts_empty: bool,
    /// Number of replicas that must confirm a grant (`WAIT`) before it is used; 0: none.
    pub confirm: u32,
}

/// Fallback for shared limits while the store is unreachable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WhenLost {
    /// Shared limits let no request pass. Never exceeds a limit.
    Refuse,
    /// Each gateway uses its fraction of each shared limit, as soon as the other gateways certainly
    /// leave it to this one.
    Share {
        /// Number of gateways: the fraction is one in so many.
        gateways: NonZeroU32,
        /// Name of this gateway, stable over restarts and unique in the group.
        name: String,
        /// Longest use of the fraction, from the last contact with the store.
        share_for: Duration,
    },
    /// Each gateway uses the whole limit, as if it were the only one: together they exceed it.
    Allow,
}

/// Password of the store's login; its `Debug` output is `***`.
///
/// Kept as text for the life of the client, which logs in again at each connect.
#[derive(Clone, PartialEq, Eq)]
pub struct StorePassword(String);

impl StorePassword {
    /// Wraps a password in plain text.
    ///
    /// A trailing newline of a file is for the caller to remove.
    pub fn new(text: String) -> StorePassword {
        StorePassword(text)
    }
}

impl fmt::Debug for StorePassword {
    /// Hides the password in logs of the settings.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

/// Time for which a gateway counts as present after its last call. Longer than any lease, so that
/// no request uses slots of a gateway that the store takes for gone.
pub const PRESENCE: Duration = Duration::from_secs(1);

/// Divisor of the largest clock drift: the clocks of the store and of a gateway differ by at most a
/// 1000th part of a duration. Each is right to 500 parts in a million, the bound of the rate at
/// which NTP slews a clock.
const DRIFT: u32 = 1000;

/// Hash seed for the keys of shared limits: the same in all gateways of a group, so that equal keys
/// mean the same window. With knowledge of the seed two keys could be made to collide, which makes
/// limits stricter and never laxer.
///
/// The first 16 bytes of SHA-256 over `lockgate keys of ` and the group. Part of the data format:
/// another seed would count the same key in another window.
pub fn seed(group: &str) -> [u8; 16] {
    let digest = ring::digest::digest(&ring::digest::SHA256, format!("lockgate keys of {group}").as_bytes());
    let mut seed = [0; 16];
    seed.copy_from_slice(&digest.as_ref()[..16]);
    seed
}

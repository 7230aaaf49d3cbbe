//! Slots that are counted together with other gateways, in a Valkey or Redis that all of them name.
//!
//! The locker says what is to be told and asked; a thread of its own does it, one call at a time, so that all that comes up
//! during a call goes out with the next. The store decides by its own clock alone (`script/`). What holds when it cannot
//! be asked is decided here, by time and by what the file says.

mod client;
mod clock_jump;
mod error;
mod fallback;
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

/// Where shared limits are counted, and what holds when that cannot be asked; the `[store]` of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The server; several are nodes of one Cluster, or the Sentinels that know it.
    pub nodes: Vec<(String, u16)>,
    /// What the Sentinels call it.
    pub sentinel: Option<String>,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Who we are, if not its default user.
    pub user: Option<String>,
    /// What we prove it with.
    pub password: Option<StorePassword>,
    /// The number of the database.
    pub database: u32,
    /// What all gateways that count together have in common; the hash tag of all keys.
    pub group: String,
    /// What holds when it cannot be asked.
    pub when_lost: WhenLost,
    /// Whether a store in which nothing is found is taken to be a new one.
    pub trusts_empty: bool,
    /// How many replicas must have what was granted before it is used.
    pub confirm: u32,
}

/// What holds when the store cannot be asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WhenLost {
    /// Nobody passes a shared limit.
    Refuse,
    /// Each gateway goes on with its part of each shared limit, as soon as it is certain that the others do not count on it.
    Share {
        /// How many gateways there are.
        gateways: NonZeroU32,
        /// Which of them this is.
        name: String,
        /// How long at most.
        share_for: Duration,
    },
    /// Each gateway goes on as if it were alone: the limit does not hold.
    Allow,
}

/// A password, which nothing shows.
#[derive(Clone, PartialEq, Eq)]
pub struct StorePassword(String);

impl StorePassword {
    /// Hides it.
    pub fn new(text: String) -> StorePassword {
        StorePassword(text)
    }
}

impl fmt::Debug for StorePassword {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

/// How long a gateway counts as there after the store has heard of it. It is longer than any slot is granted for, so that
/// nothing is sent in slots of a gateway that counts as gone.
pub const PRESENCE: Duration = Duration::from_secs(1);

/// Which part of a time the clocks of the store and of a gateway may differ by, at most: each is right to 500 parts in a
/// million, the bound of what NTP slews.
const DRIFT: u32 = 1000;

/// What the keys of shared limits are hashed with: the same in every gateway of a group, so that they mean the same window.
/// Whoever knows it could make two keys meet, which holds back more and never less.
pub fn seed(group: &str) -> [u8; 16] {
    let digest = ring::digest::digest(&ring::digest::SHA256, format!("lockgate keys of {group}").as_bytes());
    let mut seed = [0; 16];
    seed.copy_from_slice(&digest.as_ref()[..16]);
    seed
}

//! Authentication of callers by name and password, for the proxy, the admin API and the lock service alike.
//!
//! Knows neither requests nor limits: its input is the bytes of one credentials field and the address that they came
//! from.
//!
//! Only the scheme `Basic` is known. Users come from the users file of `[access]`, `[admin]` or
//! `[locks]`, as names with bcrypt hashes; each of the three has a [`Passwords`] of its own, with
//! its own cache and its own counts of failures. Nothing is kept over a restart or a change of the
//! users. A login returns the account of its user: a value that the owner of the [`Passwords`] has made
//! for the name, such as the counters of its requests.

mod charset;
mod password;

pub use charset::to_utf8;
pub use password::{LoginError, Passwords};

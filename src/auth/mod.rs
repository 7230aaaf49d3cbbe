//! Authentication of callers by name and password, for the proxy, the admin API and the lock service alike.
//!
//! Knows neither requests nor limits: its input is the bytes of one credentials field and the address that they came
//! from.

mod password;

pub use password::{LoginError, Passwords};

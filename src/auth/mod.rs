//! Authentication of callers by name and password, for the proxy, the admin API and the lock service alike.
//!
//! Knows neither requests nor limits: it is given the bytes of one credentials field and the address that they came from.

mod password;

pub use password::{LoginError, Passwords};

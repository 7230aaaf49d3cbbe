//! Record of one window, as it is written down, handed over and restored.

use super::api::{Key, LimitId};
use crate::time::Time;

/// What a window has counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WindowRecord {
    /// Of which limit.
    pub limit: LimitId,
    /// Under which key.
    pub key: Key,
    /// When slots settled, and how many; oldest first.
    pub log: Vec<(Time, u32)>,
    /// Failed attempts: how many slots settle when, which the origin may still count until then.
    pub late: Vec<(Time, u32)>,
    /// How many slots may be taken that are neither in the log nor late.
    pub open: u32,
    /// How many requests are under way.
    pub flying: u32,
    /// `smooth`: until when the spacing is used up.
    pub tat: Time,
    /// Nothing opens before.
    pub paused: Time,
}

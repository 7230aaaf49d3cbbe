//! Defaults of asks that come over other protocols than HTTP: limit and wait.

use std::sync::Arc;
use std::time::Duration;

/// Values of asks that do not state their own: `[zmq]` of the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AskDefaults {
    /// Name of the limit.
    pub limit: Arc<str>,
    /// Longest wait.
    pub wait: Duration,
}

//! The proxy: carries one request and one response, from a caller's connection to an origin's and
//! back.
//!
//! Files come in blocks; a file uses only files of its own block and of those above, and nowhere in
//! a circle:
//!
//! | block | files |
//! |---|---|
//! | rules | `host` `uri_origin` `blocked_ports` `credentials` `pattern` `path` `query` `route` `location` `target` `named_hosts` `access` · `forwarded` `balancers` · `key_field` `key` `rule` `json` `matching` [`claims`] · [`refusal`] `socks5_reply` `detail` `problem` `grpc` · `parent_fault` `header_rules` `pushback` `retry` `wait_prefs` `warning` |
//! | log | [`access_log`] · `hang_ups` `refusal_tally` `log_interval` [`histogram`] [`account`] [`host_metrics`] [`parent_status`] [`metrics`] · [`trace`] `tunnel_warnings` |
//! | configuration | `upstream` [`parent`] `ask_defaults` `settings` `reused` `task_pool` `snapshot` (everything made from one configuration) |
//! | origin | `h2_pool` `idle_timeout` `send` (the only door out) `idle_conns` `parent_idle` `pool` `pinned` |
//! | state | `worker` `deadline` `session` (a caller's connection) `request_log` `plan` `first_bytes` `claimed_host` `outcome` |
//! | writing | `trailers` `body` `serialize` `resend` `local_response` `checkout` (a connection for one request) |
//! | steps | `admit` (target, access, framing) · `permit_request` and `wait` (ask, wait, ask again), `bare_permit` and `program_ask` (the same without a request) · `attempt` and `read_response` (write, read the head, retry) · `forward_response` · `first_admission`, `local_request`, `capabilities` and `acquire` (answered here) |
//! | way | `exchange`: these steps, and nothing else |
//! | top | `tunnel` `intercept` `http2` `conn_admission` `socks5` `transparent` `connection` |
//!
//! The limiter decides, not this module: without a permit from the gate no byte leaves for an
//! origin.

pub mod access;
pub mod access_log;
pub mod account;
mod acquire;
mod admit;
mod ask_defaults;
mod attempt;
pub mod balancers;
mod bare_permit;
mod blocked_ports;
mod body;
pub mod capabilities;
mod checkout;
mod claimed_host;
pub mod claims;
mod conn_admission;
mod connection;
mod credentials;
mod deadline;
mod detail;
mod exchange;
mod first_admission;
mod first_bytes;
mod forward_response;
pub mod forwarded;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod grpc;
mod h2_pool;
mod hang_ups;
mod header_rules;
pub mod histogram;
mod host;
pub mod host_metrics;
mod http2;
mod idle_conns;
mod idle_timeout;
mod instance_id;
mod intercept;
mod json;
pub mod key;
mod key_field;
mod local_request;
mod local_response;
mod location;
mod log_interval;
mod matching;
pub mod metrics;
mod named_hosts;
mod outcome;
pub mod parent;
mod parent_fault;
mod parent_idle;
pub mod parent_status;
pub mod path;
pub mod pattern;
mod permit_request;
mod pinned;
mod plan;
mod pool;
mod problem;
pub mod program_ask;
mod pushback;
mod query;
mod read_response;
pub mod refusal;
mod refusal_tally;
mod request_log;
mod resend;
mod retry;
mod reused;
mod route;
mod rule;
mod send;
mod serialize;
mod session;
mod settings;
mod snapshot;
mod socks5;
mod socks5_reply;
pub mod target;
pub mod task_pool;
pub mod timeouts;
pub mod trace;
mod trailers;
mod transparent;
mod tunnel;
mod tunnel_warnings;
mod upstream;
mod uri_origin;
mod wait;
mod wait_prefs;
pub mod warning;
mod worker;

pub use self::ask_defaults::AskDefaults;
pub use self::conn_admission::ConnAdmission;
pub use self::connection::ConnectionServer;
pub use self::problem::Problem;
pub use self::settings::{HostMismatch, PoolSettings, Settings};
pub use self::snapshot::{Error, PreparedSnapshot, Shared};
pub use self::timeouts::Timeouts;
pub use self::worker::{CurrentSnapshot, Worker};

//! CARRIES one request and one response: whose it is, where it goes, when it may, and what comes back.
//!
//! The way of a request, numbered as in the contract: in (`connection`), may this caller go there ([`access`]), which
//! windows ([`claims`]), permit (the gate), out (`origin`, `body`), back (`headers`, [`record`]). `exchange` is the
//! straight line through them, and any failure leaves it as a [`refusal`].
//!
//! The room never decides whether a request may go: without a permit from the gate no byte leaves it.

pub mod access;
pub mod access_log;
mod acquire;
mod admit;
mod attempt;
mod blocked_ports;
mod body;
pub mod capabilities;
mod checkout;
pub mod claims;
mod connection;
mod credentials;
mod deadline;
mod exchange;
mod first_admission;
mod forward_response;
mod h2_pool;
mod header_rules;
mod host;
mod http2;
mod intercept;
mod json;
pub mod key;
mod key_field;
mod local_request;
mod local_response;
mod location;
mod matching;
pub mod metrics;
mod named_hosts;
mod outcome;
pub mod path;
pub mod pattern;
mod permit;
mod pinned;
mod plan;
mod pool;
mod problem;
mod query;
mod read_response;
pub mod refusal;
mod request_log;
mod retry;
mod reused;
mod route;
mod rule;
mod send;
mod serialize;
mod server_name;
mod session;
mod settings;
mod snapshot;
pub mod target;
pub mod task_pool;
pub mod trace;
mod tunnel;
mod tunnel_warnings;
mod upstream;
mod uri_origin;
mod wait;
mod wait_prefs;
pub mod warning;
mod worker;

pub use self::connection::Server;
pub use self::problem::Problem;
pub use self::settings::{PoolSettings, Settings, Timeouts};
pub use self::snapshot::{ConfigSnapshot, Error, PreparedSnapshot, Shared};
pub use self::worker::{CurrentSnapshot, Worker};

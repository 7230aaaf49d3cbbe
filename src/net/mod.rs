//! CONNECTS: sockets, nothing of HTTP.
//!
//! It binds and accepts ([`listen`]), looks names up ([`resolve`]) and connects ([`dial`]), and knows who is
//! still running when the gateway ends ([`drain`]) and by which listener they came ([`listener_stats`]). It knows which addresses are one caller's ([`prefix`]). It never reads or writes a byte of what it connects, and knows
//! neither limits nor callers. What two processes of the gateway say to each other it carries as bytes ([`fd_socket`]).

mod address;
pub mod connection_limit;
pub mod dial;
pub mod drain;
pub mod fd_socket;
mod keep_alive;
pub mod listen;
pub mod listener_stats;

mod policy;
pub mod prefix;
pub mod resolve;

//! Sockets: listeners, DNS lookups, outgoing connections, and the shutdown of what uses them.
//!
//! Binds and accepts ([`listen`]), finds the destination of connections that the kernel has led here
//! ([`original_destination`]), looks names up ([`resolve`]), connects ([`dial`]), bounds the
//! number of connections ([`connection_limit`]), counts them by listener ([`listener_stats`]) and
//! in all, for a graceful shutdown ([`drain`]), maps an address to the block of addresses of one
//! caller ([`prefix`]), and carries messages and file descriptors between two processes of the
//! gateway ([`fd_socket`]). It never reads or writes a byte of a caller's or an origin's
//! connection, and knows neither HTTP nor limits.

mod address;
pub mod connection_limit;
pub mod dial;
pub mod drain;
pub mod fd_socket;
mod keep_alive;
pub mod listen;
pub mod listener_stats;
pub mod original_destination;
mod policy;
pub mod prefix;
pub mod resolve;

//! HTTP messages on a byte stream: heads, fields, body framing, buffered connections. Decides
//! neither where a message goes nor when.
//!
//! HTTP/1 is our own code (httparse splits the heads), and HTTP/2 is the `h2` crate. hyper was
//! measured in the same harness: 0.85 of nginx's requests per second against 1.0, and 27 KiB per
//! idle connection against 4.7. It does not tell when a head was sent, which is when a limit's slot
//! settles; does not notice a hang-up behind pipelined bytes; reorders fields; and cannot send 103
//! (Early Hints). The price is a duty to do what hyper has done for years: fuzzing, foreign test
//! suites, and the connection's life cycle (readiness, PING, never offering a dead connection
//! again).
//!
//! | module | holds |
//! |---|---|
//! | [`head`], [`response_head`], [`field`], `request_target`, `line_ends` | start line and fields of a message |
//! | [`proxy_header`] | PROXY protocol: the caller's address before the first byte |
//! | [`socks5_server`] | messages of SOCKS5 clients, and replies |
//! | [`request_line`] | HTTP told from other protocols by its first line |
//! | [`framing`], [`chunked`], [`trailer_section`] | length of a body, chunked coding, trailers |
//! | [`stream`], `tcp` | byte stream over TCP, TLS, or a stream of HTTP/2 |
//! | [`buffer`], [`conn`] | buffered connection |
//! | [`http2`] | HTTP/2 connections of callers and to origins |
//! | [`http_client`], [`connect_client`], [`socks5_client`] | requests of the gateway's own: of HTTP, and for tunnels through other proxies |
//! | [`cross_site`] | checks against cross-site requests |
//!
//! [`stream`] and [`http2`] are one recursion: a stream of HTTP/2 is a [`Stream`], and may carry
//! TLS, HTTP/2 and their streams in turn.

mod block;
pub mod buffer;
pub mod chunked;
pub mod conn;
pub mod connect_client;
pub mod cross_site;
pub mod field;
pub mod framing;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod head;
pub mod http2;
pub mod http_client;
mod line_ends;
pub mod proxy_header;
pub mod request_line;
mod request_target;
pub mod response_head;
pub mod socks5_client;
pub mod socks5_server;
pub mod stream;
mod tcp;
pub mod trailer_section;

pub use conn::Conn;
pub use field::{Fields, Name, members};
pub use framing::{ConnectionOptions, Length};
pub use head::{HeadError, RequestHead, Version};
pub use response_head::{HeadLimits, ResponseHead};
pub use stream::Stream;

//! Limits of HTTP/2 connections: streams, flow-control windows and send buffers; and the connection
//! preface.
//!
//! Each bounds the memory that one peer can take. They are not configurable.

/// Connection preface of clients (RFC 9113 §3.4).
///
/// Its 24 bytes tell an HTTP/2 connection without TLS from HTTP/1.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Receive window of a stream at first, in bytes. A connection can cost as much memory as all
/// windows together, if nothing is read from them: 8 MiB.
pub(super) const STREAM_WINDOW: u32 = 64 * 1024;

/// Largest receive window of a stream, in bytes; as large as that of Go and of most browsers. It
/// allows 40 MiB/s at a round trip of 100 ms.
pub(super) const MAX_STREAM_WINDOW: u32 = 4 * 1024 * 1024;

/// Most streams of a connection at a time; nginx's default (`http2_max_concurrent_streams`).
pub(super) const MAX_STREAMS: u32 = 128;

/// Receive window of a connection, in bytes: the sum of all streams' windows, so that a slow reader
/// holds back its stream and never the connection. Fewer streams share it if their windows are
/// wider.
pub(super) const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS;

/// Send buffer of a stream for a slow peer, in bytes: as large as a receive window.
pub(super) const SEND_BUFFER: usize = 64 * 1024;

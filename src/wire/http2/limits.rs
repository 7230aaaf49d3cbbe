//! Limits of HTTP/2 connections: streams, flow-control windows and send buffers; and the connection preface.

/// What every connection begins with that speaks HTTP/2 (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much of a stream's content may be under way to us. What a connection may send at most is what lies here if
/// nobody takes it, so it is what a connection can cost.
pub(super) const STREAM_WINDOW: u32 = 64 * 1024;

/// How many streams one connection may have at a time; nginx' figure.
pub(super) const MAX_STREAMS: u32 = 128;

/// All streams' windows together: whoever reads slowly holds back a stream, never its connection.
pub(super) const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS;

/// How much of a stream's content may wait for a slow reader of it.
pub(super) const SEND_BUFFER: usize = 64 * 1024;

//! HTTP/2 (RFC 9113): its frames, header compression, flow control and flood limits are the `h2` crate's.
//!
//! Here its streams become [`Stream`](super::Stream)s and its heads become our heads, so that whoever can_carry_path a
//! request need not know which version either side speaks. [`H2CallerConn`] is a caller's connection, [`H2Conn`] one to an
//! origin.

mod caller_conn;
mod convert;
mod frame_observer;
mod frame_parser;
mod h2_conn;
mod h2_conn_state;
mod liveness;
mod origin_stream;
mod stream_content;
mod wire_state;

pub use caller_conn::{CallerStream, H2CallerConn, IncomingRequest};
pub use convert::{FieldMap, can_carry_path, read_trailers, write_trailers};
pub use h2_conn::H2Conn;
pub use h2_conn_state::{HeadFlush, PongWait, SettingsWait};
pub use origin_stream::{OriginStream, ResponseKind, StreamFailure};

/// What every connection begins with that speaks HTTP/2 (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much of a stream's content may be under way to us. What a connection may send at most is what lies here if
/// nobody takes it, so it is what a connection can cost.
const STREAM_WINDOW: u32 = 64 * 1024;

/// How many streams one connection may have at a time; nginx' figure.
const MAX_STREAMS: u32 = 128;

/// All streams' windows together: whoever reads slowly holds back a stream, never its connection.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS;

/// How much of a stream's content may wait for a slow reader of it.
const SEND_BUFFER: usize = 64 * 1024;

#[cfg(test)]
mod tests;

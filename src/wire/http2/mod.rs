//! HTTP/2 (RFC 9113): connections and streams over the `h2` crate, which does frames, HPACK, flow
//! control and flood limits.
//!
//! Turns its streams into [`Stream`](super::Stream)s and its heads into those of HTTP/1, so that
//! the code above does not depend on the version. [`H2CallerConn`] is a caller's connection,
//! [`H2Conn`] one to an origin.

mod caller_conn;
mod convert;
mod frame_observer;
mod frame_parser;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod h2_conn;
mod h2_conn_state;
mod limits;
mod liveness;
mod lower_stream;
mod origin_stream;
mod stream_content;
mod window_growth;
mod wire_state;

pub use caller_conn::{CallerStream, H2CallerConn, IncomingRequest, KickReason};
pub use convert::{FieldMap, can_carry_path, carried_path, filter_trailers, read_trailers, write_trailers};
pub use h2_conn::H2Conn;
pub use h2_conn_state::{HeadFlush, PongWait};
pub use limits::PREFACE;
pub use lower_stream::LowerStream;
pub use origin_stream::{OriginStream, ResponseKind, StreamFailure};

#[cfg(test)]
mod tests;

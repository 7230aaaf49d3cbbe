//! Fuzz targets of the proxy: forwarded messages in both versions of HTTP, bodies, paths, authorities,
//! retry times, fields with callers' addresses.

pub mod body_framings;
pub mod forwarded_fields;
pub mod path_readings;
pub mod retry_fields;
pub mod translation;

pub use self::body_framings::body;
pub use self::forwarded_fields::forwarded_fields;
pub use self::path_readings::{authority, path};
pub use self::retry_fields::{rate_limit_fields, retry_after};
pub use self::translation::{forward_request, h2_request, response_translation};
#[cfg(test)]
pub use self::translation::{h2_head, sent_for};

//! SPEAKS HTTP: heads, body framing, buffered streams; HTTP/1 by itself, HTTP/2 through `h2`. It never decides where a message goes or when.

pub mod buffer;
pub mod chunked;
pub mod conn;
pub mod cross_site;
pub mod field;
pub mod framing;
pub mod head;
pub mod http2;
pub mod http_client;
pub mod stream;
mod tcp;

pub use conn::Conn;
pub use field::{Fields, Name, members};
pub use framing::{ConnectionOptions, Length};
pub use head::{HeadError, RequestHead, ResponseHead, Version};
pub use stream::Stream;

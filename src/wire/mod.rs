//! SPEAKS HTTP/1: heads, body framing, buffered streams. It never decides where a message goes or when.

pub mod buffer;
pub mod chunked;
pub mod conn;
pub mod field;
pub mod framing;
pub mod head;
pub mod stream;

pub use conn::Conn;
pub use field::{Name, members};
pub use framing::{Length, Options};
pub use head::{HeadError, RequestHead, ResponseHead, Version};
pub use stream::Stream;

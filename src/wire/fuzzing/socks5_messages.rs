//! Fuzz target of SOCKS5: the messages of a client.

use super::pieces;
use crate::wire::RequestHead;
use crate::wire::socks5_server::{MAX_MESSAGE, Unusable, read_greeting, read_login, read_request};

/// Messages of a client: the answer depends neither on the reads in which the bytes arrive nor on those
/// behind the message, it comes within the bound, and the host of a request is one word in a head.
pub fn socks5(input: &[u8]) {
    check(input, read_greeting, |greeting| greeting.length);
    check(input, |bytes| Ok(read_login(bytes)?.map(|login| (login.length, login.name, login.password))), |it| it.0);
    check(input, read_request, |request| request.length);
    let Ok(Some(request)) = read_request(input) else { return };
    let authority = format!("{}:{}", request.host, request.port);
    let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    let mut read = RequestHead::default();
    assert_eq!(read.read(head.as_bytes()), Ok(Some(head.len())), "{head}");
    assert_eq!((read.method(), read.target(), read.fields().count()), ("CONNECT", &*authority, 1));
}

/// Checks one reader.
fn check<T: PartialEq + std::fmt::Debug>(
    input: &[u8],
    read: impl Fn(&[u8]) -> Result<Option<T>, Unusable>,
    length: impl Fn(&T) -> usize,
) {
    let whole = read(input);
    let mut end = 0;
    for piece in pieces(input) {
        end += piece.len();
        let part = read(&input[..end]);
        assert!(part == whole || part == Ok(None), "{part:?} after {end} bytes, then {whole:?}");
    }
    match &whole {
        Ok(None) => assert!(input.len() < MAX_MESSAGE, "{} bytes are not enough", input.len()),
        Ok(Some(message)) => {
            assert!(length(message) <= MAX_MESSAGE.min(input.len()));
            assert_eq!(read(&input[..length(message)]), whole, "bytes behind it count");
        }
        Err(_) => {}
    }
}

//! Fuzz target of PROXY headers.

use super::pieces;
use crate::wire::proxy_header::{MAX_V1, MAX_V2, ProxyHeader, ProxyHeaderState, read_proxy_header};

/// PROXY header: the answer depends neither on the reads in which the bytes arrive nor on those behind the header, it
/// comes within the bound of the version, and the address of a line of version 1 is written in it.
pub fn proxy_header(input: &[u8]) {
    let whole = read_proxy_header(input);
    let mut end = 0;
    for piece in pieces(input) {
        end += piece.len();
        let part = read_proxy_header(&input[..end]);
        assert!(part == whole || part == ProxyHeaderState::Incomplete, "{part:?} after {end} bytes, then {whole:?}");
    }
    let most = if input.starts_with(b"P") { MAX_V1 } else { MAX_V2 };
    match whole {
        ProxyHeaderState::Incomplete => assert!(input.len() < most, "{} bytes are not enough", input.len()),
        ProxyHeaderState::Malformed(_) => {
            let more = read_proxy_header(&[input, &[0xff; 40]].concat());
            assert!(matches!(more, ProxyHeaderState::Malformed(_)), "more bytes mend it: {more:?}");
        }
        ProxyHeaderState::Complete(header) => {
            assert!(header.length <= most.min(input.len()));
            assert_eq!(read_proxy_header(&input[..header.length]), whole, "bytes behind it count");
            check_line(&input[..header.length], header);
        }
    }
}

/// Words of a line of version 1 are the address and the port of its client.
fn check_line(bytes: &[u8], header: ProxyHeader) {
    let Some(line) = bytes.strip_prefix(b"PROXY ") else { return };
    assert!(line.ends_with(b"\r\n"));
    let Some(client) = header.client else { return };
    let line = String::from_utf8_lossy(line);
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    assert_eq!(words.len(), 5, "{line}");
    assert_eq!((words[1].parse(), words[3]), (Ok(client.ip()), &*client.port().to_string()), "{line}");
}

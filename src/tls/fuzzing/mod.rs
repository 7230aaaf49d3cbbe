//! Fuzz target of the ClientHello parser, with rustls as the second reader.

use std::io;

use rustls::server::Acceptor;

use super::client_hello::{HelloReader, HelloState};

/// ClientHello: the answer depends neither on the reads in which the bytes arrive nor on those behind the hello, and
/// a server name that rustls reads is among ours, or ours is [`HelloState::Unreadable`], which ends the tunnel: rustls
/// takes some name lists whose lengths do not fit.
pub fn client_hello(input: &[u8]) {
    let whole = HelloReader::default().read(input);
    let mut reader = HelloReader::default();
    let mut end = 0;
    while end < input.len() {
        // Steps of 1 to 16 bytes, the same ones for the same input.
        end = (end + 1 + usize::from(input[end] & 15)).min(input.len());
        let state = reader.read(&input[..end]);
        if state != HelloState::Incomplete {
            assert_eq!(state, whole, "after {end} of {} bytes", input.len());
            break;
        }
    }
    if whole == HelloState::Incomplete {
        assert_eq!(reader.read(input), whole);
    } else {
        assert_eq!(HelloReader::default().read(&[input, &[0xff; 40]].concat()), whole, "bytes behind it count");
    }
    if let HelloState::Hello(names) = &whole {
        assert!(names.iter().all(|name| !name.ends_with('.') && !name.bytes().any(|byte| byte.is_ascii_uppercase())));
    }
    if let Some(name) = name_in_rustls(input) {
        let names = match &whole {
            HelloState::Hello(names) => names,
            HelloState::Unreadable => return,
            HelloState::Incomplete | HelloState::NotTls => panic!("rustls reads a hello where we read {whole:?}"),
        };
        let known = name.map(|name| name.to_ascii_lowercase().trim_end_matches('.').to_owned());
        assert!(known.is_none_or(|name| names.contains(&name)), "rustls reads another name than {names:?}");
    }
}

/// Server name of the hello, if rustls accepts it; the inner `None`: it has no name.
fn name_in_rustls(mut input: &[u8]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    while !input.is_empty() {
        if acceptor.read_tls(&mut input as &mut dyn io::Read).ok()? == 0 {
            return None;
        }
        if let Some(accepted) = acceptor.accept().ok()? {
            return Some(accepted.client_hello().server_name().map(str::to_owned));
        }
    }
    None
}

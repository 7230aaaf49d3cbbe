//! A client of SOCKS5, byte by byte.

use super::{Caller, Gateway};

/// Greeting without a password.
pub(crate) const GREETING: &[u8] = &[5, 1, 0];

/// Reply to a request that succeeded.
pub(crate) const SUCCEEDED: [u8; 10] = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0];

/// A request to connect to a host, which is sent as a name.
pub(crate) fn by_name(to: &str) -> Vec<u8> {
    let (host, port) = to.rsplit_once(':').expect("a host and a port");
    let (length, port) = (u8::try_from(host.len()).expect("a short name"), port.parse::<u16>().expect("a port"));
    [&[5, 1, 0, 3, length], host.as_bytes(), &port.to_be_bytes()].concat()
}

/// A greeting with a password, and the login.
pub(crate) fn login(name: &str, password: &str) -> Vec<u8> {
    let counted = |text: &str| [&[u8::try_from(text.len()).expect("a short text")], text.as_bytes()].concat();
    [&[1][..], &counted(name), &counted(password)].concat()
}

/// A connection on which the greeting was answered.
#[track_caller]
pub(crate) fn greeted(gateway: &Gateway) -> Caller {
    let mut caller = gateway.caller();
    assert_eq!(caller.send(GREETING).bytes(2), [5, 0]);
    caller
}

/// A connection through which the gateway has let a client; `to` is sent as a name.
#[track_caller]
pub(crate) fn through(gateway: &Gateway, to: &str) -> Caller {
    let mut caller = greeted(gateway);
    assert_eq!(caller.send(by_name(to)).bytes(10), SUCCEEDED);
    caller
}

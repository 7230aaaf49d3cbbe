//! ClientHello parser: the server name (SNI) that a TLS client asks for, read from its first bytes
//! without answering them.
//!
//! Accepts each hello that any server may accept, of any TLS version: only its framing must be
//! right. (rustls parses only hellos that it would answer itself.)
//!
//! Used for tunnels that are not intercepted: the name in the hello can be compared with the host
//! of the CONNECT request, and the bytes are then passed on unchanged. A hello may be split over
//! records, and records over segments, at any byte.

/// Record type of handshake messages (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
/// Record type of alerts.
const ALERT: u8 = 21;
/// All record types; other values belong to no version of TLS.
const RECORD_TYPES: std::ops::RangeInclusive<u8> = 20..=24;
/// First byte of a record's version, for SSL 3.0 and every TLS after it.
const MAJOR: u8 = 3;
/// First version bytes that some server tolerates in the first record, since a record's version
/// means nothing (RFC 8446 §5.1). Go's server reads on below 16.
const TOLERATED_MAJORS: std::ops::Range<u8> = 0..16;
/// Message type of a ClientHello (RFC 8446 §4).
const CLIENT_HELLO: u8 = 1;
/// Number of the extension `server_name` (RFC 6066 §3).
const SERVER_NAME: u16 = 0;
/// Name type of a host name (RFC 6066 §3).
const HOST_NAME: u8 = 0;
/// Longest hello, in bytes. Go and rustls accept none longer; a hello with post-quantum keys has 2
/// KiB.
const MAX_HELLO: usize = 1 << 16;

/// Classification of the first bytes of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HelloState {
    /// Too few bytes to tell.
    Incomplete,
    /// Not TLS. No server would take these bytes for a record of TLS.
    NotTls,
    /// TLS, with a hello that asks for these servers: lower case, without a final dot. A correct
    /// hello has one name or none.
    Hello(Vec<String>),
    /// TLS, but without a readable hello. The record begins like TLS, but the message is no
    /// ClientHello, is malformed, or is longer than 64 KiB.
    Unreadable,
}

/// Incremental reader of a hello that may span any number of records.
///
/// Keeps the payload of whole records, so that each byte is copied once, however slowly it arrives.
#[derive(Default, Debug)]
pub struct HelloReader {
    /// Number of bytes of the records that were read whole.
    read: usize,
    /// Payload of those records: the handshake message so far.
    message: Vec<u8>,
}

impl HelloReader {
    /// Reads on in `bytes`: all bytes so far, from the first on. Must not be called again after
    /// another result than `Incomplete`.
    pub fn read(&mut self, bytes: &[u8]) -> HelloState {
        if self.read == 0
            && let Some(state) = check_record_start(bytes)
        {
            return state;
        }
        loop {
            let record = match &bytes[self.read.min(bytes.len())..] {
                [] => return HelloState::Incomplete,
                // Some servers skip an alert that precedes the hello.
                [kind, ..] if *kind != HANDSHAKE => return HelloState::Unreadable,
                [_, _, _, high, low, rest @ ..] => rest.get(..usize::from(u16::from_be_bytes([*high, *low]))),
                [_, ..] => return HelloState::Incomplete,
            };
            let Some(record) = record else { return HelloState::Incomplete };
            self.read += 5 + record.len();
            self.message.extend_from_slice(record);
            let state = self.hello();
            if state != HelloState::Incomplete {
                return state;
            }
        }
    }

    /// Reads the handshake message, as far as it has arrived.
    ///
    /// `Incomplete` until the length in its header (24 bits, RFC 8446 §4) has arrived.
    fn hello(&self) -> HelloState {
        let [kind, a, b, c, rest @ ..] = &*self.message else { return HelloState::Incomplete };
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if *kind != CLIENT_HELLO || length > MAX_HELLO {
            return HelloState::Unreadable;
        }
        let Some(hello) = rest.get(..length) else { return HelloState::Incomplete };
        names(&mut FieldReader(hello)).map_or(HelloState::Unreadable, HelloState::Hello)
    }
}

/// Checks the start of the first record: `NotTls` if no server takes it for TLS, `Incomplete` if it
/// is too short to tell, `None` if it is a TLS record.
fn check_record_start(bytes: &[u8]) -> Option<HelloState> {
    match bytes {
        [] => Some(HelloState::Incomplete),
        [kind, ..] if !RECORD_TYPES.contains(kind) => Some(HelloState::NotTls),
        [_] => Some(HelloState::Incomplete),
        [_, MAJOR, ..] => None,
        // An odd version counts as TLS only together with bytes that nothing else begins with.
        [HANDSHAKE, major, rest @ ..] if TOLERATED_MAJORS.contains(major) => match rest {
            [_, _, _, CLIENT_HELLO, ..] => None,
            [_, _, _, _, ..] => Some(HelloState::NotTls),
            _ => Some(HelloState::Incomplete),
        },
        [ALERT, major, rest @ ..] if TOLERATED_MAJORS.contains(major) => match rest {
            [_, 0, 2, ..] => None,
            [_, _, _, ..] => Some(HelloState::NotTls),
            _ => Some(HelloState::Incomplete),
        },
        _ => Some(HelloState::NotTls),
    }
}

/// Server names of a hello (RFC 8446 §4.1.2); `None` if the message is malformed.
fn names(hello: &mut FieldReader<'_>) -> Option<Vec<String>> {
    let _version_and_random = hello.take(2 + 32)?;
    let _session = hello.vec8()?;
    let _cipher_suites = hello.vec16()?;
    let _compressions = hello.vec8()?;
    let mut names = Vec::new();
    // A hello without extensions ends here, without their length (RFC 5246 §7.4.1.2).
    if hello.is_empty() {
        return Some(names);
    }
    let mut extensions = FieldReader(hello.vec16()?);
    while !extensions.is_empty() {
        let (kind, content) = (extensions.u16()?, extensions.vec16()?);
        if kind == SERVER_NAME {
            let mut list = FieldReader(FieldReader(content).vec16()?);
            while !list.is_empty() {
                let (kind, name) = (list.take(1)?, list.vec16()?);
                if kind == [HOST_NAME] {
                    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
                    names.push(name.trim_end_matches('.').to_owned());
                }
            }
        }
    }
    hello.is_empty().then_some(names)
}

/// Cursor over length-prefixed fields (RFC 8446 §3.4).
///
/// Each reader returns `None`, and the message counts as malformed, if too few bytes are left.
struct FieldReader<'a>(&'a [u8]);

impl<'a> FieldReader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the next `count` bytes.
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// Takes a number of two bytes.
    fn u16(&mut self) -> Option<u16> {
        let [high, low] = self.take(2)? else { return None };
        Some(u16::from_be_bytes([*high, *low]))
    }

    /// Takes a vector with a length of one byte.
    fn vec8(&mut self) -> Option<&'a [u8]> {
        let [length] = self.take(1)? else { return None };
        self.take(usize::from(*length))
    }

    /// Takes a vector with a length of two bytes.
    fn vec16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

/// Fatal alert `access_denied` (RFC 8446 §6.2), sent in place of a ServerHello.
///
/// Record: type 21, version 3.3, length 2; alert: fatal (2), 49.
pub const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

#[cfg(test)]
mod tests;

//! ClientHello: the server that a TLS client asks for (SNI), read from its first bytes without answering them.
//!
//! Reads every hello that some server may take, of any version of TLS: only its framing must be right. (rustls reads no hello
//! but those that it would answer.)

/// The type of a record that holds a handshake (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
/// The type of a record that holds an alert.
const ALERT: u8 = 21;
/// All types of records; others belong to no version of TLS.
const RECORD_TYPES: std::ops::RangeInclusive<u8> = 20..=24;
/// The first byte of a record's version: SSL 3.0 and every TLS after it.
const MAJOR: u8 = 3;
/// The first bytes of a version that some server takes in the first record, because the version of a record means nothing
/// (RFC 8446 §5.1): Go reads on below 16.
const TOLERATED_MAJORS: std::ops::Range<u8> = 0..16;
/// The type of the message (RFC 8446 §4).
const CLIENT_HELLO: u8 = 1;
/// The extension `server_name` (RFC 6066 §3).
const SERVER_NAME: u16 = 0;
/// The type of a name that is a host's (RFC 6066 §3).
const HOST_NAME: u8 = 0;
/// The longest hello. Go and rustls take no longer one; with post-quantum keys it is 2 KiB.
const MAX_HELLO: usize = 1 << 16;

/// The kind of the first bytes of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HelloState {
    /// There are too few of them to tell.
    Incomplete,
    /// No TLS.
    NotTls,
    /// TLS, with a hello that asks for these servers: lower case, without a final dot. A correct hello asks for one or none.
    Hello(Vec<String>),
    /// TLS, but not a hello that can be read.
    Unreadable,
}

/// Reads a hello as its bytes come, over any number of records.
#[derive(Default, Debug)]
pub struct HelloReader {
    /// The number of bytes of whole records that were read.
    read: usize,
    /// Their content.
    message: Vec<u8>,
}

impl HelloReader {
    /// `bytes`: all bytes so far, from the first on. May not be called again after another result than `Incomplete`.
    pub fn read(&mut self, bytes: &[u8]) -> HelloState {
        if self.read == 0
            && let Some(state) = check_record_start(bytes)
        {
            return state;
        }
        loop {
            let record = match &bytes[self.read.min(bytes.len())..] {
                [] => return HelloState::Incomplete,
                // Some servers pass over an alert that stands before the hello.
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

    /// Reads the message, as far as it has come.
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

/// `NotTls` if these are the first bytes of no TLS that some server takes, `Incomplete` if they are too few to tell.
fn check_record_start(bytes: &[u8]) -> Option<HelloState> {
    match bytes {
        [] => Some(HelloState::Incomplete),
        [kind, ..] if !RECORD_TYPES.contains(kind) => Some(HelloState::NotTls),
        [_] => Some(HelloState::Incomplete),
        [_, MAJOR, ..] => None,
        // With such a version only bytes that cannot be anything else are TLS.
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

/// The servers that a hello asks for (RFC 8446 §4.1.2); `None` if it is none.
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

/// Bytes, read one field after the other.
struct FieldReader<'a>(&'a [u8]);

impl<'a> FieldReader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// Two bytes.
    fn u16(&mut self) -> Option<u16> {
        let [high, low] = self.take(2)? else { return None };
        Some(u16::from_be_bytes([*high, *low]))
    }

    /// A field with its length before it, in one byte.
    fn vec8(&mut self) -> Option<&'a [u8]> {
        let [length] = self.take(1)? else { return None };
        self.take(usize::from(*length))
    }

    /// A field with its length before it, in two bytes.
    fn vec16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

/// A refusal in place of a ServerHello: the fatal alert access_denied (RFC 8446 §6.2).
pub const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

#[cfg(test)]
mod tests;

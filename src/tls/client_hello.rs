//! ClientHello: the server that a TLS client asks for (SNI), read from its first bytes without answering them.
//!
//! Reads any hello that some server may take, also of versions that we do not speak: only its framing must be right. (rustls
//! reads a hello that rustls would answer.)

/// The type of a record that holds a handshake (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
/// All types of records; others belong to no version of TLS.
const RECORDS: std::ops::RangeInclusive<u8> = 20..=24;
/// The first byte of a version: SSL 3.0 and every TLS after it.
const MAJOR: u8 = 3;
/// The type of the message (RFC 8446 §4).
const CLIENT_HELLO: u8 = 1;
/// The extension `server_name` (RFC 6066 §3).
const SERVER_NAME: u16 = 0;
/// The type of a name that is a host's (RFC 6066 §3).
const HOST_NAME: u8 = 0;
/// The longest hello. Go and rustls take no longer one; with post-quantum keys it is 2 KiB.
const LONGEST: usize = 1 << 16;

/// The kind of the first bytes of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opening {
    /// There are too few of them to tell.
    More,
    /// No TLS.
    Other,
    /// TLS, with a hello that asks for these servers: lower case, without a final dot. It may ask for none, and says at
    /// most one if it is right.
    Hello(Vec<String>),
    /// It begins as TLS does, and goes on as no hello does that can be read.
    Unreadable,
}

/// Reads a hello as its bytes come, over as many records as it likes.
#[derive(Default, Debug)]
pub struct Reader {
    /// The number of bytes of whole records that were read.
    read: usize,
    /// Their content.
    message: Vec<u8>,
}

impl Reader {
    /// `bytes`: all that came, from the first on. Not to be called again after another result than `More`.
    pub fn read(&mut self, bytes: &[u8]) -> Opening {
        loop {
            let record = match &bytes[self.read.min(bytes.len())..] {
                [] => return Opening::More,
                [kind, ..] if self.read == 0 && !RECORDS.contains(kind) => return Opening::Other,
                [_, major, ..] if self.read == 0 && *major != MAJOR => return Opening::Other,
                // Some servers pass over an alert that stands before the hello.
                [kind, ..] if *kind != HANDSHAKE => return Opening::Unreadable,
                [_, _, _, high, low, rest @ ..] => rest.get(..usize::from(u16::from_be_bytes([*high, *low]))),
                [_, ..] => return Opening::More,
            };
            let Some(record) = record else { return Opening::More };
            self.read += 5 + record.len();
            self.message.extend_from_slice(record);
            let told = self.hello();
            if told != Opening::More {
                return told;
            }
        }
    }

    /// Reads the message, as far as it has come.
    fn hello(&self) -> Opening {
        let [kind, a, b, c, rest @ ..] = &*self.message else { return Opening::More };
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if *kind != CLIENT_HELLO || length > LONGEST {
            return Opening::Unreadable;
        }
        let Some(hello) = rest.get(..length) else { return Opening::More };
        names(&mut Fields(hello)).map_or(Opening::Unreadable, Opening::Hello)
    }
}

/// The servers that a hello asks for (RFC 8446 §4.1.2); `None` if it is none.
fn names(hello: &mut Fields<'_>) -> Option<Vec<String>> {
    let _version_and_random = hello.take(2 + 32)?;
    let _session = hello.short()?;
    let _cipher_suites = hello.long()?;
    let _compressions = hello.short()?;
    let mut names = Vec::new();
    // Without extensions there is not even their length.
    if hello.is_empty() {
        return Some(names);
    }
    let mut extensions = Fields(hello.long()?);
    while !extensions.is_empty() {
        let (kind, content) = (extensions.number()?, extensions.long()?);
        if kind == SERVER_NAME {
            let mut list = Fields(Fields(content).long()?);
            while !list.is_empty() {
                let (kind, name) = (list.take(1)?, list.long()?);
                if kind == [HOST_NAME] {
                    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
                    names.push(name.trim_end_matches('.').to_owned());
                }
            }
        }
    }
    hello.is_empty().then_some(names)
}

/// Bytes that are taken one field after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// Two bytes.
    fn number(&mut self) -> Option<u16> {
        let [high, low] = self.take(2)? else { return None };
        Some(u16::from_be_bytes([*high, *low]))
    }

    /// A field with its length before it, in one byte.
    fn short(&mut self) -> Option<&'a [u8]> {
        let [length] = self.take(1)? else { return None };
        self.take(usize::from(*length))
    }

    /// A field with its length before it, in two bytes.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(usize::from(length))
    }
}

/// A refusal in place of a ServerHello: the fatal alert access_denied (RFC 8446 §6.2).
pub const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

#[cfg(test)]
mod tests;

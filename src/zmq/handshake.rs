//! Handshake of ZMTP 3 as the server: greeting, mechanism (NULL or PLAIN), metadata. Bytes in, bytes out.
//!
//! | mechanism | order |
//! |---|---|
//! | NULL (rfc.zeromq.org/spec/37) | both send READY with their metadata |
//! | PLAIN (rfc.zeromq.org/spec/24) | HELLO with name and password, WELCOME, INITIATE with metadata, READY |
//!
//! The gateway's greeting is sent at once, as peers of libzmq wait for its first ten bytes before they send the rest of
//! theirs.

use bytes::{Buf, BytesMut};

use super::fault_log::FaultKind;
use super::frames::{ProtocolError, next_command, put_command, split_command};

/// Bytes of a greeting.
pub(super) const GREETING: usize = 64;
/// Place of the version in a greeting, after the signature.
const VERSION: usize = 10;
/// Place of the mechanism's name, and its length with padding.
const MECHANISM: std::ops::Range<usize> = 12..32;
/// Place of the flag for servers.
const AS_SERVER: usize = 32;
/// Lowest version with the framing of ZMTP 3.
const MAJOR: u8 = 3;
/// Version of this side: 3.1, which has PING and PONG.
const MINOR: u8 = 1;

/// Security mechanism.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mechanism {
    /// None.
    Null,
    /// Name and password.
    Plain,
}

impl Mechanism {
    /// Name in the greeting.
    pub(super) fn name(self) -> &'static str {
        match self {
            Mechanism::Null => "NULL",
            Mechanism::Plain => "PLAIN",
        }
    }
}

/// Result of a step of the handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// Further bytes are needed.
    Incomplete,
    /// The peer has stated these credentials: answer by [`Handshake::accept`] or [`Handshake::reject`].
    Login { name: Vec<u8>, password: Vec<u8> },
    /// The handshake is complete: messages follow.
    Established,
}

/// Failure of a handshake, after which the connection ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct HandshakeError {
    /// Cause, for the log.
    pub(super) kind: FaultKind,
    /// Description, for the log.
    pub(super) why: ProtocolError,
}

/// State of the handshake: the part that is expected next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expects {
    Greeting,
    /// Credentials (PLAIN).
    Hello,
    /// The answer to credentials, from this side.
    Verdict,
    /// Metadata: in INITIATE with PLAIN, else in READY.
    Metadata,
}

/// Handshake with one peer.
#[derive(Debug)]
pub(super) struct Handshake {
    mechanism: Mechanism,
    expects: Expects,
}

impl Handshake {
    /// Starts a handshake, and appends the greeting to `output`.
    pub(super) fn begin(mechanism: Mechanism, output: &mut Vec<u8>) -> Handshake {
        let mut greeting = [0; GREETING];
        // Signature: 0xFF, eight bytes of padding, 0x7F. The padding ends with 1, so that a peer with ZMTP 1 sees the
        // length of an anonymous identity.
        (greeting[0], greeting[8], greeting[9]) = (0xFF, 1, 0x7F);
        (greeting[VERSION], greeting[VERSION + 1]) = (MAJOR, MINOR);
        let name = mechanism.name().as_bytes();
        greeting[MECHANISM.start..MECHANISM.start + name.len()].copy_from_slice(name);
        greeting[AS_SERVER] = u8::from(mechanism == Mechanism::Plain);
        output.extend_from_slice(&greeting);
        Handshake { mechanism, expects: Expects::Greeting }
    }

    /// Takes the next steps that the input allows, and appends this side's answers to `output`.
    ///
    /// # Errors
    /// If the peer speaks another protocol, version or mechanism, is of a type that cannot ask, or breaks the grammar.
    pub(super) fn advance(&mut self, input: &mut BytesMut, output: &mut Vec<u8>) -> Result<Progress, HandshakeError> {
        if self.expects == Expects::Greeting {
            if !read_greeting(input, self.mechanism)? {
                return Ok(Progress::Incomplete);
            }
            input.advance(GREETING);
            self.expects = match self.mechanism {
                Mechanism::Null => {
                    put_command(output, "READY", &own_metadata());
                    Expects::Metadata
                }
                Mechanism::Plain => Expects::Hello,
            };
        }
        if self.expects == Expects::Verdict {
            return Ok(Progress::Incomplete);
        }
        let command = next_command(input).map_err(HandshakeError::grammar)?;
        let Some(command) = command else { return Ok(Progress::Incomplete) };
        let (name, data) = split_command(&command).map_err(HandshakeError::grammar)?;
        match (self.expects, name, self.mechanism) {
            (Expects::Hello, b"HELLO", _) => {
                let (name, password) = read_hello(data).ok_or_else(|| HandshakeError::new("a malformed HELLO"))?;
                self.expects = Expects::Verdict;
                Ok(Progress::Login { name, password })
            }
            (Expects::Metadata, b"READY", Mechanism::Null) | (Expects::Metadata, b"INITIATE", Mechanism::Plain) => {
                check_metadata(data, output)?;
                if self.mechanism == Mechanism::Plain {
                    put_command(output, "READY", &own_metadata());
                }
                Ok(Progress::Established)
            }
            (_, b"ERROR", _) => {
                let reason = data.get(1..).unwrap_or_default().escape_ascii().to_string();
                Err(HandshakeError::new(format!("the peer gave up with ERROR {reason:?}")))
            }
            (_, other, _) => {
                Err(HandshakeError::new(format!("an unexpected command {:?}", other.escape_ascii().to_string())))
            }
        }
    }

    /// Accepts the credentials that the peer has stated.
    pub(super) fn accept(&mut self, output: &mut Vec<u8>) {
        self.expects = Expects::Metadata;
        put_command(output, "WELCOME", b"");
    }

    /// Rejects them. Peers of libzmq do not connect again after this.
    pub(super) fn reject(&self, output: &mut Vec<u8>) {
        put_error(output, "invalid name or password");
    }
}

impl HandshakeError {
    fn new(why: impl Into<String>) -> HandshakeError {
        HandshakeError { kind: FaultKind::Handshake, why: ProtocolError::new(why) }
    }

    fn of(kind: FaultKind, why: impl Into<String>) -> HandshakeError {
        HandshakeError { kind, ..HandshakeError::new(why) }
    }

    fn grammar(why: ProtocolError) -> HandshakeError {
        HandshakeError { kind: FaultKind::Handshake, why }
    }
}

/// Appends an ERROR command with a reason.
fn put_error(output: &mut Vec<u8>, reason: &str) {
    let mut data = vec![u8::try_from(reason.len()).unwrap_or(u8::MAX)];
    data.extend_from_slice(reason.as_bytes());
    put_command(output, "ERROR", &data);
}

/// Metadata of this side: the type of its socket.
fn own_metadata() -> Vec<u8> {
    const NAME: &[u8] = b"\x0bSocket-Type";
    [NAME, &6_u32.to_be_bytes(), b"ROUTER"].concat()
}

/// Checks the greeting at the begin of the input; false if it is incomplete. A fault is found with the first byte that
/// shows it: peers with older versions send no more than that until they are answered.
fn read_greeting(input: &[u8], wanted: Mechanism) -> Result<bool, HandshakeError> {
    let old = |version: &str| {
        let why = format!("it speaks {version}, and the gateway ZMTP 3.0 and later: use libzmq 4.0 or later there");
        Err(HandshakeError::of(FaultKind::Version, why))
    };
    match (input.first(), input.get(9), input.get(VERSION)) {
        (Some(first), _, _) if *first != 0xFF => return old("ZMTP 1.0 (libzmq 2), or no ZMTP at all"),
        (_, Some(end), _) if end & 1 == 0 => return old("ZMTP 1.0 (libzmq 2)"),
        (_, _, Some(0)) => return old("ZMTP 1.0 (libzmq 2)"),
        (_, _, Some(version)) if *version < MAJOR => return old("ZMTP 2.0 (libzmq 3)"),
        _ => {}
    }
    let Some(greeting) = input.first_chunk::<GREETING>() else { return Ok(false) };
    let field = &greeting[MECHANISM];
    let name = field.split(|byte| *byte == 0).next().unwrap_or_default();
    if name == wanted.name().as_bytes() {
        return Ok(true);
    }
    let name = name.escape_ascii().to_string();
    let why = match wanted {
        Mechanism::Plain => format!(
            "it uses the mechanism {name}, and this listener requires PLAIN, by [access] users or beyond loopback: \
             set ZMQ_PLAIN_USERNAME and ZMQ_PLAIN_PASSWORD on its socket"
        ),
        Mechanism::Null => {
            format!(
                "it uses the mechanism {name}, and this listener NULL: PLAIN needs [access] users, and there is no CURVE"
            )
        }
    };
    Err(HandshakeError::of(FaultKind::Mechanism, why))
}

/// Name and password of a HELLO, each with its length before it.
fn read_hello(data: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (name, rest) = short_string(data)?;
    let (password, rest) = short_string(rest)?;
    rest.is_empty().then(|| (name.to_vec(), password.to_vec()))
}

/// A string with its length in one byte before it, and the rest.
fn short_string(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// Checks the peer's metadata: its socket must be of a type that asks. Other properties are ignored, `Identity` too, as
/// answers go back on the connection of their asks.
fn check_metadata(mut data: &[u8], output: &mut Vec<u8>) -> Result<(), HandshakeError> {
    let malformed = || HandshakeError::new("malformed metadata");
    let mut socket_type = None;
    while !data.is_empty() {
        let (name, rest) = short_string(data).ok_or_else(malformed)?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| malformed())?;
        let (value, rest) = rest.split_at_checked(length).ok_or_else(malformed)?;
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            socket_type = Some(value);
        }
        data = rest;
    }
    match socket_type {
        Some(b"REQ" | b"DEALER" | b"ROUTER") => Ok(()),
        other => {
            put_error(output, "only REQ, DEALER and ROUTER sockets can ask");
            let kind = other.unwrap_or(b"unknown").escape_ascii().to_string();
            Err(HandshakeError::new(format!("its socket is of type {kind}: REQ, DEALER and ROUTER can ask")))
        }
    }
}

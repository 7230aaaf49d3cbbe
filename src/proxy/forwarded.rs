//! Forwarded fields: finds the caller in what proxies before this one have written, in `Forwarded`
//! (RFC 7239) or in a list of addresses such as `X-Forwarded-For`.
//!
//! Each proxy appends the address that it received the request from, so the last member is the most
//! trustworthy and the first one can be anything that a client has sent. Members are therefore read
//! from the end, and none is read before a member that is not a listed proxy: a client can neither
//! replace what a proxy has appended nor keep it from being read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::request_line::is_token;

/// Grammar of a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForwardedGrammar {
    /// Elements with parameters: `for="[2001:db8::1]:4711";proto=https, for=192.0.2.7`.
    Forwarded,
    /// Addresses, with or without ports: `2001:db8::1, 192.0.2.7:4711`.
    Addresses,
}

/// A member that is neither an address nor one of the words for a hidden one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MalformedMember;

/// Client of one proxy, as the proxy states it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hop {
    /// In canonical form: IPv4 if it is IPv4-mapped.
    Address(IpAddr),
    /// `unknown`, an identifier such as `_hidden` (RFC 7239 §6.3), or no `for` at all.
    Hidden,
}

/// Finds the caller: the last member that is not listed; the first one if all are. Without members
/// it is `peer`, and where a proxy hides its client it is that proxy.
///
/// `lines`: values of the field, the last line first. `peer`: address that the request came from,
/// which is listed.
///
/// # Errors
/// If a member is malformed that must be read.
pub fn caller<'a>(
    grammar: ForwardedGrammar,
    lines: impl Iterator<Item = &'a [u8]>,
    peer: IpAddr,
    is_listed: impl Fn(IpAddr) -> bool,
) -> Result<IpAddr, MalformedMember> {
    let mut caller = peer;
    for line in lines {
        let mut rest = Some(line);
        while let Some(line) = rest {
            let member;
            (rest, member) = split_last(grammar, line);
            if member.is_empty() {
                continue;
            }
            match read_hop(grammar, member).ok_or(MalformedMember)? {
                Hop::Hidden => return Ok(caller),
                Hop::Address(address) => caller = address,
            }
            if !is_listed(caller) {
                return Ok(caller);
            }
        }
    }
    Ok(caller)
}

/// Splits off the last member, trimmed: the bytes behind the last comma that is in no quoted string.
///
/// Whatever stands before that comma, the member is the same: of a string that begins there no end
/// can lie behind it.
pub(super) fn split_last(grammar: ForwardedGrammar, line: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let mut quoted = false;
    for (at, byte) in line.iter().enumerate().rev() {
        match byte {
            b'"' if grammar == ForwardedGrammar::Forwarded => quoted = !quoted || ends_with_escape(&line[..at]),
            b',' if !quoted => return (Some(&line[..at]), line[at + 1..].trim_ascii()),
            _ => {}
        }
    }
    (None, line.trim_ascii())
}

/// True if the next byte is escaped: an odd number of backslashes stands before it.
fn ends_with_escape(bytes: &[u8]) -> bool {
    bytes.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// Reads a member; `None` if it is malformed.
fn read_hop(grammar: ForwardedGrammar, member: &[u8]) -> Option<Hop> {
    match grammar {
        ForwardedGrammar::Addresses => read_node(std::str::from_utf8(member).ok()?),
        ForwardedGrammar::Forwarded => match for_of_element(member)? {
            Some(node) => read_node(&node),
            None => Some(Hop::Hidden),
        },
    }
}

/// Value of `for` in an element (RFC 7239 §4); the inner `None`: it has none. `None` if the element
/// is malformed or has two.
///
/// More lenient than the grammar in two ways that senders need: white space around pairs, and
/// addresses with colons and brackets outside of quotes.
fn for_of_element(element: &[u8]) -> Option<Option<String>> {
    let (mut found, mut rest) = (None, element);
    while let Some(first) = rest.first() {
        // Pairs may be empty.
        if *first != b';' {
            let (name, value, after) = read_pair(rest)?;
            if name.eq_ignore_ascii_case(b"for") && found.replace(value).is_some() {
                return None;
            }
            rest = after.trim_ascii_start();
        }
        match rest {
            [] => {}
            [b';', after @ ..] => rest = after.trim_ascii_start(),
            _ => return None,
        }
    }
    Some(found)
}

/// Reads a pair: its name, its value without quotes, and the bytes behind it.
fn read_pair(text: &[u8]) -> Option<(&[u8], String, &[u8])> {
    let (name, value) = text.split_at(text.iter().position(|byte| *byte == b'=')?);
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return None;
    }
    let (value, rest) = match &value[1..] {
        [b'"', quoted @ ..] => read_quoted(quoted)?,
        plain => {
            let end = plain.iter().position(|byte| matches!(byte, b';' | b'"' | b' ' | b'\t'));
            let (value, rest) = plain.split_at(end.unwrap_or(plain.len()));
            (value.to_vec(), rest)
        }
    };
    Some((name, String::from_utf8(value).ok()?, rest))
}

/// Reads a quoted string (RFC 9110 §5.6.4) behind its first quote; `None` if it does not end.
fn read_quoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (mut value, mut rest) = (Vec::new(), text);
    loop {
        match rest {
            [b'"', after @ ..] => return Some((value, after)),
            [b'\\', byte, after @ ..] | [byte, after @ ..] => {
                value.push(*byte);
                rest = after;
            }
            [] => return None,
        }
    }
}

/// Reads a node (RFC 7239 §6): an address, with or without a port, or a word for a hidden one.
///
/// IPv6 addresses without brackets are read too: `X-Forwarded-For` has no grammar, and proxies write
/// both forms.
fn read_node(text: &str) -> Option<Hop> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Hop::Address(address.to_canonical()));
    }
    let (name, port) = match text.strip_prefix('[') {
        Some(text) => {
            let (address, port) = text.split_once(']')?;
            let address = IpAddr::V6(address.parse::<Ipv6Addr>().ok()?).to_canonical();
            (Hop::Address(address), port.strip_prefix(':').or(port.is_empty().then_some("0"))?)
        }
        None => {
            let (name, port) = text.split_once(':').unwrap_or((text, "0"));
            let hop = match name.parse::<Ipv4Addr>() {
                Ok(address) => Hop::Address(IpAddr::V4(address)),
                Err(_) if name.eq_ignore_ascii_case("unknown") || is_obfuscated(name) => Hop::Hidden,
                Err(_) => return None,
            };
            (hop, port)
        }
    };
    (is_obfuscated(port) || is_port(port)).then_some(name)
}

/// True for an identifier that a proxy has made up (RFC 7239 §6.3).
fn is_obfuscated(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    text.len() > 1 && text.starts_with('_') && text.bytes().all(fits)
}

/// True for 1 to 5 digits that are a port.
fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests;

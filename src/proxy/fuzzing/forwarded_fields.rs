//! Fuzz target of the fields in which balancers state the addresses of callers.

use std::net::{IpAddr, Ipv4Addr};

use crate::proxy::forwarded::{ForwardedGrammar, caller, split_last};

/// Address that requests come from.
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// Fields with callers' addresses: an address that the balancer appends is the caller's, whatever stands before it; one
/// that is listed as a balancer's is skipped; and lists are split at the same commas from either end. The first byte
/// selects the grammar; lines end with a line feed.
pub fn forwarded_fields(input: &[u8]) {
    let [choice, text @ ..] = input else { return };
    let grammar = if choice % 2 == 0 { ForwardedGrammar::Addresses } else { ForwardedGrammar::Forwarded };
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let find = |lines: &[Vec<u8>]| {
        let last_first = lines.iter().rev().map(Vec::as_slice);
        caller(grammar, last_first, PEER, |address| matches!(address, IpAddr::V4(four) if four.octets()[0] == 10))
    };
    let sent: Vec<Vec<u8>> = lines.iter().map(|line| line.to_vec()).collect();
    let found = find(&sent);
    let (stranger, balancer): (&[u8], &[u8]) = match grammar {
        ForwardedGrammar::Addresses => (b"[2001:db8::7]:80", b"10.0.0.2"),
        ForwardedGrammar::Forwarded => (b"for=\"[2001:db8::7]:80\"", b"proto=\"a,b\\\"\"; For=10.0.0.2"),
    };
    let with = |member: &[u8], alone: bool| {
        let mut lines = sent.clone();
        match lines.last_mut().filter(|_| !alone) {
            Some(last) => last.extend([b", ", member].concat()),
            None => lines.push(member.to_vec()),
        }
        find(&lines)
    };
    for alone in [true, false] {
        assert_eq!(with(stranger, alone), Ok(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7])));
        let behind = with(balancer, alone);
        let is_same = behind == found || (found == Ok(PEER) && behind == Ok(IpAddr::from([10, 0, 0, 2])));
        assert!(is_same, "{found:?}, and behind a balancer {behind:?}");
    }
    lines.iter().for_each(|line| check_split(grammar, line));
}

/// Members from the end are those from the begin, in a line whose quoted strings end.
fn check_split(grammar: ForwardedGrammar, line: &[u8]) {
    let Some(from_begin) = split_forward(grammar, line) else { return };
    let (mut from_end, mut rest) = (Vec::new(), Some(line));
    while let Some(line) = rest {
        let member;
        (rest, member) = split_last(grammar, line);
        from_end.insert(0, member);
    }
    assert_eq!(from_end, from_begin);
}

/// Members of a line, trimmed; `None` if a quoted string does not end, or a backslash stands outside of one.
fn split_forward(grammar: ForwardedGrammar, line: &[u8]) -> Option<Vec<&[u8]>> {
    if grammar == ForwardedGrammar::Addresses {
        return Some(line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect());
    }
    let (mut members, mut begin, mut at, mut quoted) = (Vec::new(), 0, 0, false);
    while let Some(byte) = line.get(at) {
        match (byte, quoted) {
            (b'"', _) => quoted = !quoted,
            (b'\\', true) => at += 1,
            (b'\\', false) => return None,
            (b',', false) => {
                members.push(line[begin..at].trim_ascii());
                begin = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    members.push(line[begin..].trim_ascii());
    (!quoted).then_some(members)
}

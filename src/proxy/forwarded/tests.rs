//! Tests of the Forwarded fields' parser.

use proptest::prelude::*;

use super::*;

/// Balancer that requests come from.
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// Finds the caller; 10.0.0.0/8 is listed. `lines`: in the order of the message.
fn find(grammar: ForwardedGrammar, lines: &[&str]) -> Result<IpAddr, MalformedMember> {
    let is_listed = |address: IpAddr| matches!(address, IpAddr::V4(address) if address.octets()[0] == 10);
    caller(grammar, lines.iter().rev().map(|line| line.as_bytes()), PEER, is_listed)
}

#[track_caller]
fn finds(grammar: ForwardedGrammar, lines: &[&str], wanted: &str) {
    assert_eq!(find(grammar, lines), Ok(wanted.parse().unwrap()), "{lines:?}");
}

use ForwardedGrammar::{Addresses, Forwarded};

#[test]
fn the_last_address_that_is_not_listed_is_the_caller() {
    for (lines, wanted) in [
        (&["192.0.2.7"][..], "192.0.2.7"),
        (&["198.51.100.1, 192.0.2.7"], "192.0.2.7"),
        (&["198.51.100.1, 192.0.2.7, 10.0.0.2,10.0.0.3"], "192.0.2.7"),
        (&["198.51.100.1", "192.0.2.7", "10.0.0.2"], "192.0.2.7"),
        (&["10.9.9.9, 10.0.0.2"], "10.9.9.9"),
        (&[" , 192.0.2.7 ,, "], "192.0.2.7"),
        (&["", " ,"], "10.0.0.1"),
        (&[], "10.0.0.1"),
    ] {
        finds(Addresses, lines, wanted);
    }
    finds(Forwarded, &["for=198.51.100.1, for=192.0.2.7;proto=https", "For=10.0.0.2"], "192.0.2.7");
}

#[test]
fn addresses_are_read_in_every_form_that_proxies_write() {
    for text in ["2001:db8::7", "[2001:DB8::7]", "[2001:db8::7]:443", "[2001:db8::7]:_port"] {
        finds(Addresses, &[text], "2001:db8::7");
        finds(Forwarded, &[&format!("for=\"{text}\"")], "2001:db8::7");
        finds(Forwarded, &[&format!("for={text}")], "2001:db8::7");
    }
    for text in ["192.0.2.7:4711", "::ffff:192.0.2.7", "[::ffff:192.0.2.7]:0"] {
        finds(Addresses, &[text], "192.0.2.7");
    }
    finds(Forwarded, &[r#"by="_x;y,z\"";for="192\.0.2.7" ; host="a,b";;"#], "192.0.2.7");
}

#[test]
fn a_proxy_that_hides_its_client_is_the_caller() {
    for text in ["unknown", "UNKNOWN", "_hidden", "_a.b-c:80", "unknown:_p"] {
        finds(Addresses, &[&format!("192.0.2.7, {text}, 10.0.0.2")], "10.0.0.2");
        finds(Forwarded, &[&format!("for=192.0.2.7, for=\"{text}\"")], "10.0.0.1");
    }
    finds(Forwarded, &["for=192.0.2.7, by=10.0.0.1;proto=http"], "10.0.0.1");
}

#[test]
fn a_malformed_member_is_told_from_a_hidden_one() {
    for text in [
        "x",
        "192.0.2",
        "192.0.2.7:",
        "192.0.2.7:70000",
        "[2001:db8::7",
        "[192.0.2.7]",
        "_",
        "_a b",
        "192.0.2.7 x",
        "[::1]x",
        "::1%eth0",
    ] {
        assert_eq!(find(Addresses, &[&format!("192.0.2.7, {text}")]), Err(MalformedMember), "{text}");
    }
    for text in [
        "192.0.2.7",
        "for",
        "for=",
        "for=192.0.2.7;for=192.0.2.8",
        "for=\"192.0.2.7",
        "for=\"192.0.2.7\"x",
        "f r=1",
        "for=1 2",
    ] {
        assert_eq!(find(Forwarded, &[&format!("for=192.0.2.7, {text}")]), Err(MalformedMember), "{text}");
    }
}

#[test]
fn a_client_changes_nothing_by_what_it_sent_before_the_address_that_a_proxy_appended() {
    for sent in ["", "x", "\"", "for=\"", "for=\"a\\", "for=198.51.100.1", "for=\"198.51.100.1", "\\\"", "unknown"] {
        finds(Addresses, &[&format!("{sent}, 192.0.2.7")], "192.0.2.7");
        for appended in ["for=192.0.2.7", "for=\"192.0.2.7\"", "for=\"192.0.2.7\";by=\"_\\\"\\\\\""] {
            finds(Forwarded, &[&format!("{sent}, {appended}")], "192.0.2.7");
            finds(Forwarded, &[sent, appended], "192.0.2.7");
        }
    }
}

/// A member for an address in one of the forms that proxies write.
fn member(grammar: ForwardedGrammar, address: IpAddr, form: u8) -> String {
    let node = match (address, form % 3) {
        (IpAddr::V6(_), 1) => format!("[{address}]"),
        (IpAddr::V6(_), 2) => format!("[{address}]:4711"),
        (IpAddr::V4(_), 2) => format!("{address}:4711"),
        (IpAddr::V4(_) | IpAddr::V6(_), _) => address.to_string(),
    };
    match (grammar, form % 2) {
        (Addresses, _) => node,
        (Forwarded, 0) => format!("for=\"{node}\""),
        (Forwarded, _) => format!("by=\"_a,b\\\"\";FOR=\"{node}\";proto=http"),
    }
}

proptest! {
    #[test]
    fn the_caller_is_found_in_every_form_behind_any_lines(
        chain in proptest::collection::vec((any::<IpAddr>(), any::<u8>(), any::<bool>()), 0..6),
        sent in "[ -~]{0,20}",
        is_standard: bool,
    ) {
        let grammar = if is_standard { Forwarded } else { Addresses };
        let is_listed = |address: IpAddr| address.is_ipv6();
        let mut value = String::new();
        for (address, form, alone) in &chain {
            value += if *alone { "\n" } else { ", " };
            value += &member(grammar, *address, *form);
        }
        let value = format!("{sent}{value}");
        let lines = value.split('\n').rev().map(str::as_bytes);
        let found = caller(grammar, lines, PEER, is_listed);
        let canonical = chain.iter().rev().map(|(address, ..)| address.to_canonical());
        if let Some(wanted) = canonical.into_iter().find(|address| !is_listed(*address)) {
            prop_assert_eq!(found, Ok(wanted), "{}", value);
        }
    }

    #[test]
    fn any_bytes_have_an_answer(lines: Vec<Vec<u8>>, is_standard: bool) {
        let grammar = if is_standard { Forwarded } else { Addresses };
        let _ = caller(grammar, lines.iter().map(Vec::as_slice), PEER, |_| true);
    }
}

//! Tests of the PROXY protocol's parser.

use proptest::prelude::*;

use super::*;

fn read(bytes: &[u8]) -> ProxyHeaderState {
    read_proxy_header(bytes)
}

fn client(bytes: &[u8]) -> Option<SocketAddr> {
    match read(bytes) {
        ProxyHeaderState::Complete(header) => {
            assert_eq!(header.length, bytes.len(), "{}", bytes.escape_ascii());
            header.client
        }
        other @ (ProxyHeaderState::Incomplete | ProxyHeaderState::Malformed(_)) => {
            panic!("{}: {other:?}", bytes.escape_ascii())
        }
    }
}

/// Header of version 2: its 13th and 14th byte, and the bytes behind the length.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap();
    [V2_SIGNATURE, &[command, family], &length.to_be_bytes(), block].concat()
}

/// Address block of TCP over IPv4, from 192.0.2.7:56324 to 10.0.0.1:443.
const FOUR: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0xdc, 0x04, 0x01, 0xbb];

#[test]
fn a_line_of_version_1_tells_the_client() {
    for (line, wanted) in [
        ("PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n", Some("192.0.2.7:56324")),
        ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Some("255.255.255.255:65535")),
        ("PROXY TCP6 2001:DB8::7 ::1 0 443\r\n", Some("[2001:db8::7]:0")),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN ffff:f:f:f:f:f:f:ffff anything at all\r\n", None),
    ] {
        assert_eq!(client(line.as_bytes()), wanted.map(|wanted| wanted.parse().unwrap()), "{line}");
    }
}

#[test]
fn a_line_that_is_not_exactly_as_the_protocol_says_is_refused() {
    for line in [
        "GET / HTTP/1.1\r\n",
        "proxy TCP4 192.0.2.7 10.0.0.1 56324 443\r\n",
        "PROXY  TCP4 192.0.2.7 10.0.0.1 56324 443\r\n",
        "PROXY TCP4  192.0.2.7 10.0.0.1 56324 443\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 56324 443 \r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\rX",
        "PROXY TCP4 192.0.2.007 10.0.0.1 56324 443\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 056324 443\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 +56324 443\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 65536 443\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 56324\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 56324 443 7\r\n",
        "PROXY TCP4 2001:db8::7 ::1 56324 443\r\n",
        "PROXY TCP6 192.0.2.7 10.0.0.1 56324 443\r\n",
        "PROXY TCP6 fe80::1%1 ::1 56324 443\r\n",
        "PROXY UDP4 192.0.2.7 10.0.0.1 56324 443\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY \r\n",
    ] {
        assert!(
            matches!(read(line.as_bytes()), ProxyHeaderState::Malformed(_)),
            "{line:?}: {:?}",
            read(line.as_bytes())
        );
    }
}

#[test]
fn a_line_ends_within_107_bytes() {
    let line = |length: usize| format!("PROXY UNKNOWN {}\r\n", "f".repeat(length - 16)).into_bytes();
    assert_eq!(client(&line(MAX_V1)), None);
    assert!(matches!(read(&line(MAX_V1 + 1)), ProxyHeaderState::Malformed(_)));
    assert_eq!(read(&line(MAX_V1)[..MAX_V1 - 1]), ProxyHeaderState::Incomplete);
    assert!(matches!(read(&line(500)[..MAX_V1]), ProxyHeaderState::Malformed(_)), "the bound is known without its end");
}

#[test]
fn a_header_of_version_2_tells_the_client_and_fields_behind_it_are_skipped() {
    let wanted = Some("192.0.2.7:56324".parse().unwrap());
    assert_eq!(client(&v2(0x21, 0x11, &FOUR)), wanted);
    let with_fields = [&FOUR[..], &[0x04, 0, 3, 0, 0, 0, 0xff, 0xff]].concat();
    assert_eq!(client(&v2(0x21, 0x11, &with_fields)), wanted);
    let six = [&Ipv6Addr::LOCALHOST.octets()[..], &[7; 16], &[0, 80, 1, 187]].concat();
    assert_eq!(client(&v2(0x21, 0x21, &six)), Some("[::1]:80".parse().unwrap()));
}

#[test]
fn a_connection_of_the_balancers_own_or_of_an_unknown_client_has_no_other_address() {
    for header in [
        v2(0x20, 0x00, b""),
        v2(0x20, 0x11, &FOUR),
        v2(0x20, 0xff, b"ignored"),
        v2(0x21, 0x00, b""),
        v2(0x21, 0x00, &FOUR),
        v2(0x21, 0x01, &FOUR),
        v2(0x21, 0x10, &FOUR),
        v2(0x21, 0x12, &FOUR),
        v2(0x21, 0x31, &[b'/'; 216]),
    ] {
        assert_eq!(client(&header), None, "{}", header.escape_ascii());
    }
}

#[test]
fn a_header_of_version_2_with_other_values_is_refused() {
    for header in [
        v2(0x11, 0x11, &FOUR),
        v2(0x31, 0x11, &FOUR),
        v2(0x22, 0x11, &FOUR),
        v2(0x21, 0x41, &FOUR),
        v2(0x21, 0x13, &FOUR),
        v2(0x21, 0x11, &FOUR[..11]),
        v2(0x21, 0x21, &[0; 35]),
        [V2_SIGNATURE, &[0x21, 0x11, 0x10, 0x01]].concat(),
        b"\r\n\r\n\0\r\nQUIX".to_vec(),
        b"\r\nGET / HTTP/1.1\r\n".to_vec(),
    ] {
        assert!(
            matches!(read(&header), ProxyHeaderState::Malformed(_)),
            "{}: {:?}",
            header.escape_ascii(),
            read(&header)
        );
    }
    assert_eq!(client(&v2(0x21, 0x00, &[0; 4096])), None, "the longest");
}

/// Headers of both versions for clients of both families, each with its client.
fn header() -> impl Strategy<Value = (Vec<u8>, Option<SocketAddr>)> {
    let four = any::<(Ipv4Addr, Ipv4Addr)>().prop_map(|(from, to)| (IpAddr::V4(from), IpAddr::V4(to)));
    let six = any::<(Ipv6Addr, Ipv6Addr)>().prop_map(|(from, to)| (IpAddr::V6(from), IpAddr::V6(to)));
    let addresses = prop_oneof![four, six];
    (addresses, any::<(u16, u16)>(), any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(
        |((from, to), (from_port, to_port), is_text, fields)| {
            let client = Some(SocketAddr::new(from, from_port));
            if is_text {
                let family = if from.is_ipv4() { 4 } else { 6 };
                return (format!("PROXY TCP{family} {from} {to} {from_port} {to_port}\r\n").into_bytes(), client);
            }
            let octets = |address: IpAddr| match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            let ports = [from_port.to_be_bytes(), to_port.to_be_bytes()].concat();
            let block = [octets(from), octets(to), ports, fields].concat();
            (v2(0x21, if from.is_ipv4() { 0x11 } else { 0x21 }, &block), client)
        },
    )
}

proptest! {
    #[test]
    fn every_header_is_read_as_it_was_written_whatever_follows((header, wanted) in header(), rest: Vec<u8>) {
        let all = [&header[..], &rest].concat();
        prop_assert_eq!(
            read(&all),
            ProxyHeaderState::Complete(ProxyHeader { length: header.len(), client: wanted })
        );
        for end in 0..header.len() {
            prop_assert_eq!(read(&header[..end]), ProxyHeaderState::Incomplete, "after {} bytes", end);
        }
    }

    #[test]
    fn more_bytes_never_change_an_answer(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..3) {
        let begin: &[u8] = [b"PROXY TCP4 1.2.3.4 ", V2_SIGNATURE, b""][usize::try_from(kind).unwrap()];
        bytes.splice(0..0, begin.iter().copied());
        let whole = read(&bytes);
        for end in 0..bytes.len() {
            let part = read(&bytes[..end]);
            prop_assert!(part == ProxyHeaderState::Incomplete || part == whole, "{:?} after {}, then {:?}", part, end, whole);
        }
    }
}

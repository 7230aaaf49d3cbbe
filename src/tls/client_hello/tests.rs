//! Tests of the ClientHello parser: hellos of rustls, whole, in pieces and damaged; and bytes that resemble one.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

/// First bytes of a client, in records of at most this size.
fn hello(name: &str, most: Option<usize>) -> Vec<u8> {
    let mut config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.max_fragment_size = most;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut bytes = Vec::new();
    ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

fn read(bytes: &[u8]) -> HelloState {
    HelloReader::default().read(bytes)
}

fn names(names: &[&str]) -> HelloState {
    HelloState::Hello(names.iter().map(|name| (*name).to_owned()).collect())
}

/// Hello with these extensions, in one record; `None`: without extensions.
fn made(extensions: Option<&[u8]>) -> Vec<u8> {
    let mut body = [&[3, 1][..], &[7; 32], &[0], &[0, 2, 0, 47], &[1, 0]].concat();
    if let Some(extensions) = extensions {
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
    }
    record(&[&[1, 0][..], &u16::try_from(body.len()).unwrap().to_be_bytes(), &body].concat())
}

fn record(content: &[u8]) -> Vec<u8> {
    [&[22, 3, 1][..], &u16::try_from(content.len()).unwrap().to_be_bytes(), content].concat()
}

/// Extension `server_name` with these names.
fn server_names(names: &[(u8, &str)]) -> Vec<u8> {
    let long = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let list: Vec<u8> = names.iter().flat_map(|(kind, name)| [&[*kind][..], &long(name.as_bytes())].concat()).collect();
    [&[0, 0][..], &long(&long(&list))].concat()
}

#[test]
fn the_name_is_found_whole_or_in_many_records_and_byte_by_byte() {
    for most in [None, Some(32), Some(64), Some(500)] {
        let bytes = hello("API.partner.Example", most);
        assert_eq!(read(&bytes), names(&["api.partner.example"]), "{most:?}");
        let mut reader = HelloReader::default();
        for count in 0..bytes.len() {
            assert_eq!(reader.read(&bytes[..count]), HelloState::Incomplete, "{most:?} {count} of {}", bytes.len());
        }
        assert_eq!(reader.read(&bytes), names(&["api.partner.example"]), "{most:?}");
    }
}

#[test]
fn what_follows_a_hello_is_not_looked_at() {
    let bytes = [hello("a.example", None), vec![0xff; 100]].concat();
    assert_eq!(read(&bytes), names(&["a.example"]));
}

#[test]
fn a_hello_may_ask_for_nobody() {
    assert_eq!(read(&hello("192.0.2.1", None)), names(&[]));
    assert_eq!(read(&made(None)), names(&[]), "of SSL 3.0");
    assert_eq!(read(&made(Some(&[]))), names(&[]));
}

#[test]
fn every_name_is_told_however_it_is_written() {
    let names_of = |list: &[(u8, &str)]| read(&made(Some(&server_names(list))));
    assert_eq!(names_of(&[(0, "A.Example.")]), names(&["a.example"]));
    assert_eq!(names_of(&[(0, "a.example"), (0, "b.example")]), names(&["a.example", "b.example"]));
    assert_eq!(names_of(&[(1, "other"), (0, "b.example")]), names(&["b.example"]));
    let twice = [server_names(&[(0, "a.example")]), server_names(&[(0, "b.example")])].concat();
    assert_eq!(read(&made(Some(&twice))), names(&["a.example", "b.example"]));
    let behind = [&[0, 23, 0, 0][..], &server_names(&[(0, "a.example")])].concat();
    assert_eq!(read(&made(Some(&behind))), names(&["a.example"]));
}

#[test]
fn what_is_no_tls_is_told_by_its_first_bytes() {
    let others =
        ["GET / HTTP/1.1", "SSH-2.0-x", "\0", "\u{16}G", "\u{17}\0", "\u{16}\u{10}", "\u{16}\u{2}\0\0\u{9}\u{2}"];
    for bytes in others.into_iter().chain(["\u{15}\u{2}\0\0\u{3}"]) {
        assert_eq!(read(bytes.as_bytes()), HelloState::NotTls, "{bytes:?}");
    }
    for bytes in ["", "\u{16}", "\u{16}\u{3}", "\u{16}\u{3}\u{1}\0", "\u{16}\u{2}\0\0\u{9}", "\u{15}\u{2}\0\0"] {
        assert_eq!(read(bytes.as_bytes()), HelloState::Incomplete, "{bytes:?}");
    }
}

#[test]
fn the_version_of_a_record_hides_no_name() {
    for major in 0..16 {
        let mut bytes = hello("a.example", Some(64));
        bytes[1] = major;
        assert_eq!(read(&bytes), names(&["a.example"]), "{major}");
        let alert = [&[21, major, 1, 0, 2, 1, 0][..], &bytes].concat();
        assert_eq!(read(&alert), HelloState::Unreadable, "{major}");
    }
}

#[test]
fn tls_that_does_not_begin_with_a_whole_hello_cannot_be_read() {
    let hello = hello("a.example", None);
    let alert = [&[21, 3, 1, 0, 2, 1, 0][..], &hello].concat();
    let between = [&record(&hello[5..20])[..], &[20, 3, 3, 0, 1, 1], &record(&hello[20..])].concat();
    let server_hello = record(&[2, 0, 0, 1, 0]);
    let too_long = record(&[1, 1, 0, 1]);
    for bytes in [alert, between, server_hello, too_long] {
        assert_eq!(read(&bytes), HelloState::Unreadable, "{bytes:?}");
    }
}

#[test]
fn lengths_that_do_not_fit_are_found() {
    let good = made(Some(&server_names(&[(0, "a.example")])));
    assert_eq!(read(&good), names(&["a.example"]));
    // Lengths that are changed by one: of the session, the extensions, the one extension, its list and the name.
    for at in [43, 51, 55, 57, 60] {
        for change in [1, -1] {
            let mut bytes = good.clone();
            bytes[at] = bytes[at].wrapping_add_signed(change);
            assert_eq!(read(&bytes), HelloState::Unreadable, "{at} {change}");
        }
    }
}

#[test]
fn damage_anywhere_is_survived() {
    let good = hello("a.example", Some(64));
    for at in 0..good.len() {
        for to in [0, 1, 127, 128, 255] {
            let mut bytes = good.clone();
            bytes[at] = to;
            read(&bytes);
        }
    }
}

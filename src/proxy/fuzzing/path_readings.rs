//! Fuzz targets of the two parts of a URL that limits go by: the path's readings, and the authority.

use std::net::IpAddr;

use crate::proxy::host::{Authority, HostError};
use crate::proxy::path::{Path, escapes_root, models};
use crate::proxy::uri_origin::{Origin, Scheme};

/// Paths: whatever a model of a server serves for it is among its readings, and a path that two spellings make the
/// same has the same readings.
pub fn path(input: &[u8]) {
    // A request target is visible, and its path ends at the query. Bytes beyond ASCII stand for letters there.
    let text: String = input.iter().map(|byte| char::from(*byte)).take_while(|char| *char != '?').collect();
    if !text.chars().all(|char| (char.is_ascii_graphic() || char > '\u{a0}') && char != '#') {
        return;
    }
    let path = format!("/{text}");
    let Ok(read) = Path::read(&path) else {
        // Three characters stand for a byte that is percent-encoded in a reading.
        let length = |byte: u8| if byte.is_ascii() && !b"%*".contains(&byte) { 1 } else { 3 };
        assert!(path.bytes().map(length).sum::<usize>() > 300, "few bytes have too many readings: {path}");
        return;
    };
    let readings: Vec<&str> = read.readings().collect();
    for (at, reading) in readings.iter().enumerate() {
        assert!(reading.starts_with('/') && !readings[..at].contains(reading), "{readings:?}");
    }
    assert!(readings.len() <= 216 && !readings.is_empty());
    if let Err(wrong) = models::check(&path) {
        panic!("{wrong}");
    }
    check_spellings(&path, &readings);
    assert!(escapes_root(&path).is_ok());
    let folded = read.ignoring_case();
    assert!(folded.readings().all(|one| readings.iter().any(|reading| reading.eq_ignore_ascii_case(one))));
}

/// Percent-encoding of a letter or digit makes no difference (RFC 3986 §6.2.2.2), nor does that of a byte beyond ASCII.
fn check_spellings(path: &str, readings: &[&str]) {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) || !byte.is_ascii();
    // Digits behind a percent sign may be a part of an encoding.
    if path.contains('%') {
        return;
    }
    let spelt = |byte: u8| if is_plain(byte) { format!("%{byte:02x}") } else { char::from(byte).to_string() };
    let encoded: String = path.bytes().map(spelt).collect();
    let Ok(again) = Path::read(&encoded) else { return };
    assert!(again.readings().eq(readings.iter().copied()), "{path} and {encoded}");
}

/// Authorities: one that is accepted names a host in one spelling, which is accepted again as the same, and an
/// address in it is the one that the system's own parsers read.
pub fn authority(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let read = match Authority::read(&text) {
        Ok(read) => read,
        Err(HostError::Malformed(why) | HostError::Disguised(why)) => {
            assert!(!why.is_empty());
            return;
        }
    };
    let host = read.host();
    assert_eq!(&*read.shared_host(), &*host);
    assert!(!host.is_empty() && host.len() <= 253 && !host.bytes().any(|byte| byte.is_ascii_uppercase()));
    assert!(host.is_ascii() && !host.ends_with('.') && !host.contains(['@', '/', '[', ']', '%', ' ']));
    assert_ne!(read.port, Some(0));
    for scheme in [Scheme::Http, Scheme::Https] {
        let Ok(origin) = Origin::at(scheme, &text) else { panic!("{text} is accepted and refused") };
        let mut written = Vec::new();
        origin.write_authority(&mut written);
        let written = String::from_utf8_lossy(&written).into_owned();
        assert_eq!(Origin::at(scheme, &written).as_ref(), Ok(&origin), "{text} is written as {written}");
        let Ok(uri) = written.parse::<http::uri::Authority>() else { panic!("{written} is no authority in a URI") };
        assert_eq!(uri.port_u16().unwrap_or(scheme.default_port()), origin.port);
    }
    let upper = text.to_ascii_uppercase();
    assert!(Authority::read(&upper).is_ok_and(|upper| upper.host() == host && upper.port == read.port));
    match host.parse::<IpAddr>() {
        // An IPv4-mapped address is the IPv4 address, or one host had two names.
        Ok(address) => assert_eq!(address.to_canonical().to_string(), host),
        Err(_) => assert!(!host.contains(':'), "{host}"),
    }
}

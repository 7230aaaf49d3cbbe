//! Tests of `[tls]` and `[listen] tls`: their settings, and mistakes in the files that they name.

use super::*;
use crate::tls::ca::{self, Subtree};

/// Places and texts of the reports, with D for the folder.
fn reported(folder: &Path, text: &str) -> Vec<(usize, usize, String)> {
    let reports = parse_in(folder, text).unwrap_err();
    let plain = |message: &str| message.replace(&folder.display().to_string(), "D");
    reports.iter().map(|r| (r.line, r.column, format!("{} | {}", plain(&r.message), plain(&r.advice)))).collect()
}

#[test]
fn hosts_that_are_intercepted_are_matched_and_covered() {
    let folder = folder("intercept");
    let text = "[[limit]]\nin_flight = 1\n[access]\nconnect_ports = [443, 8443]\n\
                [tls]\nintercept = [\"API.example\", \"*.b.example:8443\", \"::1\"]\n";
    let settings = parse_in(&folder, text).unwrap();
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
    let opened = |host, port| settings.proxy.intercept.iter().any(|pattern| pattern.matches(host, port));
    assert!(opened("api.example", 443) && opened("x.b.example", 8443) && opened("::1", 443));
    assert!(!opened("b.example", 8443) && !opened("x.b.example", 443) && !opened("other.example", 443));
    let authority = settings.proxy.authority.unwrap();
    assert_eq!(authority.dir, folder.join("certs"));
    let name = |name: &str| Subtree::Name(name.to_owned());
    assert_eq!(authority.covers, [name("api.example"), name("b.example"), Subtree::Address("::1".parse().unwrap())]);
    assert!(!authority.dir.exists(), "who checks makes nothing");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn without_a_host_nothing_is_opened_and_no_authority_is_needed() {
    let settings = good("[tls]\nintercept = []\nca_dir = \"no-such-folder\"\n");
    assert!(settings.proxy.intercept.is_empty() && settings.proxy.authority.is_none());
    let one = good("[tls]\nintercept = \"a.example\"\nca_dir = \"no-such-folder\"\n");
    assert_eq!(one.proxy.intercept.len(), 1, "one host needs no list");
    assert_eq!(one.proxy.authority.unwrap().dir, Path::new("no-such-folder"));
}

#[test]
fn whoever_opens_every_tunnel_is_warned() {
    let text = "[[limit]]\nin_flight = 1\n[tls]\nca_dir = \"no-such-folder\"\nintercept = [\"a.example\", \"*\"]\n";
    let warnings = good(text).warnings;
    let shown: Vec<_> = warnings.iter().map(|w| (w.line, w.column, w.message.as_str())).collect();
    assert_eq!(shown, [(5, 27, "every tunnel is intercepted, and lockgate's authority may sign for any host")]);
}

#[test]
fn an_authority_that_cannot_be_used_is_told_where_it_is_named() {
    let folder = folder("authority");
    let dir = folder.join("ca");
    let made = ca::Settings { dir: dir.clone(), covers: vec![Subtree::Name("a.example".to_owned())] };
    ca::open_or_create(&made, crate::gate::clock::Clock::start().wall_unix_nanos()).unwrap();
    let text = "[tls]\nca_dir = \"ca\"\nintercept = [\"a.example\", \"b.example\"]\n";
    let uncovered = reported(&folder, text);
    let words = "the authority in D/ca/lockgate-ca.pem may not vouch for b.example, only for a.example, and what is below this name \
        | `lockgate ca rotate` makes a new authority for the hosts that [tls] intercept names now";
    assert_eq!(uncovered, [(3, 27, words.to_owned())]);
    let text = "[tls]\nca_dir = \"ca\"\nintercept = [\"a.example\"]\n";
    parse_in(&folder, text).unwrap();
    let key = ca::key_path(&dir);
    std::fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let words = "the private key D/ca/lockgate-ca.key may be read or written by others (its mode is 644) | run `chmod 600 D/ca/lockgate-ca.key`";
    assert_eq!(reported(&folder, text), [(2, 10, words.to_owned())]);
    std::fs::remove_file(key).unwrap();
    assert!(
        reported(&folder, text)[0].2.starts_with("D/ca/lockgate-ca.pem is there, but D/ca/lockgate-ca.key is not | ")
    );
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_authority_is_found_whatever_state_it_is_in() {
    let folder = folder("find-authority");
    let path = folder.join("proxy.toml");
    std::fs::create_dir_all(folder.join("certs")).unwrap();
    std::fs::write(folder.join("certs/lockgate-ca.pem"), "nothing").unwrap();
    std::fs::write(&path, "[access]\nusers = \"none\"\n[tls]\nintercept = \"a.example\"\n").unwrap();
    let found = authority(&path).unwrap();
    assert_eq!((found.dir, found.covers), (folder.join("certs"), vec![Subtree::Name("a.example".to_owned())]));
    std::fs::write(&path, "[tls]\nintercept = 5\n").unwrap();
    assert!(matches!(authority(&path), Err(Error::Invalid(_))), "what is wrong covers nothing");
    std::fs::write(&path, "[log]\n").unwrap();
    assert!(authority(&path).unwrap().covers.is_empty());
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn certificates_that_are_given_are_read() {
    let folder = folder("given");
    let text = "[listen]\ntls = { cert = \"gateway.pem\", key = \"gateway.key\" }\n[[tls.client]]\nhost = [\"a.example\", \"*.a.example\"]\n\
        cert = \"client.pem\"\nkey = \"client.key\"\n[[tls.client]]\nhost = \"b.example:8443\"\ncert = \"other.pem\"\nkey = \"other.key\"\n";
    let proxy = parse_in(&folder, text).unwrap().proxy;
    assert_eq!(proxy.identity.unwrap().chain.len(), 1);
    assert_eq!(proxy.tls.identities.len(), 2);
    let shown = |host, port| proxy.identities.iter().find(|(pattern, _)| pattern.matches(host, port)).map(|(_, i)| *i);
    assert_eq!((shown("a.example", 443), shown("x.a.example", 1)), (Some(0), Some(0)));
    assert_eq!((shown("b.example", 8443), shown("b.example", 443)), (Some(1), None));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn given_certificates_that_cannot_be_used_are_told_at_the_file_that_is_wrong() {
    let folder = folder("wrong-pairs");
    std::fs::set_permissions(folder.join("client.key"), Permissions::from_mode(0o640)).unwrap();
    let text = "[listen]\ntls = { cert = \"gateway.pem\", key = \"other.key\" }\n[[tls.client]]\nhost = \"a.example\"\n\
        cert = \"client.pem\"\nkey = \"client.key\"\n[[tls.client]]\nhost = \"b.example\"\ncert = \"users\"\nkey = \"other.key\"\n";
    let expected = [
        (2, 37, "D/other.key is not the key of D/gateway.pem | name the key that the certificate was made for"),
        (
            6,
            7,
            "the private key D/client.key may be read or written by others (its mode is 640) | run `chmod 600 D/client.key`",
        ),
        (9, 8, "D/users holds no certificate | a PEM file with a certificate (-----BEGIN CERTIFICATE-----)"),
    ];
    assert_eq!(reported(&folder, text), expected.map(|(line, column, words)| (line, column, words.to_owned())));
    let missing = reported(&folder, "[listen]\ntls = { cert = \"none.pem\", key = \"gateway.key\" }\n");
    assert!(missing[0].2.starts_with("cannot read D/none.pem: "), "{missing:?}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn whoever_shows_a_certificate_to_everybody_is_warned() {
    let folder = folder("everybody");
    let text = "[[limit]]\nin_flight = 1\n[[tls.client]]\nhost = \"*\"\ncert = \"client.pem\"\nkey = \"client.key\"\n";
    let warnings = parse_in(&folder, text).unwrap().warnings;
    let shown: Vec<_> = warnings.iter().map(|w| (w.line, w.column, w.message.as_str())).collect();
    assert_eq!(shown, [(4, 8, "every origin that asks is shown this certificate")]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn certificates_of_the_admin_listener_and_of_locks_are_checked_as_those_for_callers() {
    let folder = folder("service-pairs");
    let pair = |cert: &str, key: &str| format!("tls = {{ cert = \"{cert}\", key = \"{key}\" }}\n");
    let file = |admin: &str, locks: &str| {
        format!("[admin]\nlisten = \"127.0.0.1:1\"\n{admin}[locks]\nlisten = \"127.0.0.1:2\"\n{locks}")
    };
    let good =
        parse_in(&folder, &file(&pair("gateway.pem", "gateway.key"), &pair("client.pem", "client.key"))).unwrap();
    assert!(good.admin.unwrap().tls.is_some() && good.locks.unwrap().tls.is_some() && good.proxy.identity.is_none());
    std::fs::set_permissions(folder.join("client.key"), Permissions::from_mode(0o640)).unwrap();
    let told = reported(&folder, &file(&pair("gateway.pem", "other.key"), &pair("client.pem", "client.key")));
    assert_eq!(told.iter().map(|(line, column, _)| (*line, *column)).collect::<Vec<_>>(), [(3, 37), (6, 36)]);
    assert!(told[0].2.starts_with("D/other.key is not the key of D/gateway.pem"), "{told:?}");
    assert!(told[1].2.contains("may be read or written by others"), "{told:?}");
    let told = reported(&folder, &file("tls = { cert = \"gateway.pem\" }\n", "tls = true\n"));
    assert!(told[0].2.contains("the certificate of the gateway lacks `key`"), "{told:?}");
    assert!(told[1].2.contains("`tls` is a boolean | a table, such as tls = {"), "{told:?}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn passwords_that_cross_the_network_in_clear_text_are_warned_of_unless_there_is_tls() {
    let folder = folder("clear-passwords");
    let warned = |section: &str, listen: &str, more: &str| {
        let access = "[access]\nallow_from = [\"10.0.0.0/8\"]\n[[limit]]\nin_flight = 1\n";
        let text = format!("{access}[{section}]\nlisten = \"{listen}\"\n{more}");
        let settings = parse_in(&folder, &text).unwrap_or_else(|reports| panic!("{}", join_reports(&reports)));
        settings.warnings.iter().map(|w| (w.line, w.message.clone())).collect::<Vec<_>>()
    };
    let users = "users = \"users\"\n";
    let tls = format!("{users}tls = {{ cert = \"gateway.pem\", key = \"gateway.key\" }}\n");
    for section in ["admin", "locks"] {
        let message = "passwords of `users` reach 10.0.0.1:1 in clear text".to_owned();
        assert_eq!(warned(section, "10.0.0.1:1", users), [(6, message)]);
        assert!(warned(section, "10.0.0.1:1", &tls).is_empty());
        assert!(warned(section, "127.0.0.1:1", users).is_empty());
    }
    assert!(warned("locks", "10.0.0.1:1", "").is_empty());
    std::fs::remove_dir_all(folder).unwrap();
}

//! Tests of `[[parent]]`: settings, password files, and warnings.

use super::*;
use crate::proxy::parent::{ParentKind, ParentUrl};

const PARENT: &str =
    "[[parent]]\nproxy = [\"http://Proxy.corp:3128/\", \"https://b\", \"socks5://c\", \"socks5h://[::1]:9050\"]\n";

#[test]
fn a_section_becomes_what_it_says() {
    let folder = folder("parents");
    let text = format!(
        "{PARENT}except = [\"*.corp\", \"10.0.0.0/8\", \"::1\"]\nuser = \"ana\"\npassword_file = \"parent.password\"\n"
    );
    let settings = parse_in(&folder, &text).unwrap_or_else(|reports| panic!("{}", join_reports(&reports)));
    std::fs::remove_dir_all(folder).unwrap();
    let [section] = &*settings.proxy.parents else { panic!("one section") };
    let proxies: Vec<_> = section.proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["http://proxy.corp:3128", "https://b:443", "socks5://c:1080", "socks5h://[::1]:9050"]);
    assert_eq!(section.proxies[2], ParentUrl { kind: ParentKind::Socks5, host: "c".into(), port: 1080 });
    assert_eq!(section.login.as_ref().map(|login| (&*login.user, &*login.password)), Some(("ana", "secret")));
    assert_eq!((section.hosts.len(), section.except_hosts.len(), section.except_addresses.len()), (1, 1, 2));
    let sentence = "requests to all hosts except *.corp, 10.0.0.0/8, ::1/128, this machine, origins of routes go through the parent \
        proxy http://proxy.corp:3128, or if it fails https://b:443, or if it fails socks5://c:1080, or if it fails socks5h://[::1]:9050";
    assert_eq!(settings.explanations, [sentence]);
}

#[test]
fn a_password_file_must_be_its_owners_alone_and_hold_one_line() {
    let folder = folder("parent-passwords");
    let file = folder.join("parent.password");
    let reported = |content: &str, mode: u32| {
        std::fs::write(&file, content).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let result = parse_in(&folder, &format!("{PARENT}user = \"ana\"\npassword_file = \"parent.password\"\n"));
        result.err().map(|reports| join_reports(&reports)).unwrap_or_default()
    };
    assert_eq!(reported("secret\r\n", 0o400), "");
    assert!(reported("secret", 0o640).contains("may be read or written by others (its mode is 640)"));
    for content in ["", "\n", "a\nb\n", &"a".repeat(256)] {
        assert!(reported(content, 0o600).contains("holds no password of one line"), "{content:?}");
    }
    let lacks = parse_in(&folder, &format!("{PARENT}user = \"ana\"\npassword_file = \"missing\"\n")).unwrap_err();
    assert!(lacks[0].message.contains("cannot read"), "{}", lacks[0].message);
    let alone = parse_in(&folder, &format!("{PARENT}password_file = \"gateway.key\"\n")).unwrap_err();
    assert!(join_reports(&alone).contains("`password_file` has no effect without `user`"), "{}", join_reports(&alone));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_section_behind_one_that_takes_all_its_requests_is_warned_of() {
    let section = |host: &str, more: &str| {
        format!("[[parent]]\nmatch = {{ host = \"{host}\" }}\nproxy = \"http://p:1\"\n{more}\n")
    };
    let warned = |sections: &[String]| {
        let settings = good(&sections.concat());
        settings.warnings.iter().filter(|report| report.message.contains("takes no request")).count()
    };
    assert_eq!(warned(&[section("*.a.example", ""), section("b.a.example", "")]), 1);
    assert_eq!(warned(&[section("*", ""), section("*", "")]), 1);
    assert_eq!(warned(&[section("*", "except = \"b.example\""), section("b.example", "")]), 0);
    assert_eq!(warned(&[section("*", ""), section("b.example", "")]), 0, "it takes routes, too");
    assert_eq!(warned(&[section("b.example", ""), section("*", "")]), 0);
}

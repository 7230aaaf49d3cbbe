//! Tests of the variables: proxies, certificates, exceptions, URLs.

use std::collections::BTreeMap;

use super::*;
use crate::proxy::pattern::HostPattern;
use crate::tls::identity::Identity;

fn settings(listen: &str) -> Settings {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/proxy.toml");
    let mut settings = crate::config::read(&path).unwrap();
    settings.bound_to(&[listen.parse().unwrap()]);
    settings
}

/// Settings with these hosts in the first limit.
fn counting(hosts: &[&str]) -> Settings {
    let mut settings = settings("127.0.0.1:8080");
    settings.proxy.rules[0].hosts = hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect();
    settings
}

fn bundle() -> Bundle {
    Bundle {
        ours: "/certs/lockgate-ca.pem".into(),
        all: "/certs/bundle.pem".into(),
        folder: "/certs/bundle.d".into(),
        java: "/certs/bundle.jks".into(),
        unreadable: Vec::new(),
    }
}

/// The variables and notes for a program with this environment.
fn build_with(
    settings: &Settings,
    bundle: Option<&Bundle>,
    before: &[(&str, &str)],
) -> (BTreeMap<String, String>, Vec<String>) {
    let env = |name: &str| before.iter().find(|(env, _)| *env == name).map(|(_, value)| OsString::from(*value));
    let variables = build(settings, address(settings).unwrap(), bundle, &env);
    let text = |value: OsString| value.into_string().unwrap();
    (variables.set.into_iter().map(|(name, value)| (name.to_owned(), text(value))).collect(), variables.notes)
}

#[test]
fn every_program_is_told_where_the_gateway_is() {
    let (set, notes) = build_with(&settings("127.0.0.1:8080"), None, &[]);
    for name in PROXY_VARIABLES {
        assert_eq!(set[name], "http://127.0.0.1:8080", "{name}");
    }
    assert_eq!(set["ALL_PROXY"], "socks5h://127.0.0.1:8080", "for programs that read no other");
    assert_eq!(set["NO_PROXY"], "localhost,127.0.0.1,::1,127.0.0.1:8080");
    assert_eq!(set["no_proxy"], set["NO_PROXY"]);
    assert_eq!([&set["NODE_USE_ENV_PROXY"], &set["PERL_LWP_ENV_PROXY"]], ["1"; 2]);
    assert_eq!(
        set["JAVA_TOOL_OPTIONS"],
        "-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=8080 -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=8080 \
         -Dhttp.nonProxyHosts=localhost|127.0.0.1|[::1]"
    );
    assert!(!set.contains_key("SSL_CERT_FILE") && !set.contains_key("NODE_EXTRA_CA_CERTS"), "nothing is intercepted");
    assert!(!set.contains_key("no_grpc_proxy") && notes.is_empty(), "{notes:?}");
}

#[test]
fn where_tunnels_are_opened_every_program_is_told_whom_to_believe() {
    let (set, _) = build_with(&settings("127.0.0.1:8080"), Some(&bundle()), &[]);
    for name in [
        "SSL_CERT_FILE",
        "CURL_CA_BUNDLE",
        "AWS_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "PIP_CERT",
        "CARGO_HTTP_CAINFO",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
        "npm_config_cafile",
        "PERL_LWP_SSL_CA_FILE",
        "SYSTEM_CERTIFICATE_PATH",
        CA_BUNDLE,
    ] {
        assert_eq!(set[name], "/certs/bundle.pem", "{name}");
    }
    assert_eq!(set["REQUESTS_CA_BUNDLE"], "/certs/bundle.d");
    for name in ["NODE_EXTRA_CA_CERTS", "DENO_CERT"] {
        assert_eq!(set[name], "/certs/lockgate-ca.pem", "{name}");
    }
    let java = &set["JAVA_TOOL_OPTIONS"];
    for option in ["trustStore=/certs/bundle.jks", "trustStoreType=JKS", "trustStorePassword=changeit"] {
        assert!(java.contains(&format!("-Djavax.net.ssl.{option} ")), "{option}: {java}");
    }
}

#[test]
fn exceptions_that_are_set_stay_as_they_are() {
    let after = |before: &[(&str, &str)]| {
        let (set, notes) = build_with(&settings("127.0.0.1:8080"), None, before);
        assert!(notes.is_empty(), "{notes:?}");
        (set["NO_PROXY"].clone(), set["no_proxy"].clone())
    };
    let own = "127.0.0.1:8080";
    let pair = |upper: &str, lower: &str| (format!("{upper},{own}"), format!("{lower},{own}"));
    assert_eq!(after(&[("NO_PROXY", "a, b")]), pair("a, b", "a, b"));
    assert_eq!(after(&[("no_proxy", "b")]), pair("b", "b"));
    assert_eq!(after(&[("NO_PROXY", "a"), ("no_proxy", "b")]), pair("a", "b"));
    assert_eq!(after(&[("NO_PROXY", "a,127.0.0.1:8080")]), pair("a", "a"), "it is set once");
    assert_eq!(after(&[("NO_PROXY", "")]), (own.to_owned(), own.to_owned()), "set to nothing is set");
}

#[test]
fn socks5_has_the_credentials_too_and_is_not_named_where_callers_speak_tls() {
    let mut plain = settings("[::]:8080");
    assert_eq!(
        build_with(&plain, None, &[(CREDENTIALS, "ana:p@ss")]).0["ALL_PROXY"],
        "socks5h://ana:p%40ss@[::1]:8080"
    );
    plain.proxy.identity = Some(identity(&["localhost"]));
    let (set, _) = build_with(&plain, None, &[]);
    assert_eq!(set["ALL_PROXY"], set["HTTPS_PROXY"]);
    assert!(set["ALL_PROXY"].starts_with("https://"));
}

#[test]
fn nothing_that_is_counted_goes_past_us() {
    let left = |hosts: &[&str], before: &str| {
        let (set, notes) = build_with(&counting(hosts), None, &[("NO_PROXY", before), ("no_grpc_proxy", before)]);
        assert_eq!(set["NO_PROXY"], set["no_proxy"]);
        assert_eq!(set["NO_PROXY"], set["no_grpc_proxy"]);
        let (list, _) = set["NO_PROXY"].rsplit_once("127.0.0.1:8080").unwrap();
        let list = list.trim_end_matches(',');
        assert_eq!(notes.is_empty(), list == before, "what is left out is said: {notes:?}");
        list.to_owned()
    };
    assert_eq!(left(&["api.corp.example"], ".corp.example,b.example"), "b.example");
    assert_eq!(
        left(&["api.corp.example"], "corp.example:443,x.api.example,pi.corp.example"),
        "x.api.example,pi.corp.example"
    );
    assert_eq!(left(&["*.corp.example"], "API.Corp.Example,*.corp.example.,corp.example.org"), "corp.example.org");
    assert_eq!(left(&["10.1.2.3"], "10.0.0.0/8,10.1.2.3:80,10.1.2.4,::ffff:10.1.2.3"), "10.1.2.4");
    assert_eq!(left(&["a.example"], "*"), "");
    assert_eq!(left(&["*"], "a.example,10.0.0.0/8,localhost"), "");
    assert_eq!(left(&[], "a.example"), "", "a limit without hosts counts them all");
    assert_eq!(left(&["localhost"], "localhost,127.0.0.1,127.0.0.0/8,[::1],::1,0.0.0.0/0,127.,app.localhost,a"), "a");
    assert_eq!(left(&["a.example"], "localhost,127.0.0.1,::1,b.example"), "localhost,127.0.0.1,::1,b.example");
}

#[test]
fn where_this_machine_is_counted_nothing_is_excepted_by_default() {
    let mut intercepting = settings("127.0.0.1:8080");
    intercepting.proxy.intercept = vec![HostPattern::parse("localhost:8443").unwrap()];
    let by_rule = Settings { counts_loopback: true, ..settings("127.0.0.1:8080") };
    for settings in [intercepting, by_rule, counting(&["[::1]"]), counting(&["127.0.0.9"])] {
        let (set, _) = build_with(&settings, None, &[]);
        assert_eq!([&set["NO_PROXY"], &set["no_proxy"]], ["127.0.0.1:8080"; 2], "the gateway itself");
        assert!(set["JAVA_TOOL_OPTIONS"].ends_with("-Dhttp.nonProxyHosts="), "Java excepts this machine by itself");
        let (set, notes) = build_with(&settings, None, &[("NO_PROXY", "a.corp,127.0.0.1:8080")]);
        assert_eq!(set["NO_PROXY"], "a.corp,127.0.0.1:8080");
        assert!(notes.is_empty(), "an exec around this one has added the gateway: {notes:?}");
        assert!(set["JAVA_TOOL_OPTIONS"].ends_with("-Dhttp.nonProxyHosts="), "it adds this machine to any list");
    }
}

#[test]
fn the_gateway_itself_is_never_reached_through_the_gateway() {
    let set = |listen: &str, hosts: &[&str], before: &[(&str, &str)]| {
        let mut settings = counting(hosts);
        settings.bound_to(&[listen.parse().unwrap()]);
        build_with(&settings, None, before).0["NO_PROXY"].clone()
    };
    assert_eq!(set("127.0.0.1:8080", &[], &[]), "127.0.0.1:8080", "a limit without hosts counts them all");
    assert_eq!(set("10.0.0.5:8080", &["a"], &[("NO_PROXY", "corp.example")]), "corp.example,10.0.0.5:8080");
    assert_eq!(no_proxy::with_own("*".into(), &["a:80".into()]), "*", "most programs know it only alone");
    assert_eq!(set("[fd00::5]:8080", &["a"], &[("NO_PROXY", "b")]), "b,fd00::5");
    assert_eq!(set("[::1]:8080", &["localhost"], &[("NO_PROXY", "b")]), "b", "without a port it excepts too much");
}

#[test]
fn options_for_java_are_appended_and_replaced_when_they_are_ours() {
    let settings = settings("127.0.0.1:8080");
    let java = |before: &str| {
        let (set, notes) = build_with(&settings, Some(&bundle()), &[("JAVA_TOOL_OPTIONS", before)]);
        (set["JAVA_TOOL_OPTIONS"].clone(), notes)
    };
    let (first, _) = java("");
    assert_eq!(java("-Xmx1g '-Da=b c'").0, format!("-Xmx1g '-Da=b c' {first}"));
    assert_eq!(java(&first), (first.clone(), Vec::new()), "a program that starts another as it was started itself");
    assert_eq!(java("-Dhttp.proxyHost=old -Xmx1g").0, format!("-Xmx1g {first}"));
    let (kept, notes) = java("-Djavax.net.ssl.trustStore=/company.jks -Djavax.net.ssl.trustStorePassword=x");
    assert!(kept.contains("trustStore=/company.jks") && !kept.contains("/certs/"), "{kept}");
    assert!(notes.iter().any(|note| note.contains("/certs/lockgate-ca.pem")), "{notes:?}");
}

#[test]
fn callers_that_need_a_password_have_it_in_the_url() {
    let mut settings = settings("127.0.0.1:8080");
    settings.proxy.access.users = Some(Vec::new());
    let (set, notes) = build_with(&settings, None, &[]);
    assert_eq!(set["HTTP_PROXY"], "http://127.0.0.1:8080");
    assert!(notes.iter().any(|note| note.contains(CREDENTIALS)), "{notes:?}");
    let (set, notes) = build_with(&settings, None, &[(CREDENTIALS, "ana:p@ss:w/örd %")]);
    assert_eq!(set["HTTP_PROXY"], "http://ana:p%40ss%3Aw%2F%C3%B6rd%20%25@127.0.0.1:8080");
    assert!(notes.is_empty(), "{notes:?}");
    assert!(!set["JAVA_TOOL_OPTIONS"].contains("ana"));
}

#[test]
fn a_password_of_an_environment_in_latin_1_is_written_in_utf_8() {
    let settings = settings("127.0.0.1:8080");
    for bytes in [&b"ana:p\xe4ss"[..], "ana:p\u{e4}ss".as_bytes()] {
        let env = |name: &str| (name == CREDENTIALS).then(|| OsStr::from_bytes(bytes).to_owned());
        let set = build(&settings, address(&settings).unwrap(), None, &env).set;
        let url = set.iter().find(|(name, _)| *name == "HTTPS_PROXY").map(|(_, url)| url.to_str());
        assert_eq!(url, Some(Some("http://ana:p%C3%A4ss@127.0.0.1:8080")), "{}", bytes.escape_ascii());
    }
}

/// An identity that is valid for these names.
fn identity(names: &[&str]) -> Identity {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    Identity {
        chain: vec![made.cert.der().clone()],
        key: rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap(),
    }
}

#[test]
fn a_gateway_that_speaks_tls_is_called_by_a_name_that_it_can_prove() {
    let named = |names: &[&str], listen: &str| {
        let mut settings = settings(listen);
        settings.proxy.identity = Some(identity(names));
        url(&settings).unwrap()
    };
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!(named(&["localhost"], "127.0.0.1:80"), "https://localhost:80");
    assert_eq!(named(&["localhost", "127.0.0.1"], "0.0.0.0:80"), "https://127.0.0.1:80");
    assert_eq!(named(&["::1"], "[::1]:80"), "https://[::1]:80");
    assert_eq!(named(&["other.example"], "127.0.0.1:80"), "https://127.0.0.1:80");
    assert_eq!(named(&["localhost"], "10.1.2.3:80"), "https://10.1.2.3:80");
    if machine.contains(|c: char| c.is_ascii_lowercase()) {
        assert_eq!(named(&[&machine], "10.1.2.3:80"), format!("https://{machine}:80"));
    }
}

#[test]
fn every_address_is_reached_by_the_nearest() {
    let url = |listen| url(&settings(listen)).ok();
    assert_eq!(url("0.0.0.0:80").as_deref(), Some("http://127.0.0.1:80"));
    assert_eq!(url("[::]:80").as_deref(), Some("http://[::1]:80"));
    assert_eq!(url("10.1.2.3:80").as_deref(), Some("http://10.1.2.3:80"));
    assert_eq!(url("127.0.0.1:0"), None);
}

#[test]
fn the_authority_is_made_and_programs_are_pointed_at_whole_paths() {
    let folder = std::env::temp_dir().join(format!("lockgate-variables-{}", std::process::id()));
    let mut settings = settings("127.0.0.1:8080");
    let authority = ca::Settings { dir: folder.join("certs"), covers: vec![ca::Subtree::Name("a.example".into())] };
    settings.proxy.authority = Some(authority);
    for _ in 0..2 {
        let set: BTreeMap<_, _> = variables(&settings, &|_| None).unwrap().set.into_iter().collect();
        for name in BUNDLE_VARIABLES.iter().chain(&EXTRA_CA_VARIABLES) {
            let path = Path::new(&set[name]);
            assert!(path.is_absolute() && path.is_file(), "{name}: {}", path.display());
        }
    }
    // Another user's folder, which is read-only for us: the files are written to our cache.
    let home = OsString::from(folder.join("home"));
    let place = cache_dir(&folder, &|name| (name == "HOME").then(|| home.clone())).unwrap();
    assert!(place.starts_with(folder.join("home/.cache/lockgate")), "{}", place.display());
    let bundle = Bundle::write(&folder.join("certs"), &place, &Inherited::default()).unwrap();
    assert!(bundle.all.is_file() && bundle.ours == folder.join("certs/lockgate-ca.pem"));
    std::fs::remove_dir_all(&folder).unwrap();
}

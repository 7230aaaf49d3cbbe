//! An origin that cannot prove who it is is never spoken to, and the answer says what was wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::certs::{Authority, BOTH, Fault, config_from};
use crate::support::stage::{Before, Stage, counted, get, opens};
use crate::support::*;

fn weak(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/weak").join(name)
}

/// Fails unless a request to `to` is refused for the origin's certificate, and the detail says each of `words`.
#[track_caller]
fn refused(stage: &Stage, to: &str, words: &[&str]) {
    let by_http1 = stage.get(to, "/");
    let by_http2 = stage.opened2(to).get(&format!("https://{to}/"));
    for answer in [by_http1, by_http2] {
        check_ours(&answer, 502, "tls_certificate_error");
        let text = answer.text();
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text}");
        }
        assert_eq!(
            text.matches("TLS with the origin failed: the certificate is not accepted: it").count(),
            1,
            "{text}"
        );
        assert!(!text.contains("certificate is not valid") && text.matches("[tls] trust").count() <= 1, "{text}");
    }
}

#[test]
fn what_is_wrong_with_a_certificate_is_said_and_nothing_is_sent() {
    let cases: [(Fault, &[&str]); 4] = [
        (Fault::Expired, &["expired"]),
        (Fault::NotYetValid, &["not valid before 2095"]),
        (Fault::OtherName, &["localhost", "other.example"]),
        (Fault::SelfSigned, &["self-signed"]),
    ];
    for (fault, words) in cases {
        let before = Before::new();
        let origin = Origin2::start(before.authority.both_config(fault));
        let stage = before.gateway(&counted(1, "1h", "when_full = \"refuse\""), &[origin.port()]);
        refused(&stage, &origin.name(), words);
        assert_eq!(origin.count(), 0, "{fault:?}");
    }
}

#[test]
fn an_unknown_authority_is_not_trusted() {
    let before = Before::new();
    let origin = Origin2::start(Authority::named("unknown").both_config(Fault::None));
    let stage = before.gateway(UNLIMITED, &[origin.port()]);
    refused(&stage, &origin.name(), &["not trusted"]);
    assert_eq!(origin.count(), 0);
}

#[test]
fn what_is_shown_in_an_opened_tunnel_is_a_leaf_and_never_the_root() {
    let before = Before::new();
    let origin = Origin2::start(before.authority.both_config(Fault::None));
    let stage = before.gateway(UNLIMITED, &[origin.port()]);
    let ours = certs::certificates(&stage.ca());
    let shown = stage.opened(&origin.name()).shown();
    assert!(!ours.contains(&shown[0]), "the key of the root signs, and does nothing else");
}

#[test]
fn a_signature_by_sha1_is_too_weak() {
    let before = Before::new();
    let origin = Origin2::start(config_from(&weak("sha1.pem"), &weak("sha1.key")));
    let toml = UNLIMITED.to_owned() + &opens(&["localhost"], &[origin.port()], &weak("root.pem"));
    let stage = before.gateway_with(&toml);
    refused(&stage, &origin.name(), &["SHA-1"]);
    assert_eq!(origin.count(), 0);
}

/// A server that still takes a key of 1024 bits, which rustls would not.
struct Lax(Child, u16);

impl Lax {
    #[track_caller]
    fn start(args: &[&str]) -> Lax {
        let mut child = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-www"])
            .args(args)
            .arg("-cert")
            .arg(weak("rsa1024.pem"))
            .arg("-key")
            .arg(weak("rsa1024.key"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl: run tests/run, which installs it");
        let lines = BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines();
        let accept = lines.map_while(Result::ok).find(|line| line.starts_with("ACCEPT ")).expect("it says where");
        let port = accept.rsplit(':').next().and_then(|port| port.trim().parse().ok()).expect("a port");
        Lax(child, port)
    }
}

impl Drop for Lax {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_key_of_1024_bits_is_too_weak() {
    let before = Before::new();
    let origin = Lax::start(&["-cipher", "ALL:@SECLEVEL=0"]);
    let toml = UNLIMITED.to_owned() + &opens(&["localhost"], &[origin.1], &weak("root.pem"));
    let stage = before.gateway_with(&toml);
    refused(&stage, &format!("localhost:{}", origin.1), &["1024 bits"]);
}

#[test]
fn an_origin_without_forward_secrecy_is_told_as_such() {
    let before = Before::new();
    // RSA key exchange, as the servers have that were never touched again.
    let origin = Lax::start(&["-tls1_2", "-cipher", "AES128-GCM-SHA256:@SECLEVEL=0"]);
    let stage = before.gateway(UNLIMITED, &[origin.1]);
    let answer = stage.get(&format!("localhost:{}", origin.1), "/");
    check_ours(&answer, 502, "tls_alert_received|tls_protocol_error");
    let text = answer.text();
    assert!(text.contains("no cipher in common with us") && text.contains("RSA key exchange"), "{text}");
    assert!(text.contains("leave its host out of [tls] intercept"), "{text}");
}

#[test]
fn an_origin_that_speaks_no_tls_is_no_reason_to_fall_back() {
    let before = Before::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = thread(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let mut bytes = vec![0; 4096];
        let count = tcp.read(&mut bytes).unwrap();
        tcp.write_all(b"HTTP/1.1 400 What?\r\n\r\n").unwrap();
        bytes[..count].to_vec()
    });
    let stage = before.gateway(UNLIMITED, &[port]);
    let answer = stage.get(&format!("localhost:{port}"), "/");
    check_ours(&answer, 502, "tls_protocol_error|tls_alert_received|http_protocol_error|connection_terminated");
    assert_eq!(heard.join().unwrap()[0], 0x16, "a TLS handshake was begun, and nothing said in the clear");
}

#[test]
fn an_origin_that_asks_who_we_are_is_shown_the_certificate_meant_for_it() {
    for offer in [BOTH, &["http/1.1"]] {
        let before = Before::new();
        let origin = Origin2::start(before.authority.asking_config(offer));
        let (cert, key) = before.authority.issue_caller("gateway.example").write(before.dir.path(), "gateway");
        let mine = format!("[[tls.client]]\nhost = \"localhost\"\ncert = {:?}\nkey = {:?}\n\n", cert, key);
        let access = opens(&["localhost", "127.0.0.1"], &[origin.port()], &before.trust);
        let (tls, access) = access.split_once("[access]").unwrap();
        let stage = before.gateway_with(&format!("{UNLIMITED}{tls}{mine}[access]{access}"));
        let answer = stage.get(&origin.name(), "/known");
        assert_eq!((answer.status, answer.text()), (200, "/known".to_owned()), "{offer:?}");
        let unknown = stage.get(&origin.addr.to_string(), "/unknown");
        assert_eq!(unknown.status, 502, "{}{}", unknown.raw, unknown.text());
        assert_eq!(origin.paths(), ["/known"]);
    }
}

#[test]
fn certificates_for_addresses_are_made_and_believed() {
    for (listen, to) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "[::1]")] {
        let before = Before::new();
        let origin = Origin2::at(listen, before.authority.both_config(Fault::None), Manners::default());
        let stage = before.gateway(UNLIMITED, &[origin.port()]);
        let to = format!("{to}:{}", origin.port());
        let answer = stage.opened(&to).send(get(&to, "/address")).answer();
        assert_eq!((answer.status, answer.text()), (200, "/address".to_owned()), "{to}");
    }
}

#[test]
fn a_failed_handshake_gives_its_slot_back() {
    let before = Before::new();
    let bad = Origin2::start(Authority::new().both_config(Fault::None));
    let good = Origin2::start(before.authority.both_config(Fault::None));
    let stage = before.gateway(&counted(1, "1h", "when_full = \"refuse\""), &[bad.port(), good.port()]);
    for _ in 0..3 {
        check_ours(&stage.get(&bad.name(), "/"), 502, "tls_certificate_error");
    }
    assert_eq!(stage.get(&good.name(), "/").status, 200, "nothing was sent, so nothing was counted");
}

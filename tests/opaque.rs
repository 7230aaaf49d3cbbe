//! Hosts that are not named stay closed: their bytes pass as they are, and nobody but the origin can read them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::support::certs::{Authority, Fault};
use crate::support::stage::{Before, counted, get, opens};
use crate::support::*;

/// Passes bytes to `to`, and keeps what went each way.
struct Recorder {
    addr: SocketAddr,
    forth: Arc<Mutex<Vec<u8>>>,
    back: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    fn start(to: SocketAddr) -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let recorder = Recorder { addr, forth: Arc::default(), back: Arc::default() };
        let (forth, back) = (Arc::clone(&recorder.forth), Arc::clone(&recorder.back));
        thread(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let far = TcpStream::connect(to).unwrap();
                let (near2, far2) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let (forth, back) = (Arc::clone(&forth), Arc::clone(&back));
                thread(move || pass(near, far, &forth));
                thread(move || pass(far2, near2, &back));
            }
        });
        recorder
    }

    fn kept(&self) -> (Vec<u8>, Vec<u8>) {
        (self.forth.lock().unwrap().clone(), self.back.lock().unwrap().clone())
    }
}

fn pass(mut from: TcpStream, mut into: TcpStream, kept: &Mutex<Vec<u8>>) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        kept.lock().unwrap().extend_from_slice(&bytes[..count]);
        if into.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    into.shutdown(Shutdown::Write).ok();
}

/// Without the head of the CONNECT or of its answer.
fn after_head(bytes: &[u8]) -> &[u8] {
    let at = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    &bytes[at + 4..]
}

/// A caller that is pinned: it believes one certificate, and looks which one it was shown.
#[test]
fn a_pinned_caller_meets_the_origin_itself_and_every_byte_passes_as_it_was_sent() {
    let before = Before::new();
    let issued = before.authority.issue(Fault::None);
    let pin = issued.der.clone();
    let (cert, key) = issued.write(before.dir.path(), "origin");
    let origin = Origin2::start(certs::config_from(&cert, &key));
    // Between the gateway and the origin, and between the caller and the gateway.
    let far = Recorder::start(origin.addr);
    let to = far.addr.to_string();
    let toml = UNLIMITED.to_owned() + &opens(&["localhost"], &[far.addr.port()], &before.trust);
    let stage = before.gateway_with(&toml);
    let near = Recorder::start(stage.gateway.addr);
    let mut caller = Caller::connect(near.addr);
    assert_eq!(caller.send(stage::connect(&to, "")).answer_to("CONNECT").status, 200);
    let mut inside = caller.into_tls_with("127.0.0.1", stage.authority.caller_config());
    assert_eq!(inside.shown(), [pin], "the origin's own certificate, and no other");
    for n in 0..50 {
        let path = format!("/{n}");
        assert_eq!(inside.send(get(&to, &path)).answer().text(), path);
    }
    inside.send(get(&to, "/stream/1000000"));
    assert_eq!(inside.answer().body.len(), 1_000_000);
    inside.finish();
    inside.rest();
    eventually("the origin's connection has ended", || origin.open() == 0);
    let ((near_forth, near_back), (far_forth, far_back)) = (near.kept(), far.kept());
    assert!(after_head(&near_forth) == far_forth, "the origin received what the caller sent, byte for byte");
    assert!(after_head(&near_back) == far_back, "and the caller what the origin sent");
    assert!(far_forth.len() > 2_000 && far_back.len() > 1_000_000, "all of it went this way");
    assert!(origin.seen().iter().all(|seen| seen.all("via").is_empty()), "nobody touched what was said");
}

#[test]
fn a_pinned_caller_of_a_named_host_notices_that_it_is_opened() {
    let before = Before::new();
    let origin = Origin2::start(before.authority.both_config(Fault::None));
    let stage = before.gateway(UNLIMITED, &[origin.port()]);
    let pinned = stage.authority.caller_config();
    let refused = stage.tunnel(&origin.name()).into_tls_with("localhost", pinned).try_handshake();
    assert!(refused.is_err(), "the gateway has no certificate that the origin's authority signed");
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_tunnel_to_a_host_that_is_not_named_is_counted_as_a_whole() {
    let before = Before::new();
    let origin = Origin2::start(before.authority.both_config(Fault::None));
    let access = opens(&["localhost", "*.opened.example"], &[origin.port()], &before.trust);
    let stage = before.gateway_with(&(counted(1, "1h", "when_full = \"refuse\"") + &access));
    let to = origin.addr.to_string();
    let mut inside = stage.tunnel(&to).into_tls("127.0.0.1", &stage.authority);
    for _ in 0..3 {
        assert_eq!(inside.send(get(&to, "/")).answer().status, 200);
    }
    check_ours(&stage.gateway.exchange(stage::connect(&to, "")), 429, "http_request_error");
}

#[test]
fn bytes_that_are_neither_tls_nor_http_pass_a_closed_tunnel() {
    let origin = Origin::scripted(|request, link| {
        link.send(request.raw.clone());
        link.echo();
        Next::Close
    });
    let before = Before::new();
    let toml = UNLIMITED.to_owned() + &opens(&["localhost"], &[origin.port()], &before.trust);
    let stage = before.gateway_with(&toml);
    let mut tunnel = stage.tunnel(&origin.authority());
    let hello = "SAY / ECHO/1.1\r\nHost: elsewhere.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(tunnel.send(hello).bytes(hello.len()), hello.as_bytes());
    let noise: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    assert_eq!(tunnel.send(&noise).bytes(noise.len()), noise);
}

#[test]
fn no_authority_is_made_where_no_host_is_named() {
    let authority = Authority::new();
    let origin = Origin2::start(authority.both_config(Fault::None));
    let toml = format!("{UNLIMITED}[tls]\nca_dir = \"ca\"\n\n[access]\nconnect_ports = [{}]\n", origin.port());
    let gateway = Gateway::start(&toml);
    let mut caller = gateway.caller();
    assert_eq!(caller.send(stage::connect(&origin.name(), "")).answer_to("CONNECT").status, 200);
    let mut inside = caller.into_tls("localhost", &authority);
    assert_eq!(inside.send(get(&origin.name(), "/")).answer().status, 200);
    assert!(!gateway.dir.path().join("ca").exists(), "an authority that nobody needs is a risk for nothing");
}

//! Logins that hold for a connection (NTLM, Negotiate): the connection belongs to one caller, and the login works.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use http::Request as Head;

use crate::support::certs::Fault;
use crate::support::stage::{self, Before, Stage};
use crate::support::*;

/// The first and the third message of NTLM, as far as this origin looks at them; the caller's name comes behind them.
const NEGOTIATE: &str = "TlRMTVNTUAAB";
const AUTHENTICATE: &str = "TlRMTVNTUAAD";

/// How far the login of a connection has come.
#[derive(Clone, PartialEq, Eq)]
enum Login {
    Challenged(String),
    Done(String),
}

/// An origin that lets connections log in, not requests, as IIS does, and tells who has.
fn origin(scheme: &'static str) -> Origin {
    let logins: Mutex<HashMap<usize, Login>> = Mutex::default();
    Origin::scripted(move |request, link| {
        link.read_body();
        let mut logins = logins.lock().unwrap();
        let given = request.field("authorization").and_then(|given| given.split_once(' ')).unwrap_or_default().1;
        let mut challenge = format!("Basic realm=\"a, b\", {scheme}");
        if let Some(name) = given.strip_prefix(NEGOTIATE) {
            logins.insert(request.connection, Login::Challenged(name.to_owned()));
            challenge = format!("{scheme} TlRMTVNTUAAC");
        } else if let Some(name) = given.strip_prefix(AUTHENTICATE)
            && logins.get(&request.connection) == Some(&Login::Challenged(name.to_owned()))
        {
            logins.insert(request.connection, Login::Done(name.to_owned()));
        }
        if let Some(Login::Done(name)) = logins.get(&request.connection) {
            return link.answer(200, name);
        }
        link.send(format!("HTTP/1.1 401 Who\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n"));
        Next::Keep
    })
}

/// A gateway whose callers share all connections that may be shared.
fn gateway() -> Stage {
    Before::new().gateway_on_one_core(UNLIMITED, &[1])
}

fn ask(url: &str, authorization: &str) -> String {
    let field = if authorization.is_empty() { String::new() } else { format!("Authorization: {authorization}\r\n") };
    format!("GET {url} HTTP/1.1\r\nHost: a\r\n{field}\r\n")
}

/// The whole login of alice.
fn log_in(caller: &mut Caller, url: &str, scheme: &str) {
    let answer = caller.send(ask(url, &format!("{scheme} {NEGOTIATE}alice"))).answer();
    assert_eq!((answer.status, answer.field("proxy-support")), (401, Some("Session-Based-Authentication")));
    let answer = caller.send(ask(url, &format!("{scheme} {AUTHENTICATE}alice"))).answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "alice"), "{}", answer.raw);
}

#[test]
fn a_login_is_not_lent_to_other_callers() {
    for scheme in ["NTLM", "Negotiate"] {
        let (origin, stage) = (origin(scheme), gateway());
        let url = origin.url("/");
        let (mut alice, mut other) = (stage.gateway.caller(), stage.gateway.caller());
        log_in(&mut alice, &url, &scheme.to_ascii_lowercase());
        assert_eq!(other.send(ask(&url, "")).answer().status, 401);
        assert_eq!(alice.send(ask(&url, "")).answer().text(), "alice", "it holds for her next requests");
        assert_eq!(other.send(ask(&url, "")).answer().status, 401);
        drop(alice);
        eventually("her connection ends with her", || origin.open() == 1);
        assert_eq!(stage.gateway.caller().send(ask(&url, "")).answer().status, 401);
    }
}

#[test]
fn a_login_goes_its_way_on_one_connection_whatever_others_do_meanwhile() {
    let (origin, stage) = (origin("NTLM"), gateway());
    let mut callers: Vec<(String, Caller)> =
        ["alice", "bob", "carol"].map(|name| (name.to_owned(), stage.gateway.caller())).into();
    for (leg, status) in [(NEGOTIATE, 401), (AUTHENTICATE, 200)] {
        for (name, caller) in &mut callers {
            let answer = caller.send(ask(&origin.url("/"), &format!("NTLM {leg}{name}"))).answer();
            assert_eq!(
                (answer.status, if status == 200 { answer.text() } else { name.clone() }),
                (status, name.clone())
            );
        }
    }
    assert_eq!(origin.connections(), 3);
}

#[test]
fn what_only_the_answer_tells_counts_too() {
    for answer in ["401 Who\r\nWWW-Authenticate: Negotiate", "200 OK\r\nPersistent-Auth: true"] {
        let origin = Origin::scripted(move |_, link| {
            link.send(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n"));
            Next::Keep
        });
        let stage = gateway();
        let (mut first, mut second) = (stage.gateway.caller(), stage.gateway.caller());
        for _ in 0..2 {
            first.send(ask(&origin.url("/"), "")).answer();
            second.send(ask(&origin.url("/"), "")).answer();
        }
        let by: Vec<usize> = origin.requests().iter().map(|request| request.connection).collect();
        assert_eq!(by, [0, 1, 0, 1], "each has its own: {answer}");
    }
}

#[test]
fn users_of_one_connection_do_not_lend_each_other_their_logins() {
    let (origin, before) = (origin("NTLM"), Before::new());
    let hash = |name: &str| format!("{name}:{}\n", bcrypt::hash(name, 4).unwrap());
    certs::private(&before.dir.write("users", &(hash("alice") + &hash("bob"))));
    let toml = format!("[access]\nusers = \"users\"\n\n{UNLIMITED}");
    let gateway = Gateway::start_in(before.dir, &toml);
    let url = origin.url("/");
    let mut caller = gateway.caller();
    let mut ask = |name: &str, authorization: &str| {
        let head = ask(&url, authorization)
            .replace("Host: a\r\n", &format!("Host: a\r\nProxy-Authorization: {}\r\n", basic(name, name)));
        caller.send(head).answer().status
    };
    assert_eq!(ask("alice", &format!("NTLM {NEGOTIATE}alice")), 401);
    assert_eq!(ask("alice", &format!("NTLM {AUTHENTICATE}alice")), 200);
    assert_eq!((ask("bob", ""), ask("alice", "")), (401, 200));
}

#[test]
fn a_login_goes_by_http1_to_an_origin_that_speaks_http2_too() {
    let before = Before::new();
    let origin = Origin2::start(before.authority.both_config(Fault::None));
    let stage = before.gateway_on_one_core(UNLIMITED, &[origin.port()]);
    let mut caller = stage.opened(&origin.name());
    let mut get = |path: &str, authorization: &str| {
        let head = stage::get(&origin.name(), path).replace("\r\n\r\n", &format!("\r\n{authorization}\r\n"));
        assert_eq!(caller.send(head).answer().status, 200);
    };
    get("/before", "Authorization: Basic YTpi\r\n");
    get("/login", "Authorization: NTLM TlRMTVNTUAAB\r\n");
    get("/after", "");
    let other = stage.opened2(&origin.name());
    let login = Head::get(origin.url("/stream")).header("authorization", "Negotiate YII=").body(()).unwrap();
    assert_eq!(other.start(login, More::None).answer().status, 200);
    assert_eq!(stage.get(&origin.name(), "/stranger").status, 200);
    let by: Vec<(String, u8, usize)> =
        origin.seen().into_iter().map(|seen| (seen.path, seen.version, seen.connection)).collect();
    let expected = [("/before", 2, 0), ("/login", 1, 1), ("/after", 1, 1), ("/stream", 1, 2), ("/stranger", 2, 0)];
    assert_eq!(by, expected.map(|(path, version, connection)| (path.to_owned(), version, connection)));
}

#[test]
fn streams_of_one_caller_share_its_login_and_other_connections_do_not() {
    let (origin, stage) = (origin("NTLM"), gateway());
    let url = origin.url("/");
    let (alice, other) = (Caller2::plain(stage.gateway.addr), Caller2::plain(stage.gateway.addr));
    let ask = |caller: &Caller2, authorization: &str| {
        let head = Head::get(&url).header("authorization", authorization).body(()).unwrap();
        caller.start(head, More::None).answer().status
    };
    assert_eq!(ask(&alice, &format!("NTLM {NEGOTIATE}alice")), 401);
    assert_eq!(ask(&alice, &format!("NTLM {AUTHENTICATE}alice")), 200);
    assert_eq!((other.get(&url).status, alice.get(&url).status), (401, 200));
    alice.hang_up();
    eventually("it ends with its caller", || origin.open() == 1);
}

#[test]
fn a_login_in_a_tunnel_with_plain_http_belongs_to_that_tunnel() {
    let (origin, stage) = (origin("NTLM"), gateway());
    let to = origin.authority();
    let [mut alice, mut other] = [(); 2].map(|()| {
        let mut caller = stage.gateway.caller();
        assert_eq!(caller.send(stage::connect(&to, "")).answer_to("CONNECT").status, 200);
        caller
    });
    let ask = |authorization: &str| ask("/", authorization).replace("Host: a", &format!("Host: {to}"));
    for (leg, status) in [(NEGOTIATE, 401), (AUTHENTICATE, 200)] {
        assert_eq!(other.send(ask("")).answer().status, 401);
        assert_eq!(alice.send(ask(&format!("NTLM {leg}alice"))).answer().status, status);
    }
    assert_eq!((other.send(ask("")).answer().status, alice.send(ask("")).answer().text().as_str()), (401, "alice"));
    assert_eq!(stage.gateway.caller().send(self::ask(&origin.url("/"), "")).answer().status, 401);
}

#[test]
fn a_login_that_waits_in_line_keeps_its_connection() {
    let origin = Arc::new(origin("NTLM"));
    let stage = Before::new().gateway_on_one_core(&limit(1, "400ms", ""), &[1]);
    let mut alice = stage.gateway.caller();
    log_in(&mut alice, &origin.url("/"), "NTLM");
    assert_eq!(alice.send(ask(&origin.url("/"), "")).answer().text(), "alice");
    assert_eq!(origin.connections(), 1, "none was made ready in vain");
}

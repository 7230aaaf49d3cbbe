//! Silence is allowed for as long as the timeout of a host and a path says; what is cut names the timeout and its value.

use std::time::Duration;

use crate::support::caller2::get;
use crate::support::certs::Fault;
use crate::support::stage::Before;
use crate::support::*;

/// Far longer than the shortest timeout of each test, so that what is not cut by then is not cut by it.
const LATER: Duration = Duration::from_millis(1200);

/// A request on a connection of its own that goes on.
fn ask(origin: &Origin, path: &str) -> String {
    format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url(path))
}

/// An origin that sends the first event of a stream, and the last one when the test says so.
fn events() -> (Origin, std::sync::mpsc::Sender<()>) {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::scripted(move |_, link| {
        link.send(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ndata: a\r\n",
        );
        wait.lock().unwrap().recv_timeout(4 * PATIENCE).ok();
        link.send("7\r\ndata: b\r\n0\r\n\r\n");
        Next::Keep
    });
    (origin, go)
}

/// Sections of a gateway without limits; `toml` begins with keys of `[timeouts]`.
fn with(toml: &str) -> Gateway {
    Gateway::start(&format!("{UNLIMITED}[timeouts]\n{toml}\n"))
}

#[test]
fn a_stream_may_be_silent_for_longer_than_a_connection_may_be_idle() {
    let (origin, go) = events();
    let gateway = with("idle = \"200ms\"");
    let mut caller = gateway.caller();
    caller.send(ask(&origin, "/")).head();
    std::thread::sleep(LATER);
    go.send(()).unwrap();
    assert_eq!(caller.bytes(29), b"7\r\ndata: a\r\n7\r\ndata: b\r\n0\r\n\r\n", "the silence was no end");
}

#[test]
fn a_stream_that_is_silent_for_body_idle_is_cut_and_the_log_names_it() {
    let origin = Origin::scripted(|_, link| {
        link.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ndata: a\r\n");
        link.wait_for_close();
        Next::Close
    });
    let gateway = with("idle = \"1h\"\nbody_idle = \"300ms\"");
    let answer = gateway.exchange(ask(&origin, "/cut"));
    assert_eq!((answer.status, answer.end), (200, End::Truncated));
    let line = gateway.log_line("/cut");
    assert!(line.contains("timeout=timeouts.body_idle=300ms"), "{line}");
    eventually("the origin is let go", || origin.open() == 0);
}

#[test]
fn an_answer_may_take_as_long_as_its_host_and_path_say() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::scripted(move |request, link| {
        if request.target.starts_with("/slow/") {
            wait.lock().unwrap().recv_timeout(4 * PATIENCE).ok();
            return link.answer(200, "late");
        }
        link.wait_for_close();
        Next::Close
    });
    let host = origin.authority();
    let gateway = with(&format!(
        "answer = \"300ms\"\n\n[[timeouts.for]]\nhost = \"{host}\"\npath = \"/slow/**\"\nanswer = \"1h\"\n\n\
         [[timeouts.for]]\nhost = \"{host}\"\npath = [\"/slow/**\", \"/other\"]\nanswer = \"200ms\""
    ));
    let mut slow = gateway.caller();
    slow.send(ask(&origin, "/slow/x"));
    eventually("the slow one is with the origin", || origin.count() == 1);
    for (path, named) in [
        ("/quick", "[timeouts] answer = 300ms".to_owned()),
        ("/other", format!("answer = 200ms of [[timeouts.for]] {host} /slow/**,/other")),
    ] {
        let answer = gateway.get(&origin.url(path));
        check_ours(&answer, 504, "http_response_timeout");
        assert!(answer.text().contains(&named), "{}", answer.text());
        assert!(answer.field("proxy-status").unwrap().contains("answer_timeout"), "{}", answer.raw);
    }
    let line = gateway.log_line("/quick");
    assert!(line.contains("note=answer_timeout timeout=timeouts.answer=300ms"), "{line}");
    std::thread::sleep(LATER);
    go.send(()).unwrap();
    assert_eq!(slow.answer().text(), "late", "another section of the same path comes too late");
}

#[test]
fn a_reload_changes_the_timeouts_of_the_next_requests() {
    let origin = Origin::scripted(|_, link| {
        link.wait_for_close();
        Next::Close
    });
    let section = |answer: &str| format!("{UNLIMITED}[[timeouts.for]]\nhost = \"127.0.0.1\"\nanswer = \"{answer}\"\n");
    let gateway = Gateway::start(&section("1h"));
    let mut before = gateway.caller();
    before.send(ask(&origin, "/before"));
    eventually("it is with the origin", || origin.count() == 1);
    assert!(gateway.reload(&section("300ms")));
    gateway.complains("[timeouts] is changed");
    let answer = gateway.get(&origin.url("/after"));
    check_ours(&answer, 504, "http_response_timeout");
    assert!(answer.text().contains("answer = 300ms of [[timeouts.for]] 127.0.0.1"), "{}", answer.text());
    before.expect_silence(LATER);
}

#[test]
fn a_connection_takes_no_longer_than_its_host_may() {
    let hole = BlackHole::new();
    let host = format!("127.0.0.1:{}", hole.port());
    let gateway = with(&format!("[[timeouts.for]]\nhost = \"{host}\"\nconnect = \"300ms\""));
    let answer = gateway.get(&format!("http://{host}/"));
    check_ours(&answer, 504, "connection_timeout");
    assert!(answer.text().contains(&format!("connect = 300ms of [[timeouts.for]] {host}")), "{}", answer.text());
}

#[test]
fn a_web_socket_and_a_tunnel_are_silent_for_as_long_as_their_host_may() {
    let origin = Origin::scripted(|_, link| {
        link.send("HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        link.echo();
        Next::Close
    });
    let host = origin.authority();
    let upgrade = |path: &str| {
        format!("GET {} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", origin.url(path))
    };
    let gateway = with(&format!(
        "tunnel_idle = \"300ms\"\n\n[[timeouts.for]]\nhost = \"{host}\"\npath = \"/chat/**\"\ntunnel_idle = \"1h\""
    ));
    let mut chat = gateway.caller();
    chat.send(upgrade("/chat/x")).head();
    let mut other = gateway.caller();
    other.send(upgrade("/other")).head();
    other.expect_end();
    let line = gateway.log_line("/other");
    assert!(line.contains("timeout=timeouts.tunnel_idle=300ms"), "{line}");
    std::thread::sleep(LATER);
    assert_eq!(chat.send("hello").bytes(5), b"hello");
}

#[test]
fn a_silent_stream_lives_on_in_http2_too() {
    let before = Before::new();
    let origin = Origin2::start(before.authority.both_config(Fault::None));
    let name = origin.name();
    let stage = before.gateway(
        &format!(
            "{UNLIMITED}[timeouts]\nidle = \"200ms\"\nanswer = \"300ms\"\nbody_idle = \"300ms\"\n\n\
             [[timeouts.for]]\nhost = \"{name}\"\npath = \"/hold/long\"\nanswer = \"1h\"\nbody_idle = \"1h\"\n\n"
        ),
        &[origin.port()],
    );
    let caller = stage.opened2(&name);
    let long = caller.start(get(&origin.url("/hold/long")), More::None);
    eventually("it is with the origin", || origin.count() == 1);
    let answer = caller.get(&origin.url("/hold/short"));
    check_ours(&answer, 504, "http_response_timeout");
    std::thread::sleep(LATER);
    origin.release(2);
    assert_eq!(long.answer().text(), "/hold/long");
}

#[test]
fn content_that_a_caller_holds_back_is_cut_by_body_idle() {
    let origin = Origin::scripted(|_, link| {
        link.read_body();
        Next::Close
    });
    let gateway = with("idle = \"1h\"\nbody_idle = \"300ms\"");
    let post = format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc", origin.url("/post"));
    let answer = gateway.exchange(post);
    check_ours(&answer, 408, "http_request_error");
    assert!(answer.text().contains("[timeouts] body_idle = 300ms"), "{}", answer.text());
    let line = gateway.log_line("/post");
    assert!(line.contains("note=body_timeout timeout=timeouts.body_idle=300ms"), "{line}");
}

#[test]
fn a_check_says_which_timeouts_hold_for_which_requests() {
    let dir = crate::support::gateway::Dir::new();
    let toml = "[timeouts]\nanswer = \"30s\"\n\n[[timeouts.for]]\nhost = [\"api.example\", \"*.api.example\"]\npath = \"/v1/**\"\n\
                answer = \"10m\"\nbody_idle = \"1h\"\n\n[tls]\nintercept = [\"api.example\", \"*.api.example\"]\n";
    dir.write("proxy.toml", &format!("{UNLIMITED}{toml}"));
    let output = std::process::Command::new(crate::support::gateway::PROGRAM)
        .args(["check", "-c", "proxy.toml"])
        .current_dir(dir.path())
        .env_remove("LOCKGATE_CONFIG")
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    let sentence = "timeouts of requests to api.example or *.api.example for /v1/**: answer 10m, body_idle 1h\n";
    assert!(output.status.success() && shown.contains(sentence), "{shown}{}", String::from_utf8_lossy(&output.stderr));
}

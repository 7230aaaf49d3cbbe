//! Peers that do what nobody should: at any moment, in any number.

use std::time::Duration;

use super::support::certs::{Authority, Fault};
use super::support::gateway::Dir;
use super::support::{End, Gateway, Next, Origin, UNLIMITED, check_ours, eventually, limit, thread};

/// An origin that takes requests and never answers.
fn silent() -> Origin {
    Origin::scripted(|_, link| {
        link.wait_for_close();
        Next::Close
    })
}

#[test]
fn who_hangs_up_after_the_content_was_sent_is_seen_at_once() {
    let origin = silent();
    let gateway = Gateway::start(&limit(1000, "1s", "in_flight = 1"));
    for framing in ["Content-Length: 3\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"] {
        let (seen, mut caller) = (origin.count(), gateway.caller());
        caller.send(format!("POST {} HTTP/1.1\r\nHost: a\r\n{framing}", origin.url("/")));
        eventually("it arrived", || origin.count() == seen + 1);
        caller.send(if framing.starts_with('C') { "abc" } else { "3\r\nabc\r\n0\r\n\r\n" });
        // So that the content has gone through before the end comes.
        std::thread::sleep(Duration::from_millis(100));
        caller.hang_up();
        eventually("the origin was told", || origin.open() == 0);
    }
}

#[test]
fn who_hangs_up_after_the_content_was_sent_is_seen_while_the_answer_streams() {
    let origin = Origin::scripted(|_, link| {
        link.send("HTTP/1.1 200 Fine\r\nContent-Length: 100\r\n\r\nbegun");
        link.wait_for_close();
        Next::Close
    });
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    caller.send(format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", origin.url("/")));
    caller.head();
    caller.bytes(5);
    caller.send("abc");
    std::thread::sleep(Duration::from_millis(100));
    caller.hang_up();
    eventually("the origin was told", || origin.open() == 0);
}

#[test]
fn a_tunnel_is_never_laid_over_a_connection_that_carried_requests() {
    let origin = Origin::start();
    let ports = format!("[access]\nconnect_ports = [{}]\n", origin.port());
    let gateway = Gateway::start(&(limit(1, "300ms", "max_wait = \"60s\"") + &ports));
    let mut first = gateway.caller();
    first.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/request")));
    assert_eq!(first.answer().status, 200);
    // Its place on its runtime, where the kept connection lies, is the next one's.
    first.hang_up();
    std::thread::sleep(Duration::from_millis(50));
    let mut second = gateway.caller();
    second.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.authority()));
    assert_eq!(second.answer_to("CONNECT").status, 200);
    second.send("SAY /tunnel ECHO/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(second.answer().text(), "/tunnel");
    let places: Vec<usize> = origin.requests().iter().map(|request| request.place).collect();
    assert_eq!(places, [0, 0], "each was the first on its connection");
}

#[test]
fn a_refused_head_is_answered_also_to_who_is_still_sending_it() {
    let gateway = Gateway::start(UNLIMITED);
    for _ in 0..3 {
        let mut caller = gateway.caller();
        let line = format!("X-Filler: {}\r\n", "x".repeat(1000));
        let head = format!("GET http://127.0.0.1/ HTTP/1.1\r\nHost: a\r\n{}", line.repeat(160));
        // The kernel takes all of it at once and goes on sending it, however slow this process is: the gateway reads on for
        // a second only.
        socket2::SockRef::from(caller.stream.tcp()).set_send_buffer_size(400_000).unwrap();
        assert!(caller.stream.send(head.as_bytes()).is_ok(), "a reset while sending");
        let answer = caller.answer();
        assert_eq!(answer.status, 431, "{}", answer.raw);
        let (rest, stop) = caller.rest();
        assert!(rest.is_empty() && stop == super::support::stream::Stop::Closed, "{stop:?}");
    }
}

#[test]
fn content_that_is_broken_before_any_of_it_left_is_a_502() {
    for bytes in [
        "HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    ] {
        let origin = Origin::saying_and_keeping(bytes);
        let gateway = Gateway::start(UNLIMITED);
        check_ours(&gateway.get(&origin.url("/")), 502, "http_protocol_error");
    }
}

#[test]
fn a_crowd_in_line_does_not_dial_all_at_once() {
    let origin = Origin::scripted(|request, link| {
        std::thread::sleep(Duration::from_millis(20));
        link.read_body();
        link.answer(200, &request.target)
    });
    // 32 in line hold a connection at each runtime, of which there is one per core. Twenty go before anyone waits, and
    // twenty may have their turn when no connection is idle.
    let most = 32 * std::thread::available_parallelism().unwrap().get() + 40;
    for more in ["in_flight = 1\nmax_wait = \"1h\"", "counts = \"answered\"\nmax_wait = \"1h\""] {
        let (seen, gateway) = (origin.connections(), Gateway::start(&limit(20, "200ms", more)));
        let url = origin.url("/");
        let crowd: Vec<_> = (0..most + 50)
            .map(|_| {
                let (addr, url) = (gateway.addr, url.clone());
                thread(move || {
                    let mut caller = super::support::Caller::connect(addr);
                    caller.send(format!("GET {url} HTTP/1.1\r\nHost: a\r\n\r\n"));
                    caller.answer().status
                })
            })
            .collect();
        assert!(crowd.into_iter().all(|one| one.join().unwrap() == 200));
        let made = origin.connections() - seen;
        assert!(made <= most, "{made} connections, {most} were enough ({more})");
    }
}

#[test]
fn a_tls_origin_that_breaks_off_without_saying_so_is_no_end_of_the_content() {
    let (authority, dir) = (Authority::new(), Dir::new());
    let big = "x".repeat(300_000);
    let sent = big.clone();
    let origin = Origin::scripted_tls(authority.server_config(Fault::None), move |request, link| {
        link.send(format!("HTTP/1.1 200 Fine\r\n\r\n{sent}"));
        if request.target == "/whole" {
            return Next::Close;
        }
        // The end of TCP, without the end of TLS before it.
        link.stream.tcp().shutdown(std::net::Shutdown::Write).ok();
        link.wait_for_close();
        Next::Die
    });
    let ca = authority.write(dir.path());
    let toml = format!(
        "{UNLIMITED}[[route]]\npath = \"/s/\"\nto = \"https://localhost:{}/\"\n\n[tls]\ntrust = [\"{}\"]\n",
        origin.port(),
        ca.display()
    );
    let gateway = Gateway::start_in(dir, &toml);
    for version in ["1.1", "1.0"] {
        let get = |path: &str| gateway.exchange(format!("GET /s/{path} HTTP/{version}\r\nHost: localhost\r\n\r\n"));
        let whole = get("whole");
        assert!(whole.text() == big && whole.end != End::Truncated, "{version}: {:?}", whole.end);
        assert_eq!(get("broken").end, End::Truncated, "{version}");
    }
}

#[test]
fn an_http_1_0_request_that_ends_at_the_gateway_is_not_left_waiting() {
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    caller.send("OPTIONS http://127.0.0.1/ HTTP/1.0\r\nMax-Forwards: 0\r\nConnection: keep-alive\r\n\r\n");
    let answer = caller.answer();
    assert!(answer.status == 200 && answer.says_close(), "{}", answer.raw);
    caller.expect_end();
}

//! Every answer that is the gateway's own: its status, its reason, and how the connection goes on.

use std::time::Duration;

use crate::support::*;

#[test]
fn a_429_says_when_to_come_back_in_every_way() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(2, "100s", "when_full = \"refuse\""));
    for _ in 0..2 {
        assert_eq!(gateway.get(&origin.url("/")).status, 200);
    }
    let mut caller = gateway.caller();
    let answer = caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/"))).answer();
    check_ours(&answer, 429, "http_request_error");
    let told = answer.retry_after_ms();
    assert!((50_000.0..=100_000.0).contains(&told), "{told}");
    let policy = answer.field("ratelimit-policy").unwrap();
    assert!(policy.contains("\"the-limit\"") && policy.contains("q=2") && policy.contains("w=100"), "{policy}");
    let state = answer.field("ratelimit").unwrap();
    assert!(state.contains("\"the-limit\"") && state.contains("r=0") && state.contains("t="), "{state}");
    assert!(!answer.says_close(), "the message was sound, so the connection stays");
    let again = caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/"))).answer();
    check_ours(&again, 429, "http_request_error");
}

#[test]
fn each_refused_caller_is_told_an_opening_of_its_own_in_every_field() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(2, "100s", "when_full = \"refuse\""));
    for _ in 0..2 {
        assert_eq!(gateway.get(&origin.url("/")).status, 200);
    }
    let answers: Vec<Answer> = (0..6).map(|_| gateway.get(&origin.url("/"))).collect();
    let turns: Vec<u64> = answers.iter().map(|answer| (answer.retry_after_ms() / 100_000.0).round() as u64).collect();
    assert_eq!(turns, [1, 1, 2, 2, 3, 3], "two callers for each turn of two slots");
    for answer in &answers {
        check_ours(answer, 429, "http_request_error");
        let (ms, seconds) = (answer.retry_after_ms(), answer.field("retry-after").unwrap());
        let wanted = format!("\"the-limit\";r=0;t={seconds};lockgate-t-ms={ms}");
        assert_eq!(answer.field("ratelimit"), Some(wanted.as_str()));
    }
}

/// Many callers against 5 per 2 s, each of which comes back a little after the time that it was told.
#[test]
fn refused_callers_that_come_back_as_told_are_seldom_refused_again() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(5, "2s", "when_full = \"refuse\""));
    let requests: u32 = (0..30)
        .map(|_| {
            let (to, request) = (gateway.addr, gateway::get(&origin.url("/")));
            thread(move || {
                for tries in 1.. {
                    let answer = Caller::connect(to).send(request.clone()).answer();
                    if answer.status == 200 {
                        return tries;
                    }
                    check_ours(&answer, 429, "http_request_error");
                    std::thread::sleep(Duration::from_secs_f64(answer.retry_after_ms() * 1.05 / 1000.0));
                }
                unreachable!("it comes back until it goes")
            })
        })
        .collect::<Vec<_>>()
        .into_iter()
        .map(|caller| caller.join().unwrap())
        .sum();
    assert_eq!(origin.requests().len(), 30);
    // 55 if each is refused once at most; 105 if all come back at every opening.
    assert!(requests <= 75, "{requests} requests of 30 callers");
}

#[test]
fn a_429_to_a_request_with_content_leaves_the_connection_in_step() {
    let origin = Origin::start();
    let gateway = Gateway::start(&limit(1, "1h", "when_full = \"refuse\""));
    assert_eq!(gateway.get(&origin.url("/")).status, 200);
    for framing in ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"] {
        let mut caller = gateway.caller();
        let first = caller.send(format!("POST {} HTTP/1.1\r\nHost: a\r\n{framing}", origin.url("/"))).answer();
        check_ours(&first, 429, "http_request_error");
        if first.says_close() {
            caller.expect_end();
        } else {
            let elsewhere = format!("http://localhost:{}/", origin.port());
            let next = caller.send(format!("GET {elsewhere} HTTP/1.1\r\nHost: a\r\n\r\n")).answer();
            assert_eq!(next.status, 200, "{framing:?}: {}", next.raw);
        }
    }
}

#[test]
fn a_target_that_makes_no_sense_is_a_400() {
    let gateway = Gateway::start(UNLIMITED);
    for target in [
        "http://",
        "http:///path",
        "http://:80/",
        "http://a:99999/",
        "http://a:0/",
        "http://a:x/",
        "http://[::1/",
        "http://[zz]/",
        "http://user:pw@127.0.0.1/",
        "ftp://a/",
        "file:///etc/passwd",
        "mailto:a",
        "*",
        "a/b",
        "http:/a/",
        "http://a<b/",
        "http://127.0.0.1:1/#fragment",
    ] {
        let answer = gateway.exchange(format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        check_ours(&answer, 400, "http_request_error");
    }
}

#[test]
fn a_host_that_is_missing_or_doubtful_is_a_400() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let url = origin.url("/");
    for hosts in ["", "Host: a\r\nHost: a\r\n", "Host: user@a\r\n", "Host: a b\r\n", "Host: a, b\r\n", "Host: a/x\r\n"]
    {
        let answer = gateway.exchange(format!("GET {url} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n"));
        check_ours(&answer, 400, "http_request_error");
    }
    assert_eq!(origin.count(), 0);
}

#[test]
fn an_origin_that_refuses_is_a_502() {
    let dead = DeadPort::new();
    let gateway = Gateway::start(UNLIMITED);
    let answer = gateway.get(&format!("http://127.0.0.1:{}/", dead.port()));
    check_ours(&answer, 502, "connection_refused");
}

#[test]
fn a_name_that_does_not_exist_is_a_502() {
    let gateway = Gateway::start(UNLIMITED);
    check_ours(&gateway.get("http://no-such-host.invalid/"), 502, "dns_error");
}

#[test]
fn an_origin_that_never_accepts_is_a_504() {
    let hole = BlackHole::new();
    let gateway = Gateway::start(&format!("{UNLIMITED}[timeouts]\nconnect = \"300ms\"\n"));
    let answer = gateway.get(&format!("http://127.0.0.1:{}/", hole.port()));
    check_ours(&answer, 504, "connection_timeout");
}

#[test]
fn an_origin_that_never_answers_is_a_504() {
    let origin = Origin::scripted(|_, link| {
        link.wait_for_close();
        Next::Close
    });
    let gateway = Gateway::start(&format!("{UNLIMITED}[timeouts]\nanswer = \"300ms\"\n"));
    check_ours(&gateway.get(&origin.url("/")), 504, "http_response_timeout");
    eventually("the connection to it is given up", || origin.connections() == 1 && origin.open() == 0);
    assert_eq!(origin.count(), 1, "and it is not asked twice");
}

#[test]
fn calling_the_gateway_through_itself_is_a_508() {
    let gateway = Gateway::start(UNLIMITED);
    let port = gateway.addr.port();
    for host in ["127.0.0.1", "localhost", "127.1", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]"] {
        let answer = gateway.get(&format!("http://{host}:{port}/"));
        let own = answer.status == 508 || (answer.status / 100 != 2 && host != "127.0.0.1" && host != "localhost");
        assert!(own, "{host}: {}", answer.raw);
        if answer.status == 508 {
            check_ours(&answer, 508, "proxy_loop_detected");
        }
    }
}

#[test]
fn a_request_that_passed_here_too_often_is_a_508() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let vias = "Via: 1.1 lockgate\r\n".repeat(20);
    let answer =
        gateway.exchange(format!("GET {} HTTP/1.1\r\nHost: a\r\n{vias}Connection: close\r\n\r\n", origin.url("/")));
    check_ours(&answer, 508, "proxy_loop_detected");
    assert_eq!(origin.count(), 0);
}

#[test]
fn the_second_head_on_a_connection_that_does_not_come_is_a_408_too() {
    let origin = Origin::start();
    let gateway = Gateway::start(&format!("{UNLIMITED}[timeouts]\nhead = \"2s\"\n"));
    let mut caller = gateway.caller();
    caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/first")));
    assert_eq!(caller.answer().status, 200);
    caller.send("GET http://a/ HTTP/1.1\r\nHo");
    let answer = caller.answer();
    assert_eq!(answer.status, 408, "{}", answer.raw);
    assert_logged(&gateway, " - - 408 ");
}

#[test]
fn bytes_after_a_request_that_are_none_are_not_logged_as_that_request() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let first = format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/first"));
    let mut caller = gateway.caller();
    caller.send(format!("{first}NONSENSE\r\n\r\n"));
    assert_eq!(caller.answer().status, 200);
    assert_eq!(caller.answer().status, 400);
    assert_logged(&gateway, " - - 400 ");
}

#[test]
fn a_head_that_does_not_come_is_a_408() {
    let gateway = Gateway::start(&format!("{UNLIMITED}[timeouts]\nhead = \"300ms\"\n"));
    let mut caller = gateway.caller();
    caller.send("GET http://a/ HTTP/1.1\r\nHo");
    let answer = caller.answer();
    assert_eq!(answer.status, 408, "{}", answer.raw);
    assert!(answer.says_close());
    caller.expect_end();
    // One byte at a time does not buy more time.
    let mut slow = gateway.caller();
    let mut ended = false;
    for byte in "GET http://a/ HTTP/1.1\r\nX-Slow: ".bytes().chain(std::iter::repeat_n(b'x', 400)) {
        slow.send([byte]);
        match slow.stream.more(std::time::Instant::now() + Duration::from_millis(20)) {
            Err(stream::Stop::Silence) => {}
            Ok(_) | Err(_) => {
                ended = true;
                break;
            }
        }
    }
    assert!(ended, "a drip of bytes held the connection open for eight seconds");
}

#[test]
fn a_connection_on_which_nothing_comes_is_closed_without_a_word() {
    let gateway = Gateway::start(&format!("{UNLIMITED}[timeouts]\nidle = \"2s\"\nbody_idle = \"2s\"\nhead = \"2s\"\n"));
    let origin = Origin::start();
    let mut caller = gateway.caller();
    assert_eq!(caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/"))).answer().status, 200);
    caller.expect_end();
}

/// Fails unless the access log gets a line that holds this.
#[track_caller]
fn assert_logged(gateway: &Gateway, text: &str) {
    eventually(&format!("a line with {text:?}"), || gateway.lines().iter().any(|line| line.contains(text)));
}

#[test]
fn content_that_stops_is_a_408_and_the_log_says_how_much_came() {
    let origin = Origin::start();
    let gateway =
        Gateway::start(&format!("{}\n[timeouts]\nidle = \"300ms\"\nbody_idle = \"300ms\"\n", limit(10, "1s", "")));
    let mut caller = gateway.caller();
    caller.send(format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n0123456789", origin.url("/half")));
    check_ours(&caller.answer_to("POST"), 408, "http_request_error");
    assert_logged(&gateway, " bytes_in=10 ");
}

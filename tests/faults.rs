//! What goes wrong on either side stays visible, costs no slot twice, and disturbs nobody else.

use std::sync::Arc;
use std::time::Duration;

use crate::support::certs::Fault;
use crate::support::stage::Before;
use crate::support::*;

/// Sends `bytes`, and breaks off as `end` says once the test has seen their head.
fn breaking_off(bytes: &'static str, end: Next) -> (Origin, std::sync::mpsc::Sender<()>) {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::scripted(move |_, link| {
        link.send(bytes);
        wait.lock().unwrap().recv_timeout(PATIENCE).ok();
        end
    });
    (origin, go)
}

#[test]
fn an_answer_that_breaks_off_is_visibly_broken() {
    for (what, bytes) in [
        ("a length", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"),
        ("chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nonly\r\n"),
        ("inside a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nonly this"),
    ] {
        for end in [Next::Close, Next::Die] {
            let (origin, go) = breaking_off(bytes, end);
            let gateway = Gateway::start(UNLIMITED);
            let mut caller = gateway.caller();
            caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/")));
            assert!(caller.head().starts_with("HTTP/1.1 200 "), "{what}");
            go.send(()).unwrap();
            let (rest, stop) = caller.rest();
            let rest = String::from_utf8_lossy(&rest).into_owned();
            assert!(!rest.contains("0\r\n\r\n") && rest.len() < 100, "{what}, {end:?}: {rest:?} looks whole");
            assert_ne!(stop, stream::Stop::Silence, "{what}, {end:?}");
        }
    }
}

#[test]
fn an_answer_that_is_broken_from_the_start_is_a_502_or_visibly_broken() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nonly\r\nxyz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nonly\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    ] {
        let origin = Origin::saying(bytes);
        let gateway = Gateway::start(UNLIMITED);
        for version in ["1.0", "1.1"] {
            let mut caller = gateway.caller();
            caller.send(format!("GET {} HTTP/{version}\r\nHost: a\r\n\r\n", origin.url("/")));
            match caller.try_answer("GET") {
                Ok(answer) if answer.end == End::Truncated => {}
                Ok(answer) => {
                    check_ours(&answer, 502, "http_protocol_error|connection_terminated|http_response_incomplete")
                }
                Err(stop) => assert_eq!(stop, stream::Stop::Reset),
            }
        }
    }
}

#[test]
fn a_broken_answer_to_an_http_1_0_caller_ends_with_a_reset() {
    let (origin, go) = breaking_off("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nonly\r\n", Next::Close);
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    caller.send(format!("GET {} HTTP/1.0\r\n\r\n", origin.url("/"))).head();
    go.send(()).unwrap();
    assert_eq!(caller.rest().1, stream::Stop::Reset, "an orderly end would look like a whole answer");
}

#[test]
fn an_origin_that_breaks_off_its_head_is_a_502() {
    for bytes in ["", "HTTP/1.1 200 OK\r\nX: y", "HTTP/1.1 200 OK\r\nX: y\r\n"] {
        for die in [Next::Close, Next::Die] {
            let origin = Origin::scripted(move |_, link| {
                link.send(bytes);
                die
            });
            let gateway = Gateway::start(UNLIMITED);
            let url = origin.url("/");
            let answer = gateway.exchange(format!("POST {url} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
            check_ours(&answer, 502, "connection_terminated|http_response_incomplete");
            assert_eq!(origin.count(), 1, "a POST is not sent twice");
        }
    }
}

#[test]
fn an_origin_whose_head_never_ends_is_a_502() {
    let origin = Origin::scripted(|_, link| {
        link.send("HTTP/1.1 200 OK\r\n");
        let line = "X-More: ".to_owned() + &"x".repeat(1000) + "\r\n";
        while link.stream.send(line.as_bytes()).is_ok() {}
        Next::Close
    });
    let gateway = Gateway::start(UNLIMITED);
    let answer = gateway.get(&origin.url("/"));
    check_ours(&answer, 502, "http_protocol_error|http_response_header_section_size");
}

#[test]
fn ten_thousand_interim_answers_are_too_many() {
    let origin = Origin::scripted(|_, link| {
        for _ in 0..10_000 {
            link.send("HTTP/1.1 103 Early Hints\r\n\r\n");
        }
        link.answer(200, "at last")
    });
    let gateway = Gateway::start(UNLIMITED);
    let before = gateway.memory_kib();
    let answer = gateway.get(&origin.url("/"));
    assert!(matches!(answer.status, 200 | 502), "{}", answer.raw);
    assert!(gateway.memory_kib().saturating_sub(before) < 16 << 10);
}

#[test]
fn what_follows_an_answer_unasked_is_not_the_next_answer() {
    for surplus in ["HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", "garbage"] {
        let origin = Origin::scripted(move |request, link| {
            link.read_body();
            let (head, tail) = if request.target == "/1" { ("", surplus) } else { ("", "") };
            link.send(format!("{head}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}{tail}", &request.target));
            Next::Keep
        });
        let gateway = Gateway::start(UNLIMITED);
        for path in ["/1", "/2", "/3"] {
            assert_eq!(gateway.get(&origin.url(path)).text(), path, "{surplus:?}");
        }
    }
}

#[test]
fn what_an_idle_connection_says_unasked_is_not_the_next_answer() {
    let before = Before::new();
    let config = before.authority.server_config(Fault::None);
    let (answered, wait) = std::sync::mpsc::channel();
    let (tell, poisoned) = std::sync::mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let script = move |request: &Request, link: &mut Link<'_>| {
        let next = link.answer(200, &request.target);
        if request.target == "/1" {
            wait.lock().unwrap().recv_timeout(PATIENCE).ok();
            link.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
            tell.send(()).ok();
        }
        next
    };
    let script = Arc::new(script);
    let other = Arc::clone(&script);
    let plain = Origin::scripted(move |request, link| script(request, link));
    let secure = Origin::scripted_tls(config, move |request, link| other(request, link));
    let stage = before.gateway(UNLIMITED, &[secure.port()]);
    for url in [plain.url(""), format!("https://localhost:{}", secure.port())] {
        let mut caller = stage.gateway.caller();
        let mut get = |path: &str| caller.send(format!("GET {url}{path} HTTP/1.1\r\nHost: a\r\n\r\n")).answer().text();
        assert_eq!(get("/1"), "/1");
        answered.send(()).unwrap();
        poisoned.recv_timeout(PATIENCE).unwrap();
        assert_eq!(get("/2"), "/2", "{url}");
    }
}

#[test]
fn content_after_the_answer_to_a_head_request_is_not_the_next_answer() {
    let origin = Origin::scripted(|request, link| {
        let body = if request.target == "/head" { "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" } else { "" };
        link.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-For: {}\r\n\r\n{body}",
            body.len(),
            request.target
        ));
        Next::Keep
    });
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    caller.send(format!("HEAD {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/head")));
    assert_eq!(caller.answer_to("HEAD").status, 200);
    let next = caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/next"))).answer();
    assert_eq!(next.field("x-for"), Some("/next"));
}

/// Answers the first request of each connection, then closes when the second arrives without answering it.
fn forgetful() -> Origin {
    Origin::scripted(|request, link| {
        if request.place > 0 {
            return Next::Close;
        }
        link.read_body();
        link.answer(200, &request.target)
    })
}

#[test]
fn a_get_on_a_kept_connection_that_dies_is_sent_again() {
    let origin = forgetful();
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    for n in 0..4 {
        let answer = caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/"))).answer();
        assert_eq!(answer.status, 200, "{n}: {}", answer.raw);
    }
}

#[test]
fn a_post_on_a_kept_connection_that_dies_is_not_sent_again() {
    let origin = forgetful();
    let gateway = Gateway::start(UNLIMITED);
    let (mut caller, mut sent) = (gateway.caller(), 0);
    for n in 0..6 {
        let request =
            format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", origin.url(&format!("/{n}")));
        let answer = caller.send(request).answer();
        if answer.status != 200 {
            check_ours(&answer, 502, "connection_terminated|http_response_incomplete");
        }
        if answer.says_close() {
            caller.expect_end();
            caller = gateway.caller();
        }
        sent += 1;
        assert!(origin.count() <= sent, "more arrived than were sent");
    }
    let targets = origin.targets();
    let mut once = targets.clone();
    once.dedup();
    assert_eq!(targets, once, "none arrived twice");
}

#[test]
fn a_connection_that_the_origin_closed_while_idle_is_not_used() {
    let origin = Origin::scripted(|request, link| {
        link.read_body();
        link.answer(200, &request.target);
        Next::Close
    });
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    for n in 0..5 {
        let request =
            format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", origin.url(&format!("/{n}")));
        assert_eq!(caller.send(request).answer().status, 200, "{n}");
        eventually("the origin has closed", || origin.open() == 0);
    }
    assert_eq!(origin.targets(), ["/0", "/1", "/2", "/3", "/4"]);
}

#[test]
fn sending_again_takes_a_slot_of_its_own() {
    let per = Duration::from_millis(600);
    let origin = forgetful();
    let gateway = Gateway::start(&limit(2, "600ms", ""));
    let mut caller = gateway.caller();
    for _ in 0..5 {
        let answer = caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/"))).answer();
        assert_eq!(answer.status, 200);
    }
    one_window(2, per, &origin.stamps());
}

#[test]
fn callers_that_hang_up_at_every_moment_leave_nothing_behind() {
    let origin = Origin::scripted(|request, link| {
        link.read_body();
        if request.target == "/slow" {
            link.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun");
            link.wait_for_close();
            return Next::Close;
        }
        link.answer(200, &request.target)
    });
    let gateway = Gateway::start(&limit(1000, "1s", ""));
    let url = origin.url("/slow");
    let whole = format!("POST {url} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    for cut in (0..=whole.len()).step_by(3) {
        for reset in [false, true] {
            let mut caller = gateway.caller();
            caller.send(&whole[..cut]);
            if cut == whole.len() {
                caller.head();
            }
            if reset { caller.reset() } else { caller.hang_up() }
        }
    }
    eventually("every connection to the origin ended", || origin.open() == 0);
    assert_eq!(gateway.get(&origin.url("/fine")).text(), "/fine");
    let open = format!("/proc/{}/fd", gateway.pid().as_raw_nonzero());
    let sockets = || {
        let all = std::fs::read_dir(&open).unwrap().flatten();
        all.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")))
            .count()
    };
    eventually("no socket is left but listeners and kept ones", || sockets() <= 12);
}

#[test]
fn a_caller_that_hangs_up_ends_the_origins_work_too() {
    let origin = Origin::scripted(|_, link| {
        link.wait_for_close();
        Next::Close
    });
    let gateway = Gateway::start(UNLIMITED);
    let mut caller = gateway.caller();
    caller.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", origin.url("/")));
    eventually("it arrived", || origin.count() == 1);
    caller.hang_up();
    eventually("the origin was told", || origin.open() == 0);
}

#[test]
fn slow_and_broken_ones_do_not_disturb_the_others() {
    let origin = Origin::start();
    let gateway = Gateway::start(UNLIMITED);
    let idle: Vec<Caller> = (0..300)
        .map(|n| {
            let mut caller = gateway.caller();
            caller.send(&"GET http://a/ HTTP/1.1\r\nHost: a\r\nX: "[..n % 36]);
            caller
        })
        .collect();
    for n in 0..20 {
        assert_eq!(gateway.get(&origin.url(&format!("/{n}"))).text(), format!("/{n}"));
    }
    drop(idle);
}

//! Origins without TLS that speak HTTP/2 by prior knowledge (RFC 9113 §3.3): by a route that says so, and for gRPC.

use bytes::Bytes;
use http::Request as HttpRequest;

use crate::support::caller2::{self, get};
use crate::support::processes::{Server, finish, python, spawn, start};
use crate::support::stage::{Before, counted};
use crate::support::*;

/// A route for all paths.
fn route(to: &str) -> String {
    format!("[[route]]\npath = \"/\"\nto = \"{to}\"\n\n")
}

/// A gateway with a route to the origin by `scheme`.
#[track_caller]
fn routed(scheme: &str, toml: &str, origin: &Origin2) -> Gateway {
    Gateway::start(&(toml.to_owned() + &route(&format!("{scheme}://127.0.0.1:{}/", origin.port()))))
}

fn local(gateway: &Gateway, path: &str) -> String {
    format!("http://127.0.0.1:{}{path}", gateway.addr.port())
}

/// One call of gRPC whose message is sent back.
#[track_caller]
fn echoes(caller: &Caller2, url: &str) {
    let request = HttpRequest::post(url).header("te", "trailers").header("content-type", "application/grpc+proto");
    let mut call = caller.start(request.body(()).unwrap(), More::Follows);
    call.finish_with(Bytes::from_static(b"\0\0\0\0\x02hi"));
    let answer = call.answer();
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"\0\0\0\0\x02hi"[..]), "{}", answer.raw);
    assert!(answer.trailers.contains(&("grpc-status".to_owned(), "0".to_owned())), "{:?}", answer.trailers);
}

#[test]
fn a_route_to_h2c_is_carried_by_http2_for_callers_of_any_version() {
    let origin = Origin2::plain(Manners::default());
    let toml = format!("{UNLIMITED}[[route]]\npath = \"/api/\"\nto = \"h2c://localhost:{}/v2/\"\n", origin.port());
    let gateway = Gateway::start(&toml);
    let answer = gateway.exchange("GET /api/a?b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!((answer.status, answer.text().as_str()), (200, "/v2/a?b"), "{}", answer.raw);
    let post = "POST /api/p HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n\
        5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n";
    assert_eq!(gateway.exchange(post).text(), "hello");
    let caller = Caller2::plain(gateway.addr);
    assert_eq!(caller.get(&local(&gateway, "/api/x")).text(), "/v2/x");
    assert_eq!(caller.get(&local(&gateway, "/api/trailers")).text(), "/v2/trailers");
    let large = vec![b'y'; 300_000];
    assert_eq!(caller.post(&local(&gateway, "/api/large"), large.clone()).body, large);
    let seen = origin.seen();
    assert!(
        seen.iter().all(|one| one.version == 2 && one.scheme == "http" && one.authority == origin.name()),
        "{seen:#?}"
    );
    assert_eq!(seen[1].trailers, [("x-sum".to_owned(), "7".to_owned())]);
    let cores = std::thread::available_parallelism().unwrap().get();
    assert!(origin.connections() <= cores, "{} connections, where each core needs one", origin.connections());
}

#[test]
fn hints_and_trailers_of_an_h2c_origin_reach_the_caller() {
    let origin = Origin2::plain(Manners::default());
    let gateway = routed("h2c", UNLIMITED, &origin);
    let caller = Caller2::plain(gateway.addr);
    let answer = caller.get(&local(&gateway, "/interim"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "after"));
    assert_eq!(answer.interim.iter().map(|one| one.status).collect::<Vec<_>>(), [103]);
    let answer = caller.get(&local(&gateway, "/trailers"));
    assert_eq!(answer.trailers, [("x-checksum".to_owned(), "7".to_owned())]);
}

#[test]
fn a_call_of_grpc_is_carried_by_http2_to_an_http_origin_and_other_requests_are_not() {
    let origin = Origin2::plain(Manners::default());
    let gateway = routed("http", UNLIMITED, &origin);
    let caller = Caller2::plain(gateway.addr);
    echoes(&caller, &local(&gateway, "/grpc/route"));
    assert_eq!(caller.get(&local(&gateway, "/plain")).text(), "/plain");
    let forward = Gateway::start(UNLIMITED);
    let caller = Caller2::plain(forward.addr);
    echoes(&caller, &format!("http://{}/grpc/forward", origin.name()));
    assert_eq!(caller.get(&format!("http://{}/plain", origin.name())).text(), "/plain");
    let versions: Vec<_> = origin.seen().iter().map(|one| (one.path.clone(), one.version)).collect();
    let wanted = [("/grpc/route", 2), ("/plain", 1), ("/grpc/forward", 2), ("/plain", 1)];
    assert_eq!(versions, wanted.map(|(path, version)| (path.to_owned(), version)));
}

#[test]
fn a_caller_with_prior_knowledge_in_an_opened_tunnel_reaches_its_origin_by_http2() {
    let origin = Origin2::plain(Manners::default());
    let stage = Before::new().gateway(&counted(2, "1h", "when_full = \"refuse\""), &[origin.port()]);
    let inside = |path: &str| format!("http://{}{path}", origin.name());
    let caller = Caller2::over(caller2::tcp(stage.tunnel(&origin.name())), &h2::client::Builder::new());
    echoes(&caller, &inside("/grpc"));
    assert_eq!(caller.get(&inside("/other")).text(), "/other");
    assert_eq!(caller.get(&inside("/more")).status, 429, "each request in the tunnel is counted");
    let mut caller = stage.tunnel(&origin.name());
    check_ours(&caller.send(stage::get(&origin.name(), "/one")).answer(), 429, "http_request_error");
    assert!(origin.seen().iter().all(|one| one.version == 2));
    assert_eq!(origin.count(), 2);
}

#[test]
fn a_caller_of_http1_in_an_opened_tunnel_reaches_its_origin_by_http1() {
    let origin = Origin2::plain(Manners::default());
    let stage = Before::new().gateway(UNLIMITED, &[origin.port()]);
    let mut caller = stage.tunnel(&origin.name());
    assert_eq!(caller.send(stage::get(&origin.name(), "/one")).answer().text(), "/one");
    assert_eq!(origin.only().version, 1);
}

#[test]
fn streams_that_an_h2c_origin_refuses_or_leaves_behind_are_sent_again() {
    let origin = Origin2::plain(Manners { goaway_after: Some(10), ..Manners::default() });
    let gateway = routed("h2c", &counted(60, "1h", "when_full = \"refuse\""), &origin);
    let caller = Caller2::plain(gateway.addr);
    assert_eq!(caller.post(&local(&gateway, "/refused/1"), "x").text(), "taken");
    for n in 0..30 {
        let path = format!("/{n}");
        assert_eq!(caller.get(&local(&gateway, &path)).text(), path);
    }
    assert!(origin.connections() >= 3, "{}", origin.connections());
    check_ours(
        &caller.post(&local(&gateway, "/reset"), "x"),
        502,
        "connection_terminated|http_protocol_error|http_response_incomplete",
    );
    assert_eq!(origin.paths().iter().filter(|path| *path == "/reset").count(), 1, "it may have been processed");
}

#[test]
fn an_origin_that_does_not_speak_h2c_is_a_502() {
    let origin = Origin::saying("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    let gateway = Gateway::start(&(UNLIMITED.to_owned() + &route(&format!("h2c://{}/", origin.authority()))));
    let answer = gateway.exchange("GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    check_ours(&answer, 502, "connection_terminated|http_protocol_error|http_response_incomplete");
    let request = HttpRequest::post(local(&gateway, "/grpc")).header("content-type", "application/grpc");
    let answer = Caller2::plain(gateway.addr).start(request.body(()).unwrap(), More::None).answer();
    assert_eq!((answer.status, answer.field("grpc-status")), (200, Some("14")), "{}", answer.raw);
}

#[test]
fn a_target_that_http2_cannot_carry_is_percent_encoded_for_an_h2c_origin() {
    let origin = Origin2::plain(Manners::default());
    let gateway = routed("h2c", UNLIMITED, &origin);
    let answer = gateway.exchange("GET /<a>`?q=\"b\"&{|} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!((answer.status, answer.text().as_str()), (200, "/%3Ca%3E%60?q=%22b%22&{|}"), "{}", answer.raw);
    assert_eq!(origin.only().version, 2);
}

#[test]
fn a_caller_that_gives_up_ends_its_stream_at_an_h2c_origin_alone() {
    let origin = Origin2::plain(Manners::default());
    let gateway = routed("h2c", UNLIMITED, &origin);
    let caller = Caller2::plain(gateway.addr);
    let held = caller.start(get(&local(&gateway, "/hold/1")), More::None);
    let other = caller.start(get(&local(&gateway, "/hold/2")), More::None);
    eventually("both are there", || origin.count() == 2);
    held.cancel();
    eventually("the origin was told", || origin.seen().iter().any(|one| one.path == "/hold/1" && one.broken));
    origin.release(1);
    assert_eq!(other.answer().text(), "/hold/2");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn grpc_clients_reach_grpc_servers_by_routes_and_each_call_is_counted() {
    let mut serve = python("grpc_plain.py");
    serve.arg("serve");
    let server = Server::start(serve);
    for scheme in ["h2c", "http"] {
        let toml = counted(1000, "1h", "") + &route(&format!("{scheme}://{}/", server.name()));
        let gateway = Gateway::start(&toml);
        let mut call = python("grpc_plain.py");
        call.args(["call", &format!("127.0.0.1:{}", gateway.addr.port())]);
        assert_eq!(finish(start(call)), "well\n", "{scheme}");
        eventually("each call has its line", || {
            gateway.lines().iter().filter(|line| line.contains("/test.Plain/")).count() == 10
        });
    }
}

#[test]
fn grpc_clients_with_a_proxy_reach_grpc_servers_without_tls_through_an_opened_tunnel() {
    let mut serve = python("grpc_plain.py");
    serve.arg("serve");
    let server = Server::start(serve);
    let stage = Before::new().gateway(&counted(1000, "1h", ""), &[server.port]);
    calls_in_a_tunnel(&stage.gateway, &server);
}

#[test]
fn grpc_clients_with_a_proxy_reach_grpc_servers_without_tls_without_any_setting() {
    let mut serve = python("grpc_plain.py");
    serve.arg("serve");
    let server = Server::start(serve);
    let limit = counted(1000, "1h", "");
    calls_in_a_tunnel(&Gateway::start(&limit), &server);
    // A port at which other protocols may be spoken, too.
    let listed = format!("[access]\nconnect_ports = [{}]\n", server.port);
    calls_in_a_tunnel(&Gateway::start(&(limit + &listed)), &server);
}

/// Calls of a gRPC client through the gateway as its proxy.
#[track_caller]
fn calls_in_a_tunnel(gateway: &Gateway, server: &Server) {
    let mut call = python("grpc_plain.py");
    call.args(["call", &server.name()]).env("no_grpc_proxy", "").env("no_proxy", "");
    call.env("grpc_proxy", format!("http://{}", gateway.addr));
    assert_eq!(finish(spawn(call)), "well\n");
    eventually("each call has its line", || {
        gateway.lines().iter().filter(|line| line.contains("/test.Plain/")).count() == 10
    });
    assert!(gateway.lines().iter().any(|line| line.contains("CONNECT")), "it came by a tunnel");
}

#[test]
fn a_call_of_grpc_that_is_refused_has_a_status_of_grpc_behind_a_route_to_h2c() {
    let origin = Origin2::plain(Manners::default());
    let gateway = routed("h2c", &counted(1, "1h", "when_full = \"refuse\""), &origin);
    let caller = Caller2::plain(gateway.addr);
    echoes(&caller, &local(&gateway, "/grpc"));
    let request = HttpRequest::post(local(&gateway, "/grpc")).header("content-type", "application/grpc");
    let answer = caller.start(request.body(()).unwrap(), More::None).answer();
    assert_eq!((answer.status, answer.field("grpc-status")), (200, Some("8")), "{}", answer.raw);
    assert_eq!(origin.count(), 1);
}

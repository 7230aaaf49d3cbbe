//! Tests of the HTTP server: slow peers release their connection, shutdown, Host and cross-site checks.

use std::io::{Read, Write};
use std::net::TcpStream as Peer;

use axum::body::{Body, Bytes};
use axum::routing::{get, post};

use super::*;
use crate::tls::identity::Identity;

const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a server with a maximum of one connection, and returns its address.
fn with_one_connection() -> SocketAddr {
    with_one_connection_and(ListenerTls::new(None).unwrap())
}

fn with_one_connection_and(tls: ListenerTls) -> SocketAddr {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let part = || Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 64 << 10]));
            let endless = move || async move { Body::from_stream(tokio_stream::iter(std::iter::repeat_with(part))) };
            let router = Router::new()
                .route("/", get(|| async { "here" }))
                .route("/endless", get(endless))
                .route("/wish", post(|wish: String| async move { wish }));
            serve(Listener::from_socket(socket).unwrap(), &tls, router, 1, |_| true, std::future::pending()).await;
        });
    });
    address
}

/// The same with TLS; also returns the settings of a client that trusts it.
fn with_one_connection_over_tls() -> (SocketAddr, Arc<rustls::ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (chain, key) = (vec![made.cert.der().clone()], made.signing_key.serialize_der());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(chain[0].clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut client = client.with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let identity = Identity { chain, key: rustls::pki_types::PrivateKeyDer::try_from(key).unwrap() };
    let tls = ListenerTls::new(Some(identity)).unwrap();
    (with_one_connection_and(tls), Arc::new(client))
}

/// A connection of TLS that has agreed on HTTP/2.
async fn connect_tls(
    address: SocketAddr,
    client: &Arc<rustls::ClientConfig>,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::clone(client)).connect(name, stream).await.unwrap()
}

#[tokio::test]
async fn connections_of_tls_without_a_request_lose_their_place_and_others_once_they_are_idle() {
    let (address, client) = with_one_connection_over_tls();
    // Neither a handshake,
    let silent = TcpStream::connect(address).await.unwrap();
    // nor the preface of HTTP/2,
    let without_preface = connect_tls(address, &client).await;
    // nor a request,
    let (_unused, idle) = h2::client::handshake(connect_tls(address, &client).await).await.unwrap();
    let idle = tokio::spawn(idle);
    // nor another one after the first.
    let stream = connect_tls(address, &client).await;
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = axum::http::Request::get("https://localhost/").body(()).unwrap();
    let (response, _) = requests.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    // The end is in order while `requests` could still send more.
    assert!(connection.await.unwrap().is_ok());
    drop((silent, without_preface, idle, requests));
}

fn ask(address: SocketAddr, request: &str) -> Peer {
    let mut peer = Peer::connect(address).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer.write_all(request.as_bytes()).unwrap();
    peer
}

fn answer(mut peer: Peer) -> String {
    let mut text = String::new();
    peer.read_to_string(&mut text).unwrap();
    text
}

const NEXT: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[test]
fn content_that_does_not_come_is_waited_for_no_longer_than_a_head() {
    let address = with_one_connection();
    let slow = ask(address, "POST /wish HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    let next = ask(address, NEXT);
    let told = answer(slow);
    assert!(told.starts_with("HTTP/1.1 408 "), "{told}");
    assert!(answer(next).ends_with("here"));
}

#[test]
fn a_peer_that_reads_nothing_loses_its_place() {
    let address = with_one_connection();
    let silent = ask(address, "GET /endless HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(answer(ask(address, NEXT)).ends_with("here"));
    drop(silent);
}

#[test]
fn content_is_handed_on_whole_and_within_its_bound() {
    let address = with_one_connection();
    let wish = |content: &str| {
        let length = content.len();
        answer(ask(
            address,
            &format!(
                "POST /wish HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{content}"
            ),
        ))
    };
    assert!(wish("a wish").ends_with("\r\n\r\na wish"));
    assert!(wish(&"x".repeat(MAX_CONTENT + 1)).starts_with("HTTP/1.1 413 "));
}

#[test]
fn a_visitor_that_was_let_in_before_the_end_is_answered_though_it_asks_after() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let (let_in, is_in) = std::sync::mpsc::channel();
    let (close, closed) = tokio::sync::oneshot::channel();
    let receiving = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let router = Router::new().route("/", get(|| async { "here" }));
            let is_allowed = |_| let_in.send(()).is_ok();
            serve(
                Listener::from_socket(socket).unwrap(),
                &ListenerTls::new(None).unwrap(),
                router,
                9,
                is_allowed,
                async { closed.await.unwrap() },
            )
            .await;
        });
    });
    let mut peers: Vec<_> = (0..2).map(|_| ask(address, "")).collect();
    (0..2).for_each(|_| is_in.recv().unwrap());
    close.send(()).unwrap();
    while Peer::connect(address).is_ok() {}
    for peer in &mut peers {
        // Without "Connection: close" in the request: the response announces the end.
        peer.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    for peer in peers {
        let told = answer(peer);
        assert!(told.ends_with("here") && told.contains("connection: close"), "{told:?}");
    }
    receiving.join().unwrap();
}

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

/// A request with this Host, on a connection of this kind.
fn request_to(host: Option<&str>, transport: TransportSecurity) -> Request {
    let mut request = Request::new(Body::empty());
    request.headers_mut().extend(host.map(|host| (HOST, host.parse().unwrap())));
    request.extensions_mut().insert(transport);
    request
}

#[test]
fn only_a_host_that_nobody_can_point_elsewhere_is_ours() {
    for ours in ["127.0.0.1:8081", "127.0.0.1", "[::1]:8081", "[::1]", "localhost:1", "LOCALHOST", "10.0.0.7:80"] {
        assert!(!may_be_dns_rebinding(&request_to(Some(ours), TransportSecurity::Plain)), "{ours}");
    }
    for other in ["evil.example", "127.0.0.1.evil.example:8081", "localhost.evil.example", "[::1", ""] {
        assert!(may_be_dns_rebinding(&request_to(Some(other), TransportSecurity::Plain)), "{other}");
        assert!(
            !may_be_dns_rebinding(&request_to(Some(other), TransportSecurity::Tls)),
            "{other}: its certificate is checked"
        );
    }
    assert!(may_be_dns_rebinding(&request_to(None, TransportSecurity::Plain)));
}

#[test]
fn an_order_that_another_sites_page_sends_is_known_by_what_browsers_add() {
    let here = ("host", "127.0.0.1:8081");
    for ours in [
        vec![here],
        vec![here, ("origin", "http://127.0.0.1:8081")],
        vec![here, ("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:8081")],
        vec![here, ("sec-fetch-site", "none")],
    ] {
        assert!(!is_cross_site(&headers(&ours)), "{ours:?}");
    }
    for other in [
        vec![here, ("origin", "http://evil.example")],
        vec![here, ("origin", "http://127.0.0.1:9999")],
        vec![here, ("origin", "null")],
        vec![here, ("sec-fetch-site", "cross-site")],
        vec![here, ("sec-fetch-site", "same-site"), ("origin", "http://127.0.0.1:8081")],
        vec![("origin", "http://127.0.0.1:8081")],
    ] {
        assert!(is_cross_site(&headers(&other)), "{other:?}");
    }
}

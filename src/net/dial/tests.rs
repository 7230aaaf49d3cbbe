//! Tests of the dialer: real sockets on loopback, and addresses that never answer.

use std::net::TcpListener;

use super::*;

/// Long enough for a slow machine; a test that needs it fails.
const AGES: Duration = Duration::from_secs(30);

fn dialer(deny_private: bool) -> Dialer {
    of(Settings { deny: vec!["203.0.113.0/24".parse().unwrap()], allow: Vec::new(), deny_private, own: Vec::new() })
}

fn of(settings: Settings) -> Dialer {
    Dialer::new(settings, Resolver::new().unwrap())
}

fn to(host: &str, port: u16, reach: Reach) -> Endpoint<'_> {
    Endpoint { host, port, reach, caller: 0, strategy: DialStrategy::HappyEyeballs }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address of this machine without a listener.
fn refusing() -> SocketAddr {
    listener().1
}

/// A listener whose queue is full, so that a further connection is neither accepted nor refused.
fn silent() -> (socket2::Socket, Vec<socket2::Socket>, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap();
    let fill = |_| {
        let filler = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        filler.connect_timeout(&address, Duration::from_millis(100)).map(|()| filler).ok()
    };
    let fillers = (0..64).map_while(fill).collect();
    (socket, fillers, address.as_socket().unwrap())
}

fn addresses(of: &[SocketAddr]) -> VecDeque<SocketAddr> {
    of.iter().copied().collect()
}

#[tokio::test]
async fn a_literal_and_a_name_are_connected_without_delay_of_small_writes_and_kept_alive() {
    let (_listener, address) = listener();
    for host in ["127.0.0.1", "::ffff:127.0.0.1", "localhost"] {
        let stream = dialer(false).connect(to(host, address.port(), Reach::Public), AGES).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap().port(), address.port(), "{host}");
        assert!(stream.nodelay().unwrap() && keep_alive::is_enabled(&SockRef::from(&stream)), "{host}");
    }
}

#[tokio::test]
async fn every_way_to_write_loopback_is_denied_unless_the_host_is_named() {
    let (_listener, address) = listener();
    for host in [
        "127.0.0.1",
        "localhost",
        "::1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "::",
        "0",
        "0x7f.1",
        "2130706433",
        "127.1",
        "0177.0.0.1",
    ] {
        let result = dialer(true).connect(to(host, address.port(), Reach::Public), AGES).await;
        // A resolver that does not know the old spellings finds no such name, which is as good.
        assert!(matches!(result, Err(Error::Denied | Error::Dns(_))), "{host}: {result:?}");
    }
    assert!(matches!(
        dialer(true).connect(to("127.0.0.1", address.port(), Reach::Public), AGES).await,
        Err(Error::Denied)
    ));
    dialer(true).connect(to("localhost", address.port(), Reach::Private), AGES).await.unwrap();
}

#[tokio::test]
async fn a_zone_id_is_refused_before_anything_is_resolved() {
    for host in ["fe80::1%lo", "fe80::1%1", "localhost%lo"] {
        let result = dialer(false).connect(to(host, 80, Reach::Private), AGES).await;
        assert!(matches!(result, Err(Error::Denied)), "{host}: {result:?}");
    }
}

#[tokio::test]
async fn only_a_host_that_the_operator_has_named_is_completed_by_the_search_list() {
    let (_listener, address) = listener();
    // Knows only the short name, as a resolver with a search list does.
    let searching = |name: &str| match name {
        "payments" => Ok(vec!["127.0.0.1:0".parse().unwrap()]),
        _ => Err(io::Error::other("no such name")),
    };
    let settings = Settings { deny: Vec::new(), allow: Vec::new(), deny_private: false, own: Vec::new() };
    let dialer = Dialer::new(settings, Resolver::with_system(Arc::new(searching), "no-such-file".into()).unwrap());
    let result = dialer.connect(to("payments", address.port(), Reach::Public), AGES).await;
    assert!(matches!(result, Err(Error::Dns(_))), "{result:?}");
    dialer.connect(to("payments", address.port(), Reach::Private), AGES).await.unwrap();
}

#[test]
fn what_is_denied_is_left_out_and_the_rest_is_dialled() {
    let public: SocketAddr = "1.1.1.1:80".parse().unwrap();
    let mixed = vec!["10.0.0.1:80".parse().unwrap(), public, "203.0.113.1:80".parse().unwrap()];
    let allowed = |of: &[SocketAddr], reach| dialer(true).allowed(addresses(of), reach);
    assert_eq!(allowed(&mixed, Reach::Public).unwrap(), [public]);
    assert_eq!(allowed(&mixed, Reach::Private).unwrap(), &mixed[..2]);
    assert!(matches!(allowed(&mixed[2..], Reach::Private), Err(Error::Denied)));
}

#[tokio::test]
async fn of_a_name_with_many_addresses_only_the_first_eight_are_tried() {
    // A part of loopback that no other test uses.
    let at = |last: usize| SocketAddr::new(Ipv4Addr::new(127, 88, 0, u8::try_from(last).unwrap()).into(), 0);
    for (there, is_tried) in [(MAX_TRIED, true), (MAX_TRIED + 1, false), (20, false)] {
        let listener = TcpListener::bind(at(there)).unwrap();
        let many = move |_: &str| Ok((1..=20).map(at).collect());
        let settings = Settings { deny: Vec::new(), allow: Vec::new(), deny_private: false, own: Vec::new() };
        let dialer = Dialer::new(settings, Resolver::with_system(Arc::new(many), "/etc/hosts".into()).unwrap());
        let port = listener.local_addr().unwrap().port();
        let result = dialer.connect(to("many.example", port, Reach::Public), AGES).await;
        assert_eq!(result.is_ok(), is_tried, "{there}: {result:?}");
        assert!(is_tried || matches!(result, Err(Error::Refused(_))), "{there}: {result:?}");
    }
}

#[tokio::test]
async fn the_gateway_does_not_dial_itself() {
    let (_listener, address) = listener();
    let unspecified = SocketAddr::new("0.0.0.0".parse().unwrap(), address.port());
    for own in [address, unspecified] {
        let dialer = of(Settings { deny: Vec::new(), allow: Vec::new(), deny_private: false, own: vec![own] });
        for host in ["127.0.0.1", "::ffff:127.0.0.1", "localhost", "0.0.0.0"] {
            let result = dialer.connect(to(host, address.port(), Reach::Private), AGES).await;
            // `localhost` may also be `::1`, where no process listens.
            assert!(matches!(result, Err(Error::Loop | Error::Refused(_))), "{own} {host}: {result:?}");
        }
        let result = dialer.connect(to("127.0.0.1", address.port(), Reach::Private), AGES).await;
        assert!(matches!(result, Err(Error::Loop)), "{own}: {result:?}");
    }
}

#[test]
fn an_address_of_another_machine_is_not_local() {
    assert!(is_local("127.0.0.1".parse().unwrap()));
    for other in ["192.0.2.1", "2001:db8::1", "1.1.1.1"] {
        assert!(!is_local(other.parse().unwrap()), "{other}");
    }
}

#[tokio::test]
async fn a_closed_port_is_refused_and_an_unknown_name_does_not_resolve() {
    let result = dialer(false).connect(to("127.0.0.1", refusing().port(), Reach::Public), AGES).await;
    assert!(matches!(result, Err(Error::Refused(_))), "{result:?}");
    for host in ["", "no.such.name.invalid", "a\0b"] {
        let result = dialer(false).connect(to(host, 80, Reach::Public), AGES).await;
        assert!(matches!(result, Err(Error::Dns(_))), "{host:?}: {result:?}");
    }
}

#[tokio::test]
async fn an_address_that_never_answers_ends_with_the_time() {
    let (_socket, _fillers, address) = silent();
    let result = dialer(false).connect(to("127.0.0.1", address.port(), Reach::Public), Duration::from_millis(20)).await;
    assert!(matches!(result, Err(Error::Timeout)), "{result:?}");
}

#[test]
fn a_resolver_that_never_answers_ends_with_the_time() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (free, busy) = std::sync::mpsc::channel::<()>();
    let busy = std::sync::Mutex::new(busy);
    let never = move |_: &str| {
        busy.lock().unwrap().recv().ok();
        Ok(Vec::new())
    };
    let settings = Settings { deny: Vec::new(), allow: Vec::new(), deny_private: false, own: Vec::new() };
    let dialer = Dialer::new(settings, Resolver::with_system(Arc::new(never), "/etc/hosts".into()).unwrap());
    let result = runtime.block_on(dialer.connect(to("localhost", 80, Reach::Public), Duration::from_millis(20)));
    assert!(matches!(result, Err(Error::DnsTimeout)), "{result:?}");
    drop(free);
}

#[test]
fn families_take_turns_beginning_with_the_resolvers_choice() {
    let turns = |list: &str| -> String {
        let addresses = list.split(' ').map(|ip| SocketAddr::new(ip.parse().unwrap(), 80)).collect::<Vec<_>>();
        interleave_families(&addresses).iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(turns("::2 ::3 ::4 1.0.0.1 1.0.0.2"), "::2 1.0.0.1 ::3 1.0.0.2 ::4");
    assert_eq!(turns("1.0.0.1 ::2 ::3 ::4"), "1.0.0.1 ::2 ::3 ::4");
    assert_eq!(turns("1.0.0.1 1.0.0.2"), "1.0.0.1 1.0.0.2");
}

#[tokio::test]
async fn an_address_that_fails_makes_way_at_once() {
    let (_listener, good) = listener();
    let racing = happy_eyeballs(addresses(&[refusing(), refusing(), good]), AGES * 2);
    let stream = timeout(AGES, racing).await.expect("the delay was waited for").unwrap();
    assert_eq!(stream.peer_addr().unwrap(), good);
}

#[tokio::test]
async fn an_address_that_does_not_answer_gets_company_after_the_delay() {
    let (_socket, _fillers, silent) = silent();
    let (_listener, good) = listener();
    let racing = happy_eyeballs(addresses(&[silent, good]), Duration::from_millis(10));
    let stream = timeout(AGES, racing).await.expect("the first address is waited for alone").unwrap();
    assert_eq!(stream.peer_addr().unwrap(), good);
}

#[tokio::test]
async fn where_no_two_connections_may_arrive_an_address_is_given_up_before_the_next_is_tried() {
    let (_socket, _fillers, silent) = silent();
    let (_listener, good) = listener();
    let moment = Duration::from_millis(10);
    let stream = sequential(addresses(&[silent, refusing(), good]), moment).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), good);
    let result = sequential(addresses(&[silent, refusing()]), moment).await;
    assert!(matches!(result, Err(Error::Refused(_))), "the more telling failure: {result:?}");
    // The last one has all the time that is left.
    let result = timeout(moment, sequential(addresses(&[refusing(), silent]), Duration::ZERO)).await;
    assert!(result.is_err(), "{result:?}");
}

#[tokio::test]
async fn when_all_fail_the_most_telling_failure_is_reported() {
    // TCP cannot connect to a broadcast address.
    let unreachable: SocketAddr = "255.255.255.255:80".parse().unwrap();
    for order in [[refusing(), unreachable], [unreachable, refusing()]] {
        let result = happy_eyeballs(addresses(&order), AGES).await;
        assert!(matches!(result, Err(Error::Refused(_))), "{order:?}: {result:?}");
    }
    assert!(matches!(happy_eyeballs(addresses(&[unreachable]), AGES).await, Err(Error::Unreachable(_))));
}

#[test]
fn a_lack_of_our_own_is_told_from_the_origins_failures() {
    let judged = |errno: Errno| classify(errno.into());
    assert!(matches!(judged(Errno::MFILE), Error::Exhausted(_)));
    assert!(matches!(judged(Errno::NFILE), Error::Exhausted(_)));
    assert!(matches!(judged(Errno::CONNREFUSED), Error::Refused(_)));
    assert!(matches!(judged(Errno::TIMEDOUT), Error::Timeout));
    assert!(matches!(judged(Errno::HOSTUNREACH), Error::Unreachable(_)));
    assert!(matches!(judged(Errno::ADDRNOTAVAIL), Error::Unreachable(_)));
}

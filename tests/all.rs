//! Black-box tests: one binary, one line per file. A file is named by the promise it holds.

#![allow(clippy::disallowed_methods, reason = "a black-box test reads its own clock")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access; // who may call, and where
mod acquire; // permits for what is no HTTP request
mod admin; // what operators see, and who is one
mod admin_tls; // the same over TLS, and the lock service
mod architecture; // layers, circles, names, sizes, prose: what the types cannot keep
mod audit; // changes at run time, with their authors
mod cli; // what the command line checks, prints and returns
mod clients; // curl, Python, Node and Java, unchanged, in processes of their own
mod connect; // tunnels: bytes both ways, counted
mod connection_auth; // logins that hold for a connection belong to one caller
mod connections; // callers' connections: from where, how many, how long without a request
mod content; // one length and one end, in either version
mod crashes; // kill -9 and a start right after
mod cross_site; // web pages of other sites reach nothing here
mod docs; // pages, links and blocks of code of the documentation
mod ending; // drain, signals, nothing left to give
mod env; // what a shell is told
mod exec; // programs under exec, and their gateway
mod exec_all; // programs under exec --all: whatever they do, the gateway counts them
mod fairness; // one caller keeps no other out
mod faults; // what goes wrong stays visible and disturbs nobody else
mod fleet; // many processes, one limit, judged at the origin's door
mod forward; // requests and responses pass unchanged, as they come
mod forwarded; // the caller that a listed balancer tells in a field of the request
mod framing; // messages keep their shape
mod garbage; // random damage
mod h2c; // origins that speak HTTP/2 without TLS, gRPC above all
mod handover; // another process takes over, and nobody notices
mod harness; // the tests' own origin, caller and judge keep their word
mod hostile; // peers that do what nobody should
mod http2; // many requests on one connection, each with its own permit
mod http2_floods; // frames without end: their connection ends, others go on
mod http2_origins; // one connection multiplexed, its rules kept, nothing lost
mod idle_origins; // an end that an origin has announced costs no request
mod in_use; // programs and servers that break behind other proxies, as their users run them
mod install; // what an installation needs from the program
mod interception; // a named host is opened, and every request inside counts
mod keys; // what a limit matches and is counted per
mod languages; // Ruby, Go, .NET, Guzzle and Haskell, unchanged, under exec
mod leniency; // careless responses reach their callers well-formed
mod limits; // the promise: never more than N in any span of T
mod liveness; // what is dead or dying is not used again
mod locks; // locks over REST, for what is no HTTP request
mod logs; // one line per request, without secrets
mod metrics; // of the process, and of requests by host
mod metrics_export; // the same, pushed to a collector
mod opaque; // hosts that are not named stay closed, byte for byte
mod origin_certificates; // who cannot prove who it is is never spoken to
mod packaging; // scripts, metadata and units agree with each other
mod page; // the dashboard, in a browser
mod parent_kinds; // SOCKS5, TLS, and the proxy of the environment
mod parents; // other proxies on the way to the origin, and their faults
mod parents_in_use; // squid and another gateway as parents, judged at the origin
mod plain_tunnels; // plain HTTP in a tunnel is counted as if it had come without one
mod program_settings; // programs whose roots stand in a configuration of their own
mod programs; // those that find their proxy each in a way of its own
mod proxy_protocol; // the caller that a listed balancer tells before the first byte
mod pushback; // the origin's own 429
mod refusals; // every answer of the gateway's own
mod reload; // the file is read again under load
mod reverse; // routes
mod server_names; // TLS in a closed tunnel asks for no other host than may be had by it
mod shared; // many gateways, one limit
mod shared_faults; // what becomes of it when the store, a line or a gateway fails
mod shared_stores; // the kinds of stores, and those that cannot count
mod slow; // who is slow or silent holds up nobody else
mod smuggling; // ambiguous messages are refused
mod socks5; // SOCKS5 on the proxy port is a CONNECT in other words
mod spellings; // another spelling is counted as what it stands for
mod starting; // a start that fails leaves nothing behind, and says what to do
mod stream_tunnels; // tunnels on streams of HTTP/2 end and pause like others
mod support; // what all the others stand on
mod systemd; // what it is notified of
mod targets; // a URL is the same for limits and origins, whatever version carries it
mod timeouts; // what is silent is cut by the timeout of its host, and named
mod traces; // whoever collects traces is told of requests and their waits
mod translation; // between HTTP/1.1 and HTTP/2 nothing is lost or smuggled
mod transparent; // redirected callers are counted by the host that they name, if it has the address they call
mod tuning; // limits changed while requests wait
mod tunnel_ports; // what a tunnel may carry, by its port
mod unchanged; // programs that know nothing of us: each of their requests is counted
mod upgrades; // content comes before the new protocol
mod user_metrics; // requests by user, whatever protocol they came by
mod waiting; // in turn, at once, and forgotten when gone
mod windows; // flow control of HTTP/2 follows what is consumed
mod zmq; // asks over ZeroMQ, for what is no HTTP request
mod zmq_fleet; // many processes that ask over ZeroMQ, some of them killed

//! lockgate: a rate-limiting forward and reverse HTTP proxy. It keeps all callers of a resource
//! together under a hard limit.
//!
//! This page is the architecture document: modules and layers, the path of a request, restart and
//! shutdown, and the invariants.
//!
//! # Layers
//! A module uses only modules of lower layers, never one of its own layer; inside a module, files
//! have no import circles. `tests/architecture.rs` checks both against this table.
//!
//! | layer | modules | what they do | what they may not know |
//! |---|---|---|---|
//! | 8 | `main` `fuzzing` | arguments in, exit code out · table of the fuzz targets, in tests and fuzzers only | |
//! | 7 | [`cli`] | commands: run, init, check, demo, exec, env, nft, top, ca, user, service, completions, man | |
//! | 6 | [`app`] | builds everything from settings: workers, listeners, signals, reload, upgrade, drain | |
//! | 5 | [`admin`], [`locks`], [`zmq`], [`log`] | admin API, metrics, dashboard · lock service · asks over ZeroMQ · logging set-up | TOML |
//! | 4 | [`config`], [`http_admin`] | reads `proxy.toml`, and reports every mistake with its place · HTTP server of admin and locks: connection cap, password and cross-site checks | how anything runs (`config`) |
//! | 3 | [`proxy`] | carries one request, one response | TOML |
//! | 2 | [`gate`], [`tls`], [`wire`], [`auth`] | async front end of the limiter · certificates and verification · HTTP/1 and HTTP/2 messages on a stream · passwords | limits (`tls`, `wire`, `auth`), HTTP (`gate`, `tls`) |
//! | 1 | [`locker`], [`net`], [`audit`] | the limiter: a state machine without I/O · sockets, DNS, dialling · lines of the log about changes and their authors | tokio, HTTP, clocks (`locker`); HTTP, limits (`net`) |
//! | 0 | [`time`], `mutant` | a point on the gateway's own time line · faults that tests switch on | everything |
//!
//! # The path of a request
//! `listener → workers → connection → exchange { admit → permit → attempt → response } → request
//! log`: each arrow downwards once.
//!
//! [`net::listen`] accepts the connection, which reads the request's head ([`wire::head`]). Before
//! it, a balancer may tell the caller's address ([`wire::proxy_header`]); in it, by a field
//! ([`proxy::forwarded`]). The exchange carries the request in four steps. Admission: [`proxy::target`] (where to), [`proxy::access`]
//! (may this caller), [`proxy::claims`] (the windows that count it). Permit: [`gate::Gate::ask`],
//! at once or after a wait. Attempt: a connection to the origin, through another proxy where the
//! file says so ([`proxy::parent`]), and `send`, the only door out,
//! which takes the permit by value. Then the response is forwarded. Any failure leaves as a
//! [`proxy::refusal`]. Responses of the gateway itself (permits for other programs, TRACE, OPTIONS)
//! need no origin.
//!
//! A client of SOCKS5 on the same port asks for a `CONNECT` in other words ([`proxy`]'s `socks5`), and
//! so does a connection that the kernel has led here, by its destination and its first bytes
//! (`transparent`). A
//! `CONNECT` to a host that is intercepted leaves this path after admission: the caller sees a
//! certificate of our authority ([`tls::ca`]), and its requests inside the tunnel are served like
//! those of any other connection. So are requests of plain HTTP in a tunnel, by the first bytes in
//! it. An HTTP/2 connection ([`wire::http2`]) is many such connections: each of its streams carries
//! one exchange, which need not know the version.
//!
//! # Restart, reload, upgrade
//! The locker names the slots that must outlive a crash before they are used, and [`gate::journal`]
//! writes them to disk. A reload changes limits under waiting requests ([`gate::Gate::reload`]). In
//! an upgrade another process takes over between one grant and the next ([`gate::takeover`]), and
//! the old one stays until its connections have ended ([`net::drain`]).
//!
//! # Invariants
//! - In no span of time T, wherever it starts, are more than N requests counted, whatever callers,
//!   origins and the network do. [`locker`] says for which window kinds, and how it is proved. It
//!   holds over kill -9, restarts, reloads and upgrades: no two processes grant slots of one window
//!   at one time.
//! - No permit, no bytes: everything that leaves for an origin takes a [`gate::Permit`] with it,
//!   which gives its slots back or settles them exactly once.
//! - A request takes slots in all its windows at one moment, or in none.
//! - Only `gate/clock.rs` reads a clock. Everything below takes the time as an argument, so that a
//!   test can move it.
//! - A connection to an origin on which a caller has logged in (NTLM, Negotiate) is never lent to
//!   another caller.
//! - A tunnel to a host that is not intercepted stays closed: of its bytes only the first are read,
//!   for the server name in a ClientHello, and for plain HTTP. An intercepted tunnel, and one with
//!   plain HTTP, passes nothing uncounted.
//! - No input of a stranger is buffered without a bound; every buffer, queue and table has one.

#![allow(
    rustdoc::private_intra_doc_links,
    reason = "this page is for those who read the code: cargo doc --document-private-items"
)]

// First, as its macro is used below.
#[macro_use]
mod mutant;

// Modules that benches and `main` use are public; of the others the compiler sees what is dead.
// In those that decide, no conversion loses bits without a word.
pub(crate) mod admin;
pub(crate) mod app;
pub(crate) mod audit;
pub(crate) mod auth;
pub mod cli;
pub(crate) mod config;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg_attr(
    not(test),
    warn(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss
    )
)]
pub mod gate;
pub(crate) mod http_admin;
#[cfg_attr(
    not(test),
    warn(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss
    )
)]
pub mod locker;
pub(crate) mod locks;
pub(crate) mod log;
pub(crate) mod net;
pub(crate) mod proxy;
#[cfg_attr(
    not(test),
    warn(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss
    )
)]
pub mod time;
pub(crate) mod tls;
pub(crate) mod wire;
pub(crate) mod zmq;

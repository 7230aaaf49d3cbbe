//! lockgate: a forward and reverse HTTP proxy that keeps a whole fleet of callers under a hard limit, exactly.
//!
//! This page is the map of the house: rooms, floors, the way of a request, and what always holds.
//!
//! # Rooms and floors
//! Rooms are verbs; they stand on floors, and a room uses only rooms on lower floors, never a neighbour. The test
//! `tests/architecture.rs` holds this.
//!
//! | floor | rooms | what they do | what they may not know |
//! |---|---|---|---|
//! | 8 | `main` | arguments in, exit code out | |
//! | 7 | [`cli`] | STARTS: run, check, exec, env, top, ca, user | |
//! | 6 | [`app`] | builds every room from settings, and drains | |
//! | 5 | [`admin`], [`locks`], [`log`] | SHOWS what the gateway does · LOCKS what is no limit of requests · what is logged, and what never is | TOML |
//! | 4 | [`config`], [`http_admin`] | READS `proxy.toml`, and reports every mistake with its place · HTTP server of admin and locks: connection cap, password and cross-site checks | how anything runs (`config`) |
//! | 3 | [`proxy`] | CARRIES one request, one response | TOML |
//! | 2 | [`gate`], [`tls`], [`wire`], [`auth`] | WAITS: the locker, awake · PROVES who they are · SPEAKS HTTP · passwords of callers | limits (`tls`, `wire`, `auth`), HTTP (`gate`, `tls`) |
//! | 1 | [`locker`], [`net`] | DECIDES: may it go, and if not, when · CONNECTS: sockets | tokio, HTTP, clocks (`locker`); HTTP, limits (`net`) |
//! | 0 | [`time`] | a point on the gateway's own line | everything |
//!
//! # The way of a request
//! `listener → workers → connection → exchange { admit → permit → attempt → response } → request log`: each arrow downwards once.
//!
//! [`net::listen`] accepts the connection, which reads the request's head ([`wire::head`]). The exchange carries it in five steps.
//! Admission: [`proxy::target`] (where to), [`proxy::access`] (may this caller), [`proxy::claims`] (the windows that count it).
//! Permit: [`gate::Gate::ask`], at once or after a wait. Attempt: a connection to the origin, and `send`, the only door out, which
//! takes the permit by value. Then the response is forwarded. Any failure leaves as a [`proxy::refusal`], and what the gateway
//! answers itself (permits for other programs, TRACE, OPTIONS) needs no origin.
//!
//! A `CONNECT` to a host that is intercepted leaves this way after admission: the caller sees a certificate of our authority
//! ([`tls::ca`]), and its requests inside the tunnel are served like those of any other connection. An HTTP/2 connection
//! ([`wire::http2`]) is many such connections: each of its streams carries one exchange, which need not know the version.
//!
//! # When it stops
//! What must outlive a crash the locker names before it is used, and [`gate::journal`] writes it down. A file that is read
//! again changes the limits under those who wait ([`gate::Gate::reload`]); another process takes over between one grant and
//! the next ([`gate::takeover`]), and the old one stays for who is connected until they part ([`net::drain`]).
//!
//! # What always holds
//! - In no span of time T, wherever it starts, are more than N requests counted, whatever callers, origins and the network do
//!   ([`locker`] says for which window kinds, and how it is proved).
//!   This holds over kill -9, restarts, reloads and hand-overs: never two processes grant from one window.
//! - No permit, no bytes: whatever leaves for an origin has been handed a [`gate::Permit`], and gives its slots back or settles
//!   them exactly once.
//! - A request takes all its windows at one moment, or changes none.
//! - Only `gate/clock.rs` reads a clock. Everything below is handed the time, so it can be tested in any.
//! - A connection to an origin on which a caller has logged in (NTLM, Negotiate) is never lent to another caller.
//! - A tunnel to a host that is not named is never opened: of its bytes only the server name in a ClientHello is read. One to
//!   a host that is named never passes anything unseen.
//! - Nothing is collected whole that a stranger can make large; every buffer, queue and table has a bound.

pub mod admin;
pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
pub mod gate;
pub mod http_admin;
pub mod locker;
pub mod locks;
pub mod log;
pub mod net;
pub mod proxy;
pub mod time;
pub mod tls;
pub mod wire;

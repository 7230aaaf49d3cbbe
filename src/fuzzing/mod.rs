//! Fuzz targets: one function for each parser, that takes any bytes and panics if a property does not hold.
//!
//! Compiled for tests and fuzzers only (`cfg(fuzzing)`). `fuzz/run` feeds the targets with inputs that are guided by
//! coverage; the tests feed them with the corpus in `fuzz/corpus`, and with random changes of it. The targets are in
//! the modules of the parsers, as `fuzzing`.

use crate::{config, gate, proxy, tls, wire, zmq};

/// A target: its name, which is also that of its corpus folder, and its function.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [FuzzTarget; 21] = [
    ("request_head", wire::fuzzing::request_head),
    ("response_head", wire::fuzzing::response_head),
    ("chunked", wire::fuzzing::chunked),
    ("proxy_header", wire::fuzzing::proxy_header),
    ("socks5", wire::fuzzing::socks5),
    ("h2_frames", wire::http2::fuzzing::h2_frames),
    ("forward_request", proxy::fuzzing::forward_request),
    ("h2_request", proxy::fuzzing::h2_request),
    ("response_translation", proxy::fuzzing::response_translation),
    ("body", proxy::fuzzing::body),
    ("path", proxy::fuzzing::path),
    ("authority", proxy::fuzzing::authority),
    ("retry_after", proxy::fuzzing::retry_after),
    ("forwarded_fields", proxy::fuzzing::forwarded_fields),
    ("rate_limit_fields", proxy::fuzzing::rate_limit_fields),
    ("client_hello", tls::fuzzing::client_hello),
    ("zmtp", zmq::fuzzing::zmtp),
    ("users_file", config::fuzzing::users_file),
    ("proxy_toml", config::fuzzing::proxy_toml),
    ("journal", gate::journal::fuzzing::journal),
    ("store_reply", gate::store::fuzzing::store_reply),
];

/// Runs the target of this name on one input.
///
/// # Panics
/// If there is no such target, or a property does not hold.
pub fn run(name: &str, input: &[u8]) {
    let Some((_, target)) = TARGETS.iter().find(|(known, _)| *known == name) else {
        panic!("there is no fuzz target {name:?}");
    };
    target(input);
}

#[cfg(test)]
mod tests;

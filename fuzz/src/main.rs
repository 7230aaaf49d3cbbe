//! Runs one fuzz target of the gateway under libFuzzer: the one that LOCKGATE_FUZZ_TARGET names. See `fuzz/run`.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

/// Name of the target.
static TARGET: LazyLock<String> = LazyLock::new(|| std::env::var("LOCKGATE_FUZZ_TARGET").unwrap_or_default());

fuzz_target!(|input: &[u8]| lockgate::fuzzing::run(&TARGET, input));

//! Logging set-up: `tracing` to stderr, filtered by `RUST_LOG` or by the level of the file.
//!
//! Levels: error, an operator must act; warn, something is worse than promised, once per cause;
//! info, life cycle; debug, one line per request; trace, the steps of a decision. Messages are
//! constant, variable parts are fields. Credentials, query values and key values are never logged.
//! The access log goes to stdout by another way (`proxy::access_log`). Changes at run time have the target `audit`, and
//! so `RUST_LOG=warn,audit=info` shows them alone beside warnings (module `audit`).
//!
//! Order of the sources: `RUST_LOG` wins for the whole life of the process; else the level of
//! `proxy.toml` applies, and a reload changes it ([`set_level`]).

use std::error::Error;
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// Libraries that log single frames and TLS records; limited to warnings unless `RUST_LOG` is set.
const QUIET: [&str; 2] = ["h2", "rustls"];

/// Changes the level while the gateway runs. Set by [`start`].
static LEVEL: OnceLock<Box<dyn Fn(LevelFilter) + Send + Sync>> = OnceLock::new();

/// Starts logging to stderr, filtered by `RUST_LOG`, or by `level` if that is unset or invalid.
/// Panics are logged from here on. A second call has no effect but on panics.
///
/// `RUST_LOG` takes the directives of `tracing`, such as `debug` or
/// `lockgate::proxy=trace,h2=warn`. Colours are used only on a terminal.
pub fn start(level: LevelFilter) {
    let directives = std::env::var("RUST_LOG").unwrap_or_default();
    let (initial, invalid) = filter(&directives, level);
    let stderr = std::io::stderr;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(initial)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_target(false)
        // A failed write to stderr would be reported on stderr, and panic there.
        .log_internal_errors(false)
        .with_filter_reloading();
    let handle = subscriber.reload_handle();
    match subscriber.try_init() {
        Ok(()) => {
            // It fails only after logging has ended.
            let change = move |level| drop(handle.reload(filter(&directives, level).0));
            drop(LEVEL.set(Box::new(change)));
        }
        Err(error) => tracing::debug!(%error, "logging is set up already"),
    }
    if let Some(error) = invalid {
        tracing::warn!(%error, "RUST_LOG is invalid; the level of proxy.toml applies");
    }
    std::panic::set_hook(Box::new(log_panic));
}

/// Changes the level, unless `RUST_LOG` is set.
///
/// No effect before [`start`].
pub fn set_level(level: LevelFilter) {
    if let Some(change) = LEVEL.get() {
        change(level);
    }
}

/// An error and its causes in one line. A cause that an error before it repeats in its own text is
/// left out.
pub fn error_chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause: &&dyn Error| (**cause).source());
    causes.map(|cause| cause.to_string()).fold(error.to_string(), |chain, cause| {
        if chain.contains(&cause) { chain } else { format!("{chain}: {cause}") }
    })
}

/// Returns the filter of these directives (`RUST_LOG`), or of `level` if they are empty or invalid;
/// with the error if they are invalid.
fn filter(directives: &str, level: LevelFilter) -> (EnvFilter, Option<String>) {
    let by_level = || {
        QUIET.iter().fold(EnvFilter::default().add_directive(level.into()), |filter, library| {
            let most = level.min(LevelFilter::WARN);
            let directive = format!("{library}={most}").parse();
            filter.add_directive(directive.expect("a name and a level are a directive"))
        })
    };
    if directives.trim().is_empty() {
        return (by_level(), None);
    }
    match EnvFilter::try_new(directives) {
        Ok(filter) => (filter, None),
        Err(error) => (by_level(), Some(error.to_string())),
    }
}

/// Logs a panic: it ends only its task, and would be unseen otherwise.
///
/// Fields: `thread`, `place` (file, line and column), `why` (its text), and `trace`, a backtrace if
/// `RUST_BACKTRACE` asks for one.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let payload = panic.payload();
    let owned = || payload.downcast_ref::<String>().map(String::as_str);
    let why = payload.downcast_ref::<&str>().copied().or_else(owned).unwrap_or("no message");
    let trace = std::backtrace::Backtrace::capture();
    tracing::error!(thread = thread.name(), place, why, %trace, "panic");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failure {
        #[error("cannot read it")]
        Plain(#[source] std::io::Error),
        #[error("cannot read it: {0}; let this user read it")]
        Repeating(#[source] std::io::Error),
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = || std::io::Error::from_raw_os_error(13);
        let told = "cannot read it: Permission denied (os error 13)";
        assert_eq!(error_chain(&Failure::Plain(cause())), told);
        assert_eq!(error_chain(&Failure::Repeating(cause())), format!("{told}; let this user read it"));
    }

    #[test]
    fn rust_log_goes_before_the_level_of_the_file() {
        let shown = |directives| filter(directives, LevelFilter::WARN).0.to_string();
        assert_eq!(shown(""), "rustls=warn,h2=warn,warn");
        assert_eq!(shown("lockgate=trace"), "lockgate=trace");
    }

    #[test]
    fn a_wish_that_is_not_understood_leaves_the_level_of_the_file() {
        let (filter, invalid) = filter("lockgate=loud", LevelFilter::INFO);
        assert_eq!(filter.to_string(), "rustls=warn,h2=warn,info");
        assert!(invalid.is_some());
    }
}

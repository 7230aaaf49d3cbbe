//! What is logged, and what never is.
//!
//! To stderr, by `tracing`: error, someone must act; warn, something is worse than promised, once per
//! cause; info, life cycle; debug, one per request; trace, the steps of a decision. The message is
//! constant, what varies is a field. Never logged: credentials, query values, key values. The access
//! log is not ours: `proxy::access_log` writes it to stdout.

use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// Libraries whose talk is of their own frames and records; who wants it can ask for it by `RUST_LOG`.
const QUIET: [&str; 2] = ["h2", "rustls"];

/// Changes the level while the gateway runs; set when logging starts.
static LEVEL: OnceLock<Box<dyn Fn(LevelFilter) + Send + Sync>> = OnceLock::new();

/// Starts logging to stderr: what `RUST_LOG` says, or else `level`. Panics are logged from here on.
pub fn start(level: LevelFilter) {
    let wish = std::env::var("RUST_LOG").unwrap_or_default();
    let (begin, refused) = filter(&wish, level);
    let stderr = std::io::stderr;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(begin)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_target(false)
        // It would tell so on stderr, and panic because that is what cannot be written to.
        .log_internal_errors(false)
        .with_filter_reloading();
    let handle = subscriber.reload_handle();
    match subscriber.try_init() {
        Ok(()) => {
            // It fails only when logging has ended.
            let change = move |level| drop(handle.reload(filter(&wish, level).0));
            drop(LEVEL.set(Box::new(change)));
        }
        Err(error) => tracing::debug!(%error, "logging had begun already"),
    }
    if let Some(error) = refused {
        tracing::warn!(%error, "RUST_LOG is not understood, so the level of proxy.toml holds");
    }
    std::panic::set_hook(Box::new(report));
}

/// Logs at another level from here on, unless `RUST_LOG` says what to log.
pub fn set_level(level: LevelFilter) {
    if let Some(change) = LEVEL.get() {
        change(level);
    }
}

/// What to log, and why the wish was not granted.
fn filter(wish: &str, level: LevelFilter) -> (EnvFilter, Option<String>) {
    let by_level = || {
        QUIET.iter().fold(EnvFilter::default().add_directive(level.into()), |filter, library| {
            let most = level.min(LevelFilter::WARN);
            let directive = format!("{library}={most}").parse();
            filter.add_directive(directive.expect("a name and a level are a directive"))
        })
    };
    if wish.trim().is_empty() {
        return (by_level(), None);
    }
    match EnvFilter::try_new(wish) {
        Ok(filter) => (filter, None),
        Err(error) => (by_level(), Some(error.to_string())),
    }
}

/// A panic ends one task, and must not do so unseen.
fn report(panic: &PanicHookInfo<'_>) {
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

    #[test]
    fn rust_log_goes_before_the_level_of_the_file() {
        let shown = |wish| filter(wish, LevelFilter::WARN).0.to_string();
        assert_eq!(shown(""), "rustls=warn,h2=warn,warn");
        assert_eq!(shown("lockgate=trace"), "lockgate=trace");
    }

    #[test]
    fn a_wish_that_is_not_understood_leaves_the_level_of_the_file() {
        let (filter, refused) = filter("lockgate=loud", LevelFilter::INFO);
        assert_eq!(filter.to_string(), "rustls=warn,h2=warn,info");
        assert!(refused.is_some());
    }
}
